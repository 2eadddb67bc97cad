"""The exact trace of the Hessian of a `Dense` network, from derivatives in its pre-activations."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from lossatlas._errors import InputError
from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


def structured_products(network: Network, landscape: Landscape, only: Only, curvature: str) -> float | None:
    """About how many Hessian products the exact trace costs as much as; None where it does not apply."""
    if (
        type(network) is not Dense
        or only is not None
        or landscape.loss is None
        or landscape._example_losses is not None
    ):
        return None
    if curvature not in ("hessian", "gauss_newton"):
        return None
    outputs = network.layers[-1].num_neurons
    units = sum(layer.num_neurons + layer.num_linear for layer in network.layers)
    # A backward pass of one vector is a third of a product; a row of the curvature in the units, two.
    return outputs / 3 if _is_gauss_newton(network, curvature) else 2 * units / 3


def structured_trace(network: Network, landscape: Landscape, only: Only, curvature: str) -> float:
    r"""$\operatorname{tr} H = \frac1n \sum_i \sum_l |x^l_i|^2 \sum_a \partial^2 \ell_i / \partial (\delta^l_a)^2$.

    $x^l$ is the input of layer l, with 1 appended for a bias, and $\delta^l$ a shift of its rows: every weight enters
    through $\delta^l_a = \sum_j W^l_{aj} x^l_j$. Where the activation is piecewise linear, and for Gauss-Newton, the
    second derivative is $\sum_c (s_c^\top \partial f/\partial \delta^l_a)^2$ with $s s^\top = \ell''(f)$: a backward
    pass an output.

    **Raises:** `InputError` where it does not apply.
    """
    if structured_products(network, landscape, only, curvature) is None:
        msg = (
            "method='structured' is for all parameters of a Dense network on a landscape of inputs and targets, and "
            "for the Hessian and Gauss-Newton; use 'xtrace' here."
        )
        raise InputError(msg)
    return float(_trace(network, landscape, _is_gauss_newton(network, curvature)))


def _is_gauss_newton(network: Dense, curvature: str) -> bool:
    """Whether the trace is that of Gauss-Newton: asked for, or no unit bends between its kinks."""
    activation = network.activation
    return curvature == "gauss_newton" or (bool(activation.segments) and _is_piecewise_linear(activation))


def _is_piecewise_linear(activation) -> bool:
    """Whether the affine pieces cover the line, but for their ends."""
    pieces = sorted((segment.lower, segment.upper) for segment in activation.segments)
    ends = [-np.inf, *(upper for _, upper in pieces)]
    return all(lower == end for (lower, _), end in zip(pieces, ends, strict=False)) and ends[-1] == np.inf


@eqx.filter_jit
def _trace(network: Dense, landscape: Landscape, by_outputs: bool):
    loss = landscape._require_loss()

    def outputs(shifts, x):
        lengths = []
        for i, layer in enumerate(network.layers):
            has_bias = layer.bias is not None
            neurons, linear = shifts[i]
            z = layer.preactivation(x) + neurons
            square = jnp.sum(x**2)
            lengths.append((square + 1.0 if has_bias else square, square))
            if i == len(network.layers) - 1:
                return z, lengths
            before, x = x, network.activation(z)
            if layer.linear is not None:
                x = jnp.concatenate([x, layer.linear @ before + linear])
        raise AssertionError

    dtype = jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))[0].dtype
    zeros = [(jnp.zeros(layer.num_neurons, dtype), jnp.zeros(layer.num_linear, dtype)) for layer in network.layers]

    def weigh(second, lengths):
        return sum(
            jnp.sum(own) * length
            for pair, sizes in zip(second, lengths, strict=True)
            for own, length in zip(pair, sizes, strict=True)
        )

    def of_outputs(x, y):
        z, pull, lengths = jax.vjp(lambda shifts: outputs(shifts, x), zeros, has_aux=True)
        curvature = jax.hessian(loss.fn)(z, y)
        values, vectors = jnp.linalg.eigh(curvature)
        # A loss need not be convex: the sign stays outside of the square.
        pulled = jax.vmap(lambda v: pull(v)[0])(vectors.T)
        second = jax.tree.map(lambda a: jnp.einsum("c,ca->a", values, a**2), pulled)
        return weigh(second, lengths)

    def of_units(x, y):
        flat, unravel = ravel_pytree(zeros)
        slope = jax.grad(lambda s: loss.fn(outputs(unravel(s), x)[0], y))
        rows = jax.lax.map(lambda v: jnp.vdot(v, jax.jvp(slope, (flat,), (v,))[1]), jnp.eye(len(flat), dtype=dtype))
        return weigh(unravel(rows), outputs(zeros, x)[1])

    of_example = of_outputs if by_outputs else of_units

    def of_batch(batch, weights):
        return jnp.sum(jnp.where(weights > 0, jax.vmap(of_example)(*batch), 0.0))

    return landscape._mean(of_batch)
