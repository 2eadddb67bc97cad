"""A linear map between the units of one space, carried to every parameter that touches the space."""

import dataclasses
import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, path_name
from lossatlas._types import Network
from lossatlas.embedding._constants import arrays_of, as_network, can_shift, fold_constants, layer_of, shift_cotangent
from lossatlas.embedding._selection import UnitMatrix, on_units, product
from lossatlas.networks import (
    Axis,
    Dense,
    HasUnitSpaces,
    UnitSpace,
    fed_constants,
    named_parameters,
    put_units,
    replace_parameters,
    take_units,
)


class UnitMap(eqx.Module):
    r"""Widen (or narrow) one unit space: n units become n'.

    Writers (rows, biases) map by `writers` $T_w$, readers (columns) by `readers` $T_r$, both of shape (n', n) and kept
    as a `Selection` where units are only copied, summed or dropped; `offsets` are added to the writers of new units.
    The map keeps the network function when the units it makes are copies, and then gradients go the same way with the
    dual matrices: $\nabla_{wide} = B \nabla_{narrow}$ with `dual_writers` on writers and `dual_readers` on readers,
    $T_w^\top D_w = T_r^\top D_r = I$, hence $A^\top B = I$. For splits the duals are the roles exchanged,
    $D_w = T_r$, $D_r = T_w$.

    - `constants`: the constant outputs of new null units, None without them; the gradient of such a unit's readers
      is its constant times the gradient of the bias that they feed.
    - `dual_writers`, `dual_readers`: None for maps that narrow.

    !!! cite
        Zhang et al. 2021, arXiv 2105.14573, Definition 1 and Theorem 1; `grad_wide = B grad_narrow` holds at
        every point, critical or not.
    """

    space: str = eqx.field(static=True)
    writers: UnitMatrix
    readers: UnitMatrix
    dual_writers: UnitMatrix | None = None
    dual_readers: UnitMatrix | None = None
    offsets: dict[str, Array] = eqx.field(default_factory=dict)
    constants: Float[Array | np.ndarray, " new"] | None = None
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Network:
        """The network with the space resized by the map.

        **Raises:** `InputError` when the space of this network has another number of units.
        """
        space = find_space(network, self.space)
        _check_size(self, space)
        values = _map_units(network, space, named_arrays(network), self.writers, self.readers)
        new = _rebuild(network, {self.space: self.writers.shape[0]}, values)
        if not self.offsets:
            return new
        values = named_arrays(new)
        for axis in find_space(new, self.space).writers:
            if axis.path in self.offsets:
                block = take_units(values[axis.path], axis, self.writers.shape[0])
                offset = self.offsets[axis.path].astype(block.dtype)
                values[axis.path] = put_units(values[axis.path], axis, self.writers.shape[0], block + offset)
        return replace_parameters(new, values)

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        """B: the gradient at the wide point from the gradient at the narrow one.

        **Arguments:**
        - `network`: the narrow network.
        - `gradient`: a network of the same structure that holds the gradient in place of the parameters.
        """
        if self.dual_writers is None or self.dual_readers is None:
            msg = f"The map of {self.space} ({self.note}) narrows the network, so it carries no gradients."
            raise InputError(msg)
        space = find_space(network, self.space)
        values = _map_units(network, space, named_parameters(gradient), self.dual_writers, self.dual_readers)
        new = _rebuild(network, {self.space: self.writers.shape[0]}, values)
        if self.constants is None:
            return new
        pulled = _constant_gradients(network, space, gradient)
        if pulled is None:
            return new
        values = named_parameters(new)
        for axis in find_space(new, self.space).readers:
            block = take_units(values[axis.path], axis, self.constants.shape[0])
            # Every entry that reads a constant unit has the gradient of the bias that it feeds, times the constant.
            fed = pulled[axis.path].reshape([-1 if i == axis.fed else 1 for i in range(block.ndim)])
            added = jnp.expand_dims(self.constants.astype(block.dtype), (*range(block.ndim - 2), -1)) * fed
            values[axis.path] = put_units(values[axis.path], axis, self.constants.shape[0], block + added)
        return replace_parameters(new, values)

    def apply_inverse(self, network: Network) -> Network:
        r"""$B^\top$: the narrow network of a wide one; the inverse on the range of the map."""
        assert self.dual_writers is not None
        assert self.dual_readers is not None
        space = find_space(network, self.space)
        new, old = self.writers.shape
        if space.size != new:
            msg = f"{self.space} has {space.size} units; the inverse of this map needs {new}."
            raise InputError(msg)
        values = _map_units(network, space, named_arrays(network), self.dual_writers.T, self.dual_readers.T)
        return _rebuild(network, {self.space: old}, values)


