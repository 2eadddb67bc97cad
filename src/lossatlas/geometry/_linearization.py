"""Linearization: which neurons and layers act as affine maps on the data."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._types import Network
from lossatlas.geometry._affine import AffineMap, LayerStatistics
from lossatlas.geometry._hidden import require_dense, state_batches
from lossatlas.geometry._neurons import neuron_spaces, neuron_weights
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


class LayerLinearization(eqx.Module):
    r"""How linear one hidden layer acts on the data. z is a neuron before, f after its activation.

    - `correlation`: Pearson's, of z and f, of every neuron; +-1 is linear; 1 for constant neurons.
    - `slope`, `offset`: the best affine map $f \approx \lambda z + \mu$ of every neuron (0 and the value, for
      constants).
    - `residual`: root mean square of $r = f - \lambda z - \mu$ of every neuron.
    - `is_constant`, `is_negligible`: neurons that do not vary; those that the score leaves out for their small effect.
    - `is_linear_neuron`: |correlation| at or above the threshold, or constant.
    - `mpc`: the least |correlation| of the neurons that vary and matter; 1 where none does.
    - `score`: $\|A r\|_F / \|A (f - \bar f)\|_F$ with the reader A: the share that the next layer sees of what is
      not affine; 0 is linear. NaN where the layer passes nothing on.
    - `block_r2`: $R^2$ of the best affine map from the layer's inputs to the next pre-activations. It is 1 whenever
      there are no more examples than inputs: least squares fits them all.
    - `block_weight`, `block_bias`: that map; never worse on the data than the neurons' own affine maps.
    - `margin`: distance of z to the nearest end of the affine piece that holds all data, negative where they straddle
      pieces; None for activations without affine pieces. `kink_distance`: the least distance of any datum to a kink.
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
    block_weight: Float[Array, "o e"]
    block_bias: Float[Array, " o"]
    margin: Float[Array, " m"] | None
    kink_distance: float | None = eqx.field(static=True)
    max_change: float = eqx.field(static=True)
    rms_change: float = eqx.field(static=True)
    is_linear: bool = eqx.field(static=True)

    @property
    def num_constant(self) -> int:
        """Neurons that are constant on the data."""
        return int(self.is_constant.sum())


class Linearization(eqx.Module):
    """Linearization of all hidden layers.

    `tolerance` is in output units: the share asked for, of `output_scale`, the root mean square deviation of the
    predictions from their mean.
    """

    layers: tuple[LayerLinearization, ...]
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
    r"""Measure how close each hidden layer comes to an affine map on the data.

    The minimal Pearson correlation (MPC) of pre-activation and activation is the measure of the literature; one neuron
    decides it, so the shares that the next layer sees, the best affine map of the whole block, and the change of the
    outputs when the layer is replaced stand beside it. Three passes over the data and one for each layer, in batches
    of the landscape's `batch_size`, with float64 sums on the host, which holds all predictions.

    **Arguments:**
    - `network`: a [`lossatlas.networks.Dense`][]; its neurons are measured, linear units are linear already.
    - `landscape`: gives the inputs.
    - `threshold`: a neuron is called linear at |correlation| >= threshold, in (0, 1].
    - `tolerance`: a layer is called linear when replacing it changes no output by more than this share of the
      predictions' root mean square deviation from their mean.
    - `keep`: neurons are left out of the MPC that together hold less than 1 - keep of
      the effect |reader| std(f).

    **Returns:**
    A [`lossatlas.geometry.Linearization`][], layer by layer.

    **Raises:** `InputError` for a threshold or keep outside (0, 1], a negative tolerance, inputs that do not fit the
    network, other network classes, and states that are not finite.

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
    dense = require_dense(network, "linearization")
    readers = [np.asarray(neuron_weights(dense, space)[1], float) for space in neuron_spaces(dense)]
    statistics = [LayerStatistics(dense.activation) for _ in readers]
    for states in state_batches(dense, landscape):
        for gathered, state in zip(statistics, states, strict=True):
            gathered.add(state)
    maps = [gathered.affine() for gathered in statistics]
    for states in state_batches(dense, landscape):
        for gathered, state, affine, read in zip(statistics, states, maps, readers, strict=True):
            gathered.add_residual(state, affine, read)
    scale, changes = _output_changes(dense, landscape, maps)
    layers = tuple(
        _summary(f"hidden[{i}]", *parts, threshold=threshold, tolerance=tolerance * scale, keep=keep)
        for i, parts in enumerate(zip(statistics, maps, readers, changes, strict=True))
    )
    return Linearization(
        layers=layers,
        tolerance=tolerance * scale,
        output_scale=scale,
        stats={"seconds": time.perf_counter() - begin},
        settings={"threshold": threshold, "tolerance": tolerance, "keep": keep},
    )


def _summary(
    name: str,
    gathered: LayerStatistics,
    affine: AffineMap,
    readers: np.ndarray,
    change: tuple[float, float],
    *,
    threshold: float,
    tolerance: float,
    keep: float,
) -> LayerLinearization:
    correlation = gathered.correlation(affine)
    matters = _matters(np.linalg.norm(readers, axis=1) * gathered.deviations[1], keep)
    counted = matters & ~affine.is_constant
    weight, bias, r2 = gathered.block_map()
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
        block_weight=jnp.asarray(weight),
        block_bias=jnp.asarray(bias),
        margin=None if margin is None else jnp.asarray(margin),
        kink_distance=gathered.kink_distance if gathered.activation.kinks else None,
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


def _output_changes(
    dense: Dense, landscape: Landscape, maps: list[AffineMap]
) -> tuple[float, list[tuple[float, float]]]:
    """Deviation of the predictions from their mean, and (largest, rms) change by replacing each layer."""
    num, inputs = len(maps), landscape.inputs
    dtype = inputs.dtype
    slopes = [jnp.asarray(affine.slope, dtype) for affine in maps]
    offsets = [jnp.asarray(affine.offset, dtype) for affine in maps]
    step = landscape.batch_size or landscape.size
    largest, summed = np.zeros(num), np.zeros(num)
    batches = [inputs[start : start + step] for start in range(0, landscape.size, step)]
    nothing = jnp.full((), -1)
    outputs = [np.asarray(_replaced(dense, batch, nothing, slopes, offsets), float) for batch in batches]
    for batch, output in zip(batches, outputs, strict=True):
        for i in range(num):
            moved = np.asarray(_replaced(dense, batch, jnp.asarray(i), slopes, offsets), float) - output
            largest[i] = max(largest[i], np.abs(moved).max())
            summed[i] += (moved**2).sum()
    predictions = np.concatenate(outputs)
    scale = np.sqrt(np.mean((predictions - predictions.mean(0)) ** 2))
    rms = np.sqrt(summed / predictions.size)
    return float(scale), [(float(a), float(b)) for a, b in zip(largest, rms, strict=True)]


@eqx.filter_jit
def _replaced(dense: Dense, inputs: Array, which: Array, slopes: list[Array], offsets: list[Array]) -> Array:
    """The outputs with the neurons of one layer replaced by their affine maps; of none for which = -1."""

    def of_example(x):
        for i, (layer, slope, offset) in enumerate(zip(dense.layers, slopes, offsets, strict=False)):
            z = layer.preactivation(x)
            outputs = layer.hidden(x, dense.activation)
            affine = jnp.concatenate([slope * z + offset, outputs[z.shape[0] :]])
            x = jnp.where(which == i, affine, outputs)
        return dense.layers[-1].preactivation(x)

    return jax.vmap(of_example)(inputs)
