"""Sample where it is needed: refine cells until interpolation is good enough at points that it has not seen."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from lossatlas._status import Status
from lossatlas.geometry._cells import COUNTS, Cell, box_grid, cut_axes, grid_points, picture_axes, tails


ErrorScale = Literal["range", "value", "absolute"]
Manner = Literal["smooth", "norm", "steps"]
"""How a quantity is interpolated: as it is; by its square, which is smooth where it is zero; or linearly."""

_MAX_DEPTH = 6  # halvings along an axis
_MORE_POINTS = 500  # for what is judged beside the losses, on top of as many again
_MOST_LOW = 10  # minima of the interpolation that a check looks at
_PICTURE = {1: 301, 2: 81}  # points along each direction, by the number of directions
_EDGE_DEPTH = 3  # of a cell that an edge of what is finite cuts; its samples are as dense as 1/48 of the extent


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How large an error may be: `size` in units of the spread of all samples, of the value itself, or as it is."""

    size: float
    scale: ErrorScale

    def at(self, values: np.ndarray, spread: float) -> np.ndarray:
        """The largest allowed error at some values."""
        if self.scale == "value":
            return self.size * np.abs(values)
        return np.full(values.shape, self.size * (spread if self.scale == "range" else 1.0))


@dataclasses.dataclass(frozen=True)
class Judged:
    """Quantities that share a tolerance, and the spread that it may be relative to: their columns."""

    columns: tuple[int, ...]
    tolerance: Tolerance

    def allowed(self, values: np.ndarray, samples: "Samples") -> np.ndarray:
        """The largest allowed errors of these columns at some values of all quantities."""
        columns = list(self.columns)
        return self.tolerance.at(values[..., columns], _spread(samples.values[:, columns]))


class Samples:
    """Points and their values, each computed once."""

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray], num_directions: int, num_quantities: int):
        self.compute = compute
        self.points = np.zeros((0, num_directions))
        self.values = np.zeros((0, num_quantities))
        self._known: dict[bytes, int] = {}

    def missing(self, points: np.ndarray) -> np.ndarray:
        """Those of some points, each once, that are not computed."""
        rows = {row.tobytes(): row for row in points + 0.0}  # adding 0.0 turns -0.0 into 0.0
        new = [row for key, row in rows.items() if key not in self._known]
        return np.stack(new) if new else np.zeros((0, points.shape[1]))

    def add(self, points: np.ndarray) -> None:
        """Compute what is missing of some points."""
        new = self.missing(points)
        if not len(new):
            return
        self._known |= {row.tobytes(): len(self.points) + i for i, row in enumerate(new)}
        self.points = np.concatenate([self.points, new])
        self.values = np.concatenate([self.values, self.compute(new)])

    def holds(self, point: np.ndarray) -> bool:
        """Whether a point is computed."""
        return (point + 0.0).tobytes() in self._known

    def index(self, points: np.ndarray) -> np.ndarray:
        """Where computed points stand."""
        return np.array([self._known[row.tobytes()] for row in points + 0.0])


@dataclasses.dataclass(frozen=True)
class Refined:
    """Cells that fill the box, their samples, and the last check.

    - `errors`, `truth`: at the points of the last check, a column for each quantity; errors are NaN where either side
      is not finite.
    - `checks`, `check_values`: the points of all checks, and what was computed there.
    - `num_at_edge`: points of the last check in cells that an edge of what is finite cuts and that are not halved
      further; they are excused.
    """

    cells: list[Cell]
    samples: Samples
    errors: Float[np.ndarray, "m q"]
    truth: Float[np.ndarray, "m q"]
    checks: Float[np.ndarray, "c k"]
    check_values: Float[np.ndarray, "c q"]
    num_at_edge: int
    spread: float
    status: Status


def check_size(coverage: float, confidence: float) -> int:
    """How many random points must all pass, so that with this confidence that share of the area does."""
    return math.ceil(math.log(1 - confidence) / math.log(coverage))


