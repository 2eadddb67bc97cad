"""Levels that training finds: stalls that no entry explains, reduced and polished into critical points."""

import numpy as np

from lossatlas._parameters import num_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._status import Status
from lossatlas.atlas._catalogue import Catalogue
from lossatlas.atlas._entry import Entry, Level, entry_of, linked_predictions
from lossatlas.atlas._training import BigTraining
from lossatlas.embedding import reduce
from lossatlas.geometry import find_critical_points
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_TOLERANCE = 0.1
_MOST_PARAMETERS = 120
_MOST_STALLS = 3
_NEAR = 0.3
_SAME_LOSS = 1e-6


def with_found_by_training(
    catalogue: Catalogue, run: BigTraining, landscape: Landscape, *, progress: ProgressLike = "none"
) -> Catalogue:
    """The catalogue with the critical points at the unnamed stalls of a run.

    The network at each slow-down without a visit (the three slowest) is reduced, its outputs changing by at most a
    tenth of their spread, and polished, to a minimum and to the nearest critical point of any index. A finite critical
    point that computes nearly what the network computed there becomes an entry `T1`, `T2`, ... of its own; otherwise
    the stall stays unnamed.
    """
    entries = list(catalogue.entries)
    unnamed = [stall for stall in run.visits.slow_downs if stall.entry is None]
    # The plainest stalls first; each costs seconds.
    stalls = sorted(unnamed, key=lambda stall: stall.rate)[:_MOST_STALLS]
    with as_meter(progress).task("unnamed stalls", max(len(stalls), 1)) as task:
        for done, stall in enumerate(stalls):
            task.update(done, f"step {stall.step:,}")
            at = int(np.searchsorted(run.steps, stall.step))
            spread = float(np.sqrt(np.mean((run.trajectory[at] - run.trajectory[at].mean(axis=0)) ** 2)))
            if spread == 0:
                continue
            small = reduce(run.network_at(at), landscape, tolerance=_TOLERANCE * spread, bottlenecks="merge")[0]
            if isinstance(small, Dense) and num_parameters(small) <= _MOST_PARAMETERS:
                found = _polish(small, run.trajectory[at], landscape, entries)
                entries += [] if found is None else [found]
    if len(entries) == len(catalogue.entries):
        return catalogue
    return Catalogue(tuple(entries), catalogue.leads_to, catalogue.settings)


def _polish(small: Dense, there: np.ndarray, landscape: Landscape, entries: list[Entry]) -> Entry | None:
    near = find_critical_points([small], landscape, method="levenberg_marquardt", max_steps=400)
    points = find_critical_points([p.network for p in near], landscape, method="newton", max_steps=50)
    points += find_critical_points([small], landscape, method="trust_region")
    spread = np.linalg.norm(there - there.mean(axis=0))
    for point in points:
        if point.status is not Status.CONVERGED:
            continue
        function = linked_predictions(landscape, point.network)
        known = any(abs(float(point.loss) - e.loss) < _SAME_LOSS * (1e-3 + e.loss) for e in entries)
        if not known and np.linalg.norm(function - there) < _NEAR * spread:
            size = (sum(point.network.widths[1:-1]), sum(point.network.num_linear))
            number = sum(e.name.startswith("T") for e in entries) + 1
            return entry_of(f"T{number}", size, Level.of(point), landscape, "a stall of the big network", 1)
    return None
