"""Steps on the layers of a fully connected network: fold, linearise, refit, merge. Arrays of numpy or of JAX."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._constants import (
    LayerArrays,
    arrays_of,
    as_network,
    can_shift,
    fold_constants,
    layer_of,
    require_dense,
    shift_layer,
    split_readers,
)
from lossatlas.embedding._selection import Selection, on_units
from lossatlas.embedding._unit_map import UnitMap
from lossatlas.networks import Dense


class FoldConstants(eqx.Module):
    """Add the constant outputs of some units of a layer to the biases that follow (the units are dropped next)."""

    layer: int = eqx.field(static=True)
    constants: Float[Array | np.ndarray, " units"]
    note: str = eqx.field(static=True, default="")

    def on_arrays(self, layers: list[LayerArrays]) -> list[LayerArrays]:
        """The step on layer arrays."""
        return fold_constants(layers, self.layer, _like(self.constants, layers))

    def apply(self, network: Network) -> Network:
        """The step on a `Dense`."""
        return _on_network(self, network)


class Linearise(eqx.Module):
    r"""Turn neurons $\sigma(w \cdot f + b)$ into linear units $\lambda\, w \cdot f$, with $\lambda b + \mu$ in biases.

    The new linear units come after the present ones, in the order of `neurons`.
    """

    layer: int = eqx.field(static=True)
    neurons: tuple[int, ...] = eqx.field(static=True)
    slope: Float[Array | np.ndarray, " p"]
    offset: Float[Array | np.ndarray, " p"]
    note: str = eqx.field(static=True, default="")

    def on_arrays(self, layers: list[LayerArrays]) -> list[LayerArrays]:
        """The step on layer arrays."""
        layer = layers[self.layer]
        xp = layer.weight.__array_namespace__()
        slope, offset = _like(self.slope, layers), _like(self.offset, layers)
        chosen = np.asarray(self.neurons, dtype=int)
        kept = np.setdiff1d(np.arange(layer.num_neurons), chosen)
        constants = offset if layer.bias is None else slope * layer.bias[chosen] + offset
        spread = on_units(Selection(chosen, np.ones(len(chosen)), layer.num_units).T, constants)
        if can_shift(layers, self.layer + 1):
            layers = fold_constants(layers, self.layer, spread)
        rows = slope[:, None] * layer.weight[chosen]
        linear = rows if layer.linear is None else xp.concat([layer.linear, rows])
        bias = None if layer.bias is None else layer.bias[kept]
        order = np.concatenate([kept, np.arange(layer.num_neurons, layer.num_units), chosen])
        following = layers[self.layer + 1]
        layers = list(layers)
        layers[self.layer] = LayerArrays(layer.weight[kept], bias, linear)
        layers[self.layer + 1] = split_readers(following, following.readers[:, order], following.bias)
        return layers

    def apply(self, network: Network) -> Network:
        """The step on a `Dense`."""
        return _on_network(self, network)


class Refit(eqx.Module):
    """Exchange a hidden layer and its readers by fitted ones; `shift` is added to what the next layer receives."""

    layer: int = eqx.field(static=True)
    weight: Float[Array | np.ndarray, "k m"]
    bias: Float[Array | np.ndarray, " k"] | None
    linear: Float[Array | np.ndarray, "r m"]
    readers: Float[Array | np.ndarray, "q units"]
    shift: Float[Array | np.ndarray, " q"]
    note: str = eqx.field(static=True, default="")

    def on_arrays(self, layers: list[LayerArrays]) -> list[LayerArrays]:
        """The step on layer arrays."""
        following = layers[self.layer + 1]
        new = list(layers)
        bias = None if self.bias is None else _like(self.bias, layers)
        new[self.layer] = LayerArrays(_like(self.weight, layers), bias, _like(self.linear, layers))
        new[self.layer + 1] = split_readers(following, _like(self.readers, layers), following.bias)
        return shift_layer(new, self.layer + 1, _like(self.shift, layers))

    def apply(self, network: Network) -> Network:
        """The step on a `Dense`."""
        return _on_network(self, network)


class MergeLayer(eqx.Module):
    r"""Remove a hidden layer whose neurons act as $\lambda_j t + \mu_j$; its linear units need nothing.

    $W_{new} = U\,\mathrm{diag}(\lambda)\,V$ and $b_{new} = b + U(\lambda b' + \mu)$, with V, b' of the removed layer
    and U, b of the next one. Near an exact lift this is the map $\Phi$ with
    $R_{deep} = R_{shallow} \circ \Phi$ (Bai et al. 2022).

    - `layer`: which hidden layer, counted from 0. `slope`, `offset`: $\lambda$ and $\mu$ of its neurons.
    """

    layer: int = eqx.field(static=True)
    slope: Float[Array | np.ndarray, " k"]
    offset: Float[Array | np.ndarray, " k"]
    note: str = eqx.field(static=True, default="")

    def on_arrays(self, layers: list[LayerArrays]) -> list[LayerArrays]:
        """The step on layer arrays."""
        i, layer = self.layer, layers[self.layer]
        xp = layer.weight.__array_namespace__()
        slope, offset = _like(self.slope, layers), _like(self.offset, layers)
        constants = offset if layer.bias is None else slope * layer.bias + offset
        rest = xp.zeros(layer.num_units - layer.num_neurons, dtype=layer.weight.dtype)
        if can_shift(layers, i + 1):
            layers = fold_constants(layers, i, xp.concat([constants, rest]))
        following = layers[i + 1]
        rows = slope[:, None] * layer.weight
        if layer.linear is not None:
            rows = xp.concat([rows, layer.linear])
        merged = split_readers(following, following.readers @ rows, following.bias)
        return [*layers[:i], merged, *layers[i + 2 :]]

    def apply(self, network: Network) -> Network:
        """The step on a `Dense`."""
        return _on_network(self, network)


class UnitStep(eqx.Module):
    """A [`lossatlas.embedding.UnitMap`][] that narrows, usable on layer arrays too."""

    map: UnitMap

    @property
    def layer(self) -> int:
        """The layer of the space."""
        return layer_of(self.map.space)[1]

    @property
    def note(self) -> str:
        """What the step does, in words."""
        return self.map.note

    def on_arrays(self, layers: list[LayerArrays]) -> list[LayerArrays]:
        """The step on layer arrays."""
        kind, i = layer_of(self.map.space)
        layer, following = layers[i], layers[i + 1]
        xp = layer.weight.__array_namespace__()
        k, readers = layer.num_neurons, following.readers
        layers = list(layers)

        def made(array: Any) -> Any:
            return on_units(self.map.writers, array)

        def read(array: Any) -> Any:
            return on_units(self.map.readers, array.T).T

        if kind == "hidden":
            bias = None if layer.bias is None else made(layer.bias)
            layers[i] = LayerArrays(made(layer.weight), bias, layer.linear)
            readers = xp.concat([read(readers[:, :k]), readers[:, k:]], axis=1)
        else:
            layers[i] = LayerArrays(layer.weight, layer.bias, made(layer.linear))
            readers = xp.concat([readers[:, :k], read(readers[:, k:])], axis=1)
        layers[i + 1] = split_readers(following, readers, following.bias)
        return layers

    def apply(self, network: Network) -> Network:
        """The step on any network with the space."""
        return self.map.apply(network)


def merge_defect(layer: LayerArrays, following: LayerArrays, slope: np.ndarray, rtol: float = 1e-9) -> int:
    r"""$(q - \mathrm{rank}\,U\Lambda)(m - \mathrm{rank}\,\Lambda V)$: 0 when merging keeps critical points critical."""
    scale = np.concatenate([np.asarray(slope, float), np.ones(layer.num_units - layer.num_neurons)])
    leaving = np.asarray(following.readers, dtype=float) * scale
    entering = scale[:, None] * np.asarray(layer.readers, dtype=float)
    return (leaving.shape[0] - numerical_rank(leaving, rtol)) * (entering.shape[1] - numerical_rank(entering, rtol))


def numerical_rank(matrix: np.ndarray, rtol: float = 1e-9) -> int:
    """How many singular values lie above `rtol` times the largest."""
    if 0 in matrix.shape:
        return 0
    values = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(values > rtol * values[0])) if values[0] > 0 else 0


def _like(value: Any, layers: list[LayerArrays]) -> Any:
    """The array in the namespace and precision of the layers."""
    model = layers[0].weight
    if isinstance(model, np.ndarray):
        return np.asarray(value, dtype=model.dtype)
    return jnp.asarray(value, dtype=model.dtype)


def _on_network(step: Any, network: Network) -> Dense:
    dense = require_dense(network, f"The step {type(step).__name__}")
    if step.layer >= len(dense.layers) - 1:
        msg = f"The step changes hidden layer {step.layer}; this network has {len(dense.layers) - 1}."
        raise InputError(msg)
    return as_network(step.on_arrays(arrays_of(dense)), dense.activation)
