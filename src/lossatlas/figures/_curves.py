"""The curves of the training runs as plain arrays."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lossatlas.figures._entries import Row, shown_training


if TYPE_CHECKING:
    import xarray as xr


class Curves(NamedTuple):
    """All runs, snapshot by snapshot; NaN after a divergence.

    - `shown`: index of the run that the pictures show.
    - `step`, `loss`: (seeds, snapshots); `distance`: (seeds, snapshots, entries); `effective_neurons`, `linear_units`:
      (seeds, snapshots, layers).
    """

    seeds: list[int]
    shown: int
    entries: list[str]
    layers: list[str]
    step: np.ndarray
    loss: np.ndarray
    distance: np.ndarray
    effective_neurons: np.ndarray
    linear_units: np.ndarray


def read_curves(tables: Row, arrays: "xr.DataTree") -> Curves:
    """The group `/training` of a survey's arrays."""
    training = arrays["/training"].to_dataset()
    names = ("step", "loss", "distance", "effective_neurons", "linear_units")
    seeds = [int(s) for s in training["seed"].to_numpy()]
    seed = shown_training(tables)["seed"]
    return Curves(
        seeds,
        seeds.index(seed) if seed in seeds else 0,
        [str(n) for n in training["entry"].to_numpy()],
        [str(n) for n in training["layer"].to_numpy()],
        *(np.asarray(training[name].to_numpy(), float) for name in names),
    )


def training_curve(tables: Row, arrays: "xr.DataTree") -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of the run that a survey shows.

    **Arguments:**
    - `tables`, `arrays`: of a survey.
    """
    curves = read_curves(tables, arrays)
    return curves.step[curves.shown], curves.loss[curves.shown]
