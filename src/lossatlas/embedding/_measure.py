"""The features of a fully connected network on data, in numpy, for searches over many shapes."""

import functools as ft
import math

import jax
import numpy as np

from lossatlas.embedding._constants import LayerArrays
from lossatlas.networks import Activation


_PAD = 1 << 10


# The activation is a static argument: dispatch is then a twentieth of that of a filtered jit.
@ft.partial(jax.jit, static_argnums=0)
def _value(activation: Activation, flat):
    return activation(flat)


@ft.partial(jax.jit, static_argnums=0)
def _slope(activation: Activation, flat):
    return jax.vmap(jax.grad(activation))(flat)


def activate(activation: Activation, values: np.ndarray, *, slope: bool = False) -> np.ndarray:
    """An activation (or its derivative) on a numpy array, padded to powers of two so that few programs compile."""
    size = values.size
    flat = np.zeros(max(_PAD, 1 << max(size - 1, 0).bit_length()), values.dtype)
    flat[:size] = values.reshape(-1)
    out = (_slope if slope else _value)(activation, flat)
    return np.asarray(out)[:size].reshape(values.shape)


def received(layer: LayerArrays, features: np.ndarray) -> np.ndarray:
    """What the units of a layer receive: pre-activations of neurons, then outputs of linear units."""
    out = features @ layer.readers.T
    if layer.bias is not None:
        out[:, : layer.num_neurons] += layer.bias
    return out


def unit_outputs(layer: LayerArrays, values: np.ndarray, activation: Activation) -> np.ndarray:
    """The outputs of all units of a hidden layer from what they receive."""
    k = layer.num_neurons
    return np.concatenate([activate(activation, values[:, :k]), values[:, k:]], axis=1)


def features_of(layers: list[LayerArrays], inputs: np.ndarray, activation: Activation) -> list[np.ndarray]:
    """Inputs, the outputs of every hidden layer, predictions."""
    features = [inputs]
    for layer in layers[:-1]:
        features.append(unit_outputs(layer, received(layer, features[-1]), activation))
    return [*features, received(layers[-1], features[-1])]


def outputs_from(layers: list[LayerArrays], index: int, entering: np.ndarray, activation: Activation) -> np.ndarray:
    """The predictions from what enters layer `index`."""
    for layer in layers[index:-1]:
        entering = unit_outputs(layer, received(layer, entering), activation)
    return received(layers[-1], entering)


def output_jacobian(
    layers: list[LayerArrays], index: int, features: list[np.ndarray], activation: Activation
) -> np.ndarray:
    """The derivative of the outputs in what layer `index` receives, shape (n, outputs, units of the layer)."""
    outputs = layers[-1].num_units
    jacobian = np.broadcast_to(np.eye(outputs, dtype=features[0].dtype), (len(features[0]), outputs, outputs))
    for j in range(len(layers) - 2, index - 1, -1):
        k = layers[j].num_neurons
        slope = np.ones_like(features[j + 1])
        slope[:, :k] = activate(activation, received(layers[j], features[j])[:, :k], slope=True)
        jacobian = (jacobian @ layers[j + 1].readers) * slope[:, None, :]
    return jacobian


def downstream_lipschitz(layers: list[LayerArrays], index: int, activation: Activation) -> float:
    """A Lipschitz constant (2-norm) from what layer `index` receives to the output."""
    total = 1.0
    for layer, following in zip(layers[index:-1], layers[index + 1 :], strict=True):
        slope = 0.0 if layer.num_neurons == 0 else activation.lipschitz
        if layer.num_units > layer.num_neurons:
            slope = max(slope, 1.0)
        norm = np.linalg.norm(following.readers, 2) if following.readers.size else 0.0
        total = 0.0 if norm == 0 or slope == 0 else total * slope * norm
    return float(total) if not math.isnan(total) else math.inf


def best_lines(pre: np.ndarray, post: np.ndarray, activation: Activation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""The slope and offset with which each neuron acts on the data, and the largest deviation.

    Exact values where all pre-activations lie in one affine segment of the activation, least squares
    $\lambda = \mathrm{cov}/\mathrm{var}$ elsewhere; a neuron with constant pre-activation has slope 0.
    """
    centred = pre - pre.mean(0)
    variance = (centred**2).mean(0)
    spread = np.abs(pre).max(0, initial=0.0)
    flat = variance <= (1e-14 * spread) ** 2
    slope = np.where(flat, 0.0, (centred * (post - post.mean(0))).mean(0) / np.where(flat, 1.0, variance))
    offset = post.mean(0) - slope * pre.mean(0)
    low, high = pre.min(0), pre.max(0)
    for segment in activation.segments:
        inside = (low >= segment.lower) & (high <= segment.upper)
        slope = np.where(inside, segment.slope, slope)
        offset = np.where(inside, segment.offset, offset)
    deviation = np.abs(post - slope * pre - offset).max(0, initial=0.0)
    return slope, offset, deviation
