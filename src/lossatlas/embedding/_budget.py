"""The best of fewer units and lower ranks, for a number of parameters or a tolerance."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lossatlas._parameters import num_parameters
from lossatlas.embedding._low_rank import LowRank, low_rank
from lossatlas.embedding._pruned_point import PrunedPoint


if TYPE_CHECKING:
    from lossatlas.embedding._pruning import PruningPath


_GRID = 32
_CACHED_NUMBERS = 2**27


class Mixes:
    """The networks of a path of a `Dense` that first give up units, then ranks; either alone is among them."""

    def __init__(self, path: "PruningPath"):
        self.path = path
        self.found: dict[int, LowRank] = {}
        self.most_found = max(2, _CACHED_NUMBERS // (3 * num_parameters(path.start)))

    def after(self, removed: int) -> LowRank:
        """What can be factored once so many units have gone."""
        if removed not in self.found:
            if len(self.found) >= self.most_found:
                self.found.pop(next(iter(self.found)))
            self.found[removed] = low_rank(self.path, removed)
        return self.found[removed]

    def best(self, most: int, removed: int) -> PrunedPoint:
        """The network of at most so many parameters whose outputs change least (root mean square on the data).

        **Arguments:**
        - `removed`: how many units have to go when nothing is factored.
        """
        return self._search(removed, lambda count: self.after(count).with_parameters(most), lambda p: (p.rms_change,))

    def smallest(self, tolerance: float, removed: int) -> PrunedPoint:
        """The network of fewest parameters whose outputs change by at most a tolerance.

        **Arguments:**
        - `removed`: how many units may go when nothing is factored.
        """
        return self._search(
            removed, lambda count: _smallest(self.after(count), tolerance), lambda p: (p.num_parameters, p.rms_change)
        )

    def _search(
        self,
        removed: int,
        at: Callable[[int], PrunedPoint | None],
        price: Callable[[PrunedPoint], tuple[float, ...]],
    ) -> PrunedPoint:
        """The cheapest point over how many units go before ranks do: at five places, then halfway around the best.

        Places lie on a grid of the path, so that searches for several sizes meet again; the ends are always tried.
        """
        grid = max(1, len(self.path.sequence) // _GRID)
        tried: set[int] = set()
        found: dict[int, PrunedPoint] = {}

        def tries(where: float) -> None:
            place = removed if where >= removed else min(grid * round(max(where, 0.0) / grid), removed)
            if place not in tried and (point := at(place)) is not None:
                found[place] = point
            tried.add(place)

        step = removed / 4
        for i in range(5):
            tries(i * step)
        while step >= 2 * grid:
            step /= 2
            best = min(found, key=lambda place: price(found[place]))
            tries(best - step)
            tries(best + step)
        return min(found.values(), key=price)


def _smallest(found: LowRank, tolerance: float) -> PrunedPoint | None:
    """The fewest parameters that lower ranks leave within a tolerance, by bisection; None where none are within it."""
    best = found.point
    if best.output_change > tolerance:
        return None
    low = found.least - 1
    while best.num_parameters - low > 1:
        middle = (low + best.num_parameters) // 2
        point = found.with_parameters(middle)
        if point is not None and point.output_change <= tolerance:
            best = point
        else:
            low = middle
    return best
