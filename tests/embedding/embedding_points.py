"""What the tests of embeddings share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas import Landscape
from lossatlas.networks import Dense, DenseLayer


def make_network(widths, activation="tanh", seed=1, *, num_linear=0, use_bias=True, use_output_bias=True) -> Dense:
    """A network with normal weights and biases of order 1 (drawn by numpy: no compilation)."""
    rng = np.random.default_rng(seed)
    linear = [num_linear] * (len(widths) - 2) if isinstance(num_linear, int) else list(num_linear)
    linear.append(0)
    layers, fan_in = [], widths[0]
    for i, (k, r) in enumerate(zip(widths[1:], linear, strict=True)):
        has_bias = use_output_bias if i == len(widths) - 2 else use_bias
        weight, bias, rows = (jnp.asarray(1.0 * rng.normal(size=shape)) for shape in ((k, fan_in), (k,), (r, fan_in)))
        layers.append(DenseLayer(weight, bias if has_bias else None, rows if r else None))
        fan_in = k + r
    return Dense.from_layers(layers, activation)


def make_inputs(n=40, d=2, seed=5):
    """Normal inputs."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)))


def random_landscape(n=40, d=2, o=2, seed=5) -> Landscape:
    """Normal inputs and targets: no network is critical here."""
    return Landscape(make_inputs(n, d, seed), make_inputs(n, o, seed + 1))


@eqx.filter_jit
def gradient(landscape, network):
    """The gradient, compiled."""
    return landscape.gradient(network)


@eqx.filter_jit
def hessian(landscape, network):
    """The dense Hessian by automatic differentiation, compiled."""
    return landscape.hessian(network)


def counts(matrix, tolerance=1e-11) -> tuple[int, int, int]:
    """Negative, zero and positive eigenvalues."""
    values = np.linalg.eigvalsh(np.asarray(matrix))
    return (
        int(np.sum(values < -tolerance)),
        int(np.sum(np.abs(values) <= tolerance)),
        int(np.sum(values > tolerance)),
    )


def outputs(network, inputs):
    """Predictions on inputs."""
    return np.asarray(_outputs(network, inputs))


@eqx.filter_jit
def _outputs(network, inputs):
    return jax.vmap(network)(inputs)


def largest(values) -> float:
    """The largest absolute entry."""
    return float(jnp.max(jnp.abs(jnp.asarray(values))))
