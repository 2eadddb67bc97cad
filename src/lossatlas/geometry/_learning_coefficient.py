"""The local learning coefficient by Langevin chains, with what can be known of their error."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Only
from lossatlas.geometry._quadratic_chains import QuadraticModel, as_temperature, stable_step
from lossatlas.landscape import Landscape
from lossatlas.training import ChainHealth, Chains, chain_health, sample


@shown
class LearningCoefficient(eqx.Module):
    r"""An estimate of the local learning coefficient and how sure it is.

    - `value`: $\hat\lambda = n\beta\,(E R(\theta') - R(\theta^*))$, mean over chains. `per_chain`: of each.
    - `standard_error`: from the effective sample size, which chains that differ make small.
    - `health`: R-hat, effective samples, spread between chains and drift, in units of the coefficient.
    - `inverse_temperature`: $n\beta$. `localisation`, `step_size`: $\gamma$ and $\epsilon$.
    - `acceptance`: the mean probability with which a Metropolis test takes a step; NaN with minibatches.
    - `distance`: root mean square distance from the network, after burn-in.
    - `quadratic`: what these very settings give, exactly, on the quadratic model of the landscape;
      `quadratic_continuous`: the same with an infinitely small step; `quadratic_free`: without localisation too, half
      the number of positive eigenvalues. NaN where the model has no stationary law.
    - `chains`: the [`lossatlas.training.Chains`][]. `warnings`: what speaks against the number.
    """

    value: float
    standard_error: float
    per_chain: Float[np.ndarray, " c"]
    health: ChainHealth
    inverse_temperature: float
    localisation: float
    step_size: float
    acceptance: float
    distance: float
    quadratic: float
    quadratic_continuous: float
    quadratic_free: float
    chains: Chains
    warnings: tuple[str, ...]
    status: Status
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def discretisation_bias(self) -> float:
        """What the finite step adds, by the quadratic model; none with MALA."""
        return self.quadratic - self.quadratic_continuous

    @property
    def localisation_bias(self) -> float:
        """What the localisation adds, by the quadratic model: it takes away what flat directions contribute."""
        return self.quadratic_continuous - self.quadratic_free

    def _figure(self) -> Any:
        return self.chains._figure()


def learning_coefficient(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    inverse_temperature: float | None = None,
    localisation: float = 100.0,
    step_size: float | None = None,
    num_steps: int = 2000,
    burn_in: int | None = None,
    num_chains: int = 4,
    batch_size: int | None = None,
    method: Literal["sgld", "mala"] | str = "sgld",
    only: Only = None,
    progress: ProgressLike = "none",
) -> LearningCoefficient:
    r"""The local learning coefficient of Lau et al.: $\hat\lambda = n\beta\,(E_\gamma R(\theta') - R(\theta^*))$.

    The mean over $p(\theta') \propto \exp(-n\beta R(\theta') - \frac\gamma2|\theta' - \theta^*|^2)$ is taken by
    [`lossatlas.training.sample`][], with $n\beta = n/\log n$, n being the number of examples in the data (whatever the
    batch), and $R(\theta^*)$ is the loss on all of it. At a regular minimum it is half the number of parameters; at a
    degenerate one, less. It counts what the loss resolves at this temperature and within $1/\sqrt\gamma$: directions
    of curvature below $\gamma/n\beta$ count little. In theory it does not depend on how a function is parametrised; the
    localisation and the step, which are measured in the parameters, do.

    The Hessian's spectrum says how far a quadratic landscape would be off with these settings (`quadratic`), exactly
    for up to 1,500 parameters, else by stochastic quadrature.
    Cost: `num_chains * num_steps` gradients, and as many Hessian products as parameters (about 1,000 for many).

    **Arguments:**
    - `inverse_temperature`: $n\beta$; default n / log n, for at least 2 examples.
    - `localisation`: $\gamma$, at least 0. Chains need about $2/(\epsilon\gamma)$ steps to reach their law.
    - `step_size`: $\epsilon$; default 0.2 over the largest curvature $n\beta\,\lambda_{max} + \gamma$, which costs the
      stiffest direction 5 %.
    - `num_steps`, `num_chains`: of each chain, and how many. `burn_in`: steps left out; default half of them.
    - `batch_size`: gradients of so many examples a step; None for all.
    - `method`: `"sgld"`, or `"mala"`, which has no error from the step.
    - `only`: a parameter filter; the others stay.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.

    **Returns:**
    A [`lossatlas.geometry.LearningCoefficient`][].

    **Raises:** `InputError` for numbers out of range, and a step that is unstable on the top eigenvalue.

    !!! cite
        Lau et al. 2023, arXiv 2308.12108; Watanabe 2013 (WBIC).
    """
    temperature = as_temperature(inverse_temperature, landscape)
    burn_in = num_steps // 2 if burn_in is None else burn_in
    if num_steps - burn_in < 8:
        msg = f"num_steps must exceed burn_in by at least 8, got {num_steps} and {burn_in}."
        raise InputError(msg)
    curvature = QuadraticModel(key, network, landscape, only)
    stiffest = temperature * max(curvature.largest, 0.0) + localisation
    step_size = stable_step(step_size, stiffest)
    chains = sample(
        jax.random.fold_in(key, 1), network, landscape, inverse_temperature=temperature, step_size=step_size,
        num_steps=num_steps, localisation=localisation, num_chains=num_chains, burn_in=burn_in, method=method,
        batch_size=batch_size, only=only, progress=progress,
    )  # fmt: skip
    base = float(eqx.filter_jit(landscape)(network))
    trace = temperature * (chains.loss - base)[:, burn_in:]
    health = chain_health(trace)
    discrete = 0.0 if method == "mala" else step_size
    predicted = [
        curvature.predict(temperature, gamma, step)
        for gamma, step in ((localisation, discrete), (localisation, 0.0), (0.0, 0.0))
    ]
    acceptance = chains.acceptance[:, burn_in:]
    return LearningCoefficient(
        value=float(trace.mean()),
        standard_error=health.standard_error,
        per_chain=trace.mean(1),
        health=health,
        inverse_temperature=temperature,
        localisation=localisation,
        step_size=step_size,
        acceptance=float(acceptance.mean()),
        distance=float(np.sqrt(np.mean(chains.distance[:, burn_in:] ** 2))),
        quadratic=predicted[0],
        quadratic_continuous=predicted[1],
        quadratic_free=predicted[2],
        chains=chains,
        warnings=_warnings(health, chains, predicted, curvature, temperature, localisation, float(trace.mean())),
        status=chains.status,
        stats={**chains.stats, "hessian_products": curvature.products},
        settings={**chains.settings, "convention": "mean over examples"},
    )


def _warnings(health, chains, predicted, curvature, temperature, localisation, value) -> tuple[str, ...]:
    found = []
    if chains.status is Status.DIVERGED:
        found.append("A chain diverged: take a smaller step_size or a larger localisation.")
    elif not health.is_mixed:
        found.append(
            f"The chains have not reached their law (R-hat {health.r_hat:.3g}, drift {health.drift:.3g} with "
            f"p = {health.drift_p:.2g}): take more steps, or a larger localisation."
        )
    if temperature * curvature.smallest + localisation < 0:
        found.append(
            f"The lowest eigenvalue {curvature.smallest:.3g} outweighs the localisation, so chains leave the point; "
            f"it holds them from {-temperature * curvature.smallest:.3g} on."
        )
    if value < 0:
        found.append("The chains found lower losses than the network's: it is no minimum.")
    if math.isfinite(predicted[0]) and predicted[0] > 1.1 * predicted[1]:
        found.append(
            f"The step adds {predicted[0] / predicted[1] - 1:.0%} on a quadratic landscape: take a smaller step_size "
            "or method='mala'."
        )
    return tuple(found)
