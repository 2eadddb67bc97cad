"""Points whose flatness is known."""

import jax
import jax.numpy as jnp
import numpy as np

from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


def bowl(eigenvalues=None, at=None):
    """A quadratic of 12 parameters with a random basis: matrix, point and landscape."""
    rng = np.random.default_rng(0)
    values = np.logspace(-1, 1, 12) if eigenvalues is None else np.asarray(eigenvalues, float)
    basis, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    matrix = (basis * values) @ basis.T
    fn = lambda params, batch: 0.5 * jnp.einsum("i,nij,j->n", params, batch, params)  # noqa: E731
    point = jnp.zeros(len(values)) if at is None else jnp.asarray(at)
    return matrix, point, Landscape.from_function(fn, jnp.asarray(matrix)[None])


def classifier(activation="relu", *, use_bias=True, widths=(4, 6, 3)):
    """A network and a landscape with three classes, in batches."""
    network = Dense(jax.random.key(1), widths, activation=activation, use_bias=use_bias, use_output_bias=use_bias)
    keys = iter(jax.random.split(jax.random.key(5), 20))
    network = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), network)
    x = jax.random.normal(jax.random.key(2), (30, widths[0]))
    y = jnp.argmax(jax.vmap(network)(x), axis=1)
    y = y.at[:3].set((y[:3] + 1) % widths[-1])  # three of thirty are wrong
    return network, Landscape(x, y, loss="cross_entropy", batch_size=12)
