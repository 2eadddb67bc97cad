"""Where the search for small networks begins: random starts, and entries with one unit fewer."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._parameters import ravel
from lossatlas.geometry import dense_hessian
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Dense, DenseLayer


_STEPS = np.geomspace(1e-2, 10.0, 13)


def random_starts(
    key: PRNGKeyArray, landscape: Landscape, num_outputs: int, neurons: int, linear: int, act: Activation, num: int
) -> list[Dense]:
    """Random starts of a (k, r) network: Glorot with zero biases, and every second one with its kinks on the data.

    In the latter, a neuron has pre-activations of standard deviation between 1/2 and 4 that vanish at a random example:
    features that sit aside from the origin are otherwise missed (inputs need not be standardised).
    """
    widths = [landscape.inputs.shape[1], neurons, num_outputs]
    dtype = landscape.inputs.dtype
    starts = []
    for i in range(num):
        start_key = jax.random.fold_in(key, i)
        weight_key, kink_key = jax.random.split(start_key)
        network = Dense(weight_key, widths, activation=act, num_linear=linear, dtype=dtype)
        starts.append(_kinks_on_data(kink_key, network, landscape) if i % 2 and neurons else network)
    return starts


def _kinks_on_data(key: PRNGKeyArray, network: Dense, landscape: Landscape) -> Dense:
    w, _, lin, v, u, c = _parts(network)
    row_key, size_key = jax.random.split(key)
    rows = landscape.inputs[jax.random.randint(row_key, (w.shape[0],), 0, landscape.size)]
    spread = jnp.std(landscape.inputs @ w.T, axis=0)
    size = jnp.exp(jax.random.uniform(size_key, spread.shape, w.dtype, jnp.log(0.5), jnp.log(4.0)))
    w = w * (size / jnp.maximum(spread, 1e-12))[:, None]
    return small_network(w, -jnp.sum(w * rows, axis=1), lin, v, u, c, network.activation)


def children(network: Dense, landscape: Landscape, neurons: int, linear: int) -> list[Dense]:
    """Every start of a (neurons, linear) network that an entry with one unit fewer, or one bent unit, gives.

    One neuron more: each neuron split with shares (1/2, 1/2) and (2, -1), and a null neuron. One linear unit more:
    a null linear unit. A linear unit exchanged for a neuron: the same function up to the curvature of the activation.
    All but the last are saddles of the larger network; they are left along the direction of most negative curvature,
    both ways, by the step that lowers the loss most (card: curvature alone misleads, the realised decrease counts).
    """
    k, r = network.widths[1], network.num_linear[0]
    if (neurons, linear) == (k + 1, r):
        embedded = [_null_neuron(network)]
        for unit in range(k):
            embedded += [_split(network, unit, alpha) for alpha in (0.5, 2.0)]
    elif (neurons, linear) == (k, r + 1):
        embedded = [_null_linear(network)]
    elif (neurons, linear) == (k + 1, r - 1):
        return [_bend(network, landscape, unit) for unit in range(r)]
    else:
        return []
    return [start for point in embedded for start in _leave(point, landscape)]


def _parts(network: Dense) -> tuple:
    first, last = network.layers
    k = network.widths[1]
    linear = first.linear if first.linear is not None else jnp.zeros((0, first.weight.shape[1]), first.weight.dtype)
    return first.weight, first.bias, linear, last.weight[:, :k], last.weight[:, k:], last.bias


def small_network(weight, bias, linear, readers, linear_readers, output_bias, act: Activation) -> Dense:
    """A (k, r) network from its parts: (k, d), (k,), (r, d), (o, k), (o, r), (o,)."""
    hidden = DenseLayer(weight, bias, linear if linear.shape[0] else None)
    return Dense.from_layers([hidden, DenseLayer(jnp.hstack([readers, linear_readers]), output_bias)], act)


def _null_neuron(network: Dense) -> Dense:
    w, b, lin, v, u, c = _parts(network)
    w, b, v = jnp.pad(w, ((0, 1), (0, 0))), jnp.pad(b, (0, 1)), jnp.pad(v, ((0, 0), (0, 1)))
    return small_network(w, b, lin, v, u, c, network.activation)


def _null_linear(network: Dense) -> Dense:
    w, b, lin, v, u, c = _parts(network)
    lin, u = jnp.pad(lin, ((0, 1), (0, 0))), jnp.pad(u, ((0, 0), (0, 1)))
    return small_network(w, b, lin, v, u, c, network.activation)


def _split(network: Dense, unit: int, alpha: float) -> Dense:
    from lossatlas.embedding import split

    return split(network, "hidden[0]", unit, alpha)[0]


def _bend(network: Dense, landscape: Landscape, unit: int) -> Dense:
    """A linear unit as a neuron whose pre-activations have root mean square 1/2: tanh(t) = t - t^3/3."""
    w, b, lin, v, u, c = _parts(network)
    slope = jax.grad(network.activation)(jnp.zeros((), w.dtype))
    row, column = lin[unit], u[:, unit]
    scale = 0.5 / jnp.maximum(jnp.sqrt(jnp.mean((landscape.inputs @ row) ** 2)), 1e-12)
    gain = jnp.where(jnp.abs(slope) > 1e-6, scale * slope, scale)
    rest = np.delete(np.arange(lin.shape[0]), unit)
    return small_network(
        jnp.vstack([w, scale * row[None]]),
        jnp.append(b, 0.0),
        lin[rest],
        jnp.hstack([v, column[:, None] / gain]),
        u[:, rest],
        c,
        network.activation,
    )


def _leave(point: Dense, landscape: Landscape) -> list[Dense]:
    vector, unravel = ravel(point)
    losses, direction = _probe(vector, unravel, landscape, jnp.asarray(_STEPS, vector.dtype))
    best = np.argmin(np.where(np.isfinite(losses), losses, np.inf), axis=1)
    signs = (1.0, -1.0)
    return [unravel(vector + sign * _STEPS[i] * direction) for sign, i in zip(signs, best, strict=True)]


@eqx.filter_jit
def _probe(vector, unravel, landscape, steps):
    """The loss along the direction of most negative curvature, both ways, shape (2, steps)."""
    hessian = dense_hessian(unravel(vector), landscape)
    direction = jnp.linalg.eigh(hessian)[1][:, 0]
    signed = jnp.stack([steps, -steps])
    value = lambda t: landscape(unravel(vector + t * direction))  # noqa: E731
    return jax.lax.map(value, signed.reshape(-1)).reshape(signed.shape), direction
