"""The effective number of linear units: what of a layer acts linearly, counted; cheap, for use along training."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.geometry._hidden import hidden_states, require_dense
from lossatlas.geometry._neurons import neuron_spaces, neuron_weights
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


def effective_linear_units(
    network: Network, landscape: Landscape, *, threshold: float = 0.99, floor: float = 0.05
) -> Float[Array, " layers"]:
    r"""How many linear units would do the work of what acts linearly in each hidden layer.

    All neurons that act linearly on the data pass on one linear map together; it needs as many linear units as its
    rank. With $Y$ what the next layer reads of the layer (centred over the data), and
    $Y_{lin} = \sum_j g_j \lambda_j (z_j - \bar z_j) a_j^\top$ its linear part (the linear units of the layer
    included), the count is $\sum_i \sigma_i^2 / (\sigma_i^2 + floor^2 \|Y\|_F^2)$ over the singular values $\sigma_i$
    of $Y_{lin}$: directions that carry more than the share `floor` count as one, weaker ones fade out. The gate
    $g_j = e^{-(\phi_j/\phi)^2}$, with $\cos \phi_j$ the correlation of $z_j$ and $f_j$ and $\cos \phi$ = `threshold`,
    admits neurons that act linearly. So a network of one linear unit beside nonlinear neurons gives about 1, however
    many neurons embed it; tiny leftovers give 0.
    Pure JAX: use it under `jit` and `lax.map`. Cost: one forward pass.

    **Arguments:**
    - `network`: a [`lossatlas.networks.Dense`][]. `landscape`: gives the inputs, taken at once.
    - `threshold`: correlation at which a neuron counts with weight 1/e, in (0, 1).
    - `floor`: share of the layer's effect at which a direction counts half, positive.

    **Returns:**
    One number a layer; at most the rank of the inputs, and at most what the next layer can read.

    **Raises:** `InputError` for a threshold outside (0, 1), a floor <= 0, and other network classes.
    """
    if not 0 < threshold < 1:
        msg = f"threshold must lie in (0, 1), got {threshold}."
        raise InputError(msg)
    if not 0 < floor < math.inf:
        msg = f"floor must be positive, got {floor}."
        raise InputError(msg)
    dense = require_dense(network, "effective_linear_units")
    return _effective_linear_units(dense, landscape.inputs, float(threshold), float(floor))


@eqx.filter_jit
def _effective_linear_units(dense: Dense, inputs: Array, threshold: float, floor: float) -> Float[Array, " layers"]:
    numbers = []
    states = hidden_states(dense, inputs)
    for state, space, layer in zip(states, neuron_spaces(dense), dense.layers, strict=False):
        z, f = (jnp.asarray(a) - jnp.mean(jnp.asarray(a), axis=0, keepdims=True) for a in (state.before, state.after))
        variance = jnp.sum(z * z, axis=0)
        slope = jnp.sum(z * f, axis=0) / jnp.where(variance > 0, variance, 1.0)
        explained = slope[None] * z
        angle = jnp.arctan2(jnp.linalg.norm(f - explained, axis=0), jnp.linalg.norm(explained, axis=0))
        gate = jnp.exp(-jnp.square(angle / math.acos(threshold)))
        readers = neuron_weights(dense, space)[1]
        linear, everything = (gate[None] * explained) @ readers, f @ readers
        if layer.linear is not None:
            _, unit_readers = neuron_weights(dense, dense.unit_spaces()[f"linear{space.name.removeprefix('hidden')}"])
            entering = jnp.asarray(state.entering)
            passed = (entering - jnp.mean(entering, axis=0, keepdims=True)) @ layer.linear.T @ unit_readers
            linear, everything = linear + passed, everything + passed
        squared = jnp.maximum(jnp.linalg.eigvalsh(linear.T @ linear), 0.0)
        scale = floor**2 * jnp.sum(everything**2)
        numbers.append(jnp.where(scale > 0, jnp.sum(squared / jnp.where(scale > 0, squared + scale, 1.0)), 0.0))
    return jnp.stack(numbers) if numbers else jnp.zeros(0)
