"""The landscape in relative coordinates: every parameter in units of its own present value."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lossatlas._parameters import Buffer, select
from lossatlas._types import Network, Only
from lossatlas.landscape import Landscape


class RelativePoint(eqx.Module):
    r"""A network whose parameters are factors u of another's, $\theta_i = u_i w_i$; at u = 1 it is that network.

    - `factors`: the parameters, shaped like the selected ones of the network. `values`: w, held as buffers.
    - `rest`: all else of the network.
    """

    factors: PyTree
    values: PyTree
    rest: PyTree

    def network(self) -> Network:
        """The network that the factors make."""
        made = jax.tree.map(lambda u, buffer: u * buffer.value, self.factors, self.values)
        return eqx.combine(made, _opened(self.rest))


@dataclasses.dataclass(frozen=True)
class _Losses:
    """The losses of a batch as a function of the factors. `landscape` is without its data, so it can be compared."""

    landscape: Landscape

    def __call__(self, point: RelativePoint, batch: Any) -> Float[Array, " b"]:
        return self.landscape._losses_of(point.network(), batch)


@dataclasses.dataclass(frozen=True)
class _Predictions:
    landscape: Landscape

    def __call__(self, point: RelativePoint, batch: Any) -> Array:
        return self.landscape._predictions_of(point.network(), batch)


def relative_point(network: Network, landscape: Landscape, *, only: Only = None) -> tuple[RelativePoint, Landscape]:
    r"""The same point with every parameter measured in units of its own value.

    With $\theta_i = u_i w_i$ the gradient at u = 1 is $w_i \partial_i R$ and the Hessian $D H D$, $D =
    \operatorname{diag}(w)$. A change of the scale of homogeneous units, and any other rescaling of parameters
    that keeps the function, leaves both as they are, so what is measured here says something of the function.
    Whatever measures a point of a landscape takes the pair: [`lossatlas.geometry.trace`][] gives
    $\sum_i w_i^2 H_{ii}$, [`lossatlas.geometry.spectrum`][] the spectrum of $D H D$. A parameter that is zero counts
    for nothing.

    **Arguments:**
    - `only`: a parameter filter; the others stay fixed.

    **Returns:**
    The point and the landscape in its factors.
    """
    chosen, others = eqx.partition(network, select(network, only))
    point = RelativePoint(jax.tree.map(jnp.ones_like, chosen), jax.tree.map(Buffer, chosen), _closed(others))
    bare = eqx.tree_at(lambda la: la.batch, landscape, None)
    moved = Landscape.from_function(
        _Losses(bare), landscape.batch, _Predictions(bare), loss=landscape.loss, batch_size=landscape.batch_size
    )
    return point, moved


def _closed(rest: PyTree) -> PyTree:
    """Every inexact array as a buffer, so that it is no parameter."""
    return jax.tree.map(lambda leaf: _Fixed(Buffer(leaf)) if eqx.is_inexact_array(leaf) else leaf, rest)


def _opened(rest: PyTree) -> PyTree:
    is_fixed = lambda leaf: isinstance(leaf, _Fixed)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.buffer.value if is_fixed(leaf) else leaf, rest, is_leaf=is_fixed)


class _Fixed(eqx.Module):
    """What tells our buffers from those of the network."""

    buffer: Buffer
