"""Units that stand in for others: least squares of what a space put out on what is left of it, streamed."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Array, Float

from lossatlas._types import Network
from lossatlas.geometry import UnitTaps, unit_batches


_RTOL = {"float64": 1e-12, "float32": 1e-6}


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

    def stand_in(
        self, kept: np.ndarray, *, has_constant: bool, rtol: float
    ) -> tuple[Float[np.ndarray, "k n"], Float[np.ndarray, " n"]]:
        """A and c of least squares, wanted = A^T left[kept] + c; directions below rtol are left out."""
        first, second = self.centred(has_constant=has_constant)
        inner, right = first[np.ix_(kept, kept)], second[kept]
        scale = np.sqrt(np.maximum(np.diag(inner), 1e-300))
        values, vectors = np.linalg.eigh(inner / scale[:, None] / scale)
        inverse = np.where(values > rtol * max(values.max(initial=0.0), 1e-300), 1 / np.maximum(values, 1e-300), 0.0)
        solved = vectors @ (inverse[:, None] * (vectors.T @ (right / scale[:, None]))) / scale[:, None]
        constants = np.zeros(right.shape[1])
        if has_constant:
            constants = (self.wanted - self.left[kept] @ solved) / self.count
        return solved, constants


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
            x, y = (values[name].reshape(-1, values[name].shape[-1]).astype(float) for values in (seen, wanted))
            part = Moments(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y)
            found[name] = part if name not in found else _added(found[name], part)
    return found


def tolerance_of(inputs_dtype: np.dtype | str) -> float:
    """The relative size below which directions are noise of rounding."""
    return _RTOL.get(str(inputs_dtype), 1e-6)


def _added(first: Moments, second: Moments) -> Moments:
    return Moments(*(a + b for a, b in zip(dataclasses.astuple(first), dataclasses.astuple(second), strict=True)))
