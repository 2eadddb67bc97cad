"""`lossatlas flatness`: how flat the landscape is around models, and which of the numbers mean something."""

from typing import Annotated

from cyclopts import Parameter

from lossatlas._process import prepare_jax
from lossatlas.cli._instrument import InstrumentOptions, print_measured
from lossatlas.cli._model import ModelOptions


_MANY = 20  # pairs, above which a terminal shows the decided ones alone


def flatness(
    *models: str,
    options: InstrumentOptions,
    which: ModelOptions = ModelOptions(),  # noqa: B008
    measures: str | None = None,
    audit: bool = True,
    draws: int = 50,
    steps: int = 1000,
    chains: Annotated[int, Parameter(negative="")] = 4,
    radius: float = 0.05,
    threshold: float = 0.1,
    localisation: float = 100.0,
    level: float = 0.01,
    only: str | None = None,
) -> None:
    """Measure how flat the landscape is around one model or several, and what of it depends on the weights alone.

    Parameters
    ----------
    models
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network. Several are compared, with the same random numbers.
    options
        Data and files.
    which
        Which network, and what the model does not say itself.
    measures
        Which, with commas between them: local_energy, hessian, sharpness, pac_bayes, local_entropy,
        learning_coefficient; by default all.
    audit
        Whether to measure again with the same function written with other weights.
    draws
        Of noise, for local energy and PAC-Bayes.
    steps
        Of each chain of the learning coefficient; local entropy takes half of them at each of its points.
    chains
        How many.
    radius
        Of the ball of sharpness.
    threshold
        The rise of the error at which PAC-Bayes sigma is taken.
    localisation
        How strongly chains are held at the network.
    level
        Of the tests that say which of several models is flatter.
    only
        A pattern of parameter names, like "layers[0].*": noise, balls and chains in these alone.
    """
    prepare_jax()

    from lossatlas._errors import InputError
    from lossatlas.workbench import flatness as measure

    if not models:
        raise InputError("Give at least one model: lossatlas flatness MODEL [MODEL ...] --data DATA.")
    found = measure(
        [which.load(model) for model in models],
        options.data,
        origins=models,
        loaded=which.words,
        network=which.network,
        measures=None if measures is None else [name.strip() for name in measures.split(",") if name.strip()],
        audit=audit,
        num_draws=draws,
        num_steps=steps,
        num_chains=chains,
        radius=radius,
        threshold=threshold,
        localisation=localisation,
        level=level,
        only=only,
        **options.arguments,
    )
    pairs = found.facts["pairs"] if len(models) > 2 else []
    if len(pairs) > _MANY:
        pairs = [pair for pair in pairs if pair["flatter"] in (pair["first"], pair["second"])]
    print_measured(found, found.facts["rows"], pairs, as_json=options.json)
