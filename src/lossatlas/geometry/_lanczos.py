"""Extreme eigenpairs of a symmetric operator, both ends, none missed."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lossatlas.geometry._device_krylov import DeviceBasis
from lossatlas.geometry._krylov import KrylovBasis


MISS_PROBABILITY = 1e-6
"""The probability of overlooking an eigenvalue that a verification run accepts."""

_MAX_BLOCK = 8
_BASIS_BYTES = 1e9  # of the basis and its images
_FEW = 48  # rows up to which the small eigenproblem costs little, so that it is solved after every step


@dataclasses.dataclass(frozen=True)
class ExtremePairs:
    """Eigenpairs in descending order: `num_top` from above, then `num_bottom` from below."""

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    is_verified: bool
    num_verifications: int
    num_products: int


@dataclasses.dataclass
class _Search:
    """What a run looks for beyond the pairs already locked.

    `thresholds` are the last wanted values found so far (top, bottom); None in the first run.
    """

    num_top: int
    num_bottom: int
    rtol: float
    thresholds: tuple[float, float] | None = None

    def wanted(self, values: np.ndarray, scale: float) -> tuple[int, int]:
        """How many Ritz pairs of each end must converge."""
        if self.thresholds is None:
            return self.num_top, self.num_bottom
        slack = self.rtol * scale
        above = int((values > self.thresholds[0] + slack).sum())
        below = int((values < self.thresholds[1] - slack).sum())
        return min(above, self.num_top), min(below, self.num_bottom)


def extreme_pairs(
    product: Callable,
    size: int,
    dtype: np.dtype,
    *,
    num_top: int,
    num_bottom: int,
    rtol: float,
    max_products: int,
    rng: np.random.Generator,
    start: np.ndarray | None = None,
    verify: bool = True,
    basis_type: type[KrylovBasis] | type[DeviceBasis] = KrylovBasis,
) -> ExtremePairs:
    r"""The largest and the smallest eigenvalues with vectors, by thick-restart Lanczos with verification.

    A run with one random start converges to one vector of every eigenspace, so a multiple eigenvalue, or one of two
    that agree to rounding, would be missed. After the run the converged pairs are locked and a verification run
    with fresh random vectors searches their complement. It ends without a finding when the probability that the
    complement still hides an eigenvalue beyond the last wanted one is below 1e-6 (the bound of Kuczynski and
    Wozniakowski 1992: $P \le 1.648 \sqrt n \exp(-\sqrt\epsilon (2k - 1))$ after k steps, with the spread of
    the Ritz values for that of the spectrum), or when the extreme pairs of the complement have converged to values
    that are not beyond it. What it finds is converged and locked too, and the verification is repeated in blocks of
    1, 2, 4, 8 vectors. Residual norms are measured on the images of the basis, without further products.

    **Arguments:**
    - `rtol`: a pair has converged when its residual norm is at most `rtol` times the largest absolute eigenvalue.
    - `max_products`: the products after which the search ends.
    - `start`: of the first run, such as a sum of vectors near the wanted ones; random by default.
    - `verify`: whether to search the complement.
    - `basis_type`: where the basis is kept, on the host or on the device; it says what a `product` is.
    """
    limit = min(size, _basis_limit(size, dtype, num_top + num_bottom))
    locked, images = np.zeros((0, size), dtype), np.zeros((0, size), dtype)
    found = np.zeros(0)
    search = _Search(num_top, num_bottom, rtol)
    spent, rounds, verified, block_size = 0, 0, False, 1
    while spent < max_products and len(locked) < size:
        block_size = min(block_size, size - len(locked), limit)
        block = rng.standard_normal((block_size, size)).astype(dtype)
        if start is not None and search.thresholds is None:
            block = start[None].astype(dtype)
        basis = basis_type(product, size, limit, block, locked, rng)
        scale = float(np.abs(found).max()) if len(found) else 0.0
        values, columns, complete = _run(basis, search, max_products - spent, scale)
        spent += basis.num_products
        locked = np.concatenate([locked, basis.vectors(columns)])
        images = np.concatenate([images, basis.vector_images(columns)])
        found = np.concatenate([found, values])
        if not complete or not verify:
            break
        if search.thresholds is not None:
            rounds += 1
            if len(values) == 0:
                verified = True
                break
            block_size = min(2 * block_size, _MAX_BLOCK)
        search.thresholds = _thresholds(found, num_top, num_bottom)
    verified = verified or len(locked) == size
    values, vectors, residuals = _rayleigh_ritz(locked, images)
    chosen = chosen_ends(len(values), num_top, num_bottom)
    return ExtremePairs(values[chosen], vectors[chosen], residuals[chosen], verified, rounds, spent)


def chosen_ends(size: int, num_top: int, num_bottom: int) -> np.ndarray:
    """Positions of the wanted ends in a descending list; no position twice."""
    top = np.arange(min(num_top, size))
    bottom = np.arange(max(size - num_bottom, len(top)), size)
    return np.concatenate([top, bottom])


def _basis_limit(size: int, dtype: np.dtype, wanted: int) -> int:
    rows = int(_BASIS_BYTES / (2 * dtype.itemsize * size))
    return max(wanted + 20, min(rows, 2 * wanted + 80))


def _thresholds(found: np.ndarray, num_top: int, num_bottom: int) -> tuple[float, float]:
    """The last wanted value of each end; nothing lies beyond an end that is not wanted."""
    ordered = np.sort(found)
    top = ordered[-num_top] if num_top else math.inf
    bottom = ordered[num_bottom - 1] if num_bottom else -math.inf
    return float(top), float(bottom)


def _run(
    basis: KrylovBasis | DeviceBasis, search: _Search, budget: int, scale: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Expand and restart until what the search wants has converged: values, coefficients, whether it is complete."""
    restarted = False
    while True:
        basis.expand(budget - basis.num_products)
        is_spent = basis.num_products >= budget
        is_early = basis.known < (search.num_top + search.num_bottom if search.thresholds is None else 1)
        is_due = basis.num_steps % 4 == 0 or (basis.known <= _FEW and not is_early)
        if not (basis.is_full or basis.is_exhausted or is_due or is_spent):
            continue
        values, columns, residuals = basis.ritz()
        scale = max(scale, float(np.abs(values).max()))
        num_top, num_bottom = search.wanted(values, scale)
        ends = _ends(len(values), num_top, num_bottom)
        # Half of the tolerance is left to the errors of the pairs that are locked.
        converged = residuals <= 0.5 * search.rtol * scale
        enough = len(values) >= num_top + num_bottom or basis.is_exhausted
        if enough and converged[ends].all():
            if search.thresholds is None or basis.is_exhausted or num_top + num_bottom:
                return values[ends], columns[:, ends], True
            if _nothing_hidden(basis, search, values, converged, 0 if restarted else basis.num_steps):
                return values[ends], columns[:, ends], True
        if is_spent:
            return values[ends], columns[:, ends], False
        if basis.is_full:
            _thick_restart(basis, search, values, columns)
            restarted = True