def refine(
    compute: Callable[[np.ndarray], np.ndarray],
    extents: tuple[tuple[float, float], ...],
    manners: tuple[Manner, ...],
    judged: Sequence[Judged],
    *,
    places: Sequence[tuple[float, ...]] = (),
    coverage: float,
    confidence: float,
    max_points: int,
    rng: np.random.Generator,
    report: Callable[[int, str], None],
) -> Refined:
    """Refine until a check with fresh random points passes, or points run out.

    A cell whose coefficients promise too large an error is refined without a check. Check r draws as many points as a
    confidence of 1 - (1 - confidence) 3 / 4^r needs, so that all checks together hold the stated one. Beside them it
    looks at the minima of the interpolation, where one would be believed first.

    **Arguments:**
    - `compute`: the quantities at points, a column for each of `manners`.
    - `judged`: the first are what the coefficients and the status are for. When they pass the check, it is for the next
      too, until they pass or as many points again and 500 are spent.
    - `places`: points that are samples of all cells around them, so that the interpolation is exact there.
    - `report`: hears how many points are computed, and of what.
    """
    samples = Samples(compute, len(extents), len(manners))
    low, high = (tuple(ends) for ends in zip(*extents, strict=True))
    depth, counts = (0,) * len(extents), (COUNTS[0],) * len(extents)
    boxes = [np.transpose(pieces).tolist() for pieces in itertools.product(*cut_axes(extents, places))]
    samples.add(np.concatenate([box_grid(tuple(first), tuple(last), counts) for first, last in boxes]))
    cells = [_cell(samples, tuple(first), tuple(last), depth, counts) for first, last in boxes]
    axes = picture_axes(extents, places, picture_size(len(extents)))
    checks, check_values = np.zeros((0, len(extents))), np.zeros((0, len(manners)))
    active, waiting, budget, round_ = list(judged[:1]), list(judged[1:]), max_points, 0
    while True:
        wanted = [(cell, _wish(cell, samples, judged[0])) for cell in cells]
        cells, status = _refined(wanted, samples, budget - len(checks))
        report(len(samples.points) + len(checks), f"{len(cells)} cells")
        if status is None and any(wish for _, wish in wanted):
            continue
        # What earlier checks found need not be found again.
        bad = np.any(_judged(cells, samples, checks, check_values, active, manners).failing, axis=0)
        forced = _all_forced(cells, samples, checks[bad], active, manners)
        if status is None and forced:
            cells, status = _refined(forced, samples, budget - len(checks))
            if status is None:
                continue
        round_ += 1
        size = check_size(coverage, 1 - (1 - confidence) * 3 / 4**round_)
        drawn = rng.uniform(low, high, (size, len(extents)))
        points = np.concatenate([drawn, _lowest(cells, samples, axes, manners)])
        truth = compute(points)
        checks, check_values = np.concatenate([checks, points]), np.concatenate([check_values, truth])
        check = _judged(cells, samples, points, truth, judged, manners)
        passed = not check.failing[0][:size].any()
        report(len(samples.points) + len(checks), "check passed" if passed else "check failed")
        if passed and waiting and status is None:
            active, waiting = list(judged), []
            budget = min(max_points, 2 * (len(samples.points) + len(checks)) + _MORE_POINTS)
        bad = np.any(check.failing[: len(active)], axis=0)
        if status is None and _all_forced(cells, samples, points[bad], active, manners):
            continue
        if not passed and len(active) > 1:
            active, budget = active[:1], max_points  # what has no points left does not take them from the first
            continue
        done = Status.CONVERGED if passed else Status.MAX_STEPS
        spread = _spread(samples.values[:, list(judged[0].columns)])
        return Refined(
            cells, samples, check.errors, truth, checks, check_values, int(check.excused.sum()), spread, done
        )


@dataclasses.dataclass(frozen=True)
class _Check:
    """The interpolation at some points: its errors, which points are excused, and which fail, by what is judged."""

    errors: np.ndarray
    excused: np.ndarray
    failing: list[np.ndarray]


def _judged(
    cells: list[Cell],
    samples: Samples,
    points: np.ndarray,
    truth: np.ndarray,
    judged: Sequence[Judged],
    manners: tuple[Manner, ...],
) -> _Check:
    errors, mismatched = _errors(interpolate(cells, samples.values, points, manners), truth)
    excused = np.zeros(len(points), bool)
    for cell in cells:
        if _is_edge(cell, samples):
            excused |= cell.holds(points)
    errors[excused] = np.nan
    failing = [
        (np.any(errors[:, each.columns] > each.allowed(truth, samples), axis=1) | mismatched) & ~excused
        for each in judged
    ]
    return _Check(errors, excused, failing)


def _all_forced(
    cells: list[Cell], samples: Samples, bad: np.ndarray, judged: Sequence[Judged], manners: tuple[Manner, ...]
) -> list[tuple[Cell, "Wish"]]:
    """How all cells are refined where some points failed; empty where nothing can be."""
    forced = [(cell, _forced(cell, samples, judged, manners) if cell.holds(bad).any() else ()) for cell in cells]
    return forced if any(wish for _, wish in forced) else []


def picture_size(num_directions: int) -> int:
    """Points along each direction of a picture in which the minima of the interpolation are looked for."""
    return _PICTURE.get(num_directions, max(5, round(_PICTURE[2] ** (2 / num_directions))))


