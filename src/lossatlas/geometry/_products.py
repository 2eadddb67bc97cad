"""Hessian products for algorithms that are driven from the host."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters, select
from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape


class HessianProducts:
    """Counted products of the Hessian of the mean loss with host vectors.

    On a CPU a Krylov method driven from the host by one jitted product is faster than one compiled loop: the
    reorthogonalisation touches only the rows in use, and convolutions are not slowed down by the loop.
    """

    def __init__(self, network: Network, landscape: Landscape, only: Only = None):
        self.network, self.landscape = network, landscape
        self.selected = select(network, only)
        self.size = num_parameters(network, self.selected)
        arrays = jax.tree.leaves(eqx.filter(network, self.selected))
        self.dtype = np.result_type(*(leaf.dtype for leaf in arrays))
        self.count = 0

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """One product, in the dtype of the parameters."""
        self.count += 1
        image = np.asarray(_product(self.network, self.landscape, self.selected, jnp.asarray(vector, self.dtype)))
        if not np.isfinite(image).all():
            msg = (
                "A Hessian product is not finite: the loss or its second derivative is NaN or infinite at this network."
                " Check the parameters (named_parameters(network)) and the data for NaN and overflow."
            )
            raise InputError(msg)
        return image

    def dense(self) -> np.ndarray:
        """The whole Hessian, symmetrised: `size` products and `size**2` numbers."""
        self.count += self.size
        matrix = np.asarray(_dense(self.network, self.landscape, self.selected))
        if not np.isfinite(matrix).all():
            msg = "The Hessian is not finite at this network; check the parameters and the data for NaN and overflow."
            raise InputError(msg)
        return matrix

    def diagonal(self) -> np.ndarray:
        """The diagonal of the Hessian: `size` products, in the memory of one."""
        self.count += self.size
        return np.asarray(_diagonal(self.network, self.landscape, self.selected))


@eqx.filter_jit
def _product(network, landscape, selected, vector):
    return landscape.hessian_operator(network, selected).mv(vector)


@eqx.filter_jit
def _dense(network, landscape, selected):
    return landscape.hessian(network, selected, max_size=num_parameters(network, selected))


@eqx.filter_jit
def _diagonal(network, landscape, selected):
    operator = landscape.hessian_operator(network, selected)
    size, dtype = operator.in_size(), operator.in_structure().dtype
    return jax.lax.map(lambda i: operator.mv(jnp.zeros(size, dtype).at[i].set(1.0))[i], jnp.arange(size))


def host_generator(key) -> np.random.Generator:
    """The numpy generator of a typed key: the same key gives the same host vectors."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def random_signs(rng: np.random.Generator, products: HessianProducts) -> np.ndarray:
    """A vector of independent signs: of all random probes the one of least variance for a trace."""
    return rng.choice(np.array([-1.0, 1.0], products.dtype), products.size)
