"""Linearization: which units and layers act as affine maps on the data."""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._affine import AffineMap, LayerStatistics
from lossatlas.geometry._hidden import state_batches
from lossatlas.geometry._neurons import neuron_spaces, neuron_weights
from lossatlas.geometry._unit_activations import Stage, UnitStages, find_stages, stage_batches
from lossatlas.geometry._unit_outputs import find_taps
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, put_units, take_units
from lossatlas.numerics import evaluate


@shown
class LayerLinearization(eqx.Module):
    r"""How linear one unit space acts on the data. z is a unit before, f after its activation.

    Of channels, tokens and steps every position counts as an example. A pooling after the activation stays: f is what
    enters it.

    - `correlation`: Pearson's, of z and f, of every neuron; +-1 is linear; 1 for constant neurons.
    - `slope`, `offset`: the best affine map $f \approx \lambda z + \mu$ of every neuron (0 and the value, for
      constants).
    - `residual`: root mean square of $r = f - \lambda z - \mu$ of every neuron.
    - `is_constant`, `is_negligible`: neurons that do not vary; those that the score leaves out for their small effect.
    - `is_linear_neuron`: |correlation| at or above the threshold, or constant.
    - `mpc`: the least |correlation| of the neurons that vary and matter; 1 where none does.
    - `score`: $\|A r\|_F / \|A (f - \bar f)\|_F$ with the reader A: the share that the next layer sees of what is
      not affine; 0 is linear. NaN where the layer passes nothing on, and of other architectures than `Dense`.
    - `block_r2`: $R^2$ of the best affine map from the layer's inputs to the next pre-activations. It is 1 whenever
      there are no more examples than inputs: least squares fits them all.
    - `block_weight`, `block_bias`: that map; never worse on the data than the neurons' own affine maps. For a `Dense`
      only: else NaN and None.
    - `margin`: distance of z to the nearest end of the affine piece that holds all data, negative where they straddle
      pieces; None for activations without affine pieces. `kink_distance`: the least distance of any datum to a kink;
      `near_kinks`: how many data lie at one, up to rounding.
    - `max_change`, `rms_change`: how much the network's outputs change when every neuron of the layer is
      replaced by its affine map, over data and outputs. `is_linear`: the largest change is within the tolerance.
    """

    name: str = eqx.field(static=True)
    correlation: Float[Array, " m"]
    slope: Float[Array, " m"]
    offset: Float[Array, " m"]
    residual: Float[Array, " m"]
    is_constant: Bool[Array, " m"]
    is_negligible: Bool[Array, " m"]
    is_linear_neuron: Bool[Array, " m"]
    mpc: float = eqx.field(static=True)
    score: float = eqx.field(static=True)
    block_r2: float = eqx.field(static=True)
    block_weight: Float[Array, "o e"] | None
    block_bias: Float[Array, " o"] | None
    margin: Float[Array, " m"] | None
    kink_distance: float | None = eqx.field(static=True)
    near_kinks: int = eqx.field(static=True)
    max_change: float = eqx.field(static=True)
    rms_change: float = eqx.field(static=True)
    is_linear: bool = eqx.field(static=True)

    @property
    def num_constant(self) -> int:
        """Neurons that are constant on the data."""
        return int(self.is_constant.sum())


