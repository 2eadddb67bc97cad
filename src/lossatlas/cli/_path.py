"""`lossatlas path`: from one model to another."""

import pathlib
import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from lossatlas._process import prepare_jax
from lossatlas.cli._instrument import InstrumentOptions, print_measured
from lossatlas.cli._model import ModelOptions


def path(
    model_a: str,
    model_b: str,
    /,
    *,
    options: InstrumentOptions,
    which: ModelOptions = ModelOptions(),  # noqa: B008
    checkpoint_b: pathlib.Path | None = None,
    test: str | None = None,
    match: Literal["none", "weights", "activations", "straight-through", "best", "all"] = "best",
    repair: Annotated[bool, Parameter(negative="")] = False,
    curve: Literal["none", "bezier", "polygon"] = "none",
    bends: int = 1,
    steps: int = 2000,
    points: int = 25,
) -> None:
    """Measure how far the loss rises between two models: as they are, with matched units, along a trained curve.

    Parameters
    ----------
    model_a
        Where paths begin: the folder of a survey, a model file (.safetensors), or package.module:factory, a function
        without arguments that returns an estimator or a network.
    model_b
        Where they end: a model of the same architecture, shape and preprocessing; it may be the same factory with
        other weights (--checkpoint-b).
    options
        Data and files.
    which
        Which network, and what the model does not say itself.
    checkpoint_b
        Weights for the second model, as --checkpoint is for the first.
    test
        Further data, on which every path is measured too.
    match
        How the units of the second model are brought beside those of the first: by weights, by activations,
        straight-through; best tries the first two, all of them all, and the lowest measured barrier is kept.
    repair
        Also measure the line with repaired statistics of hidden units.
    curve
        Also train a curve between the models as they are: a Bezier curve or a polygon.
    bends
        Inner points of the curve.
    steps
        Training steps of the curve.
    points
        Places along every path where the loss is measured.
    """
    prepare_jax()

    import lossatlas
    from lossatlas.workbench import path as measure

    first = which.load(model_a)
    second = lossatlas.load(
        model_b, which.network, architecture=which.architecture, checkpoint=checkpoint_b, loss=which.loss
    )
    found = measure(
        first,
        second,
        options.data,
        origins=(model_a, model_b),
        loaded={**which.words, "checkpoint_b": checkpoint_b},
        network=which.network,
        test=test,
        match=match,
        repair=repair,
        curve=curve,
        bends=bends,
        steps=steps,
        points=points,
        **options.arguments,
    )
    if not options.json and "matched" in found.facts:
        sys.stdout.write("\n".join([f"matched model: {found.facts['matched']}", *found.facts["use"]]) + "\n")
    print_measured(found, found.facts["paths"], found.facts["matchings"], as_json=options.json)
