"""What a number traced along several Markov chains says of them: mixing, drift, and the error of its mean."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._show import shown


_LEAST = 8  # steps of a chain, so that its halves have variances


@shown
class ChainHealth(eqx.Module):
    r"""How far the mean over chains can be trusted.

    - `mean`, `standard_error`: over all chains and steps; the error is the standard deviation over the root of
      `effective_samples`, so that steps that resemble each other, and chains that differ, widen it.
    - `r_hat`: of the halves of all chains (Gelman et al. 2013): near 1 when all sample the same law; above 1.1 they
      have not mixed.
    - `effective_samples`: how many independent draws the mean is worth, at most as many as there are.
    - `between_chains`: the standard deviation of the means of the chains; NaN for one chain.
    - `drift`: the mean of the second halves minus that of the first. `drift_p`: the probability of a drift as large
      without one, by Student's t over the chains; NaN for one chain.
    """

    mean: float
    standard_error: float
    r_hat: float
    effective_samples: float
    between_chains: float
    drift: float
    drift_p: float

    @property
    def is_mixed(self) -> bool:
        """Whether nothing speaks against the chains: R-hat at most 1.1, and no drift at the level of 1 %."""
        return self.r_hat <= 1.1 and not self.drift_p < 0.01


def chain_health(trace: Float[np.ndarray, "c t"]) -> ChainHealth:
    r"""The mean of a number along chains, with split R-hat, the effective sample size and a test for drift.

    The effective sample size is $c\,t/\tau$ with $\tau = 1 + 2\sum_k \rho_k$ over the initial monotone positive pairs
    of autocorrelations (Geyer 1992), $\rho_k$ from within- and between-chain variances together.

    **Arguments:**
    - `trace`: one row a chain, without burn-in, at least 8 steps.

    **Returns:** [`lossatlas.training.ChainHealth`][]; everything is NaN where a value is not finite.

    **Raises:** `InputError` for fewer steps.

    !!! cite
        Gelman et al., Bayesian Data Analysis (2013), sections 11.4 and 11.5; Geyer 1992.
    """
    if trace.ndim != 2 or trace.shape[0] < 1 or trace.shape[1] < _LEAST:
        msg = f"The trace needs one row a chain and at least {_LEAST} steps after burn-in, got shape {trace.shape}."
        raise InputError(msg)
    trace = np.asarray(trace, float)
    if not np.isfinite(trace).all():
        return ChainHealth(*[float("nan")] * 7)
    half = trace.shape[1] // 2
    first, second = trace[:, :half], trace[:, -half:]
    halves = np.concatenate([first, second])
    _, total, within = _variances(halves)
    ess = _effective_samples(halves)
    drifts = second.mean(1) - first.mean(1)
    return ChainHealth(
        mean=float(trace.mean()),
        standard_error=float(np.sqrt(total / ess)),
        r_hat=float(np.sqrt(total / within)) if within > 0 else 1.0,
        effective_samples=ess,
        between_chains=float(trace.mean(1).std(ddof=1)) if len(trace) > 1 else float("nan"),
        drift=float(drifts.mean()),
        drift_p=_t_test(drifts),
    )


def _variances(chains: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Centred chains, the estimate of the variance from within and between, and that from within alone."""
    length = chains.shape[1]
    centred = chains - chains.mean(1, keepdims=True)
    within = float((centred**2).sum(1).mean() / (length - 1))
    return centred, (length - 1) / length * within + float(chains.mean(1).var(ddof=1)), within


def _effective_samples(chains: np.ndarray) -> float:
    number, length = chains.shape
    centred, total, within = _variances(chains)
    if total == 0:
        return float(number * length)
    spectrum = np.fft.rfft(centred, n=2 * length, axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :length].mean(0) / length
    correlation = 1 - (within - covariance) / total
    correlation[0] = 1.0
    pairs = correlation[: length // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: negative[0] if len(negative) else None])
    return float(min(number * length / max(2 * pairs.sum() - 1, 1e-9), number * length))


def _t_test(differences: np.ndarray) -> float:
    """The two-sided probability of a mean so far from zero."""
    from scipy import stats

    if len(differences) < 2:
        return float("nan")
    error: Any = differences.std(ddof=1) / np.sqrt(len(differences))
    if error == 0:
        return 1.0 if differences.mean() == 0 else 0.0
    return float(2 * stats.t.sf(abs(differences.mean() / error), len(differences) - 1))
