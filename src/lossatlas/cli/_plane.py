"""`lossatlas plane`: the loss around a model, or between models."""

import pathlib
from typing import Annotated, Literal

from cyclopts import Parameter

from lossatlas._process import prepare_jax
from lossatlas.cli._instrument import InstrumentOptions, print_measured
from lossatlas.cli._model import ModelOptions


def plane(
    model: str,
    /,
    *,
    options: InstrumentOptions,
    which: ModelOptions = ModelOptions(),  # noqa: B008
    directions: Literal["filter", "layer", "model", "none", "hessian"] = "filter",
    line: Annotated[bool, Parameter(negative="")] = False,
    to: Annotated[tuple[pathlib.Path, ...], Parameter(consume_multiple=True)] = (),
    snapshots: Annotated[tuple[pathlib.Path, ...], Parameter(consume_multiple=True)] = (),
    extent: float | None = None,
    grid: int | None = None,
    max_error: float = 0.01,
    relative_to: Literal["range", "value"] = "range",
    gradient_norm: Annotated[bool, Parameter(negative="")] = False,
    include_biases: Annotated[bool, Parameter(negative="")] = False,
    only: str | None = None,
    test: str | None = None,
) -> None:
    """Draw the loss around a model, or between models.

    Parameters
    ----------
    model
        The folder of a survey, a model file (.safetensors), or package.module:factory, a function without arguments
        that returns an estimator or a network.
    options
        Data and files.
    which
        Which network, and what the model does not say itself.
    directions
        Random directions normalised by filter, layer, model or not (none), or those of largest curvature (hessian).
    line
        Along one direction instead of two.
    to
        Another model of the same shape: a line to it. Two of them: the plane through all three.
    snapshots
        Models of the same shape in the order of training: the plane of their principal components, with their path.
    extent
        How far to look along each direction, on both sides; by default what suits the directions.
    grid
        Points along each direction, all computed. By default the loss is computed only where it is needed.
    max_error
        How far interpolation may be off, as a share of what relative-to says.
    relative_to
        The spread of all losses (range), or the loss at each point (value), which logarithmic colours show.
    gradient_norm
        The length of the gradient too, at twice as many evaluations more, and without a grid at more points.
    include_biases
        Random directions move biases and normalisations too.
    only
        A pattern of parameter names, like "layers[0].*": these alone move.
    test
        Other data with targets, for the test loss at the same points.
    """
    prepare_jax()

    from lossatlas.workbench import plane as measure

    found = measure(
        which.load(model),
        options.data,
        origin=model,
        loaded=which.words,
        network=which.network,
        directions=directions,
        num_directions=1 if line else 2,
        to=to,
        snapshots=snapshots,
        extent=extent,
        grid=grid,
        max_error=max_error,
        relative_to=relative_to,
        gradient_norm=gradient_norm,
        include_biases=include_biases,
        only=only,
        test=test,
        **options.arguments,
    )
    print_measured(found, found.facts["directions"], found.facts["minima"], as_json=options.json)
