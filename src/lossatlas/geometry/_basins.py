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
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[np.isfinite(flat[order])]
    # A frame around the grid, in which every cell has all its neighbours, at the same distances.
    framed = np.arange(np.prod([size + 2 for size in values.shape])).reshape([size + 2 for size in values.shape])
    inside = framed[(slice(1, -1),) * values.ndim].ravel()
    around = (framed[(slice(3),) * values.ndim].ravel() - framed[(1,) * values.ndim]).tolist()
    owner = [-1] * framed.size  # the basin that a cell was put into
    leader: list[int] = []  # the basin that a basin has become part of; itself while it lasts
    minima: list[int] = []
    saddles: list[int] = []
    parents: list[int] = []
    sizes: list[int] = []

    def alive(basin: int) -> int:
        while leader[basin] != basin:
            leader[basin] = leader[leader[basin]]
            basin = leader[basin]
        return basin

    for cell, at in zip(order.tolist(), inside[order].tolist(), strict=True):
        beside = {owner[at + step] for step in around} - {-1}
        basins = sorted({alive(basin) for basin in beside})  # the lower one was found first
        if not basins:
            basins = [len(minima)]
            minima.append(cell)
            saddles.append(-1)
            parents.append(-1)
            sizes.append(0)
            leader.append(basins[0])
        elder = basins[0]
        for younger in basins[1:]:
            leader[younger], saddles[younger], parents[younger] = elder, cell, elder
            sizes[elder] += sizes[younger]
        owner[at] = elder
        sizes[elder] += 1
    cells = np.array(owner)[inside]
    return Basins(np.array(minima, int), np.array(saddles, int), np.array(parents, int), np.array(sizes, int), cells)
