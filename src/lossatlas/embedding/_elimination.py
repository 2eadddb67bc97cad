"""In which order variables are best given up, when the others stand in for them by least squares."""

import numpy as np
from jaxtyping import Float, Int


_RIDGE = 1e-12
_COMPRESS = 0.8


def elimination(
    moments: Float[np.ndarray, "n n"], metric: Float[np.ndarray, "n n"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r"""Order variables by backward elimination: next goes what raises the mean square error least.

    With K the variables that stay, all are predicted from $v_K$ by $B = C_{\cdot K} C_{KK}^{-1}$, and the cost is
    $T(K) = \mathrm{tr}(G \,\mathrm{Cov}(v \mid v_K))$. With $P = C_{KK}^{-1}$, giving up k adds
    $(B^\top G B)_{kk} / P_{kk}$.

    **Arguments:**
    - `moments`: C, second moments or covariances of the variables.
    - `metric`: G, what an error e of the variables costs, $e^\top G e$.

    **Returns:** the variables in the order in which they go, and the cost once each has gone (the last: all of them,
    $\mathrm{tr}(GC)$). Cost: $n^3$ operations.
    """
    n = len(moments)
    order, costs = np.zeros(n, int), np.zeros(n)
    ridge = _RIDGE * max(np.trace(moments) / max(n, 1), 1e-200)
    precision = np.linalg.inv(moments + ridge * np.eye(n))
    price = metric.astype(float)  # B^T G B
    kept = np.arange(n)  # the variables behind the rows of the two
    alive = np.ones(n, bool)
    total = 0.0
    for step in range(n):
        added = np.diag(price) / np.maximum(np.diag(precision), 1e-300)
        at = int(np.argmin(np.where(alive, added, np.inf)))
        total += max(float(added[at]), 0.0)
        order[step], costs[step] = kept[at], total
        # From now on -row @ v stands for v_at: the columns of B change by -B_at row, on both sides of the price.
        row = precision[at] / precision[at, at]
        precision -= precision[:, at, None] * row
        row[at] = 1.0
        price -= price[:, at, None] * row
        price -= row[:, None] * price[at]
        alive[at] = False
        precision[at, :] = precision[:, at] = 0.0
        precision[at, at] = 1.0
        if alive.sum() < _COMPRESS * len(alive):
            kept, price, precision = kept[alive], price[np.ix_(alive, alive)], precision[np.ix_(alive, alive)]
            alive = np.ones(len(kept), bool)
    return order, costs
