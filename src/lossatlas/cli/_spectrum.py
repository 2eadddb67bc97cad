"""`lossatlas spectrum`: the curvature of the loss of a model."""

from typing import Annotated, Literal

from cyclopts import Parameter

from lossatlas._process import prepare_jax
from lossatlas.cli._instrument import InstrumentOptions, print_measured
from lossatlas.cli._model import ModelOptions


def spectrum(
    model: str,
    /,
    *,
    options: InstrumentOptions,
    which: ModelOptions = ModelOptions(),  # noqa: B008
    top: int = 10,
    bottom: int = 10,
    rtol: float = 1e-4,
    only: str | None = None,
    curvature: Literal["hessian", "gauss_newton", "fisher", "sampled_fisher", "empirical_fisher"] = "hessian",
    density: bool = True,
    per_layer: Annotated[bool, Parameter(negative="")] = False,
    per_array: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Measure the curvature of the loss: the ends of the spectrum, its trace and density.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    options
        Data and files.
    which
        Which network, and what the model does not say itself.
    top
        How many of the largest eigenvalues.
    bottom
        How many of the smallest, the most negative first.
    rtol
        The residual at which a pair has converged, relative to the largest absolute eigenvalue.
    only
        A pattern of parameter names, like "layers[0].*": the block of these alone.
    curvature
        Which matrix: the Hessian, Gauss-Newton, or a Fisher matrix (exact, of one sampled target, of the data's own).
    density
        Whether to measure the density of all eigenvalues, too.
    per_layer
        The curvature of every layer, too, and whether it vanishes or explodes with depth.
    per_array
        The ends and the trace of the block of every parameter array, too.
    """
    prepare_jax()

    from lossatlas.workbench import spectrum as measure

    found = measure(
        which.load(model),
        options.data,
        origin=model,
        loaded=which.words,
        network=which.network,
        num_top=top,
        num_bottom=bottom,
        rtol=rtol,
        only=only,
        curvature=curvature,
        has_density=density,
        per_layer=per_layer,
        per_array=per_array,
        **options.arguments,
    )
    tables = [found.facts[name] for name in ("eigenvalues", "layers", "blocks")]
    print_measured(found, *tables, as_json=options.json)
