"""Unit spaces: one hidden space and every parameter axis that touches it."""

import dataclasses
import functools as ft
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._types import Network
from lossatlas.networks._activations import Activation


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where the units of a space lie in one parameter.

    Along `axis` of the parameter at `path`, from `offset` on, the entries are blocked as
    `(outer, units, inner)`: unit i owns the indices `offset + (a * units + i) * inner + b`.

    - `bias`: of a reader, the path of the bias that is added to what it reads, where a constant output of a unit comes
      to the same as a change of that bias; else None. It has one axis, what they feed.
    - `feeds`: of a reader with a bias, the axis of the parameter that is that axis: 0 for weights stored (out, in).
    """

    path: str
    axis: int
    outer: int = 1
    inner: int = 1
    offset: int = 0
    bias: str | None = None
    feeds: int = 0

    @property
    def fed(self) -> int:
        """Where the axis that is fed lies in what [`lossatlas.networks.take_units`][] gives."""
        return self.feeds - (self.feeds > self.axis)


@dataclasses.dataclass(frozen=True)
class UnitSpace:
    """One hidden space: its units, who writes them and who reads them.

    - `kind`: `"neuron"`, `"linear"` (a unit without activation and bias), `"channel"` (of images), `"gated"` (a
      product of two), `"head"` (of attention), `"dimension"` (of queries and keys, or of values), `"stream"` (a
      coordinate that residual blocks add to).
    - `writers`: axes whose slices make the unit (weight rows, biases, normalisation, running statistics).
    - `readers`: axes that consume it (columns of the next layer).
    - `activation`: what is applied between them; None where a unit of zero writers puts out zero.
    - `bias`: the path of the writer that is added last before the activation, or None.
    - `is_normalised`: whether a normalisation stands between the writers and the activation.
    - `shares`: which reader coefficients keep outputs and criticality when a unit is copied: `"any"` that sum
      to one, only `"equal"` ones, or `"none"`.
    - `closed`: why the space may not be resized, or None.
    """

    name: str
    size: int
    kind: Literal["neuron", "linear", "channel", "gated", "head", "dimension", "stream"]
    writers: tuple[Axis, ...]
    readers: tuple[Axis, ...]
    activation: Activation | None
    shares: Literal["any", "equal", "none"] = "any"
    closed: str | None = None
    bias: str | None = None
    is_normalised: bool = False


@runtime_checkable
class HasUnitSpaces(Protocol):
    """A network that states its unit spaces."""

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """The unit spaces by name, from input to output."""
        ...

    def with_sizes(self, sizes: dict[str, int]) -> "HasUnitSpaces":
        """A network of other sizes, parameters zero; what a map then fills."""
        ...


def take_units(array: Array, axis: Axis, size: int) -> Array:
    """The block of a parameter that belongs to a space, shape (rest..., outer, size, inner).

    **Arguments:**
    - `array`: the parameter at `axis.path`.
    - `size`: the number of units of the space.
    """
    return _take(array, size, *_layout(axis))


def put_units(array: Array, axis: Axis, size: int, block: Array) -> Array:
    """The parameter with the space's block replaced by one of another size.

    The inverse of [`lossatlas.networks.take_units`][].

    **Arguments:**
    - `array`: the parameter at `axis.path`, with `size` units.
    - `block`: shape (rest..., outer, new size, inner).
    """
    return _put(array, block, size, *_layout(axis))


def fed_constants(
    array: Float[Array, "..."], axis: Axis, size: int, constants: Float[Array, " units"]
) -> Float[Array, " fed"]:
    """What a reader adds to the bias that it feeds when units put out constants.

    **Arguments:**
    - `array`: the parameter at `axis.path`, a reader with a `bias`. `size`: the number of units of the space.
    """
    block = jnp.moveaxis(take_units(array, axis, size), axis.fed, 0)
    added = jnp.einsum("r...ni,n->r...i", block, constants.astype(block.dtype))
    return added.reshape(len(added), -1).sum(1)


def _layout(axis: Axis) -> tuple[int, int, int, int]:
    return axis.axis, axis.outer, axis.inner, axis.offset


# One small program each instead of five.
@ft.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5), inline=True)
def _take(array: Array, size: int, axis: int, outer: int, inner: int, offset: int) -> Array:
    moved = jnp.moveaxis(array, axis, -1)
    block = moved[..., offset : offset + outer * size * inner]
    return block.reshape(*moved.shape[:-1], outer, size, inner)


@ft.partial(jax.jit, static_argnums=(2, 3, 4, 5, 6), inline=True)
def _put(array: Array, block: Array, size: int, axis: int, outer: int, inner: int, offset: int) -> Array:
    moved = jnp.moveaxis(array, axis, -1)
    flat = block.reshape(*moved.shape[:-1], -1)
    joined = jnp.concatenate([moved[..., :offset], flat, moved[..., offset + outer * size * inner :]], axis=-1)
    return jnp.moveaxis(joined, -1, axis)


def resized(network: Network, sizes: dict[str, int]) -> Network:
    """A network of other sizes with all parameters and buffers zero, made from what its unit spaces say.

    For architectures whose arrays alone hold their sizes.

    **Arguments:**
    - `network`: with unit spaces, each of at least one unit.
    - `sizes`: unit space name to new size; others stay.

    **Raises:** `InputError` for an unknown space and a size below 1.
    """
    spaces = network.unit_spaces()
    arrays = named_arrays(network)
    shapes = {path: list(array.shape) for path, array in arrays.items()}
    for name, size in sizes.items():
        if name not in spaces:
            raise unknown_name("unit space", name, spaces)
        if size < 1:
            msg = f"The size of {name} must be at least 1, got {size}."
            raise InputError(msg)
        space = spaces[name]
        for axis in (*space.writers, *space.readers):
            shapes[axis.path][axis.axis] += axis.outer * (size - space.size) * axis.inner
    return replace_parameters(network, {path: jnp.zeros(shapes[path], arrays[path].dtype) for path in arrays})