@shown
class Linearization(eqx.Module):
    """Linearization of all hidden layers.

    `layers`: of other architectures the unit spaces with an activation; `unmeasured` says of the others why not.

    `tolerance` is in output units: the share asked for, of `output_scale`, the root mean square deviation of the
    predictions from their mean.
    """

    layers: tuple[LayerLinearization, ...]
    unmeasured: dict[str, str]
    tolerance: float = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def mpc(self) -> Float[Array, " layers"]:
        """The minimal Pearson correlation of each layer."""
        return jnp.asarray([layer.mpc for layer in self.layers], float)

    @property
    def linear_layers(self) -> tuple[str, ...]:
        """The layers whose replacement by an affine map stays within the tolerance, one at a time."""
        return tuple(layer.name for layer in self.layers if layer.is_linear)

    def __getitem__(self, name: str) -> LayerLinearization:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise unknown_name("hidden layer", name, [layer.name for layer in self.layers])

    def to_xarray(self):
        """The numbers of each layer as an `xarray.Dataset` over `layer`."""
        import xarray as xr

        names = ("mpc", "score", "block_r2", "max_change", "rms_change", "is_linear", "num_constant")
        return xr.Dataset(
            {name: ("layer", [getattr(layer, name) for layer in self.layers]) for name in names},
            coords={"layer": [layer.name for layer in self.layers]},
            attrs={"tolerance": self.tolerance, "output_scale": self.output_scale},
        )


def linearization(
    network: Network,
    landscape: Landscape,
    *,
    threshold: float = 0.99,
    tolerance: float = 0.01,
    keep: float = 0.999,
) -> Linearization:
    r"""Measure how close each hidden layer, or unit space, comes to an affine map on the data.

    The minimal Pearson correlation (MPC) of pre-activation and activation is the measure of the literature; one neuron
    decides it, so the shares that the next layer sees, the best affine map of the whole block, and the change of the
    outputs when the layer is replaced stand beside it. Three passes over the data and one for each layer, streamed,
    with float64 sums on the host, which holds all predictions.

    The pre-activation of a unit is what its writers put out, biases and running statistics included; it is found by
    following them through the jaxpr, so it needs no hooks. Units that are no function of one such value at the same
    position (heads, gated units, streams) are not measured.

    **Arguments:**
    - `network`: with unit spaces, its own or discovered ones; linear units are linear already.
    - `landscape`: gives the inputs.
    - `threshold`: a neuron is called linear at |correlation| >= threshold, in (0, 1].
    - `tolerance`: a layer is called linear when replacing it changes no output by more than this share of the
      predictions' root mean square deviation from their mean.
    - `keep`: neurons are left out of the MPC that together hold less than 1 - keep of
      the effect |reader| std(f).

    **Returns:**
    A [`lossatlas.geometry.Linearization`][], layer by layer.

    **Raises:** `InputError` for a threshold or keep outside (0, 1], a negative tolerance, inputs that do not fit the
    network, networks without unit spaces, and states that are not finite.

    !!! cite
        Bai, Luo, Xu and Zhang, Embedding Principle in Depth for the Loss Landscape Analysis of Deep Neural Networks,
        arXiv 2205.13283 (the MPC and its threshold 0.99).
    """
    begin = time.perf_counter()
    for name, value in (("threshold", threshold), ("keep", keep)):
        if not 0 < value <= 1:
            msg = f"{name} must lie in (0, 1], got {value}."
            raise InputError(msg)
    if not tolerance >= 0:
        msg = f"tolerance must not be negative, got {tolerance}."
        raise InputError(msg)
    if isinstance(network, Dense):
        names, statistics, maps, effects = _of_dense(network, landscape)
        scale, changes = _output_changes(_dense_forward(network, maps), len(maps), landscape)
        unmeasured: dict[str, str] = {}
    else:
        stages = find_stages(find_taps(network, landscape.inputs[0]), network)
        names, statistics, maps, effects = _of_stages(network, stages, landscape)
        scale, changes = _output_changes(_unit_forward(network, stages, maps), len(maps), landscape)
        unmeasured = stages.missing
    layers = tuple(
        _summary(*parts, threshold=threshold, tolerance=tolerance * scale, keep=keep)
        for parts in zip(names, statistics, maps, effects, changes, strict=True)
    )
    return Linearization(
        layers=layers,
        unmeasured=unmeasured,
        tolerance=tolerance * scale,
        output_scale=scale,
        stats={"seconds": time.perf_counter() - begin},
        settings={"threshold": threshold, "tolerance": tolerance, "keep": keep},
    )


