"""Match the units of two networks by what they put out on data."""

from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import unknown_name
from lossatlas._types import Network
from lossatlas.embedding._alignment import Alignment, assign
from lossatlas.embedding._match import Match, Pair
from lossatlas.embedding._record import Data, inputs_of
from lossatlas.embedding._unit_arrays import with_arrays
from lossatlas.geometry import find_taps, unit_batches


_MEASURES = ("product", "correlation")
_MIXED = ("head", "dimension")  # the positions of heads are coordinates, whose order is another question
_CONSTANT = 1e-12  # a variance below this share of the mean square is that of a unit that does nothing


def match_activations(
    network: Network,
    reference: Network,
    landscape: Data,
    *,
    measure: Literal["product", "correlation"] = "product",
) -> tuple[Network, Match]:
    r"""Bring the units of a network next to those of a reference that put out the same on the data.

    Every space is matched by itself: linear assignment of $C = Z_A^\top Z_B$ over examples and positions, with the
    outputs as readers read them, of absolute values where signs are free (then $\sigma(-t) = c - \sigma(t)$ is
    centred at c/2). Homogeneous units are compared, and end, at common scales. Units that are constant on the data in
    either network are matched by their weights, and so are spaces that no reader contracts (queries) and what makes up
    attention heads.

    It needs data, and ranks pairs of networks better than their weights where those still hold their random start.

    **Arguments:**
    - `network`, `reference`: of one architecture and shape, with unit spaces.
    - `landscape`: a `Landscape`, or inputs alone.
    - `measure`: `"product"`, or `"correlation"` (centred, divided by standard deviations).

    **Returns:** the matched network and a [`lossatlas.embedding.Match`][], whose `objectives` are those of the
    weights. Cost: a pass over the data and, for a space of n units, $n^2$ products an example and $n^3$ operations.

    **Raises:** `InputError` as [`lossatlas.embedding.match`][], and without data.

    !!! cite
        Ainsworth et al. 2023, arXiv 2209.04836; correlations: Li et al. 2016, arXiv 1511.07543.
    """
    if measure not in _MEASURES:
        raise unknown_name("measure", measure, _MEASURES)
    inputs = inputs_of(landscape, "match_activations")
    pair = Pair(network, reference, "balanced")
    alignment = pair.alignment()
    alignment.objectives.append(alignment.objective())
    ours, theirs = with_arrays(network, pair.source), with_arrays(reference, pair.target)
    taps = find_taps(ours, inputs[0])
    seen = {name: _Products() for name in taps.taps if name in pair.spaces and pair.spaces[name].kind not in _MIXED}
    both = (unit_batches(taps, with_data_statistics(net, inputs), inputs) for net in (theirs, ours))
    for (_, wanted), (_, found) in zip(*both, strict=True):
        for name, products in seen.items():
            products.add(wanted[name], found[name])
    settled: set[str] = set()
    for name, products in seen.items():
        _place(alignment, name, products, measure, settled)
        settled.add(name)
    blind = [name for name in pair.spaces if name not in seen]
    alignment.sweeps = 1
    if blind:
        alignment.ordered_start(settled)
        alignment.ascend(blind)
    alignment.objectives.append(alignment.objective())
    return pair.finish(alignment, {"product": "activations", "correlation": "correlations"}[measure], landscape)


def with_data_statistics(network: Network, inputs: Array) -> Network:
    """A network that normalises by the statistics of its batch, with those of the data as running ones."""
    return network.with_statistics(inputs) if getattr(network, "batch_statistics", False) else network


class _Products:
    """Sums over examples and positions, in float64."""

    def __init__(self):
        self.count = 0
        self.products = np.zeros(())
        self.sums: list[np.ndarray] = []
        self.squares: list[np.ndarray] = []

    def add(self, theirs: np.ndarray, ours: np.ndarray) -> None:
        theirs, ours = (values.reshape(-1, values.shape[-1]).astype(float) for values in (theirs, ours))
        sums, squares = [v.sum(0) for v in (theirs, ours)], [(v**2).sum(0) for v in (theirs, ours)]
        self.products = self.products + theirs.T @ ours
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)] if self.count else sums
        self.squares = [a + b for a, b in zip(self.squares, squares, strict=True)] if self.count else squares
        self.count += len(theirs)

    def variances(self) -> list[Float[np.ndarray, " units"]]:
        pairs = zip(self.squares, self.sums, strict=True)
        return [np.maximum(square - total**2 / self.count, 0.0) for square, total in pairs]

    def alive(self) -> list[np.ndarray]:
        pairs = zip(self.variances(), self.squares, strict=True)
        return [variance > _CONSTANT * square for variance, square in pairs]

    def score(self, measure: str, centre: float) -> Float[np.ndarray, "units units"]:
        first, second = self.sums
        if measure == "correlation":
            one, two = (np.sqrt(np.where(v > 0, v, 1.0)) for v in self.variances())
            return (self.products - np.outer(first, second) / self.count) / np.outer(one, two)
        shifted = self.products - centre * (first[:, None] + second) + centre**2 * self.count
        return shifted / self.count


def _place(alignment: Alignment, name: str, products: _Products, measure: str, settled: set[str]) -> None:
    """Match the units of a space that do something by their outputs, then the rest by their weights."""
    from scipy.optimize import linear_sum_assignment

    space = alignment.spaces[name]
    reflects = alignment.reflects(name)
    score = products.score(measure, 0.5 * alignment.reflections.get(name, 0.0))
    theirs, ours = (np.flatnonzero(alive) for alive in products.alive())
    block = score[np.ix_(theirs, ours)]
    rows, columns = linear_sum_assignment(np.abs(block) if reflects else block, maximize=True)
    order, sign = np.full(space.size, -1), np.ones(space.size)
    order[theirs[rows]] = ours[columns]
    if reflects:
        sign[theirs[rows]] = np.where(block[rows, columns] < 0, -1.0, 1.0)
    places = np.flatnonzero(order < 0)
    units = np.setdiff1d(np.arange(space.size), order[order >= 0])
    if len(places):
        weights = alignment.score(name, alignment.usable(name, settled))[np.ix_(places, units)]
        chosen, sign[places] = assign(weights, reflects=reflects)
        order[places] = units[chosen]
    alignment.move(name, order, sign)
