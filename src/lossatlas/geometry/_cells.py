"""Polynomial interpolation on boxes: Chebyshev points, tensor products, and how fast coefficients fall."""

import dataclasses
import functools as ft
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int


COUNTS = (7, 13, 25)
"""Points along an axis of a cell; each set holds the one before, so that refinement keeps what was computed."""

_EDGE = 1e-6  # of an extent: a place so close to its end needs no cut


@dataclasses.dataclass(frozen=True)
class Cell:
    """A box with a grid of Chebyshev points, the ends included.

    - `low`, `high`: its corners. `depth`: how often it was halved along each axis.
    - `index`: an array with an axis for each direction: which sample stands at each point of the grid.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    depth: tuple[int, ...]
    index: Int[np.ndarray, "..."]

    def holds(self, points: Float[np.ndarray, "m k"]) -> np.ndarray:
        """Which points lie in the box, its upper faces included."""
        return np.all((points >= self.low) & (points <= self.high), axis=1)

    def interpolate(
        self, values: Float[np.ndarray, "s q"], points: Float[np.ndarray, "m k"]
    ) -> Float[np.ndarray, "m q"]:
        """The interpolating polynomial of samples at points in the box.

        Where a sample of the cell is not finite: linear between the samples, NaN beside one that is not finite.
        """
        nodes = values[self.index]  # (n_1, ..., n_k, q)
        if not np.isfinite(nodes).all():
            return self.linear(values, points)
        found = np.tensordot(self._lagrange(0, points[:, 0]), nodes, axes=1)
        for axis in range(1, points.shape[1]):
            found = np.einsum("mi,mi...->m...", self._lagrange(axis, points[:, axis]), found)
        return found

    def interpolate_grid(
        self, values: Float[np.ndarray, "s q"], axes: Sequence[Float[np.ndarray, " _"]]
    ) -> Float[np.ndarray, "..."]:
        """The same on a grid of points in the box, which is far cheaper: shape (m_1, ..., m_k, q)."""
        found = values[self.index]
        if not np.isfinite(found).all():
            return self.linear(values, grid_points(axes)).reshape(*(len(axis) for axis in axes), -1)
        for i, axis in enumerate(axes):
            found = np.moveaxis(np.tensordot(self._lagrange(i, axis), found, axes=(1, i)), 0, i)
        return found

    def _lagrange(self, axis: int, x: np.ndarray) -> np.ndarray:
        low, high = self.low[axis], self.high[axis]
        return _lagrange(self.index.shape[axis], (2 * x - low - high) / (high - low))

    def linear(self, values: Float[np.ndarray, "s q"], points: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m q"]:
        """Linear between the samples in every direction; NaN beside one that is not finite."""
        from scipy.interpolate import RegularGridInterpolator

        nodes = np.where(np.isfinite(values), values, np.nan)[self.index]
        return RegularGridInterpolator(tuple(box_axes(self.low, self.high, self.index.shape)), nodes)(points)


def box_axes(low: tuple[float, ...], high: tuple[float, ...], counts: tuple[int, ...]) -> list[Float[np.ndarray, " n"]]:
    """Chebyshev points along each axis of a box; on a common face of two boxes they are the same numbers."""
    axes = []
    for a, b, count in zip(low, high, counts, strict=True):
        nodes = 0.5 * (a + b) + 0.5 * (b - a) * _nodes(count)
        nodes[0], nodes[-1] = a, b
        axes.append(nodes)
    return axes


def box_grid(low: tuple[float, ...], high: tuple[float, ...], counts: tuple[int, ...]) -> Float[np.ndarray, "n k"]:
    """The grid of Chebyshev points of a box, the last axis fastest."""
    return grid_points(box_axes(low, high, counts))


def grid_points(axes: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, "n k"]:
    """The points of a grid, the last axis fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def cut_axes(
    extents: Sequence[tuple[float, float]], places: Sequence[Sequence[float]]
) -> list[list[tuple[float, float]]]:
    """The pieces into which each axis of a box is cut, so that places inside are points of the grids of all cells.

    The middle of a piece is such a point; where an axis has another place inside, it is cut at all of them.
    """
    found = []
    for axis, (low, high) in enumerate(extents):
        inside = _inside(low, high, [place[axis] for place in _held(extents, places)])
        cuts = [] if inside == [0.5 * (low + high)] else inside
        ends = [low, *cuts, high]
        found.append(list(zip(ends[:-1], ends[1:], strict=True)))
    return found


def picture_axes(
    extents: Sequence[tuple[float, float]], places: Sequence[Sequence[float]], num: int
) -> tuple[Float[np.ndarray, " _"], ...]:
    """Even axes of a picture, but for the line next to each place inside, which goes through it."""
    axes = []
    for axis, (low, high) in enumerate(extents):
        line = np.linspace(low, high, num)
        for at in _inside(low, high, [place[axis] for place in _held(extents, places)]):
            if num > 2:
                line[1 + np.argmin(np.abs(line[1:-1] - at))] = at
        axes.append(np.sort(line))
    return tuple(axes)


def _held(extents: Sequence[tuple[float, float]], places: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """The places that the box holds."""
    return [p for p in places if all(low <= a <= high for a, (low, high) in zip(p, extents, strict=True))]


def _inside(low: float, high: float, values: Sequence[float]) -> list[float]:
    """The different values between two ends, in order."""
    edge = _EDGE * (high - low)
    return sorted({value for value in values if low + edge < value < high - edge})


def tails(values: Float[np.ndarray, "..."]) -> tuple[list[float], list[float]]:
    r"""For each axis what its higher coefficients are expected to add up to, and the rate at which they fall.

    The Chebyshev coefficients of the last two degrees, summed over the other axes, are continued as a geometric series
    with the rate from the two degrees before: $t \rho^2 / (1 - \rho^2)$. An expectation and no bound.
    """
    coefficients = values
    for axis, count in enumerate(values.shape):
        coefficients = np.moveaxis(np.tensordot(_to_coefficients(count), coefficients, axes=(1, axis)), 0, axis)
    expected, rates = [], []
    for axis in range(values.ndim):
        size = np.abs(np.moveaxis(coefficients, axis, 0)).reshape(values.shape[axis], -1).sum(axis=1)
        last, before = size[-2:].sum(), size[-4:-2].sum()
        rate = float(np.sqrt(np.clip(last / max(before, 1e-300), 1e-4, 0.8)))
        expected.append(float(last) * rate**2 / (1 - rate**2))
        rates.append(rate)
    return expected, rates


@ft.cache
def _nodes(count: int) -> np.ndarray:
    """Chebyshev points of the second kind on [-1, 1], increasing and exactly symmetric."""
    return np.sin(np.pi * np.arange(1 - count, count, 2) / (2 * (count - 1)))


@ft.cache
def _to_coefficients(count: int) -> np.ndarray:
    return np.linalg.inv(np.polynomial.chebyshev.chebvander(_nodes(count), count - 1))


def _lagrange(count: int, x: np.ndarray) -> np.ndarray:
    """The values of the Lagrange polynomials at x, one row a point: the barycentric formula (Berrut, Trefethen)."""
    weights = (-1.0) ** np.arange(count)
    weights[[0, -1]] /= 2
    distance = x[:, None] - _nodes(count)
    hit = distance == 0
    terms = weights / np.where(hit, 1.0, distance)
    rows = terms / terms.sum(axis=1, keepdims=True)
    return np.where(hit.any(axis=1, keepdims=True), hit.astype(float), rows)
