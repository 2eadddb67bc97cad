"""Products of curvature matrices for algorithms that are driven from the host."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import num_parameters, select
from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape


Curvature = Literal["hessian", "gauss_newton", "fisher", "sampled_fisher", "empirical_fisher"]
Loop = Literal["auto", "host", "device"]

CURVATURES = {
    "hessian": "Hessian",
    "gauss_newton": "Gauss-Newton matrix",
    "fisher": "Fisher matrix",
    "sampled_fisher": "sampled Fisher matrix",
    "empirical_fisher": "empirical Fisher matrix",
}
LOOPS = ("auto", "host", "device")


class CurvatureProducts:
    """Counted products of a curvature matrix of the mean loss with host vectors.

    Without batches the matrix is linearized once, and what the derivatives need stays on the device. With batches each
    product goes over the data again, in a compiled loop on the device, or in one on the host that calls one compiled
    program for each batch: convolutions are 6 to 14 times slower inside a compiled loop on a CPU.

    **Arguments:**
    - `curvature`: which matrix; see [`lossatlas.geometry.spectrum`][]. `key`, `num_samples`: of the sampled Fisher.
    - `loop`: over batches: `"host"`, `"device"`, or `"auto"`: the host's for convolutions on a CPU.
    """

    def __init__(
        self,
        network: Network,
        landscape: Landscape,
        only: Only = None,
        *,
        curvature: Curvature = "hessian",
        key: PRNGKeyArray | None = None,
        num_samples: int = 1,
        loop: Loop = "auto",
    ):
        if curvature not in CURVATURES:
            raise unknown_name("curvature", curvature, CURVATURES)
        if loop not in LOOPS:
            raise unknown_name("loop", loop, LOOPS)
        self.network, self.landscape, self.kind = network, landscape, curvature
        self.selected = select(network, only)
        self.size = num_parameters(network, self.selected)
        arrays = jax.tree.leaves(eqx.filter(network, self.selected))
        self.dtype = np.result_type(*(leaf.dtype for leaf in arrays))
        self.count = 0
        self.slopes = None
        if curvature in ("sampled_fisher", "empirical_fisher"):
            self.slopes = _slopes(network, landscape, curvature, key, num_samples)
        self._linear = None
        if landscape.batch_size is None:
            self._linear = _linearized(network, landscape, self.selected, curvature, self.slopes)
        elif loop == "auto":
            slow = jax.default_backend() == "cpu" and _has_convolutions(network, landscape)
            loop = "host" if slow else "device"
        self.loop = loop

    def __call__(self, vector: np.ndarray) -> np.ndarray:
        """One product, in the dtype of the parameters."""
        self.count += 1
        image = np.asarray(self._image(jnp.asarray(vector, self.dtype)))
        if not np.isfinite(image).all():
            raise not_finite()
        return image

    def traceable(self) -> Callable[[jax.Array], jax.Array]:
        """The product as a pytree that compiled programs take as an argument and call; batches are looped inside."""
        if self._linear is not None:
            return self._linear
        return jax.tree_util.Partial(_streamed, (self.network, self.landscape, self.selected, self.kind, self.slopes))

    def _image(self, vector: jax.Array) -> Any:
        if self._linear is not None:
            return _apply(self._linear, vector)
        if self.loop == "device":
            return _product(self.network, self.landscape, self.selected, self.kind, self.slopes, vector)
        total, size = 0.0, self.landscape.size
        for index in _batches(size, self.landscape.batch_size or size):
            slopes = None if self.slopes is None else self.slopes[index]
            part = self.landscape.subset(index)
            image = _product(self.network, part, self.selected, self.kind, slopes, vector)
            total = total + (part.size / size) * image
        return total

    def dense(self) -> np.ndarray:
        """The whole matrix, symmetrised: `size` products and `size**2` numbers."""
        self.count += self.size
        matrix = np.asarray(_dense(self.network, self.landscape, self.selected, self.kind, self.slopes))
        if not np.isfinite(matrix).all():
            msg = "The Hessian is not finite at this network; check the parameters and the data for NaN and overflow."
            raise InputError(msg)
        return matrix

    def diagonal(self) -> np.ndarray:
        """The diagonal of the matrix: `size` products, in the memory of one."""
        self.count += self.size
        return np.asarray(_diagonal(self.network, self.landscape, self.selected, self.kind, self.slopes))


def not_finite() -> InputError:
    """The error of a product that is not finite."""
    return InputError(
        "A Hessian product is not finite: the loss or its second derivative is NaN or infinite at this network."
        " Check the parameters (named_parameters(network)) and the data for NaN and overflow."
    )


def curvature_operator(
    network: Network, landscape: Landscape, only: Only, kind: Curvature, slopes: jax.Array | None
) -> lx.AbstractLinearOperator:
    """The matrix as an operator; `slopes` as of a sampled or empirical Fisher matrix."""
    if kind == "hessian":
        return landscape.hessian_operator(network, only)
    if kind == "gauss_newton":
        return landscape.gauss_newton_operator(network, only)
    if slopes is None:
        return landscape.fisher_operator(network, only)
    return landscape._slope_operator(network, only, slopes)


def _batches(size: int, at_most: int) -> list[slice]:
    """Slices of nearly equal length, so that at most two programs are compiled."""
    num = -(-size // at_most)
    bounds = np.linspace(0, size, num + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _has_convolutions(network: Network, landscape: Landscape) -> bool:
    few = landscape.subset(slice(1))
    arrays, static = eqx.partition(network, eqx.is_array)
    jaxpr = jax.make_jaxpr(lambda a: few(eqx.combine(a, static)))(arrays)
    return "conv_general_dilated" in str(jaxpr)


@eqx.filter_jit
def _slopes(network, landscape, kind, key, num_samples):
    return landscape._slopes(network, kind, key, num_samples)


@eqx.filter_jit
def _linearized(network, landscape, selected, kind, slopes):
    """The linear map with what it needs; a network of the same structure gives one that the same program applies."""
    operator = curvature_operator(network, landscape, selected, kind, slopes)
    structure = operator.in_structure()
    return jax.linearize(operator.mv, jnp.zeros(structure.shape, structure.dtype))[1]


@eqx.filter_jit
def _apply(linear, vector):
    return linear(vector)


def _streamed(parts, vector):
    return curvature_operator(*parts).mv(vector)


@eqx.filter_jit
def _product(network, landscape, selected, kind, slopes, vector):
    return curvature_operator(network, landscape, selected, kind, slopes).mv(vector)


@eqx.filter_jit
def _dense(network, landscape, selected, kind, slopes):
    if kind == "hessian":
        return landscape.hessian(network, selected, max_size=num_parameters(network, selected))
    operator = curvature_operator(network, landscape, selected, kind, slopes)
    matrix = jax.lax.map(operator.mv, jnp.eye(operator.in_size(), dtype=operator.in_structure().dtype), batch_size=64)
    return 0.5 * (matrix + matrix.T)


@eqx.filter_jit
def _diagonal(network, landscape, selected, kind, slopes):
    operator = curvature_operator(network, landscape, selected, kind, slopes)
    size, dtype = operator.in_size(), operator.in_structure().dtype
    return jax.lax.map(lambda i: operator.mv(jnp.zeros(size, dtype).at[i].set(1.0))[i], jnp.arange(size))


def host_generator(key) -> np.random.Generator:
    """The numpy generator of a typed key: the same key gives the same host vectors."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())


def random_signs(rng: np.random.Generator, products: CurvatureProducts) -> np.ndarray:
    """A vector of independent signs: of all random probes the one of least variance for a trace."""
    return rng.choice(np.array([-1.0, 1.0], products.dtype), products.size)
