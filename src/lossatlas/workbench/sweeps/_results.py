"""The outcomes of a sweep as labelled arrays on its grid."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.workbench.sweeps._outcome import MEASURED, WAITING, Outcome


if TYPE_CHECKING:
    import xarray as xr


STATUS, SEED, HOW = "status", "seed", "how"
# Of an array of whole numbers or truth values in which some are missing, and which is one of floats therefore.
KIND = "measured as"


def sweep_results(axes: Sequence[tuple[str, Sequence[Any]]], seeds: int, outcomes: Iterable[Outcome]) -> "xr.DataTree":
    """What was measured, an array with an axis for each setting of the grid and one for the seeds.

    **Arguments:**
    - `axes`: settings and their values. `outcomes`: in any order; cells without one are `"waiting"`.

    **Returns:** at the top the numbers by name (not a number where a cell has none, text empty) and `status`; in the
    group `how` the `seconds` that a cell took, and its `error`. Values that are lists are labelled by their text.
    """
    import xarray as xr

    shape = (*(len(values) for _, values in axes), seeds)
    dims = (*(name for name, _ in axes), SEED)
    coordinates = {name: _labels(values) for name, values in axes} | {SEED: np.arange(seeds)}
    kept = {outcome.place: outcome for outcome in outcomes}
    total = int(np.prod(shape))
    every = [kept.get(i) or Outcome(i, WAITING) for i in range(total)]
    measured = {}
    for name in dict.fromkeys(name for outcome in kept.values() for name in outcome.values):
        rows = [outcome.values.get(name) for outcome in every]
        there = np.stack([row for row in rows if row is not None])
        array = _spread(rows, there).reshape(*shape, *there.shape[1:])
        # A number of the study may be called as a setting of it, or as what we add.
        label = name if name not in (*dims, STATUS) else f"measured {name}"
        extra = (f"{label} {i}" for i in range(there.ndim - 1))
        measured[label] = ((*dims, *extra), array, {} if array.dtype == there.dtype else {KIND: there.dtype.str})
    statuses = np.array([outcome.status for outcome in every]).reshape(shape)
    how = {
        "seconds": (dims, np.array([outcome.seconds for outcome in every]).reshape(shape)),
        "error": (dims, np.array([outcome.error for outcome in every]).reshape(shape)),
    }
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset({**measured, STATUS: (dims, statuses)}, coordinates),
            HOW: xr.Dataset(how),
        }
    )


def outcomes_of(results: "xr.DataTree") -> list[Outcome]:
    """The outcomes of a finished sweep, in the order of the grid; those that measured something have their values."""
    statuses, how = results.ds[STATUS], results.children[HOW].ds
    shape = statuses.shape
    columns = {}
    for name, array in results.ds.data_vars.items():
        if name != STATUS:
            rows = array.values.reshape(-1, *array.shape[len(shape) :])
            columns[str(name)] = rows, np.dtype(array.attrs.get(KIND, rows.dtype))
    seconds, errors = how["seconds"].values.ravel(), how["error"].values.ravel()
    found = []
    for i, status in enumerate(statuses.values.ravel()):
        values = {} if status not in MEASURED else {n: np.asarray(rows[i], kind) for n, (rows, kind) in columns.items()}
        found.append(Outcome(i, str(status), values, str(errors[i]), float(seconds[i])))
    return found


def _spread(rows: Sequence[np.ndarray | None], there: np.ndarray) -> np.ndarray:
    """A row for each cell, those that are there at their places."""
    if len(there) == len(rows):
        return there
    if there.dtype.kind == "U":
        spread = np.full((len(rows), *there.shape[1:]), "", there.dtype)
    else:
        spread = np.full((len(rows), *there.shape[1:]), np.nan)
    spread[[i for i, row in enumerate(rows) if row is not None]] = there
    return spread


def _labels(values: Sequence[Any]) -> np.ndarray:
    if all(isinstance(value, bool | int | float) for value in values):
        return np.array(values)
    return np.array([",".join(map(str, v)) if isinstance(v, list | tuple) else str(v) for v in values])
