"""The local entropy of Entropy-SGD: the loss smoothed over a Gibbs measure around the network."""

import math
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Only
from lossatlas.geometry._quadratic_chains import QuadraticModel, as_temperature, stable_step
from lossatlas.landscape import Landscape
from lossatlas.training import ChainHealth, Chains, sample


@shown
class LocalEntropy(eqx.Module):
    r"""The local-entropy loss at a network.

    - `value`, `standard_error`: of the loss $\Phi$; `rise`: `value` minus `loss`, the loss of the network itself.
    - `discretisation_bias`: what the finite step of the chains adds to `value` on the quadratic model of the landscape,
      which is not taken off: 0 with MALA; NaN where the model has no stationary law.
    - `gradient`: of $\Phi$ in the parameters, $\gamma\,(\theta - \langle\theta'\rangle)$.
    - `inverse_temperature`: $\beta$. `gamma`: the coupling; `localisation` is $\beta\gamma$.
    - `temperatures`, `losses`: the points s of the integration, and the mean loss at each with its error `errors`.
    - `health`: of the chains at every point, the last of them at s = 1, where the gradient comes from.
    """

    value: float
    standard_error: float
    discretisation_bias: float
    loss: float
    gradient: Float[Array, " p"]
    inverse_temperature: float
    gamma: float
    temperatures: Float[np.ndarray, " k"]
    losses: Float[np.ndarray, " k"]
    errors: Float[np.ndarray, " k"]
    health: tuple[ChainHealth, ...]
    status: Status
    stats: dict[str, Any]
    settings: dict[str, Any]

    def interval(self) -> tuple[float, float]:
        """95 % of the chance of the chains, and the bias of the step on the side where it lies."""
        half, bias = 1.96 * self.standard_error, self.discretisation_bias
        return self.value - half - max(bias, 0.0), self.value + half - min(bias, 0.0)

    @property
    def rise(self) -> float:
        """How much more the neighbourhood costs than the network itself."""
        return self.value - self.loss

    @property
    def localisation(self) -> float:
        r"""$\beta\gamma$, the stiffness of the coupling."""
        return self.inverse_temperature * self.gamma


