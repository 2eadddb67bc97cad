"""What the tests of embeddings share."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas import Landscape
from lossatlas.networks import Dense


def make_network(widths, activation="tanh", seed=0, **options) -> Dense:
    """A network with weights and biases of order 1."""
    network = Dense(jax.random.key(seed), widths, activation=activation, **options)
    leaves, treedef = jax.tree.flatten(network)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [0.7 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


def make_inputs(n=40, d=2, seed=5):
    """Normal inputs."""
    return jax.random.normal(jax.random.key(seed), (n, d))


def random_landscape(n=40, d=2, o=2, seed=5) -> Landscape:
    """Normal inputs and targets: no network is critical here."""
    return Landscape(make_inputs(n, d, seed), jax.random.normal(jax.random.key(seed + 1), (n, o)))


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
    return np.asarray(jax.vmap(network)(inputs))


def largest(values) -> float:
    """The largest absolute entry."""
    return float(jnp.max(jnp.abs(jnp.asarray(values))))
