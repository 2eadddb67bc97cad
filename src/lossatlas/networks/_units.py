"""Unit spaces: one hidden space and every parameter axis that touches it."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array

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
    moved = jnp.moveaxis(array, axis.axis, -1)
    block = moved[..., axis.offset : axis.offset + axis.outer * size * axis.inner]
    return block.reshape(*moved.shape[:-1], axis.outer, size, axis.inner)


def put_units(array: Array, axis: Axis, size: int, block: Array) -> Array:
    """The parameter with the space's block replaced by one of another size.

    The inverse of [`lossatlas.networks.take_units`][].

    **Arguments:**
    - `array`: the parameter at `axis.path`, with `size` units.
    - `block`: shape (rest..., outer, new size, inner).
    """
    moved = jnp.moveaxis(array, axis.axis, -1)
    stop = axis.offset + axis.outer * size * axis.inner
    flat = block.reshape(*moved.shape[:-1], -1)
    joined = jnp.concatenate([moved[..., : axis.offset], flat, moved[..., stop:]], axis=-1)
    return jnp.moveaxis(joined, -1, axis.axis)


def resized(network: Network, sizes: dict[str, int]) -> Network:
    """A network of other sizes with all parameters and buffers zero, made from what its unit spaces say.

    For architectures whose arrays alone hold their sizes.

    **Arguments:**
    - `network`: with unit spaces, each of at least one unit.
    - `sizes`: unit space name to new size; others stay.

    **Raises:** `InputError` for an unknown space and a size below 1.
    """
    spaces = network.unit_spaces()
    arrays = {path: jnp.zeros_like(array) for path, array in named_arrays(network).items()}
    for name, size in sizes.items():
        if name not in spaces:
            raise unknown_name("unit space", name, spaces)
        if size < 1:
            msg = f"The size of {name} must be at least 1, got {size}."
            raise InputError(msg)
        space = spaces[name]
        for axis in (*space.writers, *space.readers):
            block = take_units(arrays[axis.path], axis, space.size)
            new = jnp.zeros((*block.shape[:-2], size, axis.inner), block.dtype)
            arrays[axis.path] = put_units(arrays[axis.path], axis, space.size, new)
    return replace_parameters(network, arrays)
