"""A function with its parameters, as a network that states its unit spaces."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas.embedding._foreign_layers import with_static_sizes
from lossatlas.networks import Axis, UnitSpace


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a space as one factor of a parameter axis; `is_reader` tells their role there."""

    space: str
    is_reader: bool


Factor = int | Units | tuple["ShapeBlock", ...]
"""A fixed size, units, or a concatenation."""

ShapeBlock = tuple[Factor, ...]
"""A product of factors, the outermost first."""

ShapeAxis = tuple[ShapeBlock, ...]
"""A parameter axis: blocks one after the other."""

Shape = tuple[ShapeAxis, ...]
"""A parameter's shape, written in unit spaces."""


class Discovered(eqx.Module):
    """A function of parameters and one example that states its unit spaces, as networks of ours do.

    Made by [`lossatlas.embedding.discover_units`][]; `network(x)` is `fn(params, x)`.

    - `params`: any pytree. `fn`: the function.
    - `spaces`: the unit spaces at the present sizes. `shapes`: of every parameter, by path, in unit spaces.
    """

    params: PyTree
    fn: Callable[[Any, Any], Any] = eqx.field(static=True)
    spaces: tuple[UnitSpace, ...] = eqx.field(static=True)
    shapes: tuple[tuple[str, Shape], ...] = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.fn(self.params, x)

    @property
    def has_statistics(self) -> bool:
        """Whether `params` are a network with running statistics that can be computed anew."""
        return bool(getattr(self.params, "has_statistics", False))

    def with_statistics(self, inputs: Any) -> "Discovered":
        """The same with the running statistics of these inputs; see [`lossatlas.networks.Conv`][]."""
        return dataclasses.replace(self, params=self.params.with_statistics(inputs))

    def unit_spaces(self) -> dict[str, UnitSpace]:
        """The unit spaces by name, in the order in which the function uses them."""
        return {space.name: space for space in self.spaces}

    def with_sizes(self, sizes: dict[str, int]) -> "Discovered":
        """The same function with parameters of other sizes, all zero.

        **Raises:** `InputError` for an unknown or closed space and a size below 1.
        """
        spaces = self.unit_spaces()
        for name, size in sizes.items():
            if name not in spaces:
                raise unknown_name("unit space", name, spaces)
            if spaces[name].closed is not None:
                msg = f"{name} cannot be resized: {spaces[name].closed}"
                raise InputError(msg)
            if size < 1:
                msg = f"The size of {name} must be at least 1, got {size}."
                raise InputError(msg)
        full = {name: space.size for name, space in spaces.items()} | sizes
        shapes = dict(self.shapes)
        arrays = {
            path: jnp.zeros([axis_length(axis, full) for axis in shapes[path]], array.dtype)
            for path, array in named_arrays(self).items()
        }
        network = replace_parameters(self, arrays)
        made = tuple(placed(space, self.shapes, full) for space in self.spaces)
        return Discovered(with_static_sizes(network.params), self.fn, made, self.shapes)


def placed(space: UnitSpace, shapes: tuple[tuple[str, Shape], ...], sizes: Mapping[str, int]) -> UnitSpace:
    """The space with its size, writers and readers; biases of readers are kept by path.

    **Arguments:**
    - `sizes`: of every space by name.
    """
    biases = {axis.path: (axis.bias, axis.feeds) for axis in space.readers}
    found: tuple[list[Axis], list[Axis]] = [], []
    for path, shape in shapes:
        for axis, layout in enumerate(shape):
            for is_reader, outer, inner, offset in _merged(layout, space.name, sizes):
                held = biases.get(path, (None, 0)) if is_reader else (None, 0)
                found[is_reader].append(Axis(path, axis, outer, inner, offset, *held))
    return dataclasses.replace(space, size=sizes[space.name], writers=tuple(found[False]), readers=tuple(found[True]))


def axis_length(layout: ShapeAxis, sizes: Mapping[str, int]) -> int:
    """The number of entries of a parameter axis."""
    return sum(math.prod(_factor_size(factor, sizes) for factor in block) for block in layout)


def _factor_size(factor: Factor, sizes: Mapping[str, int]) -> int:
    if isinstance(factor, int):
        return factor
    return sizes[factor.space] if isinstance(factor, Units) else axis_length(factor, sizes)


Place = tuple[bool, int, int, int]
"""Whether it reads, and outer, inner and offset of an `Axis`."""


def _places(layout: ShapeAxis, space: str, sizes: Mapping[str, int]) -> Iterator[Place]:
    offset = 0
    for block in layout:
        lengths = [_factor_size(factor, sizes) for factor in block]
        for i, factor in enumerate(block):
            before, after = math.prod(lengths[:i]), math.prod(lengths[i + 1 :])
            if isinstance(factor, Units):
                if factor.space == space:
                    yield factor.is_reader, before, after, offset
            elif not isinstance(factor, int):
                for is_reader, outer, inner, start in _places(factor, space, sizes):
                    if outer * sizes[space] * inner == lengths[i]:
                        yield is_reader, before * outer, inner * after, offset
                    else:  # between the copies stand entries of other spaces
                        for copy in range(before):
                            yield is_reader, outer, inner * after, offset + (copy * lengths[i] + start) * after
        offset += math.prod(lengths)


def _merged(layout: ShapeAxis, space: str, sizes: Mapping[str, int]) -> list[Place]:
    """Places that follow each other with the same role become one with more outer copies."""
    merged: list[Place] = []
    for is_reader, outer, inner, offset in sorted(_places(layout, space, sizes), key=lambda place: place[3]):
        if merged:
            role, many, same, start = merged[-1]
            if (role, same) == (is_reader, inner) and start + many * sizes[space] * inner == offset:
                merged[-1] = role, many + outer, same, start
                continue
        merged.append((is_reader, outer, inner, offset))
    return merged
