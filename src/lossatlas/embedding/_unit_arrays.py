"""Parameters as numpy arrays, and what is done to their units there: no program is compiled for each of many shapes."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._types import Network
from lossatlas.networks import Axis, UnitSpace


Arrays = dict[str, np.ndarray]
"""The arrays of a network by path; they are never written to."""


def to_arrays(network: Network) -> Arrays:
    """The arrays of a network as numpy has them, without a copy where that is possible."""
    return {path: np.asarray(array) for path, array in named_arrays(network).items()}


def with_arrays(network: Network, arrays: Arrays) -> Network:
    """The network with such arrays; those that are as they were stay the same objects."""
    old = named_arrays(network)
    changed = {path: jnp.asarray(array) for path, array in arrays.items() if array is not np.asarray(old[path])}
    return replace_parameters(network, changed)


def axes_of(space: UnitSpace) -> list[Axis]:
    """Writers, then readers."""
    return [*space.writers, *space.readers]


def places(axis: Axis, size: int) -> Int[np.ndarray, "units _"]:
    """The indices along a parameter's axis that belong to each unit."""
    outer, inner = np.arange(axis.outer)[:, None], np.arange(axis.inner)
    return np.stack([(axis.offset + (outer * size + i) * axis.inner + inner).ravel() for i in range(size)])


def rows_of(arrays: Arrays, axis: Axis, size: int) -> Float[np.ndarray, "units _"]:
    """What belongs to each unit along one axis, as rows."""
    lead = np.moveaxis(arrays[axis.path], axis.axis, 0)
    block = lead[axis.offset : axis.offset + axis.outer * size * axis.inner]
    return np.moveaxis(block.reshape(axis.outer, size, -1), 1, 0).reshape(size, -1)


def largest_of(arrays: Arrays, axes: tuple[Axis, ...], size: int) -> Float[np.ndarray, " units"]:
    """The largest entry, without its sign, of what belongs to each unit along some axes."""
    parts = [np.abs(rows_of(arrays, axis, size)).max(1, initial=0.0) for axis in axes]
    return np.max(np.stack(parts).astype(float), axis=0)


def permuted(arrays: Arrays, space: UnitSpace, order: np.ndarray) -> Arrays:
    """The same function with the units of a space in another order."""
    if np.array_equal(order, np.arange(space.size)):
        return arrays
    arrays = dict(arrays)
    for axis in axes_of(space):
        arrays[axis.path] = taken(arrays[axis.path], axis, space.size, order)
    return arrays


def taken(array: np.ndarray, axis: Axis, size: int, units: np.ndarray) -> np.ndarray:
    """One parameter whose units along an axis are those given."""
    index = np.arange(array.shape[axis.axis])
    where = places(axis, size)
    index[where.ravel()] = where[units].ravel()
    return np.take(array, index, axis=axis.axis)


def multiplied(arrays: Arrays, axes: tuple[Axis, ...], size: int, factors: np.ndarray) -> Arrays:
    """Every unit along some axes times a factor of its own."""
    arrays = dict(arrays)
    for axis in axes:
        array = arrays[axis.path]
        along = np.ones(array.shape[axis.axis])
        where = places(axis, size)
        along[where.ravel()] = np.repeat(factors, where.shape[1])
        shape = [-1 if i == axis.axis else 1 for i in range(array.ndim)]
        arrays[axis.path] = array * along.reshape(shape).astype(array.dtype)
    return arrays
