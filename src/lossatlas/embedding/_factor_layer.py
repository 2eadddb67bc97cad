"""A step that holds what reads a layer as a product of two matrices, with a layer of linear units between them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.embedding._constants import LayerArrays, arrays_of, as_network, require_dense, split_readers
from lossatlas.networks import Dense


class FactorLayer(eqx.Module):
    """Exchange the matrix of a layer, of its neurons and then its linear units, and its bias.

    - `layer`: which one, counted from 0, the output included.
    - `left`, `right`: the new matrix is `left @ right`; a layer of `right` alone, linear units without a bias, comes
      before it. Without a `left` the new matrix is `right`, and there is no new layer.
    - `bias`: the new bias of its neurons, None where it has none.
    """

    layer: int = eqx.field(static=True)
    left: Float[Array | np.ndarray, "n r"] | None
    right: Float[Array | np.ndarray, "r m"]
    bias: Float[Array | np.ndarray, " k"] | None
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Dense:
        """The step on a `Dense`.

        **Raises:** `InputError` for a network of other sizes.
        """
        dense = require_dense(network, "The step FactorLayer")
        layers = arrays_of(dense)
        expected = (len(self.right if self.left is None else self.left), self.right.shape[1])
        if self.layer >= len(layers) or layers[self.layer].readers.shape != expected:
            msg = f"The step exchanges a matrix of shape {expected} of layer {self.layer}; this network has none there."
            raise InputError(msg)
        layer = layers[self.layer]
        dtype = layer.weight.dtype
        right = jnp.asarray(self.right, dtype)
        bias = None if self.bias is None else jnp.asarray(self.bias, dtype)
        if self.left is None:
            layers[self.layer] = split_readers(layer, right, bias)
            return as_network(layers, dense.activation)
        between = LayerArrays(
            jnp.zeros((0, right.shape[1]), dtype), None if bias is None else jnp.zeros((0,), dtype), right
        )
        new = [between, split_readers(layer, jnp.asarray(self.left, dtype), bias)]
        return as_network([*layers[: self.layer], *new, *layers[self.layer + 1 :]], dense.activation)
