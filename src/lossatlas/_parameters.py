"""The one helper that turns the parameters of a network into a vector and remembers their names."""

import math
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from lossatlas._errors import InputError, unknown_name
from lossatlas._types import Network, Only, Vector


def path_name(path: tuple) -> str:
    """The name of a leaf as users write it: `layers[0].weight`."""
    return jax.tree_util.keystr(path).lstrip(".")


class Buffer(eqx.Module):
    """An array of a network that is no parameter, such as a running mean: its `value`.

    Derivatives, optimisers and counts of parameters leave it alone; maps between architectures carry it along.
    """

    value: Array


def named_parameters(network: Network) -> dict[str, Array]:
    """The inexact arrays of a network by path, in `ravel_pytree` order; buffers are left out."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(network, _is_parameter, is_leaf=_is_buffer))
    return {path_name(path): leaf for path, leaf in leaves}


def named_arrays(network: Network) -> dict[str, Array]:
    """The inexact arrays of a network by path, parameters and buffers."""
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_inexact_array))
    return {path_name(path): leaf for path, leaf in leaves}


def _is_buffer(node: object) -> bool:
    # Equinox keeps the running statistics of its normalisations in a State, which a module may hold.
    return isinstance(node, Buffer | eqx.nn.State)


def _is_parameter(node: object) -> bool:
    return not _is_buffer(node) and eqx.is_inexact_array(node)


def replace_parameters(network: Network, values: dict[str, Array]) -> Network:
    """The same network with some named arrays exchanged (their shapes may differ).

    **Raises:** `InputError` for a path that the network lacks.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(network)
    names = [path_name(path) for path, _ in leaves]
    missing = set(values) - set(names)
    if missing:
        raise unknown_name("parameter", missing.pop(), names)
    return jax.tree.unflatten(treedef, [values.get(n, leaf) for n, (_, leaf) in zip(names, leaves, strict=True)])


def select(network: Network, only: Only = None) -> PyTree[bool]:
    """The boolean pytree of the parameters that a filter selects.

    **Arguments:**
    - `network`: any pytree.
    - `only`: a pattern such as `"layers[1].weight"` or `"layers[*].bias"`, a predicate on such a path,
      a boolean pytree of the network's structure or a prefix of it, or None for every inexact array.

    **Raises:** `InputError` when nothing is selected, and for a boolean pytree of another structure.
    """
    # A network of booleans is callable too, so the leaves decide.
    if only is None:
        spec = jax.tree.map(_is_parameter, network, is_leaf=_is_buffer)
    elif all(isinstance(leaf, bool) for leaf in jax.tree.leaves(only)):
        spec = _expand(network, only)
    else:
        chosen: Any = only
        if isinstance(only, str):
            pattern = re.compile(".*".join(re.escape(part) for part in only.split("*")))
            chosen = lambda name: pattern.fullmatch(name) is not None  # noqa: E731
        spec = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _is_parameter(leaf) and bool(chosen(path_name(path))), network, is_leaf=_is_buffer
        )
    if not any(jax.tree.leaves(spec)):
        names = ", ".join(named_parameters(network)) or "none"
        msg = f"The filter only={only!r} selects no parameter. The parameters are: {names}."
        raise InputError(msg)
    return spec


def _expand(network: Network, only: PyTree[bool]) -> PyTree[bool]:
    """A boolean pytree carried on to the leaves below it, true at parameters only."""
    try:
        full = jax.tree.map(lambda chosen, part: jax.tree.map(lambda _: chosen, part), only, network)
    except ValueError as error:
        msg = (
            "The boolean pytree of the parameter filter has another structure than the network. Make it from this "
            f"network, jax.tree.map(lambda _: False, network), and set parts of it by equinox.tree_at. ({error})"
        )
        raise InputError(msg) from error
    return jax.tree.map(
        lambda leaf, chosen: _is_parameter(leaf) and all(jax.tree.leaves(chosen)), network, full, is_leaf=_is_buffer
    )


def ravel(network: Network, only: Only = None) -> tuple[Vector, "Unravel"]:
    """The selected parameters as one vector, and the way back.

    `unravel(vector)` gives the whole network with the selected parameters replaced. Both work under `jit`.
    """
    params, rest = eqx.partition(network, select(network, only))
    vector, _ = ravel_pytree(params)
    return vector, Unravel(params, rest)


def num_parameters(network: Network, only: Only = None) -> int:
    """How many scalar parameters the filter selects."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(eqx.filter(network, select(network, only))))


class Unravel(eqx.Module):
    """The inverse of [`lossatlas._parameters.ravel`][]: a pytree, so it passes through `jit` as an argument."""

    like: PyTree
    rest: PyTree

    def tangent(self, vector: Vector) -> PyTree:
        """A vector as a pytree of the selected parameters (None elsewhere)."""
        leaves, treedef = jax.tree.flatten(self.like)
        sizes = [math.prod(leaf.shape) for leaf in leaves]
        pieces, start = [], 0
        for leaf, size in zip(leaves, sizes, strict=True):
            pieces.append(vector[start : start + size].reshape(leaf.shape).astype(leaf.dtype))
            start += size
        return jax.tree.unflatten(treedef, pieces)

    def __call__(self, vector: Vector) -> Network:
        return eqx.combine(self.tangent(vector), self.rest)


def ravel_tangent(tangent: PyTree) -> Vector:
    """A pytree of parameter-shaped arrays as one vector."""
    leaves = jax.tree.leaves(tangent)
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])