Gathered = tuple[list[str], list[LayerStatistics], list[AffineMap], list[np.ndarray]]
"""Names, statistics and affine maps of the layers, and the norms of what reads each unit."""


def _of_dense(dense: Dense, landscape: Landscape) -> Gathered:
    readers = [np.asarray(neuron_weights(dense, space)[1], float) for space in neuron_spaces(dense)]
    statistics = [LayerStatistics(dense.activation) for _ in readers]
    for states in state_batches(dense, landscape):
        for gathered, state in zip(statistics, states, strict=True):
            entering, before, after, following = map(np.asarray, state)
            gathered.add(before, after)
            gathered.add_block(entering, following)
    maps = [gathered.affine() for gathered in statistics]
    for states in state_batches(dense, landscape):
        for gathered, state, affine, read in zip(statistics, states, maps, readers, strict=True):
            pair = np.asarray(state.before), np.asarray(state.after)
            gathered.add_residual(*pair, affine)
            gathered.add_read(*pair, affine, read)
    names = [f"hidden[{i}]" for i in range(len(readers))]
    return names, statistics, maps, [np.linalg.norm(read, axis=1) for read in readers]


def _of_stages(network: Network, stages: UnitStages, landscape: Landscape) -> Gathered:
    spaces = {name: stages.taps.spaces[name] for name in stages.stages}
    statistics = {name: LayerStatistics(space.activation) for name, space in spaces.items()}
    for seen in stage_batches(stages, network, landscape.inputs) if spaces else ():
        for name, (before, after) in seen.items():
            if not np.isfinite(before).all() or not np.isfinite(after).all():
                msg = (
                    f"What units of {name} receive or put out is not finite; check the parameters for NaN and overflow."
                )
                raise InputError(msg)
            statistics[name].add(before, after)
    maps = {name: gathered.affine() for name, gathered in statistics.items()}
    for seen in stage_batches(stages, network, landscape.inputs) if spaces else ():
        for name, pair in seen.items():
            statistics[name].add_residual(*pair, maps[name])
    effects = [
        np.linalg.norm(np.asarray(neuron_weights(network, space)[1], float), axis=1) for space in spaces.values()
    ]
    return list(spaces), list(statistics.values()), list(maps.values()), effects


def _summary(
    name: str,
    gathered: LayerStatistics,
    affine: AffineMap,
    effects: np.ndarray,
    change: tuple[float, float],
    *,
    threshold: float,
    tolerance: float,
    keep: float,
) -> LayerLinearization:
    correlation = gathered.correlation(affine)
    matters = _matters(effects * gathered.deviations[1], keep)
    counted = matters & ~affine.is_constant
    weight, bias, r2 = (None, None, float("nan")) if gathered.factor is None else gathered.block_map()
    margin = gathered.margin()
    return LayerLinearization(
        name=name,
        correlation=jnp.asarray(correlation),
        slope=jnp.asarray(affine.slope),
        offset=jnp.asarray(affine.offset),
        residual=jnp.asarray(gathered.residual()),
        is_constant=jnp.asarray(affine.is_constant),
        is_negligible=jnp.asarray(~matters),
        is_linear_neuron=jnp.asarray(np.abs(correlation) >= threshold),
        mpc=float(np.abs(correlation[counted]).min(initial=1.0)),
        score=gathered.score(),
        block_r2=r2,
        block_weight=None if weight is None else jnp.asarray(weight),
        block_bias=None if bias is None else jnp.asarray(bias),
        margin=None if margin is None else jnp.asarray(margin),
        kink_distance=gathered.kink_distance if gathered.activation and gathered.activation.kinks else None,
        near_kinks=gathered.near_kinks,
        max_change=change[0],
        rms_change=change[1],
        is_linear=change[0] <= tolerance,
    )


def _matters(effects: np.ndarray, keep: float) -> np.ndarray:
    """The neurons of largest effect that together hold the share `keep` of it."""
    order = np.argsort(-effects, kind="stable")
    ordered = effects[order]
    matters = np.zeros(len(effects), bool)
    matters[order] = (np.cumsum(ordered) - ordered < keep * ordered.sum()) & (ordered > 0)
    return matters


