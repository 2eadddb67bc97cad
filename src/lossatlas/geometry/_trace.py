"""The trace of a curvature matrix, with a standard error."""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._products import Curvature, CurvatureProducts, Loop, host_generator, random_signs
from lossatlas.geometry._structured_trace import structured_products, structured_trace
from lossatlas.landscape import Landscape


_LEAST = {"auto": 6, "xtrace": 20, "hutch++": 6, "hutchinson": 2, "structured": 0, "exact": 0}
_PILOT = 10  # independent samples before an error is believed
_BLOCK = 5  # samples between two looks at the error
# The estimates of XTrace share their products, so their scatter understates the error of the mean: 0.7 to 1 times the
# true one over spectra that are flat, decay as powers or exponentially, or have outliers; with this factor Student's
# interval of ten or more covers the truth as often as it says.
_SHARED = 4 / 3


@shown
class TraceEstimate(eqx.Module):
    """An estimate of a trace and how sure it is.

    - `value`; `standard_error`: 0 for the exact methods; where XTrace has found the whole range, what rounding hides.
    - `samples`: the estimates whose mean is `value` (empty when exact). Those of XTrace share their products, for
      which its standard error makes up by a factor of 4/3.
    - `num_products`: products used.
    - `has_reached_rtol`: whether the standard error is as small as was asked; None where nothing was asked.
    """

    value: Float[Array, ""]
    standard_error: Float[Array, ""]
    samples: Float[Array, " s"]
    num_products: int = eqx.field(static=True)
    has_reached_rtol: bool | None = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval of Student's t at a level between 0 and 1."""
        from scipy import stats

        if not 0 < level < 1:
            msg = f"level must lie between 0 and 1, got {level}."
            raise InputError(msg)
        half = float(self.standard_error)
        if self.samples.size:
            half = float(stats.t.ppf(0.5 + level / 2, self.samples.size - 1)) * float(self.standard_error)
        return float(self.value) - half, float(self.value) + half


