"""The curvature of every layer, what it says about the initialisation, and the steps that it allows."""

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import ravel, select
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._lanczos import extreme_pairs
from lossatlas.geometry._layer_moments import (
    Moments,
    exact_moments,
    fan_ins,
    flat_parameters,
    in_order_of_use,
    layer_places,
    loss_trace,
    mean_trace,
    moments_cost,
    moments_recipe,
    output_curvatures,
    probed_moments,
    within,
)
from lossatlas.geometry._products import CurvatureProducts, Loop, host_generator
from lossatlas.landscape import Landscape


Verdict = Literal["balanced", "unbalanced", "vanishing", "exploding"]
METHODS = ("auto", "kernel", "probes")
MOST_MULTIPLICATIONS = 1e11
"""What "auto" spends on exact norms."""
_LEAST_PROBES = 2
GAIN_LIMIT = 10.0
"""Where curvature that grows or shrinks with depth is called exploding or vanishing."""
_SPREAD = 100.0


@shown
class LayerCurvature(eqx.Module):
    r"""Curvature layer by layer: the blocks $B_k$ of the Gauss-Newton matrix of the mean loss.

    - `layers`: names, in the order in which the network uses them; `sizes`: numbers of parameters.
    - `traces`, `norms` (Frobenius), with `trace_errors`, `norm_errors`: standard errors, 0 where exact.
    - `largest`: the largest eigenvalues, with `residuals` $\|B_k v - \lambda v\|$; one lies within it.
    - `gradient_norms`: of the gradient in the layer.
    - `gains`: $\operatorname{tr} B_k / (m_k \bar x^2 \operatorname{tr} \ell'')$: by how much the layers before and
      behind multiply the curvature. $m_k$ numbers enter a unit of layer k, $\bar x^2$ is the mean square of the inputs
      (1 for whole numbers, and for landscapes of functions), $\ell''$ the curvature of the loss, the mean over
      examples. 1 with weights that keep variances; $c^{L-1}$ where each of L layers multiplies them by c. NaN for
      layers without a weight that multiplies what it reads.
    - `is_hessian`: whether the block is that of the Hessian: predictions are affine in the layer up to kinks, as the
      second derivative along a random direction says.
    - `loss`, `gradient_norm`: of all layers. `sharpness`: the largest eigenvalue of the Hessian, with
      `sharpness_residual`.
    - `best_step`: $|g|^2 / g^\top H g$, the step of gradient descent that lowers the loss most by its second-order
      expansion; infinite where the loss bends down along the gradient. It is one over the curvature along the
      gradient, so it may be far above `stable_step`, which is 2 over that of the steepest direction.
    - `verdict`: `"vanishing"` or `"exploding"` where the geometric mean of the gains lies below 1/10 or above 10, else
      `"unbalanced"` where the largest trace of layers that have a gain is more than 100 times the smallest, else
      `"balanced"`.
    - `warnings`: what a reader must know, in sentences.
    """

    layers: tuple[str, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    traces: Float[np.ndarray, " layers"]
    trace_errors: Float[np.ndarray, " layers"]
    norms: Float[np.ndarray, " layers"]
    norm_errors: Float[np.ndarray, " layers"]
    largest: Float[np.ndarray, " layers"]
    residuals: Float[np.ndarray, " layers"]
    gradient_norms: Float[np.ndarray, " layers"]
    gains: Float[np.ndarray, " layers"]
    is_hessian: Bool[np.ndarray, " layers"]
    loss: float
    gradient_norm: float
    sharpness: float
    sharpness_residual: float
    best_step: float
    verdict: Verdict = eqx.field(static=True)
    warnings: tuple[str, ...] = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def stable_step(self) -> float:
        """2 over the sharpness, below which gradient descent is stable; infinite without positive curvature."""
        return 2 / self.sharpness if self.sharpness > 0 else math.inf

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a layer, as plain values; None for what is not known."""
        return [
            {
                "layer": name,
                "parameters": self.sizes[k],
                "trace": float(self.traces[k]),
                "Frobenius norm": float(self.norms[k]),
                "largest": float(self.largest[k]),
                "gradient": float(self.gradient_norms[k]),
                "gain": float(self.gains[k]) if np.isfinite(self.gains[k]) else None,
                "is the Hessian": bool(self.is_hessian[k]),
            }
            for k, name in enumerate(self.layers)
        ]

    def to_xarray(self):
        """All numbers of layers as an `xarray.Dataset` over `layer`; those of the whole network as attributes."""
        import xarray as xr

        names = (
            *("traces", "trace_errors", "norms", "norm_errors", "largest", "residuals", "gradient_norms", "gains"),
            "is_hessian",
        )
        whole = ("loss", "gradient_norm", "sharpness", "sharpness_residual", "best_step", "stable_step", "verdict")
        return xr.Dataset(
            {name: ("layer", getattr(self, name)) for name in names},
            coords={"layer": list(self.layers), "size": ("layer", list(self.sizes))},
            attrs={name: getattr(self, name) for name in whole},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import counts_figure

        bars = {"trace": self.traces, "Frobenius norm": self.norms, "largest eigenvalue": self.largest}
        return counts_figure(bars, self.layers, x="layer", y="Gauss-Newton block", y_scale="log")


def layer_curvature(
    network: Network,
    landscape: Landscape,
    *,
    only: Only = None,
    key: PRNGKeyArray | None = None,
    method: Literal["auto", "kernel", "probes"] = "auto",
    num_probes: int = 30,
    rtol: float = 1e-3,
    max_products: int = 300,
    loop: Loop = "auto",
    progress: ProgressLike = "none",
) -> LayerCurvature:
    r"""How curved the loss is in every layer, and which step it allows: a report on an initialisation.

    The block of layer k of the Gauss-Newton matrix is $B_k = \frac1n \sum_i J_{ik}^\top \ell''(f_i) J_{ik}$. Where
    predictions are affine in the layer (the last one; all of a network of piecewise linear activations) it is exactly
    the block of the Hessian; for smooth activations the two differ by about the size of the pre-activations. It is the
    product of what comes in from before and what goes out behind (Skorski, Temperoni and Theobald 2021), so a layer of
    too small or too large weights shows in the blocks of all the others.

    `"kernel"`: traces and Frobenius norms are exact, from the blocks of the tangent kernel of every layer
    ([`lossatlas.geometry.ntk`][]), in which the blocks themselves are never formed: shared weights of convolutions and
    recurrences, biases and normalisations included. Cost: that of a kernel of all n examples and C outputs, about
    $n^2 C^2$ numbers a layer in tiles. `"probes"`: both from `num_probes` Gauss-Newton products a layer, with standard
    errors. Eigenvalues: by Lanczos, 10 to 20 products a layer. The sharpness takes as many Hessian products.

    **Arguments:**
    - `only`: a parameter filter; a layer is then what it selects of it.
    - `key`: of random starts and probes; default `jax.random.key(0)`.
    - `method`: as above; `"auto"` takes the kernel up to 1e11 multiplications, and probes for networks that
      normalise by the statistics of the whole data.
    - `num_probes`: products a layer, with `"probes"`.
    - `rtol`: residual of the eigenvalues, relative to them. `max_products`: where the search for one ends.
    - `loop`: over batches; see [`lossatlas.geometry.spectrum`][].

    **Returns:**
    A [`lossatlas.geometry.LayerCurvature`][]; the mean over the examples is the convention.

    **Raises:** `InputError` for a landscape without predictions or loss, unknown names, fewer than 2 probes, a
    tolerance that is not positive, and what is not finite.

    !!! cite
        Skorski, Temperoni and Theobald 2021, arXiv 2004.09506: the approximate chain rule (Section 2).
    """
    begin = time.perf_counter()
    _check(method, num_probes, rtol)
    key = jax.random.key(0) if key is None else key
    rng = host_generator(key)
    selected = select(network, only)
    places = in_order_of_use(layer_places(network, only), network, landscape)
    point = flat_parameters(network, only)
    products = CurvatureProducts(network, landscape, only, curvature="gauss_newton", loop=loop)
    mixes = bool(getattr(network, "batch_statistics", False))
    with as_meter(progress).task("layers", len(places) + 2) as task:
        used, moments, curved = _moments(
            network, landscape, only, places, products, method, num_probes, rng, mixes=mixes
        )
        pairs, bends = [], []
        for done, (name, index) in enumerate(places.items()):
            task.update(1 + done, name)
            pairs.append(_largest(within(products, index), len(index), products.dtype, rtol, max_products, rng))
            bends.append(_bend(network, landscape, selected, _direction(point, index, rng)))
        task.update(1 + len(places), "sharpness")
        hessian = CurvatureProducts(network, landscape, only, loop=loop)
        sharpness, residual = _largest(hessian, hessian.size, hessian.dtype, rtol, max_products, rng)
        loss, gradient = (np.asarray(a, float) for a in _value_and_gradient(network, landscape, selected))
        along = float(gradient @ hessian(gradient.astype(hessian.dtype)))
    eps = float(np.finfo(products.dtype).eps)
    is_hessian = np.array([second <= 100 * eps * first for first, second in np.asarray(bends, float)])
    neutral = {} if mixes else neutral_traces(network, landscape, curved, only)
    gains = moments.traces / np.array([neutral.get(name, math.nan) for name in places])
    square = float(gradient @ gradient)
    largest, residuals = np.array(pairs).T
    return LayerCurvature(
        layers=tuple(places),
        sizes=tuple(len(index) for index in places.values()),
        traces=moments.traces,
        trace_errors=moments.trace_errors,
        norms=moments.norms,
        norm_errors=moments.norm_errors,
        largest=largest,
        residuals=residuals,
        gradient_norms=np.array([np.linalg.norm(gradient[index]) for index in places.values()]),
        gains=gains,
        is_hessian=is_hessian,
        loss=float(loss),
        gradient_norm=math.sqrt(square),
        sharpness=sharpness,
        sharpness_residual=residual,
        best_step=square / along if along > 0 else math.inf,
        verdict=_verdict(moments.traces, gains),
        warnings=_warnings(list(places), moments.traces, largest, residuals, rtol, square),
        stats={"seconds": time.perf_counter() - begin, "products": products.count + hessian.count},
        settings={
            "method": used,
            "num_probes": num_probes if used == "probes" else None,
            "rtol": rtol,
            "convention": "mean over examples",
        },
    )


def neutral_traces(network: Network, landscape: Landscape, curved: float, only: Only = None) -> dict[str, float]:
    r"""By layer, the trace whose gain is 1, see [`lossatlas.geometry.LayerCurvature`][]; `curved` is the mean of
    $\operatorname{tr} \ell''$.
    """
    inputs = landscape.inputs if landscape._predict is None else None
    is_real = inputs is not None and jnp.issubdtype(inputs.dtype, jnp.inexact)
    square = float(np.mean(np.square(np.asarray(inputs, float)))) if is_real else 1.0
    each = (square or 1.0) * curved
    return {name: size * each for name, size in fan_ins(network, landscape, only).items()}


def _moments(
    network, landscape, only, places, products, method: str, num_probes: int, rng, *, mixes: bool
) -> tuple[str, Moments, float]:
    r"""The moments, by the method asked for or the one that suits, and the mean of $\operatorname{tr} \ell''$."""
    if method == "kernel" or (method == "auto" and not mixes):
        recipe, leaves = moments_recipe(network, landscape, only)
        if method == "kernel" or moments_cost(recipe, landscape.size, len(places)) <= MOST_MULTIPLICATIONS:
            curvatures = np.asarray(output_curvatures(network, landscape), float)
            moments = exact_moments(recipe, leaves, landscape, curvatures, list(places))
            return "kernel", moments, mean_trace(curvatures)
    return "probes", probed_moments(products, places, num_probes, rng), float(loss_trace(network, landscape))


def _largest(
    product: Callable[[np.ndarray], np.ndarray], size: int, dtype, rtol: float, max_products: int, rng
) -> tuple[float, float]:
    """The largest eigenvalue and its residual norm."""
    found = extreme_pairs(
        product, size, dtype, num_top=1, num_bottom=0, rtol=rtol, max_products=max_products, rng=rng, verify=False
    )
    return float(found.values[0]), float(found.residuals[0])


def _direction(point: np.ndarray, index: np.ndarray, rng) -> np.ndarray:
    """A random direction in one layer, as long as its parameters."""
    direction = np.zeros_like(point)
    direction[index] = rng.standard_normal(len(index))
    length = float(np.linalg.norm(point[index])) or 1.0
    return (direction * (length / np.linalg.norm(direction))).astype(point.dtype)


@eqx.filter_jit
def _bend(network: Network, landscape: Landscape, selected: Only, direction: Float[Any, " p"]) -> tuple[Array, Array]:
    """The largest first and second derivative of predictions along a direction."""
    vector, unravel = ravel(network, selected)
    along = lambda t: landscape.predictions(unravel(vector + t * direction))  # noqa: E731
    zero, one = jnp.zeros((), vector.dtype), jnp.ones((), vector.dtype)
    first, second = jax.jvp(lambda t: jax.jvp(along, (t,), (one,))[1], (zero,), (one,))
    return jnp.abs(first).max(), jnp.abs(second).max()


@eqx.filter_jit
def _value_and_gradient(network: Network, landscape: Landscape, selected: Only):
    return landscape.value_and_gradient(network, selected)


def _verdict(traces: np.ndarray, gains: np.ndarray) -> Verdict:
    if not traces.any():
        return "vanishing"
    known = np.isfinite(gains) & (gains > 0)
    if not known.any():
        known = traces > 0
        level = 1.0
    else:
        level = float(np.exp(np.mean(np.log(gains[known]))))
    if level < 1 / GAIN_LIMIT:
        return "vanishing"
    if level > GAIN_LIMIT:
        return "exploding"
    return "unbalanced" if traces[known].max() > _SPREAD * traces[known].min() else "balanced"


def _warnings(
    names: list[str], traces: np.ndarray, largest: np.ndarray, residuals: np.ndarray, rtol: float, square: float
) -> tuple[str, ...]:
    said = []
    if flat := [name for name, trace in zip(names, traces, strict=True) if trace == 0]:
        said.append(
            f"The loss has no curvature in {', '.join(flat)}: weights behind are zero, all units there are dead, or a "
            "gradient is stopped (stop_gradient, detach)."
        )
    if late := [
        name for name, value, left in zip(names, largest, residuals, strict=True) if left > 2 * rtol * abs(value)
    ]:
        said.append(f"The largest eigenvalue of {', '.join(late)} did not converge: see its residual.")
    if square == 0:
        said.append("The gradient is zero, so gradient descent does not leave this point, whatever the step.")
    return tuple(said)


def _check(method: str, num_probes: int, rtol: float) -> None:
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    if num_probes < _LEAST_PROBES:
        msg = f"num_probes must be at least {_LEAST_PROBES} to have an error bar, got {num_probes}."
        raise InputError(msg)
    if not rtol > 0:
        msg = f"rtol must be positive, got {rtol}."
        raise InputError(msg)
