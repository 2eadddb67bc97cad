"""Scale the layers of an initialisation until the loss is equally curved in all of them."""

import math
import time
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, replace_parameters, select
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Only
from lossatlas.geometry._layer_curvature import GAIN_LIMIT, neutral_traces
from lossatlas.geometry._layer_moments import exact_moments, fan_ins, mean_trace, moments_recipe, output_curvatures
from lossatlas.geometry._ntk_plan import layer_of
from lossatlas.landscape import Landscape


_MOST_STEP = 6.0  # of a logarithm of a variance


@shown
class BalancedLayers(eqx.Module):
    """A network whose layers were scaled until their blocks of the Gauss-Newton matrix have one trace.

    - `network`: the new one. `layers`: the names of those that were scaled.
    - `scales`: by what the parameters of each were multiplied.
    - `traces_before`, `traces`: of the blocks, before and after. `target`: what all of them should be.
    - `status`: whether they agree with it to `rtol`. Where no scales make them equal, as among normalisations and
      skip connections, the nearest ones that were found are kept.
    """

    network: Any
    layers: tuple[str, ...] = eqx.field(static=True)
    scales: Float[np.ndarray, " layers"]
    traces_before: Float[np.ndarray, " layers"]
    traces: Float[np.ndarray, " layers"]
    target: float
    status: Status = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def to_xarray(self):
        """Scales and traces as an `xarray.Dataset` over `layer`."""
        import xarray as xr

        columns = {"scale": self.scales, "trace_before": self.traces_before, "trace": self.traces}
        return xr.Dataset(
            {name: ("layer", column) for name, column in columns.items()},
            coords={"layer": list(self.layers)},
            attrs={"target": self.target, "status": str(self.status)},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import counts_figure

        bars = {"before": self.traces_before, "after": self.traces}
        return counts_figure(bars, self.layers, x="layer", y="trace of the Gauss-Newton block", y_scale="log")


def balance_layers(
    network: Network,
    landscape: Landscape,
    *,
    target: float | None = None,
    keep_rate: float = 1.0,
    only: Only = None,
    rtol: float = 0.05,
    max_steps: int = 40,
) -> BalancedLayers:
    r"""Scale the layers of a new network until the loss is equally curved in each, as measured on data.

    Multiplying the weights of a layer j multiplies the trace of every other layer by the square, where activations are
    homogeneous and the curvature of the loss is constant: $\log t_k$ is linear in the logarithms of the variances
    $v_j$, with coefficient 1 for $j \ne k$. So the changes solve $(1 1^\top - I)\, \delta = \log t^* - \log t$: one
    step, where that holds exactly. Elsewhere (softmax, smooth activations, biases, normalisations) steps are repeated,
    shorter where they miss, and the matrix learns from what they did (Broyden 1965). Of a ReLU network without biases
    the result is one variance in all layers, whatever their widths. It is for networks that are not trained yet:
    scaling changes the function.

    **Arguments:**
    - `network`: any whose predictions on an example do not depend on others, with what it was drawn with. Layers
      without a weight that multiplies what it reads (normalisations) stay as they are.
    - `target`: the trace of every layer. By default the geometric mean of the gains (see
      [`lossatlas.geometry.LayerCurvature`][]) stays what it is where it lies between 1/10 and 10, and becomes 1
      elsewhere, so that curvature neither vanishes nor explodes with depth.
    - `keep_rate`: of inverted dropout behind each layer but the last, to be trained with; it multiplies the curvature
      by its inverse once a layer, which the target makes up for.
    - `only`: the layers to scale; a filter.
    - `rtol`: where every trace is that close to the target, the search ends. `max_steps`: where it gives up.

    **Returns:**
    A [`lossatlas.geometry.BalancedLayers`][]. Cost of a step: one kernel of each example with itself and few others.

    **Raises:** `InputError` for fewer than two layers, one without curvature, and numbers out of range.

    !!! cite
        Skorski, Temperoni and Theobald 2021, arXiv 2004.09506. The linear system and the choice of the target are ours.
    """
    begin = time.perf_counter()
    _check(target, keep_rate, rtol, max_steps)
    layers = list(fan_ins(network, landscape, only))
    if len(layers) < 2:
        msg = f"Balancing needs at least two layers with weights, found {layers}."
        raise InputError(msg)
    num = len(layers)
    rate = keep_rate ** (num - 1)

    def measured(logs: np.ndarray) -> tuple[np.ndarray, float]:
        """Traces, and the geometric mean of those of gain 1."""
        at = _scaled(network, only, dict(zip(layers, np.exp(0.5 * logs), strict=True)))
        recipe, leaves = moments_recipe(at, landscape, only, diagonal_alone=True)
        curvatures = np.asarray(output_curvatures(at, landscape), float)
        neutral = neutral_traces(at, landscape, mean_trace(curvatures), only)
        traces = exact_moments(recipe, leaves, landscape, curvatures, layers, diagonal_alone=True).traces
        return traces, _geometric_mean(list(neutral.values()))

    logs = np.zeros(num)
    traces, neutral = measured(logs)
    _check_alive(layers, traces)
    gain = _geometric_mean(traces) / neutral
    gain = gain if 1 / GAIN_LIMIT <= gain <= GAIN_LIMIT else 1.0
    goal_of = lambda neutral: rate * (target or gain * neutral)  # noqa: E731
    goal = goal_of(neutral)
    before, left, steps = traces, math.log(goal) - np.log(traces), 0
    jacobian, share = np.ones((num, num)) - np.eye(num), 1.0
    while np.abs(left).max() > math.log1p(rtol) and steps < max_steps:
        step = share * np.clip(np.linalg.solve(jacobian, left), -_MOST_STEP, _MOST_STEP)
        there, neutral = measured(logs + step)
        its_goal = goal_of(neutral)
        steps += 1
        if not (there > 0).all():  # so far that a softmax has saturated
            share *= 0.25
            continue
        still = math.log(its_goal) - np.log(there)
        jacobian += np.outer(left - still - jacobian @ step, step) / (step @ step)
        if np.linalg.norm(still) < np.linalg.norm(left):
            logs, left, traces, goal, share = logs + step, still, there, its_goal, 1.0
        else:
            share *= 0.5
    scales = np.exp(0.5 * logs)
    done = np.abs(left).max() <= math.log1p(rtol)
    return BalancedLayers(
        network=_scaled(network, only, dict(zip(layers, scales, strict=True))),
        layers=tuple(layers),
        scales=scales,
        traces_before=before,
        traces=traces,
        target=goal,
        status=Status.CONVERGED if done else Status.MAX_STEPS,
        stats={"steps": steps, "seconds": time.perf_counter() - begin},
        settings={"target": target, "keep_rate": keep_rate, "rtol": rtol, "convention": "mean over examples"},
    )


def _scaled(network: Network, only: Only, scales: dict[str, float]) -> Network:
    """The network with all selected parameters of some layers multiplied."""
    named = named_parameters(eqx.filter(network, select(network, only)))
    changed = {
        path: (leaf * jnp.asarray(scales[layer_of(path)], leaf.dtype))
        for path, leaf in named.items()
        if layer_of(path) in scales
    }
    return replace_parameters(network, changed)


def _geometric_mean(values) -> float:
    return math.exp(np.mean(np.log(values)))


def _check_alive(layers: list[str], traces: np.ndarray) -> None:
    if flat := [name for name, trace in zip(layers, traces, strict=True) if not trace > 0]:
        msg = (
            f"The loss has no positive curvature in {', '.join(flat)}, so no scale balances it. Weights behind are "
            "zero, all units there are dead, or a gradient is stopped: draw the network anew."
        )
        raise InputError(msg)


def _check(target: float | None, keep_rate: float, rtol: float, max_steps: int) -> None:
    for name, value in (("target", target), ("rtol", rtol)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            msg = f"{name} must be positive and finite, got {value}."
            raise InputError(msg)
    if not 0 < keep_rate <= 1:
        msg = f"keep_rate must lie above 0 and at most 1, got {keep_rate}."
        raise InputError(msg)
    if max_steps < 1:
        msg = f"max_steps must be at least 1, got {max_steps}."
        raise InputError(msg)
