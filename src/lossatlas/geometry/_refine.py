"""Sample where it is needed: refine cells until interpolation is good enough at points that it has not seen."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from lossatlas._status import Status
from lossatlas.geometry._cells import COUNTS, Cell, box_grid, grid_points, tails


ErrorScale = Literal["range", "value", "absolute"]
Manner = Literal["smooth", "norm", "steps"]
"""How a quantity is interpolated: as it is; by its square, which is smooth where it is zero; or linearly."""

_MAX_DEPTH = 6  # halvings along an axis
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

    def index(self, points: np.ndarray) -> np.ndarray:
        """Where computed points stand."""
        return np.array([self._known[row.tobytes()] for row in points + 0.0])


@dataclasses.dataclass(frozen=True)
class Refined:
    """Cells that fill the box, their samples, and the last check.

    - `errors`: at the points of the last check, a column for each quantity; NaN where either side is not finite.
    - `num_at_edge`: points of the last check in cells that an edge of what is finite cuts and that are not halved
      further; they are excused.
    - `num_checked`: points of all checks.
    """

    cells: list[Cell]
    samples: Samples
    errors: Float[np.ndarray, "m q"]
    num_at_edge: int
    num_checked: int
    spread: float
    status: Status


def check_size(coverage: float, confidence: float) -> int:
    """How many random points must all pass, so that with this confidence that share of the area does."""
    return math.ceil(math.log(1 - confidence) / math.log(coverage))


def refine(
    compute: Callable[[np.ndarray], np.ndarray],
    extents: tuple[tuple[float, float], ...],
    manners: tuple[Manner, ...],
    judged: list[int],
    tolerance: Tolerance,
    *,
    coverage: float,
    confidence: float,
    max_points: int,
    rng: np.random.Generator,
    report: Callable[[int, str], None],
) -> Refined:
    """Refine until a check with fresh random points passes, or points run out.

    A cell whose coefficients promise too large an error is refined without a check. Check r draws as many points as a
    confidence of 1 - (1 - confidence) 3 / 4^r needs, so that all checks together hold the stated one.

    **Arguments:**
    - `compute`: the quantities at points, a column for each of `manners`. `judged`: those that the tolerance is for.
    - `report`: hears how many points are computed, and of what.
    """
    samples = Samples(compute, len(extents), len(manners))
    low, high = (tuple(ends) for ends in zip(*extents, strict=True))
    counts = (COUNTS[0],) * len(extents)
    samples.add(box_grid(low, high, counts))
    cells = [_cell(samples, low, high, (0,) * len(extents), counts)]
    checked, round_ = 0, 0
    while True:
        wanted = [(cell, _wish(cell, samples, judged, tolerance)) for cell in cells]
        cells, status = _refined(wanted, samples, max_points - checked)
        report(len(samples.points) + checked, f"{len(cells)} cells")
        if status is None and any(wish for _, wish in wanted):
            continue
        round_ += 1
        size = check_size(coverage, 1 - (1 - confidence) * 3 / 4**round_)
        points = rng.uniform(low, high, (size, len(extents)))
        truth, checked = compute(points), checked + size
        errors, mismatched = _errors(interpolate(cells, samples.values, points, manners), truth)
        spread = _spread(samples.values[:, judged])
        allowed = tolerance.at(truth[:, judged], spread)
        excused = np.any([cell.holds(points) for cell in cells if _is_edge(cell, samples)] or [False], axis=0)
        errors[np.broadcast_to(excused, len(points))] = np.nan
        failing = (np.any(errors[:, judged] > allowed, axis=1) | mismatched) & ~excused
        report(len(samples.points) + checked, "check passed" if not failing.any() else "check failed")
        if status is None and failing.any():
            inside = [(cell, cell.holds(points) & failing) for cell in cells]
            forced = [(cell, _forced(cell, samples, judged) if bad.any() else ()) for cell, bad in inside]
            if any(wish for _, wish in forced):
                cells, status = _refined(forced, samples, max_points - checked)
                if status is None:
                    continue
        done = Status.CONVERGED if not failing.any() else Status.MAX_STEPS
        return Refined(cells, samples, errors, int(np.sum(excused)), checked, spread, done)


def _cell(samples: Samples, low, high, depth, counts) -> Cell:
    return Cell(low, high, depth, samples.index(box_grid(low, high, counts)).reshape(counts))


Wish = tuple[tuple[str, int], ...]
"""What a cell needs: `("raise", axis)` for more points along axes, or `("halve", axis)`."""


def _wish(cell: Cell, samples: Samples, judged: list[int], tolerance: Tolerance) -> Wish:
    """How a cell wants to be refined by its own coefficients; nothing when it seems good enough."""
    values = samples.values[cell.index][..., judged]
    finite = np.isfinite(values).all(axis=-1)
    if not finite.all():
        # An edge of what is finite cannot be interpolated: halve the longest side, down to the smallest cells.
        return _halving(cell) if finite.any() else ()
    spread = _spread(samples.values[:, judged])
    wishes: dict[int, tuple[str, int]] = {}
    for i in range(values.shape[-1]):
        allowed = float(tolerance.at(values[..., i], spread).min()) / values[..., i].ndim
        expected, rates = tails(values[..., i])
        for axis, (size, rate) in enumerate(zip(expected, rates, strict=True)):
            if size > allowed:
                wishes[axis] = _raise_or_halve(cell, axis, size * rate ** cell.index.shape[axis] <= allowed)
    return tuple(wish for wish in wishes.values() if wish[0])


def _forced(cell: Cell, samples: Samples, judged: list[int]) -> Wish:
    """How to refine a cell that failed a check: along the axis whose coefficients fall the least."""
    values = samples.values[cell.index][..., judged]
    if not np.isfinite(values).all():
        return _halving(cell)
    found = [tails(values[..., i]) for i in range(values.shape[-1])]
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
    plans = [(cell, _plan(cell, wish, samples)) for cell, wish in wanted]
    points = [box_grid(low, high, counts) for _, plan in plans for low, high, _, counts in plan]
    if not points:
        return [cell for cell, _ in wanted], None
    if len(samples.points) + len(samples.missing(np.concatenate(points))) > budget:
        return [cell for cell, _ in wanted], Status.MAX_STEPS
    samples.add(np.concatenate(points))
    return [made for cell, plan in plans for made in ([_cell(samples, *p) for p in plan] if plan else [cell])], None


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