def _lowest(
    cells: list[Cell], samples: Samples, axes: Sequence[np.ndarray], manners: tuple[Manner, ...]
) -> Float[np.ndarray, "m k"]:
    """Where the interpolation has the deepest minima of the first quantity, and the lowest point of each smooth one."""
    from scipy.ndimage import minimum_filter

    found = interpolate_grid(cells, samples.values, axes, manners)
    first = np.where(np.isfinite(found[..., 0]), found[..., 0], np.inf)
    minima = np.flatnonzero((first == minimum_filter(first, 3, mode="nearest")) & np.isfinite(first))
    low = minima[np.argsort(first.ravel()[minima], kind="stable")][:_MOST_LOW].tolist()
    for i, manner in enumerate(manners):
        if i and manner != "steps" and np.isfinite(found[..., i]).any():
            low.append(int(np.nanargmin(found[..., i])))
    points = grid_points(axes)[sorted(set(low))]
    return points[[not samples.holds(point) for point in points]]


def _cell(samples: Samples, low, high, depth, counts) -> Cell:
    return Cell(low, high, depth, samples.index(box_grid(low, high, counts)).reshape(counts))


Wish = tuple[tuple[str, int], ...]
"""What a cell needs: `("raise", axis)` for more points along axes, or `("halve", axis)`."""


def _wish(cell: Cell, samples: Samples, judged: Judged) -> Wish:
    """How a cell wants to be refined by its own coefficients; nothing when it seems good enough."""
    values = samples.values[cell.index]
    finite = np.isfinite(values[..., list(judged.columns)]).all(axis=-1)
    if not finite.all():
        # An edge of what is finite cannot be interpolated: halve the longest side, down to the smallest cells.
        return _halving(cell) if finite.any() else ()
    wishes: dict[int, tuple[str, int]] = {}
    for column, most in zip(judged.columns, np.moveaxis(judged.allowed(values, samples), -1, 0), strict=True):
        allowed = float(most.min()) / most.ndim
        expected, rates = tails(values[..., column])
        for axis, (size, rate) in enumerate(zip(expected, rates, strict=True)):
            if size > allowed:
                wishes[axis] = _raise_or_halve(cell, axis, size * rate ** cell.index.shape[axis] <= allowed)
    return tuple(wish for wish in wishes.values() if wish[0])


def _forced(cell: Cell, samples: Samples, judged: Sequence[Judged], manners: tuple[Manner, ...]) -> Wish:
    """How to refine a cell that failed a check: along the axis whose coefficients fall the least."""
    columns = [column for each in judged for column in each.columns]
    values = samples.values[cell.index]
    if not np.isfinite(values[..., columns]).all():
        return _halving(cell)
    nodes = [values[..., column] ** (2 if manners[column] == "norm" else 1) for column in columns]
    found = [tails(each / max(np.ptp(each), 1e-300)) for each in nodes]
    expected = np.max([sizes for sizes, _ in found], axis=0)
    axis = int(np.argmax(expected))
    rate = max(rates[axis] for _, rates in found)
    wish = _raise_or_halve(cell, axis, rate < 0.5)
    return (wish,) if wish[0] else ()


def _raise_or_halve(cell: Cell, axis: int, falls_fast: bool) -> tuple[str, int]:
    count = cell.index.shape[axis]
    if count < COUNTS[1] or (count < COUNTS[-1] and falls_fast):
        return ("raise", axis)
    return ("halve" if cell.depth[axis] < _MAX_DEPTH else "", axis)


def _halving(cell: Cell) -> Wish:
    """How a cell is refined that an edge of what is finite cuts: along its longest side, or not any more."""
    axis = int(np.argmin(cell.depth))
    return (("halve", axis),) if cell.depth[axis] < _EDGE_DEPTH else ()


def _is_edge(cell: Cell, samples: Samples) -> bool:
    """Whether an edge of what is finite cuts a cell that is not halved further."""
    finite = np.isfinite(samples.values[cell.index]).all(axis=-1)
    return bool(finite.any()) and not finite.all() and not _halving(cell)


def _refined(wanted: list[tuple[Cell, Wish]], samples: Samples, budget: int) -> tuple[list[Cell], Status | None]:
    """The cells after all wishes; with `MAX_STEPS`, and the cells as they were, when the points would run out."""
    plans = [(cell, _plan(cell, wish, samples)) for cell, wish in _levelled(wanted)]
    points = [box_grid(low, high, counts) for _, plan in plans for low, high, _, counts in plan]
    if not points:
        return [cell for cell, _ in wanted], None
    if len(samples.points) + len(samples.missing(np.concatenate(points))) > budget:
        return [cell for cell, _ in wanted], Status.MAX_STEPS
    samples.add(np.concatenate(points))
    return [made for cell, plan in plans for made in ([_cell(samples, *p) for p in plan] if plan else [cell])], None


