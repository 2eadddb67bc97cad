"""How a cell of a sweep came out, and how cells are kept while the sweep goes on."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np


DONE, NON_FINITE = "done", "non-finite"
FAILED, TIMED_OUT, OUT_OF_MEMORY, KILLED = "failed", "timed out", "out of memory", "killed"
WAITING = "waiting"
# Those that measured something; the others say why not, and can be measured again.
MEASURED = (DONE, NON_FINITE)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a cell came out.

    - `place`: of the cell in the grid.
    - `status`: `"done"`; `"non-finite"` where a number that was measured is not finite; `"failed"` where it raised, and
      `"timed out"`, `"out of memory"`, `"killed"` where its process was ended.
    - `values`: what was measured. `error`: why it failed. `seconds`: that it took, compilation apart.
    - `study`: results and claims of a whole study, where a cell is one; the store keeps it as a run of its own.
    """

    place: int
    status: str
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    study: Any = None


def measured(place: int, values: Mapping[str, Any], seconds: float, study: Any = None) -> Outcome:
    """The outcome of a cell that ran to its end."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    finite = all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind in "fc")
    # A claim that is undecided has no number, which is no divergence.
    status = DONE if finite or study is not None else NON_FINITE
    return Outcome(place, status, arrays, seconds=seconds, study=study)


def pack(outcomes: Iterable[Outcome]) -> dict[str, np.ndarray]:
    """Outcomes as a few arrays by name, which need no pickle."""
    kept = list(outcomes)
    packed = {
        "place": np.array([outcome.place for outcome in kept]),
        "status": np.array([outcome.status for outcome in kept]),
        "error": np.array([outcome.error for outcome in kept]),
        "seconds": np.array([outcome.seconds for outcome in kept]),
    }
    for name in dict.fromkeys(name for outcome in kept for name in outcome.values):
        having = [i for i, outcome in enumerate(kept) if name in outcome.values]
        packed[f"have {name}"] = np.array(having)
        packed[f"value {name}"] = np.stack([kept[i].values[name] for i in having])
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> Iterator[Outcome]:
    """The outcomes that were packed."""
    values: list[dict[str, np.ndarray]] = [{} for _ in packed["place"]]
    for name, array in packed.items():
        kind, _, of = name.partition(" ")
        if kind == "value":
            for row, value in zip(packed[f"have {of}"], array, strict=True):
                values[row][of] = np.asarray(value)
    for i, place in enumerate(packed["place"]):
        status, error = str(packed["status"][i]), str(packed["error"][i])
        yield Outcome(int(place), status, values[i], error, float(packed["seconds"][i]))
