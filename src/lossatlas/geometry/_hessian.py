"""The dense Hessian that critical-point solvers call many times."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_MAX_TOGETHER = 100_000  # numbers of one intermediate array (0.8 MB: it stays in the cache) before rows go one by one


def dense_hessian(network: Network, landscape: Landscape, only: Only = None) -> Float[Array, "p p"]:
    """The symmetric Hessian of the mean loss, by the layer structure where the network is `Dense`.

    The structured form costs about n p^2 / 2 multiplications in a few matrix products; p Hessian-vector products
    cost some ten times that. Anything else goes through [`lossatlas.landscape.Landscape.hessian`][].
    """
    if type(network) is Dense and only is None and landscape._example_losses is None:
        return _from_layers(network, landscape)
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(network) if isinstance(leaf, jax.Array))
    return landscape.hessian(network, only, max_size=max(size, 1))


def _from_layers(network: Dense, landscape: Landscape) -> Float[Array, "p p"]:
    r"""The Hessian from the derivatives of each example in its pre-activations.

    Let $x^l$ be the input of layer l (with 1 appended for the bias), $\delta^l$ a shift of its pre-activation rows,
    $e^l = \partial\ell/\partial\delta^l$ and $M = \partial^2\ell/\partial\delta\,\partial\delta$. A weight enters
    only through $\delta^l_a = \sum_i W^l_{ai} x^l_i$, so for $l \le l'$
    $H_{(l,a,i),(l',b,j)} = E[x^l_i (M_{(l,a),(l',b)} x^{l'}_j + e^{l'}_b\, \partial x^{l'}_j/\partial\delta^l_a)]$.
    """
    loss = landscape._require_loss()
    rows = [layer.num_neurons + layer.num_linear for layer in network.layers]
    starts = np.concatenate([[0], np.cumsum(rows)])
    num_rows = int(starts[-1])

    def inputs_and_loss(shift, x, y):
        layer_inputs = []
        for i, layer in enumerate(network.layers):
            layer_inputs.append(jnp.concatenate([x, jnp.ones((1,), x.dtype)]))
            z = layer.preactivation(x) + shift[starts[i] : starts[i] + layer.num_neurons]
            if i == len(network.layers) - 1:
                return loss.fn(z, y), layer_inputs
            x = network.activation(z)
            if layer.linear is not None:
                x = jnp.concatenate(
                    [x, layer.linear @ layer_inputs[-1][:-1] + shift[starts[i + 1] - layer.num_linear : starts[i + 1]]]
                )
        raise AssertionError

    def of_batch(batch, weights):
        zero = jnp.zeros((num_rows,), batch[0].dtype)

        def of_example(x, y):
            slope = jax.grad(inputs_and_loss, has_aux=True)
            (error, layer_inputs) = slope(zero, x, y)
            curvature, moved = jax.jacfwd(lambda s: slope(s, x, y))(zero)
            return error, layer_inputs, curvature, moved

        error, layer_inputs, curvature, moved = jax.vmap(of_example)(*batch)
        return _assemble(rows, starts, error, layer_inputs, curvature, moved, weights)

    upper = landscape._mean(of_batch)
    index = _positions(network)
    upper = upper[index][:, index]
    # Blocks below the diagonal are zero; the diagonal blocks are symmetric already.
    layer_of = np.concatenate([np.full(_layer_size(layer), i) for i, layer in enumerate(network.layers)])
    same = layer_of[:, None] == layer_of[None, :]
    return jnp.where(same, 0.5 * (upper + upper.T), upper + upper.T)


def _assemble(rows, starts, error, layer_inputs, curvature, moved, weights):
    """The block upper triangle, rows and columns ordered (layer, row, input), biases last in each row."""
    n = weights.shape[0]
    blocks = []
    for i, x in enumerate(layer_inputs):
        left = (x * weights[:, None]).T
        later = range(i, len(rows))

        def of_row(a, i=i, left=left, later=later):
            row_curvature = jnp.take(curvature, a, axis=1)
            pieces = []
            for j in later:
                block = row_curvature[:, starts[j] : starts[j + 1], None] * layer_inputs[j][:, None, :]
                if j > i:
                    block += error[:, starts[j] : starts[j + 1], None] * jnp.take(moved[j], a, axis=2)[:, None, :]
                pieces.append(block.reshape(n, -1))
            return left @ jnp.concatenate(pieces, axis=1)

        width = sum(rows[j] * layer_inputs[j].shape[1] for j in later)
        indices = jnp.arange(starts[i], starts[i + 1])
        together = max(1, _MAX_TOGETHER // max(1, n * width))
        product = jax.vmap(of_row)(indices) if together >= rows[i] else jax.lax.map(of_row, indices)
        before = sum(rows[j] * layer_inputs[j].shape[1] for j in range(i))
        block = product.reshape(rows[i] * x.shape[1], width)
        blocks.append(jnp.concatenate([jnp.zeros((block.shape[0], before), block.dtype), block], axis=1))
    return jnp.concatenate(blocks, axis=0)


def _layer_size(layer) -> int:
    return sum(a.size for a in (layer.weight, layer.bias, layer.linear) if a is not None)


def _positions(network: Dense) -> np.ndarray:
    """Where each parameter, in `ravel_pytree` order, lies in the order (layer, row, input)."""
    positions, start = [], 0
    for layer in network.layers:
        k, r, m = layer.num_neurons, layer.num_linear, layer.weight.shape[1]
        grid = start + np.arange((k + r) * (m + 1)).reshape(k + r, m + 1)
        positions.append(grid[:k, :m].ravel())
        if layer.bias is not None:
            positions.append(grid[:k, m])
        if r:
            positions.append(grid[k:, :m].ravel())
        start += (k + r) * (m + 1)
    return np.concatenate(positions)
