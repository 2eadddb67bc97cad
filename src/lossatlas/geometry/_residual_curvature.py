"""The part of the Hessian that the residuals make: what is left of it beside the Gauss-Newton matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.landscape import Landscape


@shown
class ResidualCurvature(eqx.Module):
    r"""How much of the Hessian $H = H_1 + H_2$ comes from the residuals.

    $H_1 = E[J^\top \ell'' J]$ is the Gauss-Newton matrix, $H_2 = E[\sum_o \ell'_o \nabla^2 f_o]$.

    - `ratio`: $\|H_2\|_F / \|H\|_F$; 0 where H vanishes. `standard_error`: of the ratio; 0 where it is exact.
    - `norm`: $\|H_2\|_F$, `hessian_norm`: $\|H\|_F$.
    - `stats`: the number of products.
    """

    ratio: float
    standard_error: float
    norm: float
    hessian_norm: float
    stats: dict[str, Any] = eqx.field(static=True)


def residual_curvature(
    key: PRNGKeyArray, network: Network, landscape: Landscape, *, num_probes: int = 32
) -> ResidualCurvature:
    r"""Measure $\|H_2\|_F / \|H\|_F$, the share of the Hessian that is not Gauss-Newton.

    $\|A\|_F^2 = E|A z|^2$ over random signs z, and $H_2 z = H z - H_1 z$. $H_2$ vanishes where all residuals do; that
    it vanishes is necessary for a bad critical point that no wider network escapes
    ([`lossatlas.embedding.escape_by_widening`][]).

    **Arguments:**
    - `key`: of the probes.
    - `network`, `landscape`: in float64; any point. The landscape needs a loss on predictions.
    - `num_probes`: probes; at or above the number of parameters the whole matrices are taken, and the result is exact.

    **Returns:** A [`lossatlas.geometry.ResidualCurvature`][]. Differences below about 1e-16 of the Hessian are
    rounding. Cost: two products a probe, streamed in the landscape's `batch_size`.

    **Raises:** `InputError` for lower precision, fewer than two probes, and a Hessian that is not finite.

    !!! cite
        Zhang, Li, Zhang, Luo, Xu 2022, JML 1(1), Definition 6.2 and Theorem 6.3.
    """
    require_float64((network, landscape), "residual_curvature")
    if num_probes < 2:
        msg = f"num_probes must be at least 2, got {num_probes}."
        raise InputError(msg)
    size = num_parameters(network)
    if num_probes >= size:
        probes, count = jnp.eye(size), 1  # the columns themselves: their squares add up to the norm
    else:
        probes, count = jax.random.rademacher(key, (num_probes, size), jnp.float64), num_probes
    second, whole = (np.asarray(a) for a in _squares(network, landscape, probes))
    if not np.isfinite(whole).all():
        msg = "The Hessian is not finite at this network; check the parameters and the data for NaN and overflow."
        raise InputError(msg)
    norm, total = (float(np.sqrt(squares.sum() / count)) for squares in (second, whole))
    ratio = norm / total if total > 0 else 0.0
    error = 0.0
    if count > 1 and ratio > 0:
        # The ratio of two means over the same probes, to first order.
        relative = second / second.mean() - whole / whole.mean()
        error = float(0.5 * ratio * relative.std(ddof=1) / np.sqrt(count))
    return ResidualCurvature(ratio, error, norm, total, {"products": 2 * len(probes)})


def residual_landscape(network: Network, landscape: Landscape) -> Landscape:
    r"""The landscape whose Hessian at the network is $H_2$: its loss is linear in the prediction, $\ell' \cdot f$.

    Products with $H_2$ from it lose nothing to cancellation, as $H z - H_1 z$ does where $H_2$ is small.
    """
    slopes = landscape.residuals(network)
    return Landscape(landscape.inputs, slopes, loss=_linear_loss, batch_size=landscape.batch_size)


def _linear_loss(prediction: Array, slope: Array) -> Float[Array, ""]:
    return jnp.sum(prediction * slope)


@eqx.filter_jit
def _squares(network: Network, landscape: Landscape, probes: Float[Array, "k p"]):
    """$|H_2 z|^2$ and $|H z|^2$ of every probe."""
    hessian, gauss_newton = landscape.hessian_operator(network), landscape.gauss_newton_operator(network)

    def squares(probe):
        product = hessian.mv(probe)
        return jnp.sum(jnp.square(product - gauss_newton.mv(probe))), jnp.sum(jnp.square(product))

    return jax.lax.map(squares, probes)
