"""What the quadratic model of a landscape says of Langevin chains on it: their step, their law, what the step adds."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._types import Network, Only
from lossatlas.geometry._density import spectral_density
from lossatlas.geometry._spectrum import spectrum
from lossatlas.landscape import Landscape


_STIFFNESS = 0.05  # of the default step: eps * max(h) / 4
_MAX_EXACT = 1500  # parameters, up to which the whole spectrum is there


def quadratic_learning_coefficient(
    eigenvalues: Any, inverse_temperature: float, localisation: float = 0.0, step_size: float = 0.0
) -> float:
    r"""The estimate that SGLD gives, exactly, on a quadratic loss.

    $\frac12\sum_i \frac{n\beta\,\ell_i}{h_i(1 - \epsilon h_i/4)}$, $h_i = n\beta\,\ell_i + \gamma$ with the eigenvalues
    $\ell_i$ of the Hessian of the mean loss. A step of 0 gives continuous Langevin dynamics (and MALA), and without
    localisation half the number of non-zero eigenvalues.

    **Arguments:**
    - `eigenvalues`: of the Hessian. `inverse_temperature`: $n\beta$. `localisation`: $\gamma$.
    - `step_size`: $\epsilon$.

    **Returns:** The number; NaN where some $h_i \le 0$ with $\ell_i \ne 0$: no stationary law.

    **Raises:** `InputError` for an unstable step, $\epsilon \max h_i \ge 4$.
    """
    values = np.asarray(eigenvalues, float)
    values = values[values != 0]
    h = inverse_temperature * values + localisation
    if step_size * h.max(initial=0.0) >= 4:
        msg = f"A step of {step_size} is unstable on a curvature of {h.max():.4g}: it must be below {4 / h.max():.3g}."
        raise InputError(msg)
    if (h <= 0).any():
        return math.nan
    return float(0.5 * np.sum(inverse_temperature * values / (h * (1 - step_size * h / 4))))


def as_temperature(given: float | None, landscape: Landscape) -> float:
    """The inverse temperature, n / log n where none is given.

    **Raises:** `InputError` for what is not positive.
    """
    if given is not None:
        if not (given > 0 and math.isfinite(given)):
            msg = f"inverse_temperature must be finite and positive, got {given}."
            raise InputError(msg)
        return float(given)
    if landscape.size < 2:
        raise InputError("n / log n needs at least 2 examples; give inverse_temperature.")
    return landscape.size / math.log(landscape.size)


def stable_step(given: float | None, stiffest: float) -> float:
    """The step of Langevin dynamics at a largest curvature of the energy.

    **Raises:** `InputError` for a step that is not positive, or unstable.
    """
    if given is None:
        return 4 * _STIFFNESS / stiffest if stiffest > 0 else 1e-3
    if not (given > 0 and math.isfinite(given)):
        msg = f"step_size must be finite and positive, got {given}."
        raise InputError(msg)
    if given * stiffest >= 4:
        msg = (
            f"step_size={given} is unstable: the largest curvature n beta lambda + gamma is {stiffest:.4g}, so it must "
            f"be below {4 / stiffest:.3g}; the default is {4 * _STIFFNESS / stiffest:.3g}."
        )
        raise InputError(msg)
    return float(given)


class QuadraticModel:
    """What the Hessian's spectrum predicts of chains: all eigenvalues, or a quadrature of their density."""

    def __init__(self, key: PRNGKeyArray, network: Network, landscape: Landscape, only: Only):
        self.size = num_parameters(network, only)
        is_small = self.size <= _MAX_EXACT
        found = spectrum(
            network, landscape, num_top=1, num_bottom=1, only=only, method="exact" if is_small else "lanczos"
        )
        self.largest, self.smallest = float(found.values[0]), float(found.values[-1])
        self.products = int(found.stats["products"])
        self.values = None if found.all_values is None else np.asarray(found.all_values)
        # Rounding leaves eigenvalues about zero, which are none.
        self.noise = 1e3 * float(jnp.finfo(found.values.dtype).eps) * max(abs(self.largest), abs(self.smallest))
        self.density = None
        if self.values is None:
            self.density = spectral_density(jax.random.fold_in(key, 2), network, landscape, only=only)
            self.products += self.density.num_products

    def predict(self, temperature: float, localisation: float, step: float) -> float:
        """[`lossatlas.geometry.quadratic_learning_coefficient`][] of this spectrum."""
        if self.smallest < -self.noise and temperature * self.smallest + localisation <= 0:
            return math.nan
        clean = lambda values: np.where(np.abs(values) <= self.noise, 0.0, values)  # noqa: E731
        if self.density is None:
            return quadratic_learning_coefficient(clean(self.values), temperature, localisation, step)

        def each(values):
            h = np.where(clean(values) == 0, 1.0, temperature * values + localisation)
            return 0.5 * temperature * clean(values) / (h * (1 - step * h / 4))

        return self.size * self.density.integrate(each)[0]

    def loss_bias(self, temperature: float, localisation: float, step: float) -> float:
        """What the step of SGLD adds to the mean loss of chains, on this spectrum."""
        finite, continuous = (self.predict(temperature, localisation, size) for size in (step, 0.0))
        return (finite - continuous) / temperature
