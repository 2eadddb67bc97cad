"""`lossatlas kernel`: the tangent kernel of a model."""

import pathlib
from typing import Literal

from lossatlas._process import prepare_jax
from lossatlas.cli._instrument import InstrumentOptions, print_measured
from lossatlas.cli._model import ModelOptions


def kernel(
    model: str,
    /,
    *,
    options: InstrumentOptions,
    which: ModelOptions = ModelOptions(),  # noqa: B008
    convention: Literal["trace", "sum_logits"] = "trace",
    examples: int = 1000,
    only: str | None = None,
    test: str | None = None,
    store: pathlib.Path | None = None,
) -> None:
    """Measure the tangent kernel: spectrum, alignment with the targets, layers, and what it predicts when frozen.

    Here --batch-size is how many examples a block of the kernel has along both sides: auto keeps a block within a
    quarter of a gigabyte, all makes a single one. The result is the same to rounding.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    options
        Data and files.
    which
        Which network, and what the model does not say itself.
    convention
        The mean over the outputs (trace), or the kernel of their sum (sum_logits), cheaper by the number of outputs.
    examples
        At most so many examples, drawn at random by the seed.
    only
        A pattern of parameter names, like "layers[0].*": the kernel of these alone.
    test
        Other data with targets, which the frozen kernel and the network predict; else a quarter of the examples.
    store
        A file ending in .npy for the kernel of all examples, written block by block; what was stopped goes on.
    """
    prepare_jax()

    from lossatlas.workbench import kernel as measure

    found = measure(
        which.load(model),
        options.data,
        origin=model,
        loaded=which.words,
        network=which.network,
        convention=convention,
        num_examples=examples,
        only=only,
        test=test,
        store=store,
        **options.arguments,
    )
    print_measured(found, found.facts["layers"], as_json=options.json)
