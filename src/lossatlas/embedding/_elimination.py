"""In which order variables are best given up, when the others stand in for them by least squares."""

import numpy as np
from jaxtyping import Float, Int


_RIDGE = 1e-12
_COMPRESS = 0.8


def elimination(
    moments: Float[np.ndarray, "n n"],
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r"""Order variables by backward elimination: next goes what raises the summed squared residuals least.

    With K the variables that stay, all are predicted from $v_K$, and the cost is
    $T(K) = \sum_j \mathrm{Var}(v_j \mid v_K)$. With $P = C_{KK}^{-1}$ and the regression coefficients
    $B = C_{\cdot K} P$, giving up k adds $\sum_j B_{jk}^2 / P_{kk}$.

    **Arguments:**
    - `moments`: C, second moments or covariances of the variables, each scaled by how much it matters.

    **Returns:** the variables in the order in which they go, and the cost once each has gone (the last: all of them,
    the trace of C). Cost: $n^3$ operations.
    """
    n = len(moments)
    order, costs = np.zeros(n, int), np.zeros(n)
    ridge = _RIDGE * max(np.trace(moments) / max(n, 1), 1e-300)
    precision = np.linalg.inv(moments + ridge * np.eye(n))
    kept = np.arange(n)  # the variables behind the rows of the precision
    gone = np.zeros((0, n))  # coefficients of those that have gone, on those that are kept
    alive = np.ones(n, bool)
    total = 0.0
    for step in range(n):
        added = (1.0 + (gone**2).sum(0)) / np.maximum(np.diag(precision), 1e-300)
        at = int(np.argmin(np.where(alive, added, np.inf)))
        total += float(added[at])
        order[step], costs[step] = kept[at], total
        row = precision[at] / precision[at, at]
        column = gone[:, at].copy()
        gone -= column[:, None] * row
        new = -row
        new[at] = 0.0
        gone = np.concatenate([gone, new[None]])
        gone[:, at] = 0.0
        precision -= precision[:, at, None] * row
        alive[at] = False
        precision[at, :] = precision[:, at] = 0.0
        precision[at, at] = 1.0
        if alive.sum() < _COMPRESS * len(alive):
            kept, gone, precision = kept[alive], gone[:, alive], precision[np.ix_(alive, alive)]
            alive = np.ones(len(kept), bool)
    return order, costs
