"""The filters of a network, and directions scaled to them."""

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters, path_name, select
from lossatlas._types import Network, Only
from lossatlas.networks import Axis, HasUnitSpaces


Normalisation = Literal["none", "filter", "layer", "model"]
_NORMALISATIONS = ("none", "filter", "layer", "model")
AnyArray = TypeVar("AnyArray", np.ndarray, Array)
_NORMS = (eqx.nn.LayerNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm, eqx.nn.RMSNorm)


def filter_axes(
    network: Network, only: Only = None, axes: Mapping[str, int] | None = None
) -> dict[str, tuple[int | None, tuple[int, ...]]]:
    """Which axis of every selected parameter counts its filters, and its shape; in `ravel_pytree` order.

    A filter is what makes one output: a row of a weight matrix, the kernels of one outgoing channel. Where the network
    states unit spaces, the axis that writes to one is it, and else the axis that a reader feeds; for other networks
    axis 0, the layout of PyTorch and Equinox. Biases, scales and shifts of normalisations and whatever else has at most
    one axis are no filters: their axis is None.

    **Arguments:**
    - `axes`: by path of a parameter, a pattern with `*`: the axis, where it is another one, as in weights that are
      stored (in, out).

    **Raises:** `InputError` for a pattern that fits no parameter, and an axis that a parameter lacks.
    """
    names = selected_names(network, only)
    parameters = named_parameters(network)
    stated = _stated_axes(network)
    still = _norm_prefixes(network)
    found: dict[str, tuple[int | None, tuple[int, ...]]] = {}
    for name in names:
        shape = parameters[name].shape
        is_bias = len(shape) < 2 or re.search(r"\bbias\W*$", name) is not None or name.startswith(still)
        found[name] = (None if is_bias else stated.get(name, 0) % len(shape), shape)
    for pattern, axis in (axes or {}).items():
        parts = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
        fitting = [name for name in names if parts.fullmatch(name)]
        if not fitting:
            raise unknown_name("parameter", pattern, names)
        for name in fitting:
            shape = found[name][1]
            if not -len(shape) <= axis < len(shape):
                msg = f"{name} has shape {shape}, so it has no axis {axis} for its filters."
                raise InputError(msg)
            found[name] = (axis % len(shape), shape)
    return found


def selected_names(network: Network, only: Only = None) -> list[str]:
    """The paths of the selected parameters, in `ravel_pytree` order."""
    chosen = eqx.filter(network, select(network, only))
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(chosen)]


def normalised(
    network_vector: Float[np.ndarray, " p"],
    direction: Float[np.ndarray, " p"],
    filters: Mapping[str, tuple[int | None, tuple[int, ...]]],
    normalise: Normalisation,
    *,
    include_biases: bool,
) -> Float[np.ndarray, " p"]:
    """A direction scaled to the network.

    **Arguments:**
    - `network_vector`, `direction`: the selected parameters of both, flat.
    - `filters`: of `filter_axes`.
    - `normalise`: `"filter"`: every filter gets the norm of the network's; `"layer"`: every parameter array;
      `"model"`: all that moves together; `"none"`: as it is.
    - `include_biases`: False leaves what is no filter at exactly zero; True scales it, with `"filter"` each array as
      one filter.

    **Raises:** `InputError` for an unknown normalisation, and where nothing would move.
    """
    if normalise not in _NORMALISATIONS:
        raise unknown_name("normalisation", normalise, _NORMALISATIONS)
    moves = np.concatenate(
        [np.full(_size(shape), include_biases or axis is not None) for axis, shape in filters.values()]
    )
    if not moves.any():
        msg = (
            "Nothing would move: all selected parameters are biases, scales or shifts (arrays of at most one axis). "
            "Give include_biases=True."
        )
        raise InputError(msg)
    direction = np.where(moves, direction, 0.0)
    if normalise == "none":
        return direction
    if normalise == "model":
        return scaled(direction, np.where(moves, network_vector, 0.0))
    pieces, start = [], 0
    for axis, shape in filters.values():
        stop = start + _size(shape)
        of_network, piece = network_vector[start:stop].reshape(shape), direction[start:stop].reshape(shape)
        by_row = axis if normalise == "filter" else None
        pieces.append(scaled(piece, of_network, by_row).ravel())
        start = stop
    return np.concatenate(pieces)


def scaled(direction: AnyArray, of_network: AnyArray, axis: int | None = None) -> AnyArray:
    """A direction with the norms of another array, of NumPy or JAX: along one axis, or as a whole."""
    across = None if axis is None else tuple(i for i in range(direction.ndim) if i != axis)
    wanted = (of_network**2).sum(axis=across, keepdims=True) ** 0.5
    given = (direction**2).sum(axis=across, keepdims=True) ** 0.5
    factor: Any = wanted / (given + (given == 0).astype(given.dtype))  # what is zero stays zero
    return factor * direction


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=int))


def _stated_axes(network: Network) -> dict[str, int]:
    """The filter axis of the parameters that unit spaces speak of."""
    if not isinstance(network, HasUnitSpaces):
        return {}
    spaces = network.unit_spaces().values()
    read = {axis.path: _fed_axis(axis) for space in spaces for axis in space.readers}
    return read | {axis.path: axis.axis for space in spaces for axis in space.writers}


def _fed_axis(reader: Axis) -> int:
    """The axis that a reader feeds: stated beside a bias, else the first, or the last where units come in first."""
    if reader.bias is not None:
        return reader.feeds
    return 0 if reader.axis else -1


def _norm_prefixes(network: Network) -> tuple[str, ...]:
    """The paths of the normalisations of Equinox, whose scales may have several axes."""
    parts = jax.tree_util.tree_leaves_with_path(network, is_leaf=lambda part: isinstance(part, _NORMS))
    return tuple(f"{path_name(path)}." for path, part in parts if isinstance(part, _NORMS) and path)
