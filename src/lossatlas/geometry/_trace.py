"""The trace of the Hessian, with a standard error."""

import time
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._products import HessianProducts, host_generator, random_signs
from lossatlas.landscape import Landscape


@shown
class TraceEstimate(eqx.Module):
    """An estimate of a trace and how sure it is.

    - `value`; `standard_error`: 0 for the exact method.
    - `samples`: the independent estimates whose mean is `value` (empty when exact).
    - `num_products`: Hessian products used.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    samples: Float[Array, " s"]
    num_products: int = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval of Student's t at a level between 0 and 1."""
        from scipy import stats

        if not 0 < level < 1:
            msg = f"level must lie between 0 and 1, got {level}."
            raise InputError(msg)
        half = 0.0
        if self.samples.size:
            half = float(stats.t.ppf(0.5 + level / 2, self.samples.size - 1)) * float(self.standard_error)
        return float(self.value) - half, float(self.value) + half


def trace(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    num_probes: int = 100,
    only: Only = None,
    method: Literal["hutch++", "hutchinson", "exact"] = "hutch++",
) -> TraceEstimate:
    r"""The trace of the Hessian of the mean loss.

    `"hutchinson"` averages $z^\top H z$ over random sign vectors; the variance of one sample is
    $2(\|H\|_F^2 - \sum_i H_{ii}^2)$. `"hutch++"` (Meyer, Musco, Musco and Woodruff 2021, Algorithm 1) takes the trace
    exactly on the range Q of a sketch HS and samples only the remainder:
    $\operatorname{tr} Q^\top H Q + \operatorname{mean} g^\top (I - QQ^\top) H (I - QQ^\top) g$; far
    better when few eigenvalues dominate, as in Hessians. Neither stops early: the standard error comes from all
    samples, as many as were asked for.

    **Arguments:**
    - `num_probes`: Hessian products to spend. Hutchinson spends one on each probe; Hutch++ a third each on the
      sketch, on its image, and on probes of the remainder. A sketch as wide as the matrix makes it exact.
    - `only`: a parameter filter; the trace is then that of the block.
    - `method`: `"exact"` sums the diagonal: as many products as parameters, whatever `num_probes`.

    **Returns:**
    A [`lossatlas.geometry.TraceEstimate`][]; the mean over the examples is the convention.

    **Raises:** `InputError` for too few probes to have an error bar: 2 for Hutchinson, 6 for Hutch++.
    """
    begin = time.perf_counter()
    least = {"hutch++": 6, "hutchinson": 2, "exact": 0}
    if method not in least:
        raise unknown_name("method", method, least)
    if num_probes < least[method]:
        msg = (
            f"num_probes must be at least {least[method]} for method={method!r} to have an error bar, got {num_probes}."
        )
        raise InputError(msg)
    products = HessianProducts(network, landscape, only)
    if method == "exact" or (method == "hutch++" and num_probes // 3 >= products.size):
        value, samples = float(products.diagonal().astype(float).sum()), np.zeros(0)
    else:
        estimate = _hutchinson if method == "hutchinson" else _hutch_plus_plus
        value, samples = estimate(products, num_probes, host_generator(key))
    error = samples.std(ddof=1) / np.sqrt(len(samples)) if len(samples) else 0.0
    return TraceEstimate(
        value=jnp.asarray(value),
        standard_error=jnp.asarray(error),
        samples=jnp.asarray(samples),
        num_products=products.count,
        stats={"seconds": time.perf_counter() - begin, "size": products.size},
        settings={"method": method, "num_probes": num_probes, "convention": "mean over examples"},
    )


def _hutchinson(products: HessianProducts, num: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    samples = np.zeros(num)
    for i in range(num):
        probe = random_signs(rng, products)
        samples[i] = probe.astype(float) @ products(probe)
    return float(samples.mean()), samples


def _hutch_plus_plus(products: HessianProducts, num: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    rank = num // 3
    sketch = np.stack([products(random_signs(rng, products)) for _ in range(rank)], axis=1)
    basis = np.linalg.qr(sketch)[0]
    captured = sum(float(column.astype(float) @ products(column)) for column in basis.T.copy())
    samples = np.zeros(num - 2 * rank)
    for i in range(len(samples)):
        probe = random_signs(rng, products)
        probe = probe - basis @ (basis.T @ probe)
        samples[i] = captured + probe.astype(float) @ products(probe)
    return float(samples.mean()), samples
