"""The critical points of reduced-rank linear networks under squared error, in closed form."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._show import shown


@shown
class LinearLevels(eqx.Module):
    r"""Every critical level of $f(x) = B A x + b$ with $A$ of $r$ rows, for all r at once.

    With centred second moments $S_{xx}, S_{yx}, S_{yy}$ (mean over the examples) and the eigenpairs
    $(\lambda_i, u_i)$ of $S_{yx} S_{xx}^+ S_{xy}$, a subset $I$ of eigenpairs gives the critical value
    $\frac12 (\operatorname{tr} S_{yy} - \sum_{i \in I} \lambda_i)$ for the loss $\frac12 |f - y|^2$: the largest
    $r$ the only minimum, every other subset a saddle.

    - `eigenvalues`: descending, shape (rank,); only those beyond rounding.
    - `readers`: $u_i$ as columns, shape (o, rank).
    - `writers`: $u_i^\top S_{yx} S_{xx}^+$ as rows, shape (rank, d).
    - `input_mean`, `target_mean`: shapes (d,), (o,).
    - `total`: $\operatorname{tr} S_{yy}$.
    """

    eigenvalues: Float[np.ndarray, " rank"]
    readers: Float[np.ndarray, "o rank"]
    writers: Float[np.ndarray, "rank d"]
    input_mean: Float[np.ndarray, " d"]
    target_mean: Float[np.ndarray, " o"]
    total: float

    @property
    def rank(self) -> int:
        """The largest r that still lowers the loss."""
        return self.eigenvalues.size

    def loss(self, subset: int | np.integer | tuple[int | np.integer, ...]) -> float:
        """The critical value of the r largest eigenvalues, or of any subset of their indices.

        **Raises:** `InputError` for r outside 0 to `rank`, and for indices out of range or repeated.
        """
        return 0.5 * (self.total - float(self.eigenvalues[self._indices(subset)].sum()))

    def weights(
        self, subset: int | np.integer | tuple[int | np.integer, ...]
    ) -> tuple[Float[np.ndarray, "r d"], Float[np.ndarray, "o r"], Float[np.ndarray, " o"]]:
        """(A, B, b) of the level: the linear units, their readers and the output bias, in the balanced gauge.

        **Raises:** `InputError` as `loss` does.
        """
        chosen = self._indices(subset)
        writers, readers = self.writers[chosen], self.readers[:, chosen]
        bias = self.target_mean - readers @ (writers @ self.input_mean)
        # Balanced: each unit has incoming and outgoing weights of the same norm.
        scale = np.sqrt(np.linalg.norm(writers, axis=1))
        return writers / scale[:, None], readers * scale, bias

    def _indices(self, subset: int | np.integer | tuple[int | np.integer, ...]) -> np.ndarray:
        if isinstance(subset, int | np.integer):
            if not 0 <= subset <= self.rank:
                msg = f"r must be 0 to {self.rank}, the rank of the data, got {subset}."
                raise InputError(msg)
            return np.arange(subset)
        indices = np.asarray(subset, dtype=int)
        if indices.size and (indices.max() >= self.rank or indices.min() < 0 or len(set(indices)) < indices.size):
            msg = f"A subset holds different indices from 0 to {self.rank - 1}, got {subset!r}."
            raise InputError(msg)
        return indices


def linear_levels(
    inputs: Float[np.ndarray, "n d"], targets: Float[np.ndarray, "n o"] | Float[np.ndarray, " n"]
) -> LinearLevels:
    """The critical levels of linear networks of every rank on this data.

    **Arguments:**
    - `inputs`: shape (n, d); constant and collinear columns are allowed.
    - `targets`: shape (n, o), or (n,) for a single output.

    **Returns:**
    [`lossatlas.theory.LinearLevels`][]. Cost: one singular value decomposition of the inputs, O(n d min(n, d)).

    **Raises:** `InputError` for inputs that are no matrix, no examples, and numbers of examples that differ.

    !!! cite
        Baldi and Hornik 1989 (Neural Networks 2:53-58); reduced-rank regression, Izenman 1975.
    """
    inputs, targets = np.asarray(inputs, float), np.asarray(targets, float)
    if inputs.ndim != 2 or targets.ndim not in (1, 2) or len(inputs) == 0 or len(targets) != len(inputs):
        msg = (
            "linear_levels needs inputs (n, d) and targets (n, o) or (n,) with n at least 1, "
            f"got shapes {inputs.shape} and {targets.shape}."
        )
        raise InputError(msg)
    targets = targets.reshape(len(targets), -1)
    x_mean, y_mean = inputs.mean(0), targets.mean(0)
    x, y = inputs - x_mean, targets - y_mean
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    keep = sizes > max(x.shape) * np.finfo(float).eps * max(sizes.max(initial=0.0), 1e-300)
    left, sizes, right = left[:, keep], sizes[keep], right[keep]
    # S_yx S_xx^+ S_xy = M M^T with M = y^T left / sqrt(n): no squared condition number.
    readers, roots, rows = np.linalg.svd(y.T @ left / np.sqrt(len(x)), full_matrices=False)
    total = float((y**2).mean(0).sum())
    keep = roots**2 > 1e-14 * max(total, 1e-300)
    readers, roots, rows = readers[:, keep], roots[keep], rows[keep]
    writers = (roots[:, None] * rows) @ (np.sqrt(len(x)) * right / sizes[:, None])
    return LinearLevels(roots**2, readers, writers, x_mean, y_mean, total)
