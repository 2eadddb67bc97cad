"""The search for the levels of one size of small network: starts, fits, polishing, and what is told apart."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._parameters import num_parameters, ravel
from lossatlas._status import Status
from lossatlas.atlas._entry import MAX_DENSE, Entry, Level, linked_predictions
from lossatlas.atlas._fit import Fit, descend, fit_starts, slow_moments
from lossatlas.atlas._starts import children, random_starts
from lossatlas.geometry import CriticalPoint, find_critical_points
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense


_SAME_LOSS = 1e-7
_SAME_BASIN = 0.02
_COLUMNS = ("parameters", "loss", "gradient_norm", "status", "runaway", "found_by", "hits", "parents")


@dataclasses.dataclass(frozen=True)
class Search:
    """How hard to look for the entries of one (k, r).

    - `random`: random starts; `warm`: most starts from entries with one unit fewer.
    - `num_steps`, `learning_rate`: of Adam before the polish.
    - `polish`: most fits polished, the lowest of each basin; `max_steps`: most Hessians of one polish.
    - `descents`: gradient descents from small weights whose stalls are sent to the nearest critical point of any index.
    - `keep`: most entries kept per size.
    """

    random: int = 8
    warm: int = 8
    num_steps: int = 3000
    learning_rate: float = 0.03
    polish: int = 6
    max_steps: int = 200
    descents: int = 0
    keep: int = 4


QUICK = Search()
QUICK_LARGE = Search(random=4, warm=4, num_steps=1500, polish=2, max_steps=60)
FULL = Search(random=24, warm=24, num_steps=6000, polish=24, descents=6, keep=12)
FULL_LARGE = Search(random=8, warm=8, num_steps=3000, polish=4, max_steps=100)


def search_levels(
    key: PRNGKeyArray,
    landscape: Landscape,
    num_outputs: int,
    size: tuple[int, int],
    act: Activation,
    search: Search,
    parents: Sequence[Entry],
) -> dict[str, np.ndarray]:
    """The levels of one (k, r), the lowest loss first, as arrays.

    **Arguments:**
    - `parents`: smaller entries that starts are made of; none above 1,500 parameters, where the fits are only
      descended from, and nothing is certified.

    **Returns:**
    Per level: `parameters`, `loss`, `gradient_norm`, `status`, `runaway`, `found_by`, `hits`, and `parents`, the names
    of the smaller entries that lead to it, a line each.
    """
    k, r = size
    origins: list[Entry | None] = []
    starts: list[Dense] = []
    widths = [landscape.inputs.shape[1], k, num_outputs]
    is_large = num_parameters(Dense(key, widths, num_linear=r)) > MAX_DENSE
    for parent in [] if is_large else parents:
        for start in children(parent.network, landscape, k, r)[: max(search.warm - len(starts), 0)]:
            starts.append(start)
            origins.append(parent)
    starts += random_starts(key, landscape, num_outputs, k, r, act, search.random)
    origins += [None] * search.random
    fitted = fit_starts(starts, landscape, num_steps=search.num_steps, learning_rate=search.learning_rate)
    basins = _basins(landscape, fitted, search.polish)
    members = [[origins[i] for i in basin] for basin in basins]
    best = [fitted[basin[0]].network for basin in basins]
    if is_large:
        ends = [_descended(network, landscape) for network in best]
    else:
        points = find_critical_points(best, landscape, method="trust_region", max_steps=search.max_steps)
        ends = [Level.of(point) for point in points]
    if search.descents and not is_large:
        saddles = _saddles(jax.random.fold_in(key, 1), landscape, num_outputs, size, act, search)
        ends, members = ends + [Level.of(point) for point in saddles], members + [[None] for _ in saddles]
    levels = []
    for group in _distinct(ends)[: search.keep]:
        came_from = [parent for i in group for parent in members[i]]
        names = list(dict.fromkeys(parent.name for parent in came_from if parent is not None))
        random_hits = sum(parent is None for parent in came_from)
        labels = [f"{name} with one unit more" for name in names]
        if all(i >= len(basins) for i in group):
            labels = ["a stall of gradient descent"]
        elif random_hits:
            labels.append("random start" if random_hits == 1 else f"{random_hits} random starts")
        level = ends[group[0]]
        levels.append(
            {
                "parameters": np.asarray(ravel(level.network)[0]),
                "loss": level.loss,
                "gradient_norm": level.gradient_norm,
                "status": level.status.name,
                "runaway": level.runaway,
                "found_by": ", ".join(labels),
                "hits": len(came_from),
                "parents": "\n".join(names),
            }
        )
    return {name: np.array([level[name] for level in levels]) for name in _COLUMNS}


_DESCENT_STEPS = 100_000
_DESCENT_STD = 0.3


def _saddles(
    key: PRNGKeyArray,
    landscape: Landscape,
    num_outputs: int,
    size: tuple[int, int],
    act: Activation,
    search: Search,
) -> list[CriticalPoint]:
    """Critical points near the stalls of gradient descent: Levenberg-Marquardt on the gradient, then Newton."""
    widths = [landscape.inputs.shape[1], size[0], num_outputs]
    starts = [
        Dense(jax.random.fold_in(key, i), widths, activation=act, num_linear=size[1], init=lambda *_: _DESCENT_STD)
        for i in range(search.descents)
    ]
    rate = default_learning_rate(landscape)
    slow = slow_moments(starts, landscape, num_steps=_DESCENT_STEPS, learning_rate=rate)
    if not slow:
        return []
    near = find_critical_points(slow, landscape, method="levenberg_marquardt", max_steps=2 * search.max_steps)
    near = [p for p in near if p.status is not Status.AT_INFINITY and float(p.gradient_norm) < 1e-3]
    polished = find_critical_points([p.network for p in near], landscape, method="newton", max_steps=50) if near else []
    return [p for p in polished if p.status is Status.CONVERGED]


def default_learning_rate(landscape: Landscape) -> float:
    """0.05 (0.1 above 1,000 rows), or 3/4 of the inverse of the largest input variance where that is smaller."""
    inputs = np.asarray(landscape.inputs)
    top = np.linalg.norm(inputs, 2) ** 2 / len(inputs)
    return float(min(0.1 if landscape.size > 1000 else 0.05, 0.75 / max(top, 1e-12)))


def _basins(landscape: Landscape, fitted: Sequence[Fit], most: int) -> list[list[int]]:
    """Indices of fits that compute nearly the same function, the lowest loss first in each and over all."""
    order = sorted((i for i, fit in enumerate(fitted) if np.isfinite(fit.loss)), key=lambda i: fitted[i].loss)
    basins: list[list[int]] = []
    functions: list[np.ndarray] = []
    for i in order:
        f = linked_predictions(landscape, fitted[i].network)
        near = [np.linalg.norm(f - g) < _SAME_BASIN * np.linalg.norm(g - g.mean(axis=0)) for g in functions]
        if any(near):
            basins[int(np.argmax(near))].append(i)
        else:
            basins.append([i])
            functions.append(f)
    return basins[:most]


def _descended(network: Dense, landscape: Landscape) -> Level:
    """The end of a quasi-Newton descent, for networks that are too large for a dense Hessian: never certified."""
    network = descend(network, landscape)
    loss, gradient = landscape.value_and_gradient(network)
    return Level(network, float(loss), float(jnp.abs(gradient).max()), Status.MAX_STEPS, "")


def _distinct(points: Sequence[Level]) -> list[list[int]]:
    """Indices of levels of the same loss, the lowest first; in each group the best certified comes first."""
    usable = [i for i, p in enumerate(points) if np.isfinite(p.loss) and p.status is not Status.DIVERGED]
    usable.sort(key=lambda i: points[i].loss)
    groups: list[list[int]] = []
    for i in usable:
        if groups and points[i].loss - points[groups[-1][-1]].loss < _SAME_LOSS * (1e-3 + points[i].loss):
            groups[-1].append(i)
        else:
            groups.append([i])
    order = {Status.CONVERGED: 0, Status.AT_INFINITY: 1}
    for group in groups:
        group.sort(key=lambda i: (order.get(points[i].status, 2), points[i].gradient_norm))
    # A start that stopped half way is no level; it is kept only where nothing better was found.
    ended = [g for g in groups if points[g[0]].status in order]
    return ended or groups[:1]
