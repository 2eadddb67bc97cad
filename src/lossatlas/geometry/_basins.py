"""The basins of a surface on a grid, and the saddles where they meet."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Basins(NamedTuple):
    """The basins of a surface.

    - `minima`, `saddles`: by basin the flat index of its lowest cell, and of that over which it joins a deeper basin,
      -1 where it does not. `parents`: the basin that it joins there, -1 where it does not.
    - `sizes`: the number of cells, those of basins that joined it included.
    - `cells`: by cell the basin that it was put into, below the saddle of that; -1 where it is not finite.
    """

    minima: Int[np.ndarray, " m"]
    saddles: Int[np.ndarray, " m"]
    parents: Int[np.ndarray, " m"]
    sizes: Int[np.ndarray, " m"]
    cells: Int[np.ndarray, " n"]


def find_basins(values: Float[np.ndarray, "..."]) -> Basins:
    """Add the finite cells from the lowest up, each joined with all its neighbours; the elder basin goes on."""
    flat, shape = values.ravel(), values.shape
    order = np.argsort(flat, kind="stable")
    order = order[np.isfinite(flat[order])]
    owner = np.full(flat.size, -1)  # the basin that a cell was put into
    leader: list[int] = []  # the basin that a basin has become part of; itself while it lasts
    births: list[int] = []
    deaths: list[int] = []
    joined: list[int] = []
    sizes: list[int] = []

    def alive(basin: int) -> int:
        while leader[basin] != basin:
            leader[basin] = leader[leader[basin]]
            basin = leader[basin]
        return basin

    for cell in order.tolist():
        around = [owner[near] for near in _neighbours(cell, shape) if owner[near] >= 0]
        basins = sorted({alive(int(basin)) for basin in around}, key=lambda basin: (flat[births[basin]], basin))
        if not basins:
            basins = [len(births)]
            births.append(cell)
            deaths.append(-1)
            joined.append(-1)
            sizes.append(0)
            leader.append(basins[0])
        elder = basins[0]
        for younger in basins[1:]:
            leader[younger], deaths[younger], joined[younger] = elder, cell, elder
            sizes[elder] += sizes[younger]
        owner[cell] = elder
        sizes[elder] += 1
    return Basins(np.array(births, int), np.array(deaths, int), np.array(joined, int), np.array(sizes, int), owner)


def _neighbours(cell: int, shape: tuple[int, ...]) -> list[int]:
    """The flat indices around a cell, diagonal ones included; the cell itself among them."""
    found, stride, rest = [cell], 1, cell
    for size in reversed(shape):
        place, rest = rest % size, rest // size
        steps = [0] + [-stride] * (place > 0) + [stride] * (place < size - 1)
        found = [near + step for near in found for step in steps]
        stride *= size
    return found
