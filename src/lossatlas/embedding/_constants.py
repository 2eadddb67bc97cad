"""Constants that units put out, folded into the biases that they feed (fully connected networks)."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.networks import Activation, Dense, DenseLayer


class LayerArrays(NamedTuple):
    """The arrays of one layer, of numpy or of JAX; `linear` is None without linear units."""

    weight: Any
    bias: Any
    linear: Any

    @property
    def readers(self) -> Any:
        """What reads the previous layer: rows of neurons, then of linear units."""
        if self.linear is None:
            return self.weight
        return self.weight.__array_namespace__().concat([self.weight, self.linear])

    @property
    def num_neurons(self) -> int:
        """How many neurons the layer has."""
        return self.weight.shape[0]

    @property
    def num_units(self) -> int:
        """How many neurons and linear units the layer has."""
        return self.weight.shape[0] + (0 if self.linear is None else self.linear.shape[0])


def arrays_of(network: Dense) -> list[LayerArrays]:
    """The layers of a network as tuples of arrays."""
    return [LayerArrays(layer.weight, layer.bias, layer.linear) for layer in network.layers]


def as_network(layers: list[LayerArrays], activation: Activation) -> Dense:
    """The network of given layer arrays; linear parts without units become None."""
    made = []
    for layer in layers:
        linear = None if layer.linear is None or layer.linear.shape[0] == 0 else jnp.asarray(layer.linear)
        bias = None if layer.bias is None else jnp.asarray(layer.bias)
        made.append(DenseLayer(jnp.asarray(layer.weight), bias, linear))
    return Dense.from_layers(made, activation)


def require_dense(network: Network, what: str) -> Dense:
    """The network itself.

    **Raises:** `InputError` unless it is a `Dense`.
    """
    if not isinstance(network, Dense):
        msg = f"{what} needs a lossatlas.networks.Dense, got {type(network).__name__}."
        raise InputError(msg)
    return network


def split_readers(layer: LayerArrays, readers: Any, bias: Any) -> LayerArrays:
    """The layer with the stacked readers exchanged: neurons first, then linear units."""
    k = layer.num_neurons
    return LayerArrays(readers[:k], bias, None if layer.linear is None else readers[k:])


def can_shift(layers: list[LayerArrays], index: int, *, through_linear: bool = True) -> bool:
    """Whether a constant added to the units of a layer can be held by biases.

    A neuron needs the bias of its layer; a linear unit passes the constant on to the layers that follow.
    """
    layer = layers[index]
    if layer.num_neurons and layer.bias is None:
        return False
    if layer.linear is None or layer.linear.shape[0] == 0 or not through_linear:
        return True
    return can_shift(layers, index + 1)


def shift_layer(layers: list[LayerArrays], index: int, shift: Any) -> list[LayerArrays]:
    """Add a constant vector to what the units of a layer receive, by changing biases only.

    **Arguments:**
    - `shift`: one entry per unit of layer `index`, neurons first; the constant of a linear unit goes through its
      readers to the next bias, since a linear unit has none.
    """
    layers = list(layers)
    while True:
        layer = layers[index]
        k = layer.num_neurons
        bias = layer.bias if layer.bias is None else layer.bias + shift[:k]
        layers[index] = LayerArrays(layer.weight, bias, layer.linear)
        if layer.linear is None or layer.linear.shape[0] == 0:
            return layers
        shift = layers[index + 1].readers[:, k:] @ shift[k:]
        index += 1


def fold_constants(layers: list[LayerArrays], index: int, constants: Any) -> list[LayerArrays]:
    """Add `readers @ constants` to the biases: what the next layer receives when unit i puts out constants[i] more.

    **Arguments:**
    - `index`: the layer whose units put out the constants; one entry per unit, neurons first.
    """
    return shift_layer(layers, index + 1, layers[index + 1].readers @ constants)


def layer_of(space: str) -> tuple[str, int]:
    """`"hidden[2]"` as kind and layer index."""
    match = re.fullmatch(r"(hidden|linear)\[(\d+)\]", space)
    if match is None:
        msg = f"{space!r} is no unit space of a Dense network."
        raise InputError(msg)
    return match[1], int(match[2])


def shift_cotangent(network: Network, space: str, gradient: Network) -> dict[str, Array] | None:
    r"""The gradient in a constant that is added to what reads a space, by parameter path of the readers.

    By the chain rule it is the pull-back of the gradient through [`shift_layer`][], e.g. dR/db of the next layer.
    None where the architecture has no bias that could hold the constant.
    """
    if not isinstance(network, Dense) or not isinstance(gradient, Dense):
        return None
    _, i = layer_of(space)
    layers = arrays_of(network)
    if not can_shift(layers, i + 1):
        return None
    following = layers[i + 1]
    zero = jnp.zeros(following.num_units, following.weight.dtype)

    def biases(shift):
        return [layer.bias for layer in shift_layer(layers, i + 1, shift)]

    _, pull = jax.vjp(biases, zero)
    (pulled,) = pull([layer.bias for layer in gradient.layers])
    k = following.num_neurons
    return {f"layers[{i + 1}].weight": pulled[:k], f"layers[{i + 1}].linear": pulled[k:]}