Forward = Callable[[Array, Array], Array | np.ndarray]
"""The outputs on a batch with the units of one layer, counted from 0, replaced by their affine maps; none for -1."""


def _output_changes(forward: Forward, num: int, landscape: Landscape) -> tuple[float, list[tuple[float, float]]]:
    """Deviation of the predictions from their mean, and (largest, rms) change by replacing each layer."""
    inputs = landscape.inputs
    step = landscape.batch_size or landscape.size
    largest, summed = np.zeros(num), np.zeros(num)
    batches = [inputs[start : start + step] for start in range(0, landscape.size, step)]
    outputs = [np.asarray(forward(batch, jnp.full((), -1)), float) for batch in batches]
    for batch, output in zip(batches, outputs, strict=True):
        for i in range(num):
            moved = np.asarray(forward(batch, jnp.asarray(i)), float) - output
            largest[i] = max(largest[i], np.abs(moved).max())
            summed[i] += (moved**2).sum()
    predictions = np.concatenate(outputs)
    scale = np.sqrt(np.mean((predictions - predictions.mean(0)) ** 2))
    rms = np.sqrt(summed / predictions.size)
    return float(scale), [(float(a), float(b)) for a, b in zip(largest, rms, strict=True)]


def _as_arrays(maps: list[AffineMap], dtype: Any) -> list[tuple[Array, Array]]:
    return [(jnp.asarray(affine.slope, dtype), jnp.asarray(affine.offset, dtype)) for affine in maps]


def _dense_forward(dense: Dense, maps: list[AffineMap]) -> Forward:
    arrays = _as_arrays(maps, dense.layers[0].weight.dtype)
    return lambda batch, which: _replaced(dense, batch, which, arrays)


@eqx.filter_jit
def _replaced(dense: Dense, inputs: Array, which: Array, maps: list[tuple[Array, Array]]) -> Array:
    def of_example(x):
        for i, (layer, (slope, offset)) in enumerate(zip(dense.layers, maps, strict=False)):
            z = layer.preactivation(x)
            outputs = layer.hidden(x, dense.activation)
            affine = jnp.concatenate([slope * z + offset, outputs[z.shape[0] :]])
            x = jnp.where(which == i, affine, outputs)
        return dense.layers[-1].preactivation(x)

    return jax.vmap(of_example)(inputs)


def _unit_forward(network: Network, stages: UnitStages, maps: list[AffineMap]) -> Forward:
    arrays = _as_arrays(maps, next(iter(named_arrays(network).values())).dtype)
    rows = stages.taps.batch_rows()

    def forward(batch, which):
        blocks = [batch[i : i + rows] for i in range(0, len(batch), rows)]
        return np.concatenate([_with_stand_ins(stages, network, block, which, arrays) for block in blocks])

    return forward


@eqx.filter_jit
def _with_stand_ins(
    stages: UnitStages, network: Network, inputs: Array, which: Array, maps: list[tuple[Array, Array]]
) -> Array:
    changes = {}
    for i, (name, found) in enumerate(stages.stages.items()):
        for stage in found:
            changes[stage.after] = _stand_in(stage, stages.taps.spaces[name].size, which == i, *maps[i])
    leaves = list(named_arrays(network).values())
    return jax.vmap(lambda x: evaluate(stages.taps.closed, [*leaves, x], changes=changes)[0][0])(inputs)


def _stand_in(stage: Stage, size: int, is_here: Array, slope: Array, offset: Array):
    def change(value, seen):
        if stage.before is stage.after:
            return value
        z = take_units(seen[stage.before], stage.axis, size)
        slopes, offsets = (jnp.expand_dims(a, (*range(z.ndim - 2), -1)) for a in (slope, offset))
        fit = (slopes * z + offsets).astype(value.dtype)
        return jnp.where(is_here, put_units(value, stage.axis, size, fit), value)

    return change