def _levelled(wanted: list[tuple[Cell, Wish]]) -> list[tuple[Cell, Wish]]:
    """The wishes, and for whole cells in one column the same points along it, so that there is no step between them."""
    span = lambda cell, axis: (axis, cell.low[axis], cell.high[axis], cell.index.shape[axis])  # noqa: E731
    whole = [not any(cell.depth) for cell, _ in wanted]
    raised = {
        span(cell, axis)
        for (cell, wish), is_whole in zip(wanted, whole, strict=True)
        for what, axis in wish
        if what == "raise" and is_whole
    }
    found = []
    for (cell, wish), is_whole in zip(wanted, whole, strict=True):
        asked = {axis for _, axis in wish}
        more = [
            axis for axis in range(len(cell.depth)) if is_whole and axis not in asked and span(cell, axis) in raised
        ]
        found.append((cell, (*wish, *(("raise", axis) for axis in more))))
    return found


def _plan(cell: Cell, wish: Wish, samples: Samples) -> list[tuple]:
    """The boxes (low, high, depth, counts) that take the place of a cell; none when it stays."""
    if not wish:
        return []
    counts = list(cell.index.shape)
    for what, axis in wish:
        if what == "raise":
            counts[axis] = COUNTS[COUNTS.index(counts[axis]) + 1]
    halved = [axis for what, axis in wish if what == "halve"]
    if not np.isfinite(samples.values[cell.index]).all():
        counts = [COUNTS[0]] * len(counts)  # no polynomial is wanted there
    boxes = [(cell.low, cell.high, cell.depth, tuple(counts))]
    for axis in halved:
        boxes = [half for box in boxes for half in _halves(*box, axis)]
    return boxes


def _halves(low, high, depth, counts, axis: int) -> list[tuple]:
    middle = 0.5 * (low[axis] + high[axis])
    put = lambda values, value: (*values[:axis], value, *values[axis + 1 :])  # noqa: E731
    # Half as long, half the degree: what was too coarse by a little is fine then.
    deeper, fewer = put(depth, depth[axis] + 1), put(counts, COUNTS[0])
    return [(low, put(high, middle), deeper, fewer), (put(low, middle), high, deeper, fewer)]


def _errors(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance of interpolation to the truth, and which points are finite on one side only."""
    with np.errstate(invalid="ignore"):
        errors = np.abs(found - truth)
    mismatched = np.isfinite(found[:, 0]) != np.isfinite(truth[:, 0])
    return np.where(np.isfinite(errors), errors, np.nan), mismatched


def interpolate(cells: list[Cell], values: np.ndarray, points: np.ndarray, manners: tuple[Manner, ...]) -> np.ndarray:
    """The quantities between samples, shape (m, q); NaN in masked cells and outside."""
    steps, norms, values = _prepared(values, manners)
    found = np.full((len(points), values.shape[1]), np.nan)
    for cell in cells:
        inside = np.flatnonzero(cell.holds(points))
        if len(inside):
            found[np.ix_(inside, ~steps)] = cell.interpolate(values[:, ~steps], points[inside])
        if len(inside) and steps.any():
            found[np.ix_(inside, steps)] = cell.linear(values[:, steps], points[inside])
    return np.where(norms, np.sqrt(np.maximum(found, 0.0)), found)


def interpolate_grid(
    cells: list[Cell], values: np.ndarray, axes: Sequence[np.ndarray], manners: tuple[Manner, ...]
) -> np.ndarray:
    """The same on a grid inside the box, shape (m_1, ..., m_k, q)."""
    steps, norms, values = _prepared(values, manners)
    found = np.full((*(len(axis) for axis in axes), values.shape[1]), np.nan)
    for cell in cells:
        ends = zip(axes, cell.low, cell.high, strict=True)
        inside = [np.flatnonzero((axis >= low) & (axis <= high)) for axis, low, high in ends]
        part = [axis[index] for axis, index in zip(axes, inside, strict=True)]
        if not all(map(len, part)):
            continue
        found[np.ix_(*inside, ~steps)] = cell.interpolate_grid(values[:, ~steps], part)
        if steps.any():
            shape = (*map(len, part), int(steps.sum()))
            found[np.ix_(*inside, steps)] = cell.linear(values[:, steps], grid_points(part)).reshape(shape)
    return np.where(norms, np.sqrt(np.maximum(found, 0.0)), found)


def _prepared(values: np.ndarray, manners: tuple[Manner, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which columns are linear, which are interpolated by their squares, and the values with these squared."""
    steps, norms = (np.array([manner == kind for manner in manners]) for kind in ("steps", "norm"))
    return steps, norms, np.where(norms, values**2, values)


def _spread(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max() - finite.min()) if finite.size else 0.0