def local_entropy(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    inverse_temperature: float | None = None,
    localisation: float = 100.0,
    step_size: float | None = None,
    num_steps: int = 500,
    num_chains: int = 4,
    num_points: int = 8,
    batch_size: int | None = None,
    method: Literal["sgld", "mala"] | str = "sgld",
    only: Only = None,
    progress: ProgressLike = "none",
) -> LocalEntropy:
    r"""The local-entropy loss, a soft minimum of the loss around the network.

    $\Phi(\theta) = -\frac1\beta \log E_{\theta'} e^{-\beta R(\theta')}$ with
    $\theta' \sim N(\theta, (\beta\gamma)^{-1})$. This is the local-entropy loss of Chaudhari et al. without the
    constant of its Gaussian,
    $-\frac1\beta\log\int e^{-\beta R(\theta') - \frac{\beta\gamma}2|\theta' - \theta|^2} d\theta' +
    \frac{p}{2\beta}\log\frac{2\pi}{\beta\gamma}$, so that a flat loss has its own value. It lies above the loss where
    the neighbourhood is worse than the network. It is not invariant to the scale of units: its Gaussian is
    isotropic. For $R = \frac12\theta^\top A\theta$ it is
    $\frac12\sum_i\frac{a_i\gamma}{a_i + \gamma}\theta_i^2 + \frac1{2\beta}\sum_i\log(1 + a_i/\gamma)$.

    By thermodynamic integration: $\Phi = \int_0^1 \langle R \rangle_s\, ds$, the mean under
    $e^{-s\beta R - \frac{\beta\gamma}2|\theta' - \theta|^2}$, by Gauss quadrature with Langevin chains at each point,
    the first half of which is left out. The step of SGLD widens the law of the chains: along an eigenvalue a of the
    Hessian, with $h = s\beta a + \beta\gamma$, its variance is $1/(h(1 - \epsilon h/4))$ and not $1/h$, which adds
    $\frac12 \sum a\,\epsilon / (4 - \epsilon h)$ to $\langle R \rangle_s$ and leaves the gradient alone; the sum of
    that over s is the stated bias. What minibatches add to it is not known. Cost: a spectrum, and
    `(num_points + 1) * num_chains * num_steps` gradients.

    **Arguments:**
    - `inverse_temperature`: $\beta$; default n / log n. `localisation`: $\beta\gamma$, positive.
    - `step_size`: of the chains at s = 1; default and stability as for [`lossatlas.geometry.learning_coefficient`][].
    - `num_steps`, `num_chains`, `batch_size`, `method`: of the chains at each point, see
      [`lossatlas.training.sample`][].
    - `num_points`: of the quadrature, at least 2.
    - `only`: a parameter filter; the others stay.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.

    **Returns:**
    A [`lossatlas.geometry.LocalEntropy`][].

    **Raises:** `InputError` for numbers out of range, and an unstable step.

    !!! cite
        Chaudhari et al. 2017, arXiv 1611.01838; Pittorino et al. 2021, arXiv 2006.07897.
    """
    if not (localisation > 0 and math.isfinite(localisation)):
        msg = f"localisation must be finite and positive, got {localisation}."
        raise InputError(msg)
    if num_points < 2 or num_steps < 16:
        msg = f"num_points must be at least 2 and num_steps at least 16, got {num_points} and {num_steps}."
        raise InputError(msg)
    beta = as_temperature(inverse_temperature, landscape)
    model = QuadraticModel(jax.random.fold_in(key, num_points + 1), network, landscape, only)
    top = model.largest
    stiffest = beta * max(top, 0.0) + localisation
    smallest_step = stable_step(step_size, stiffest)
    places, weights = _quadrature(num_points)
    points = np.concatenate([places, [1.0]])
    runs: list[Chains] = []
    biases = np.zeros(len(points))
    with as_meter(progress).task("local entropy", len(points)) as task:
        for i, s in enumerate(points):
            # As stiff as at s = 1, but no stiffer: the same share of the largest step at every point.
            step = smallest_step * stiffest / (s * beta * max(top, 0.0) + localisation)
            if method != "mala":
                biases[i] = model.loss_bias(float(s * beta), localisation, step)
            runs.append(
                sample(
                    jax.random.fold_in(key, i), network, landscape, inverse_temperature=float(s * beta), step_size=step,
                    num_steps=num_steps, localisation=localisation, num_chains=num_chains, burn_in=num_steps // 2,
                    method=method, batch_size=batch_size, only=only,
                )
            )  # fmt: skip
            task.update(i + 1)
    health = tuple(run.health(burn_in=num_steps // 2) for run in runs)
    losses = np.asarray([h.mean for h in health])
    errors = np.asarray([h.standard_error for h in health])
    vector, _ = ravel(network, only)
    diverged = any(run.status is Status.DIVERGED for run in runs)
    return LocalEntropy(
        value=float(weights @ losses[:-1]),
        standard_error=float(np.sqrt(weights**2 @ errors[:-1] ** 2)),
        discretisation_bias=float(weights @ biases[:-1]),
        loss=float(eqx.filter_jit(landscape)(network)),
        gradient=localisation / beta * (vector - jnp.asarray(runs[-1].mean.mean(0), vector.dtype)),
        inverse_temperature=beta,
        gamma=localisation / beta,
        temperatures=points,
        losses=losses,
        errors=errors,
        health=health,
        status=Status.DIVERGED if diverged else Status.FINISHED,
        stats={
            "hessian_products": model.products,
            **{name: sum(run.stats[name] for run in runs) for name in ("gradients", "seconds")},
        },
        settings={**runs[-1].settings, "num_points": num_points, "convention": "mean over examples"},
    )


def _quadrature(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre in the cube root of s: what is integrated falls steeply at s = 0, as 1 / (1 + s a / gamma)."""
    nodes, weights = np.polynomial.legendre.leggauss(number)
    u = 0.5 * (nodes + 1)
    return u**3, 0.5 * weights * 3 * u**2
