"""Convolutions as contractions: the windows that a kernel sees."""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossatlas.numerics import Var, shape_of


@dataclasses.dataclass(frozen=True)
class WindowUse:
    """A `conv_general_dilated` with a parameter as its kernel.

    - `other`: the images; `output`: where the cotangent of the maps is read.
    - `spec`, `made`: the axes of images and maps: batch, channels, places.
    - `kernel`: its places; `num_kernels`: outgoing channels of a group. `stride`, `padding`, `spread` (dilation of the
      image), `reach` (dilation of the kernel), `groups`: of the convolution; `places`: of the maps.
    """

    other: Var
    output: Var
    spec: tuple[int, ...]
    made: tuple[int, ...]
    kernel: tuple[int, ...]
    num_kernels: int
    num_positions: int
    num_inputs: int
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    reach: tuple[int, ...]
    groups: int
    places: tuple[int, ...]

    @property
    def num_outputs(self) -> int:
        """Outgoing channels of one group."""
        return self.num_kernels

    def inputs(self, value: Array) -> Float[Array, "groups positions inputs"]:
        """What every place of the maps sees, by group of channels."""
        images = value.transpose(self.spec)
        margins = [(low, high, step - 1) for (low, high), step in zip(self.padding, self.spread, strict=True)]
        images = jax.lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), (0, 0, 0), *margins])
        seen = []
        for offsets in itertools.product(*(range(size) for size in self.kernel)):
            starts = [offset * step for offset, step in zip(offsets, self.reach, strict=True)]
            stops = [
                start + (size - 1) * step + 1
                for start, size, step in zip(starts, self.places, self.stride, strict=True)
            ]
            low, high = (0, 0, *starts), (*images.shape[:2], *stops)
            seen.append(jax.lax.slice(images, low, high, (1, 1, *self.stride)))
        windows = jnp.stack(seen, axis=2)  # batch, channels, kernel places, places
        num, channels = windows.shape[:2]
        windows = windows.reshape(num, self.groups, channels // self.groups, len(seen), math.prod(self.places))
        windows = windows.transpose(1, 0, 4, 2, 3)
        return windows.reshape(self.groups, self.num_positions, self.num_inputs)

    def outputs(self, cotangent: Array) -> Float[Array, "groups positions outputs"]:
        """The slopes of a prediction in the maps, by group of channels."""
        maps = cotangent.transpose(self.made)
        maps = maps.reshape(maps.shape[0], self.groups, self.num_kernels, math.prod(self.places))
        return maps.transpose(1, 0, 3, 2).reshape(self.groups, self.num_positions, self.num_kernels)


def window_use(eqn: Any, output: Var) -> WindowUse | None:
    """How a convolution uses its kernel; None for those that group the batch, or convolve a constant."""
    params, other = eqn.params, eqn.invars[0]
    if params["batch_group_count"] != 1 or not isinstance(other, Var):
        return None
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    images, kernel = shape_of(other).shape, shape_of(eqn.invars[1]).shape
    maps = shape_of(eqn.outvars[0]).shape
    out_axis, in_axis, *space = numbers.rhs_spec
    window = tuple(kernel[axis] for axis in space)
    places = tuple(maps[axis] for axis in numbers.out_spec[2:])
    return WindowUse(
        other=other,
        output=output,
        spec=tuple(numbers.lhs_spec),
        made=tuple(numbers.out_spec),
        kernel=window,
        num_kernels=kernel[out_axis] // groups,
        num_positions=images[numbers.lhs_spec[0]] * math.prod(places),
        num_inputs=kernel[in_axis] * math.prod(window),
        stride=tuple(params["window_strides"]),
        padding=tuple(params["padding"]),
        spread=tuple(params["lhs_dilation"]),
        reach=tuple(params["rhs_dilation"]),
        groups=groups,
        places=places,
    )
