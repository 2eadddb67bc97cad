"""Units that stand in for others: least squares of what a space put out on what is left of it, streamed."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Array, Float

from lossatlas._types import Network
from lossatlas.geometry import UnitTaps, unit_batches


_RIDGE = {"float64": 1e-12, "float32": 1e-6}


@dataclasses.dataclass
class Moments:
    """Sums over examples and positions: of the units left (m) and of those stood in for (n), and of their products."""

    count: int
    left: Float[np.ndarray, " m"]
    wanted: Float[np.ndarray, " n"]
    left_left: Float[np.ndarray, "m m"]
    left_wanted: Float[np.ndarray, "m n"]

    def centred(self, *, has_constant: bool) -> tuple[Float[np.ndarray, "m m"], Float[np.ndarray, "m n"]]:
        """Mean products, less those of the means where a constant may be added."""
        first, second = self.left_left / self.count, self.left_wanted / self.count
        if not has_constant:
            return first, second
        mean, wanted = self.left / self.count, self.wanted / self.count
        return first - np.outer(mean, mean), second - np.outer(mean, wanted)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def onto(self, matrix: Float[np.ndarray, "n k"]) -> "Moments":
        """The moments against linear functions of those stood in for."""
        return dataclasses.replace(self, wanted=self.wanted @ matrix, left_wanted=self.left_wanted @ matrix)

    def stand_in(
        self, kept: np.ndarray, *, has_constant: bool, ridge: float
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " n"]]:
        """A and c of least squares, wanted = A^T left[kept] + c; a unit that is kept stands for itself first."""
        start = np.diag(np.isin(np.arange(len(self.left)), kept).astype(float))
        solved = start[kept] + self.correction(start, kept, has_constant=has_constant, ridge=ridge)
        constants = np.zeros(len(self.wanted))
        if has_constant:
            constants = (self.wanted - self.left[kept] @ solved) / self.count
        return solved, constants

    def correction(
        self, start: Float[np.ndarray, "m n"], kept: np.ndarray, *, has_constant: bool, ridge: float
    ) -> Float[np.ndarray, "k n"]:
        """What least squares adds to coefficients on the left, on those kept; nothing where the left says nothing.

        **Arguments:**
        - `ridge`: on the size of what is added, relative to the mean square of the left.
        """
        first, second = self.centred(has_constant=has_constant)
        residual = (second - first @ start)[kept]
        inner = first[np.ix_(kept, kept)]
        size = max(float(np.trace(inner)) / max(len(kept), 1), 1e-200)
        return np.linalg.solve(inner + ridge * size * np.eye(len(kept)), residual)


def moments_of(left: Float[np.ndarray, "rows m"], wanted: Float[np.ndarray, "rows n"]) -> Moments:
    """The moments of some rows."""
    x, y = left.astype(float), wanted.astype(float)
    # The copy: a product of an array with itself rounds otherwise than one with an equal array.
    return Moments(len(x), x.sum(0), y.sum(0), x.T @ x.copy(), x.T @ y)


def gather(
    taps: UnitTaps, network: Network, inputs: Array, spaces: Sequence[str], reference: Iterable | None = None
) -> dict[str, Moments]:
    """Moments of some spaces of a network, against those of a reference on the same rows (itself by default).

    **Arguments:**
    - `reference`: batches of its unit outputs, as `unit_batches` gives them.
    """
    found: dict[str, Moments] = {}
    pairs = ((seen, seen) for _, seen in unit_batches(taps, network, inputs))
    if reference is not None:
        both = zip(unit_batches(taps, network, inputs), reference, strict=True)
        pairs = ((seen, wanted) for (_, seen), (_, wanted) in both)
    for seen, wanted in pairs:
        for name in spaces:
            part = moments_of(*(values[name].reshape(-1, values[name].shape[-1]) for values in (seen, wanted)))
            found[name] = found[name] + part if name in found else part
    return found


def ridge_of(dtype: np.dtype | str) -> float:
    """The relative mean square below which directions are noise of rounding."""
    return _RIDGE.get(str(dtype), 1e-6)