class ShiftReaders(eqx.Module):
    """Add what units put out at all times to the biases that their readers feed; the units are changed or dropped next.

    - `constants`: of every unit of the space.
    """

    space: str = eqx.field(static=True)
    constants: Float[Array | np.ndarray, " units"]
    note: str = eqx.field(static=True, default="")

    def apply(self, network: Network) -> Network:
        """The network with these biases.

        **Raises:** `InputError` where a reader has no bias that could hold the constants.
        """
        space = find_space(network, self.space)
        if not reader_biases_hold(network, space):
            msg = f"No bias can hold a constant that units of {self.space} put out."
            raise InputError(msg)
        constants = jnp.asarray(self.constants)
        if isinstance(network, Dense):
            layers = arrays_of(network)
            kind, i = layer_of(self.space)
            count = layers[i].num_neurons if kind == "linear" else layers[i].num_units - layers[i].num_neurons
            rest = jnp.zeros(count, constants.dtype)
            full = jnp.concatenate([rest, constants] if kind == "linear" else [constants, rest])
            return as_network(fold_constants(layers, i, full.astype(layers[i].weight.dtype)), network.activation)
        values = named_arrays(network)
        for axis in space.readers:
            assert axis.bias is not None
            added = fed_constants(values[axis.path], axis, space.size, constants)
            values[axis.bias] = values[axis.bias] + added
        return replace_parameters(network, values)


def compose(first: UnitMap, second: UnitMap, note: str) -> UnitMap:
    """One map that does `first`, then `second`, on the same space."""

    def dual(outer: UnitMatrix | None, inner: UnitMatrix | None) -> UnitMatrix | None:
        return None if outer is None or inner is None else product(outer, inner)

    offsets = {path: on_units(second.writers, block, block.ndim - 2) for path, block in first.offsets.items()}
    for path, block in second.offsets.items():
        offsets[path] = offsets[path] + block if path in offsets else block
    constants = None
    if first.constants is not None or second.constants is not None:
        constants = jnp.zeros(second.writers.shape[0], second.writers.dtype)
        if first.constants is not None:
            # A copy of a null unit puts out the same constant: the duals of readers copy unit outputs.
            assert second.dual_readers is not None
            constants = constants + on_units(second.dual_readers, first.constants)
        if second.constants is not None:
            constants = constants + second.constants
    return UnitMap(
        first.space,
        product(second.writers, first.writers),
        product(second.readers, first.readers),
        dual(second.dual_writers, first.dual_writers),
        dual(second.dual_readers, first.dual_readers),
        offsets,
        constants,
        note,
    )


def find_space(network: Network, name: str) -> UnitSpace:
    """The unit space of a name; a space that the network could hold but has no units of is found with size 0.

    **Raises:** `InputError` for a network without unit spaces and for an unknown name.
    """
    spaces = require_unit_spaces(network)
    if name in spaces:
        return spaces[name]
    try:
        grown = network.with_sizes({name: 1}).unit_spaces()
    except InputError as error:
        raise unknown_name("unit space", name, spaces) from error
    return dataclasses.replace(grown[name], size=0)


def require_unit_spaces(network: Network) -> dict[str, UnitSpace]:
    """The unit spaces of a network.

    **Raises:** `InputError` when it states none, or when their parameters are not floating point.
    """
    if not isinstance(network, HasUnitSpaces):
        msg = (
            f"A {type(network).__name__} states no unit spaces (unit_spaces(), with_sizes()), so it cannot be "
            "widened or reduced. Use a network of lossatlas.networks."
        )
        raise InputError(msg)
    spaces = network.unit_spaces()
    known = named_arrays(network)
    for space in spaces.values():
        for axis in (*space.writers, *space.readers):
            if axis.path not in known:
                msg = f"{axis.path} must be a floating-point array; convert it with .astype(float)."
                raise InputError(msg)
        tied = [made for made in space.writers for read in space.readers if _overlap(made, read, space.size)]
        if tied and space.closed is None:
            where = f"axis {tied[0].axis} of {tied[0].path}"
            msg = (
                f"{space.name} is written and read by the same weights ({where}): copies would have to "
                "be whole and shared out at once. Untie them, one parameter for each, before the space is resized."
            )
            raise InputError(msg)
    return spaces


