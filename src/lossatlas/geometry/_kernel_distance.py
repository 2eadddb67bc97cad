"""How far two kernels are apart in direction and size, and how well a kernel fits its targets."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas.geometry._ntk import Kernel


KernelLike = Kernel | Float[Array, "_ _"] | Float[np.ndarray, "_ _"]
"""A kernel, or its matrix."""

_NO_CANCELLATION = 1e-6


@shown
class KernelDistance(eqx.Module):
    r"""How a kernel $K'$ stands to a kernel $K$; norms are Frobenius norms.

    - `distance`: $S = 1 - \langle K, K' \rangle / (\|K\| \|K'\|)$, in [0, 1] for kernels; blind to a common factor.
    - `scale`: $s = \|K'\| / \|K\|$. `change`: $D = \|K' - K\| / \|K\|$; $D^2 = s^2 + 1 - 2 s (1 - S)$.
    - `angle`: $\arccos(1 - S)$, a metric on directions.
    - `centred`: whether both were centred, $HKH$ with $H = I - 11^\top/n$; then $1 - S$ is their CKA.
    """

    distance: float
    scale: float
    change: float
    centred: bool = eqx.field(static=True)

    @property
    def angle(self) -> float:
        """The angle between the two as vectors, in radians."""
        return 2 * float(np.arcsin(np.sqrt(min(self.distance / 2, 1.0))))  # exact for small distances too


def kernel_distance(first: KernelLike, second: KernelLike, *, centred: bool = False) -> KernelDistance:
    r"""The distance between two kernels of the same examples (Fort et al. 2020, section 2).

    Computed in float64. Where S is below 1e-6 it is taken from $\frac12 \| K/\|K\| - K'/\|K'\| \|^2$, which does
    not cancel. S sees the direction only; it is small whenever both kernels are dominated by their mean, which
    `centred` takes away.

    **Arguments:**
    - `first`, `second`: kernels or matrices of one shape, made in one convention.
    - `centred`: centre both first (square kernels; Cortes, Mohri and Rostamizadeh 2012).

    **Returns:**
    A [`lossatlas.geometry.KernelDistance`][].

    **Raises:** `InputError` for different shapes and conventions, kernels that are not finite, and kernels of zeros.

    !!! example
        >>> kernel_distance(np.diag([1.0, 0.0]), np.diag([0.0, 1.0])).distance
        1.0
    """
    one, two = as_matrix(first), as_matrix(second)
    if one.shape != two.shape:
        msg = f"The kernels have shapes {one.shape} and {two.shape}; a distance needs the same examples in both."
        raise InputError(msg)
    if isinstance(first, Kernel) and isinstance(second, Kernel) and first.convention != second.convention:
        msg = f"The kernels were made in the conventions {first.convention!r} and {second.convention!r}; use one."
        raise InputError(msg)
    if centred:
        one, two = centre(one), centre(two)
    norms = _norm(one), _norm(two)
    distance = 1 - float(np.vdot(one, two)) / (norms[0] * norms[1])
    if distance < _NO_CANCELLATION:
        distance = 0.5 * float(np.linalg.norm(one / norms[0] - two / norms[1])) ** 2
    return KernelDistance(distance, norms[1] / norms[0], float(np.linalg.norm(two - one)) / norms[0], centred)


def alignment(kernel: KernelLike, other: KernelLike, *, centred: bool = True) -> float:
    r"""The cosine of two kernels as vectors; centred by default, which is CKA.

    $\langle HKH, L \rangle / (\|HKH\| \|HLH\|)$ (Kornblith et al. 2019); for kernel-target alignment (Cristianini
    et al. 2001) give [`lossatlas.geometry.target_kernel`][] as the other.

    **Arguments:**
    - `kernel`, `other`: kernels or matrices of one shape.
    - `centred`: whether both are centred.

    **Returns:** a number in [0, 1] for kernels.

    **Raises:** `InputError` as [`lossatlas.geometry.kernel_distance`][].
    """
    return 1 - kernel_distance(kernel, other, centred=centred).distance


def target_kernel(targets: Array | np.ndarray) -> Float[np.ndarray, "n n"]:
    r"""The kernel $Y Y^\top$ of the targets, class labels as one-hot rows.

    **Arguments:**
    - `targets`: integer labels of shape (n,), or numbers of shape (n,) or (n, o).

    **Returns:** the matrix of shape (n, n).
    """
    rows = target_rows(targets)
    return rows @ rows.T


def target_rows(targets: Array | np.ndarray, num_outputs: int | None = None) -> Float[np.ndarray, "n o"]:
    """Targets as rows of numbers; class labels become one-hot rows."""
    values = np.asarray(targets)
    if np.issubdtype(values.dtype, np.integer) and values.size == len(values):
        size = int(values.max()) + 1 if num_outputs is None else num_outputs
        return np.eye(size)[values.reshape(-1)]
    return values.reshape(len(values), -1).astype(float)


def effective_rank(kernel: KernelLike) -> float:
    r"""The exponential of the entropy of the normalised eigenvalues (Roy and Vetterli 2007): 1 to n.

    **Arguments:**
    - `kernel`: a kernel of examples with themselves, or its matrix.

    **Returns:** the number; rounding below zero counts as zero.

    **Raises:** `InputError` for a kernel that is not square, not finite, or zero.
    """
    matrix = as_matrix(kernel)
    _square(matrix)
    _norm(matrix)
    return rank_of_values(np.linalg.eigvalsh(matrix))


def rank_of_values(values: np.ndarray) -> float:
    """The exponential of the entropy of some eigenvalues, as shares of their sum."""
    shares = np.clip(values, 0, None)
    shares = shares / shares.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def as_matrix(kernel: KernelLike) -> Float[np.ndarray, "n m"]:
    """The matrix in float64.

    **Raises:** `InputError` where it is not finite or no matrix.
    """
    matrix: Any = np.asarray(kernel.matrix if isinstance(kernel, Kernel) else kernel)
    if matrix.ndim != 2 or not matrix.size:
        msg = f"A kernel is a matrix over examples, got shape {matrix.shape}."
        raise InputError(msg)
    if not np.isfinite(matrix).all():
        msg = "The kernel has entries that are NaN or infinite; check the network and the data."
        raise InputError(msg)
    return matrix.astype(np.float64)


def over_examples(kernel: Kernel, layer: str | None = None) -> Float[np.ndarray, "n m"]:
    """A kernel, or what a layer contributes, over examples alone: of `full` the mean over outputs, which is `trace`."""
    matrix = as_matrix(kernel if layer is None else kernel.layers[layer])
    if kernel.convention != "full":
        return matrix
    c = kernel.num_outputs
    return np.einsum("icjc->ij", matrix.reshape(len(matrix) // c, c, -1, c)) / c


def centre(matrix: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, "_ _"]:
    """The matrix with the means of rows and columns taken away."""
    _square(matrix)
    return matrix - matrix.mean(0, keepdims=True) - matrix.mean(1, keepdims=True) + matrix.mean()


def _square(matrix: np.ndarray) -> None:
    if matrix.shape[0] != matrix.shape[1]:
        msg = f"This needs a kernel of examples with themselves, got shape {matrix.shape}."
        raise InputError(msg)


def _norm(matrix: np.ndarray) -> float:
    norm = float(np.linalg.norm(matrix))
    if norm == 0:
        msg = "A kernel of zeros has no direction: no parameter moves the predictions on these examples."
        raise InputError(msg)
    return norm
