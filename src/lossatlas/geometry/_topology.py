"""The shape of a surface: its minima, the saddles between them, and how deep they are."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas.geometry._basins import find_basins
from lossatlas.geometry._refine import picture_size
from lossatlas.geometry._refined_slice import RefinedSlice
from lossatlas.geometry._slice import Slice


if TYPE_CHECKING:
    import xarray as xr


@shown
class MergeTree(eqx.Module):
    """The minima of a sampled surface and the saddles over which their basins merge, the most persistent first.

    These are minima and saddles of the slice. A minimum of a slice is in general no minimum of the landscape.

    - `minima`: the coordinates of each. `losses`: the values there.
    - `saddles`, `saddle_losses`: the lowest pass to a basin with a lower minimum; NaN and infinity for a minimum that
      has none: the lowest of all, or of a part that masked cells cut off.
    - `parents`: the minimum with which each merges there, -1 where it does not.
    - `num_cells`: the size of the basin below its saddle. `basins`: by cell of the slice, the minimum in whose basin it
      is, below the saddle of that; -1 where masked.
    - `min_persistence`: gaps up to this were merged away, or fewer where the error is relative to the loss;
      `num_dropped` minima had such.
    - `quantity`: which values; `num_masked` cells of it are not finite and belong to no basin.
    """

    minima: Float[np.ndarray, "m k"]
    losses: Float[np.ndarray, " m"]
    saddles: Float[np.ndarray, "m k"]
    saddle_losses: Float[np.ndarray, " m"]
    parents: Int[np.ndarray, " m"]
    num_cells: Int[np.ndarray, " m"]
    basins: Int[np.ndarray, "..."]
    min_persistence: float
    num_dropped: int
    num_masked: int
    quantity: str

    @property
    def persistence(self) -> Float[np.ndarray, " m"]:
        """The gap between each saddle and its minimum; infinity without a saddle."""
        return self.saddle_losses - self.losses

    def to_xarray(self) -> "xr.Dataset":
        """A row for each minimum."""
        import xarray as xr

        columns = {
            "loss": self.losses,
            "saddle_loss": self.saddle_losses,
            "persistence": self.persistence,
            "parent": self.parents,
            "num_cells": self.num_cells,
        }
        for i in range(self.minima.shape[1]):
            columns |= {f"minimum_{i + 1}": self.minima[:, i], f"saddle_{i + 1}": self.saddles[:, i]}
        attributes = {"quantity": self.quantity, "min_persistence": self.min_persistence}
        return xr.Dataset({name: ("minimum", column) for name, column in columns.items()}, attrs=attributes)

    def _figure(self) -> Any:
        from lossatlas.figures import merge_tree_figure

        return merge_tree_figure(self.to_xarray())


def merge_tree(
    found: Slice | RefinedSlice, *, quantity: str = "loss", min_persistence: float | None = None
) -> MergeTree:
    r"""The merge tree of the sublevel sets of a slice, with saddle-minimum gaps.

    Cells are added from the lowest up, and each is joined with all its neighbours, diagonal ones included: 8 in a
    plane, $3^k - 1$ in k dimensions. So a minimum is lower than all of them, and a valley that runs along a diagonal is
    one valley. Where two basins meet, the one with the higher minimum ends (the elder rule), so the gaps are the
    persistence of dimension 0. Cost: sorting the cells.

    Of a refined slice the minima are points that were computed: in each basin of its picture the lowest such point,
    and the bottom below that, which only the interpolation has, is filled up to it. Saddles are interpolated.

    **Arguments:**
    - `found`: a slice on a grid, or a refined one.
    - `quantity`: which of its values.
    - `min_persistence`: minima whose gap is at most this are merged away. Default 0 for computed values, and for
      interpolated ones twice the measured error (at the saddle, where it is relative to the value), below which a gap
      may come from interpolation.

    **Returns:** [`lossatlas.geometry.MergeTree`][]; its cells are those of the slice, for a refined one those of
    `on_grid` with 301 points on a line and 81 by 81 on a plane.

    **Raises:** `InputError` for a quantity that the slice lacks, a negative gap, and a slice that is masked all over.

    !!! cite
        Edelsbrunner, Letscher and Zomorodian 2002, Discrete Comput. Geom. 28 (persistence).
    """
    picture = found.on_grid(picture_size(len(found.extents))) if isinstance(found, RefinedSlice) else found
    values = _checked(picture, quantity, min_persistence)
    tree = _tree(picture, values, quantity, min_persistence)
    if not isinstance(found, RefinedSlice):
        return tree
    lowest, points = _lowest_computed(found, picture, tree)
    bottoms = np.minimum(lowest, tree.saddle_losses)
    bottoms = np.append(np.where(np.isfinite(bottoms), bottoms, -np.inf), -np.inf)  # the last for masked cells
    values = np.maximum(values, bottoms[tree.basins])
    known = np.isfinite(lowest)
    values[_cells(picture, points[known])] = lowest[known]
    tree = _tree(picture, values, quantity, min_persistence)
    lowest, points = _lowest_computed(found, picture, tree)
    known = np.isfinite(lowest)
    return eqx.tree_at(
        lambda tree: (tree.losses, tree.minima),
        tree,
        (np.where(known, lowest, tree.losses), np.where(known[:, None], points, tree.minima)),
    )


def _tree(picture: Slice, values: np.ndarray, quantity: str, min_persistence: float | None) -> MergeTree:
    """The merge tree of some values on the grid of a slice."""
    births, deaths, joined, sizes, cells = find_basins(values)
    persistence = np.where(deaths >= 0, values.ravel()[deaths] - values.ravel()[births], np.inf)
    at_saddles = np.where(deaths >= 0, values.ravel()[deaths], 0.0)
    least = (
        2 * picture.error_at(quantity, at_saddles) if min_persistence is None else np.full(len(deaths), min_persistence)
    )
    kept = np.flatnonzero(persistence > least)
    kept = kept[np.lexsort((values.ravel()[births[kept]], -persistence[kept]))]
    place = {int(old): new for new, old in enumerate(kept)}
    parents = np.array([_kept_parent(int(i), joined, place) for i in kept], int)
    into = np.array(
        [place[i] if i in place else _kept_parent(i, joined, place) for i in range(len(joined))] + [-1], int
    )
    births, deaths = births[kept], deaths[kept]
    merges = deaths >= 0
    return MergeTree(
        minima=_coordinates(picture, births),
        losses=values.ravel()[births],
        saddles=np.where(merges[:, None], _coordinates(picture, np.maximum(deaths, 0)), np.nan),
        saddle_losses=np.where(merges, values.ravel()[deaths], np.inf),
        parents=parents,
        num_cells=sizes[kept],
        basins=into[cells].reshape(values.shape),
        min_persistence=float(least.max()),
        num_dropped=len(persistence) - len(kept),
        num_masked=int((~np.isfinite(values)).sum()),
        quantity=quantity,
    )


def _lowest_computed(found: RefinedSlice, picture: Slice, tree: MergeTree) -> tuple[np.ndarray, np.ndarray]:
    """For each minimum the least value that was computed in its basin, infinity without one, and where."""
    values = found.values[tree.quantity]
    basins = np.where(np.isfinite(values), tree.basins[_cells(picture, found.points)], -1)
    lowest, points = np.full(len(tree.losses), np.inf), np.full(tree.minima.shape, np.nan)
    for i in np.argsort(values, kind="stable")[::-1]:  # the least comes last, and stays
        if basins[i] >= 0:
            lowest[basins[i]], points[basins[i]] = values[i], found.points[i]
    return lowest, points


def _cells(picture: Slice, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """The indices of the cells next to some points."""
    axes = zip(picture.coordinates, points.T, strict=True)
    return tuple(np.abs(axis[:, None] - at).argmin(axis=0) for axis, at in axes)


def _kept_parent(basin: int, joined: np.ndarray, place: dict[int, int]) -> int:
    """The minimum that is left of those that a basin became part of."""
    basin = int(joined[basin])
    while basin >= 0 and basin not in place:
        basin = int(joined[basin])
    return place.get(basin, -1)


@shown
class Persistence(eqx.Module):
    """The persistence of the sublevel sets of a slice, by dimension.

    - `births`, `deaths`: by dimension: 0 for basins, 1 for closed ridges around a peak, and so on; the value at which
      each begins and ends, infinity for what stays. Sorted by their difference, the largest first.
    - `birth_points`, `death_points`: the coordinates of the cells that cause them; NaN for what stays.
    - `num_masked`: cells that are not finite: they are never reached, like infinitely high ones.
    - `quantity`: which values.
    """

    births: dict[int, Float[np.ndarray, " _"]]
    deaths: dict[int, Float[np.ndarray, " _"]]
    birth_points: dict[int, Float[np.ndarray, "_ k"]]
    death_points: dict[int, Float[np.ndarray, "_ k"]]
    num_masked: int
    quantity: str

    def _figure(self) -> Any:
        from lossatlas.figures import persistence_figure

        return persistence_figure(self.births, self.deaths, quantity=self.quantity)


def persistence(found: Slice, *, quantity: str = "loss", min_persistence: float | None = None) -> Persistence:
    """The persistence of the sublevel sets of a slice in every dimension, by gudhi.

    Each point of the grid is a cube of a cubical complex, and a face is reached with the lowest cube that it belongs
    to. So cubes that share no more than a corner are connected, as in [`lossatlas.geometry.merge_tree`][], and a closed
    ridge is one whose cubes share faces.

    **Arguments:**
    - `found`: a slice on a grid; for a refined one, its `on_grid`.
    - `quantity`, `min_persistence`: as for [`lossatlas.geometry.merge_tree`][].

    **Raises:** `InputError` as there, and where gudhi is missing.

    !!! cite
        Wagner, Chen and Vucini 2012 (cubical complexes); Edelsbrunner, Letscher and Zomorodian 2002.
    """
    values = _checked(found, quantity, min_persistence)
    if min_persistence is None:
        min_persistence = 0.0 if found.error is None else 2 * found.error[quantity]
    try:
        from gudhi import CubicalComplex
    except ImportError as error:
        msg = "persistence needs gudhi: pip install 'lossatlas[topology]' (or gudhi). merge_tree works without."
        raise InputError(msg) from error
    finite = np.isfinite(values)
    cubes = np.where(finite, values, np.inf).T  # it counts cubes first axis fastest
    complex_ = CubicalComplex(top_dimensional_cells=cubes)
    complex_.compute_persistence(min_persistence=min_persistence)  # pyright: ignore[reportArgumentType]
    pairs, stays = complex_.cofaces_of_persistence_pairs()
    births: dict[int, np.ndarray] = {}
    deaths: dict[int, np.ndarray] = {}
    born: dict[int, np.ndarray] = {}
    dead: dict[int, np.ndarray] = {}
    for dim in range(values.ndim):
        ends = np.asarray(pairs[dim], int).reshape(-1, 2) if dim < len(pairs) else np.zeros((0, 2), int)
        left = np.asarray(stays[dim], int).ravel() if dim < len(stays) else np.zeros(0, int)
        ends = np.concatenate([ends, np.stack([left, np.full(len(left), -1)], axis=1)])
        ends = ends[finite.ravel()[ends[:, 0]]]
        # What ends at a masked cell does not end on what was computed.
        stay = (ends[:, 1] < 0) | ~finite.ravel()[ends[:, 1]]
        start = values.ravel()[ends[:, 0]]
        stop = np.where(stay, np.inf, values.ravel()[ends[:, 1]])
        order = np.lexsort((start, -(stop - start)))
        births[dim], deaths[dim] = start[order], stop[order]
        born[dim] = _coordinates(found, ends[order, 0])
        dead[dim] = np.where(stay[order, None], np.nan, _coordinates(found, np.maximum(ends[order, 1], 0)))
    return Persistence(births, deaths, born, dead, int((~finite).sum()), quantity)


def _checked(found: Slice, quantity: str, min_persistence: float | None) -> np.ndarray:
    if quantity not in found.values:
        raise unknown_name("quantity", quantity, found.values)
    values = np.asarray(found.values[quantity], float)
    if not np.isfinite(values).any():
        msg = f"Every cell of {quantity} is masked: there is no finite value. Look at a smaller extent."
        raise InputError(msg)
    if min_persistence is not None and not min_persistence >= 0:
        msg = f"min_persistence must be at least 0, got {min_persistence}."
        raise InputError(msg)
    return values


def _coordinates(found: Slice, cells: np.ndarray) -> np.ndarray:
    """The coordinates of cells by flat index, shape (m, k)."""
    places = np.unravel_index(cells, tuple(len(axis) for axis in found.coordinates))
    return np.stack([axis[place] for axis, place in zip(found.coordinates, places, strict=True)], axis=1)