def _overlap(first: Axis, second: Axis, size: int) -> bool:
    """Whether two axes share entries of one parameter."""
    if (first.path, first.axis) != (second.path, second.axis):
        return False
    low, high = sorted((first, second), key=lambda axis: axis.offset)
    return high.offset < low.offset + low.outer * size * low.inner


def reader_norms(network: Network, space: UnitSpace) -> Float[np.ndarray, " units"]:
    """The Euclidean norm of everything that reads each unit."""
    values = named_parameters(network)
    total = np.zeros(space.size)
    for axis in space.readers:
        block = np.asarray(take_units(values[axis.path], axis, space.size), dtype=float)
        total += np.sum(np.moveaxis(block, -2, 0).reshape(space.size, -1) ** 2, axis=1)
    return np.sqrt(total)


def reader_biases_hold(network: Network, space: UnitSpace) -> bool:
    """Whether biases can hold a constant that units of a space put out."""
    if isinstance(network, Dense):
        return can_shift(arrays_of(network), layer_of(space.name)[1] + 1)
    return all(axis.bias is not None for axis in space.readers)


def _constant_gradients(network: Network, space: UnitSpace, gradient: Network) -> dict[str, Array] | None:
    """The gradient in a constant added to what each reader receives, by path; None where biases cannot hold it."""
    if isinstance(network, Dense):
        return shift_cotangent(network, space.name, gradient)
    values = named_parameters(gradient)
    held = {axis.path: values[axis.bias] for axis in space.readers if axis.bias is not None}
    return held if len(held) == len(space.readers) else None


def _check_size(step: UnitMap, space: UnitSpace) -> None:
    if step.writers.shape[1] != space.size:
        msg = f"{space.name} has {space.size} units; this map ({step.note}) needs {step.writers.shape[1]}."
        raise InputError(msg)


def _map_units(
    network, space: UnitSpace, values: dict[str, Array], writers: UnitMatrix, readers: UnitMatrix
) -> dict[str, Array]:
    values = dict(values)

    def mapped(axis: Axis, matrix: UnitMatrix):
        array = values.get(axis.path)
        if array is None:  # the first units of a space that had none
            empty = named_arrays(network.with_sizes({space.name: 1}))[axis.path]
            array = put_units(empty, axis, 1, take_units(empty, axis, 1)[..., :0, :])
        return on_axis(matrix, array, axis, space.size)

    buffers = named_arrays(network).keys() - named_parameters(network).keys()
    roles = [(axis, writers) for axis in space.writers] + [(axis, readers) for axis in space.readers]
    # Of two blocks along one axis the latter goes first, so that the offset of the other still holds.
    for axis, matrix in sorted(roles, key=lambda role: -role[0].offset):
        if axis.path in values or axis.path not in buffers:  # gradients have no buffers
            values[axis.path] = mapped(axis, matrix)
    return values


# The result of eqx.filter_jit is a tuple, with which XLA does not fuse.
@ft.partial(jax.jit, static_argnames=("axis", "size"))
def on_axis(matrix: UnitMatrix, array: Array, axis: Axis, size: int) -> Array:
    """One parameter with the units along one axis mapped."""
    if array.shape[axis.axis] == size:  # nothing but the units: at the speed of a copy, three times that of the rest
        return on_units(matrix, array, axis.axis)
    # Split in place: moving the axis to the end and back would copy the parameter twice.
    start, stop = axis.offset, axis.offset + axis.outer * size * axis.inner
    before, block, after = jnp.split(array, (start, stop), axis=axis.axis)
    rest = array.shape[axis.axis + 1 :]
    parts = block.reshape(*array.shape[: axis.axis], axis.outer, size, axis.inner, *rest)
    new = on_units(matrix, parts, axis.axis + 1)
    new = new.reshape(*array.shape[: axis.axis], axis.outer * matrix.shape[0] * axis.inner, *rest)
    return jnp.concatenate([before, new, after], axis=axis.axis)


def _rebuild(network: Network, sizes: dict[str, int], values: dict[str, Array]) -> Network:
    """The network of other sizes with the given arrays; zeros of its own are not made where all are given."""
    present = named_arrays(network)
    if all(path in values and values[path].shape == array.shape for path, array in present.items()):
        return replace_parameters(network, values)  # of the same sizes; tracing the network of others takes long
    template = eqx.filter_eval_shape(lambda: network.with_sizes(sizes))
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(template)}
    if any(isinstance(leaf, jax.ShapeDtypeStruct) and path not in values for path, leaf in leaves.items()):
        template = network.with_sizes(sizes)  # such as the buffers of a gradient
    return replace_parameters(template, {path: value for path, value in values.items() if path in leaves})