def trace(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    num_probes: int = 100,
    rtol: float | None = None,
    only: Only = None,
    curvature: Curvature = "hessian",
    method: Literal["auto", "xtrace", "hutch++", "hutchinson", "structured", "exact"] = "auto",
    loop: Loop = "auto",
) -> TraceEstimate:
    r"""The trace of the Hessian of the mean loss, or of a relative of it.

    `"hutchinson"` averages $z^\top H z$ over random sign vectors; the variance of one sample is
    $2(\|H\|_F^2 - \sum_i H_{ii}^2)$. `"hutch++"` (Meyer, Musco, Musco and Woodruff 2021, Algorithm 1) takes the trace
    exactly on the range Q of a sketch HS and samples only the remainder:
    $\operatorname{tr} Q^\top H Q + \operatorname{mean} g^\top (I - QQ^\top) H (I - QQ^\top) g$; far
    better when few eigenvalues dominate, as in Hessians. `"xtrace"` (Epperly, Tropp and Webber 2024) lets every probe
    serve both purposes: the sketch of all the others, and the remainder of that one. `"structured"` is exact without
    a product, by one backward pass an output (piecewise linear activations) or a unit, for `Dense` networks.

    None of them stops early: the standard error comes from all samples. With `rtol` sampling goes on until the
    standard error is that share of the value, but at least to ten samples, and at most for `num_probes` products.

    **Arguments:**
    - `num_probes`: products to spend, at most with `rtol`. Hutchinson spends one on each probe; XTrace two, and keeps
      four vectors; Hutch++ a third each on the sketch, on its image, and on probes of the remainder. A sketch as wide
      as the matrix is exact.
    - `rtol`: the standard error to reach, relative to the absolute value.
    - `only`: a parameter filter; the trace is then that of the block.
    - `curvature`: which matrix; see [`lossatlas.geometry.spectrum`][]. A sampled Fisher matrix takes one target.
    - `method`: as above; `"exact"` sums the diagonal, as many products as parameters; `"auto"` is `"structured"`
      where that is possible for less than `num_probes` products would cost, else `"xtrace"`, or with fewer than 20
      probes `"hutch++"`.
    - `loop`: over batches; see [`lossatlas.geometry.spectrum`][].

    **Returns:**
    A [`lossatlas.geometry.TraceEstimate`][]; the mean over the examples is the convention.

    **Raises:** `InputError` for too few probes to have an error bar: 2 for Hutchinson, 6 for Hutch++, 20 for
    XTrace; for an `rtol` that is not positive, and where the structured method does not apply.
    """
    begin = time.perf_counter()
    if method not in _LEAST:
        raise unknown_name("method", method, _LEAST)
    if num_probes < _LEAST[method]:
        msg = (
            f"num_probes must be at least {_LEAST[method]} for method={method!r} to have an error bar, "
            f"got {num_probes}."
        )
        raise InputError(msg)
    if rtol is not None and not rtol > 0:
        msg = f"rtol must be positive, got {rtol}."
        raise InputError(msg)
    if method == "auto":
        cost = structured_products(network, landscape, only, curvature)
        sampling = "xtrace" if num_probes >= _LEAST["xtrace"] else "hutch++"
        method = "structured" if cost is not None and cost <= num_probes else sampling
    count, hidden, factor = 0, 0.0, _SHARED if method == "xtrace" else 1.0
    if method == "structured":
        value, samples = structured_trace(network, landscape, only, curvature), np.zeros(0)
    else:
        products = CurvatureProducts(network, landscape, only, curvature=curvature, key=key, loop=loop)
        wide = {"xtrace": num_probes // 2, "hutch++": num_probes // 3}.get(method, 0) >= products.size
        if method == "exact" or wide:
            value, samples = float(products.diagonal().astype(float).sum()), np.zeros(0)
        else:
            estimate = {"xtrace": _xtrace, "hutch++": _hutch_plus_plus, "hutchinson": _hutchinson}[method]
            value, samples, hidden = estimate(products, num_probes, _enough(rtol, factor), host_generator(key))
        count = products.count
    error = max(factor * _standard_error(samples), hidden)
    return TraceEstimate(
        value=jnp.asarray(value),
        standard_error=jnp.asarray(error),
        samples=jnp.asarray(samples),
        num_products=count,
        has_reached_rtol=None if rtol is None else bool(error <= rtol * abs(value)),
        stats={"seconds": time.perf_counter() - begin},
        settings={
            "method": method,
            "num_probes": num_probes,
            "rtol": rtol,
            "curvature": curvature,
            "convention": "mean over examples",
        },
    )


_Enough = Callable[[float, np.ndarray], bool]


def _standard_error(samples: np.ndarray) -> float:
    return float(samples.std(ddof=1) / math.sqrt(len(samples))) if len(samples) else 0.0


def _enough(rtol: float | None, factor: float) -> _Enough:
    """Whether an estimate is precise enough; never before its error can be believed."""

    def reached(value: float, samples: np.ndarray) -> bool:
        if rtol is None or len(samples) < _PILOT or len(samples) % _BLOCK:
            return False
        return bool(factor * _standard_error(samples) <= rtol * abs(value))

    return reached


def _hutchinson(products: CurvatureProducts, num: int, enough: _Enough, rng) -> tuple[float, np.ndarray, float]:
    samples = np.zeros(0)
    while len(samples) < num and not (len(samples) and enough(samples.mean(), samples)):
        probe = random_signs(rng, products)
        samples = np.append(samples, probe.astype(float) @ products(probe))
    return float(samples.mean()), samples, 0.0


def _hutch_plus_plus(products: CurvatureProducts, num: int, enough: _Enough, rng) -> tuple[float, np.ndarray, float]:
    rank = num // 3
    sketch = np.stack([products(random_signs(rng, products)) for _ in range(rank)], axis=1)
    basis = np.linalg.qr(sketch)[0]
    captured = sum(float(column.astype(float) @ products(column)) for column in basis.T.copy())
    samples = np.zeros(0)
    while len(samples) < num - 2 * rank and not (len(samples) and enough(samples.mean(), samples)):
        probe = random_signs(rng, products)
        probe = probe - basis @ (basis.T @ probe)
        samples = np.append(samples, captured + probe.astype(float) @ products(probe))
    return float(samples.mean()), samples, 0.0


def _xtrace(products: CurvatureProducts, num: int, enough: _Enough, rng) -> tuple[float, np.ndarray, float]:
    """Probes are added one by one; the factorisation of their images grows, and with it every estimate."""
    size, most = products.size, num // 2
    probes, images, basis, basis_images = (np.empty((most, size), products.dtype) for _ in range(4))
    triangle, samples = np.zeros((most, most)), np.zeros(0)
    for m in range(most):
        probes[m] = rng.standard_normal(size)
        images[m] = products(probes[m])
        vector = images[m].astype(float)
        for _ in range(2):
            part = basis[:m] @ vector
            vector, triangle[:m, m] = vector - part @ basis[:m], triangle[:m, m] + part
        left = float(np.linalg.norm(vector))
        rounding = 100 * float(np.finfo(products.dtype).eps) * float(np.linalg.norm(images[m]))
        if left <= rounding:
            # The images of the probes before span the range, up to rounding: the trace on it is the whole, up to the
            # length of a probe times what may be left of its image.
            return float(np.sum(basis[:m].astype(float) * basis_images[:m])), np.zeros(0), math.sqrt(size) * rounding
        triangle[m, m] = left
        basis[m] = vector / left
        basis_images[m] = products(basis[m])
        done = m + 1
        if done >= 3 and (done == most or (done >= _PILOT and done % _BLOCK == 0)):
            samples = _leave_one_out(
                probes[:done], images[:done], basis[:done], basis_images[:done], triangle[:done, :done], size
            )
            if enough(float(samples.mean()), samples):
                break
    return float(samples.mean()), samples, 0.0


def _leave_one_out(probes, images, basis, basis_images, triangle, size: int) -> np.ndarray:
    r"""The estimates of XTrace: for each probe the trace on the range of all the others, and the rest by that probe.

    With $Y = QR$ the range without column i is $Q(I - s_i s_i^\top)$, $s_i$ the normalised column i of $R^{-\top}$.
    What is left of a Gaussian probe points in a uniform direction of the complement, so it is given the length that a
    sign vector would have there, which lowers the variance (Section 2.3 of the paper).
    """
    m = len(probes)
    s = np.linalg.inv(triangle)  # rows of R^-1 are columns of R^-T
    s = (s / np.linalg.norm(s, axis=1, keepdims=True)).T
    inside = basis.astype(float) @ basis_images.astype(float).T  # H = Q^T A Q
    inside = 0.5 * (inside + inside.T)
    along = basis.astype(float) @ probes.T  # W = Q^T Omega
    x = along - s * np.sum(s * along, axis=0)
    captured = np.trace(inside) - np.sum(s * (inside @ s), axis=0)
    quadratic = np.einsum("ij,ij->i", probes.astype(float), images)
    crossed = basis_images.astype(float) @ probes.T  # Z^T Omega
    rest = quadratic - 2 * np.sum(crossed * x, axis=0) + np.sum(x * (inside @ x), axis=0)
    length = np.einsum("ij,ij->i", probes.astype(float), probes) - np.sum(x**2, axis=0)
    return captured + rest * (size - m + 1) / length