def _nothing_hidden(basis, search, values, converged, steps: int) -> bool:
    """Whether the complement holds nothing beyond the thresholds, with high probability."""
    top, bottom = search.thresholds
    spread = values[-1] - values[0]
    doubts = []
    if search.num_top and not converged[-1]:
        doubts.append((top - values[-1]) / max(spread + top - values[-1], 1e-300))
    if search.num_bottom and not converged[0]:
        doubts.append((values[0] - bottom) / max(spread + values[0] - bottom, 1e-300))
    size = basis.rows.shape[1]
    bound = lambda gap: 1.648 * math.sqrt(size) * math.exp(-math.sqrt(max(gap, 0.0)) * (2 * steps - 1))  # noqa: E731
    return all(steps > 0 and bound(gap) <= MISS_PROBABILITY for gap in doubts)


def _ends(size: int, num_top: int, num_bottom: int) -> np.ndarray:
    """Positions of the wanted ends in an ascending list."""
    return size - 1 - chosen_ends(size, num_top, num_bottom)


def _thick_restart(basis: KrylovBasis | DeviceBasis, search: _Search, values: np.ndarray, columns: np.ndarray) -> None:
    """Keep the wanted Ritz pairs and a share of their neighbours, which keep the next cycle converging."""
    room = basis.limit - basis.ahead
    wanted = search.num_top + search.num_bottom
    extra = max(room - wanted, 0) // 2
    share = search.num_top / wanted
    top = search.num_top + int(extra * share)
    bottom = search.num_bottom + int(extra * (1 - share))
    keep = np.sort(_ends(len(values), min(top, room - 1), min(bottom, max(room - 1 - top, 0))))
    basis.restart(values[keep], columns[:, keep])


def _rayleigh_ritz(rows: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenpairs in the span of orthonormal rows, descending, with measured residual norms."""
    projected = rows.astype(float) @ images.astype(float).T
    values, columns = np.linalg.eigh(0.5 * (projected + projected.T))
    values, columns = values[::-1], columns[:, ::-1]
    vectors = (columns.T @ rows).astype(rows.dtype)
    return values, vectors, np.linalg.norm(columns.T @ images - values[:, None] * vectors, axis=1)
