"""Unit spaces: one hidden space and every parameter axis that touches it."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array

from lossatlas.networks._activations import Activation


@dataclasses.dataclass(frozen=True)
class Axis:
    """Where the units of a space lie in one parameter.

    Along `axis` of the parameter at `path`, from `offset` on, the entries are blocked as
    `(outer, units, inner)`: unit i owns the indices `offset + (a * units + i) * inner + b`.
    """

    path: str
    axis: int
    outer: int = 1
    inner: int = 1
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class UnitSpace:
    """One hidden space: its units, who writes them and who reads them.

    - `kind`: `"neuron"` or `"linear"` (a unit without activation and bias).
    - `writers`: axes whose slices make the unit (weight rows, biases).
    - `readers`: axes that consume it (columns of the next layer).
    - `activation`: what is applied between them; None for linear units.
    - `shares`: which reader coefficients keep outputs and criticality when a unit is copied: `"any"` that sum
      to one, only `"equal"` ones, or `"none"`.
    - `closed`: why the space may not be resized, or None.
    """

    name: str
    size: int
    kind: Literal["neuron", "linear"]
    writers: tuple[Axis, ...]
    readers: tuple[Axis, ...]
    activation: Activation | None
    shares: Literal["any", "equal", "none"] = "any"
    closed: str | None = None


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
    """The parameter with the space's block replaced by one of another size; inverse of [`take_units`][].

    **Arguments:**
    - `array`: the parameter at `axis.path`, with `size` units.
    - `block`: shape (rest..., outer, new size, inner).
    """
    moved = jnp.moveaxis(array, axis.axis, -1)
    stop = axis.offset + axis.outer * size * axis.inner
    flat = block.reshape(*moved.shape[:-1], -1)
    joined = jnp.concatenate([moved[..., : axis.offset], flat, moved[..., stop:]], axis=-1)
    return jnp.moveaxis(joined, -1, axis.axis)
