"""Predictions on single examples as functions of arrays by path, traced once for networks of one shape."""

import collections
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import path_name, select
from lossatlas._types import Network, Only
from lossatlas.geometry._ntk_plan import Plan, make_plan
from lossatlas.landscape import Landscape


Points = Landscape | Array | np.ndarray
"""A landscape, or inputs alone, shape (n, ...)."""

_KEPT = 16
_CHECKED = 4  # examples on which predictions alone and in a batch are compared
_sources: "collections.OrderedDict[Any, Source]" = collections.OrderedDict()


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """The prediction on one example.

    - `fn`: `fn(leaves, example)`; `paths`: of the leaves; `selected`: the parameters that count.
    - `plan`: how they are differentiated. `leaves`, `example`: shapes and types of what `fn` takes.
    """

    fn: Callable[..., Array]
    paths: tuple[str, ...]
    selected: tuple[str, ...]
    plan: Plan
    leaves: list[jax.ShapeDtypeStruct]
    example: PyTree[jax.ShapeDtypeStruct]


def as_landscape(points: Points) -> Landscape:
    """The landscape itself, or one of the inputs without targets."""
    if isinstance(points, Landscape):
        return points
    inputs = jnp.asarray(points)
    return Landscape(inputs, np.zeros(inputs.shape[:1], inputs.dtype))


def examples_of(landscape: Landscape) -> PyTree[Array]:
    """What predictions are made from: the inputs, or the batch of a landscape of a function."""
    return landscape.inputs if landscape._predict is None else landscape.batch


def predictor(network: Network, landscape: Landscape) -> Callable[[Network, PyTree[Array]], Array]:
    """The function that predicts one example, an entry of `examples_of` without its leading axis.

    **Raises:** `InputError` where predictions on an example depend on the others or are random, and where there are
    none.
    """
    _check_mode(network)
    predict = landscape._predict
    if predict is not None:
        return lambda at, example: predict(at, jax.tree.map(lambda a: a[None], example))[0]
    if landscape._example_losses is not None:
        landscape.predictions(network)  # says that there are none
    if getattr(network, "batch_statistics", False):
        msg = (
            "This network normalises by statistics of the whole data (batch_statistics=True), so its outputs on one "
            "example depend on the others. Use running statistics: network.with_statistics(inputs), made with "
            "batch_statistics=False."
        )
        raise InputError(msg)
    return lambda at, example: at(example)


def source_of(network: Network, landscape: Landscape, only: Only = None) -> tuple[Source, list[Array]]:
    """The function of a network and a landscape, and its leaves.

    Networks of the same shape share it, and what is compiled of it.

    **Raises:** `InputError` where predictions on an example depend on the others, for modules in training mode, and
    filters that select nothing.
    """
    flat, structure = jax.tree.flatten(network)
    key = _key(network, flat, structure, landscape, only)
    if key in _sources:
        _sources.move_to_end(key)
    else:
        _sources[key] = _make(network, landscape, only)
        while len(_sources) > _KEPT:
            _sources.popitem(last=False)
    return _sources[key], [
        leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in flat if eqx.is_array(leaf)
    ]


def _make(network: Network, landscape: Landscape, only: Only) -> Source:
    predict = predictor(network, landscape)
    selected = _selected(network, only)
    _check_alone(network, landscape, predict)
    arrays, static = eqx.partition(network, eqx.is_array)
    structure = jax.tree.structure(arrays)
    named = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)}

    def fn(leaves: list[Array], example: PyTree) -> Array:
        return predict(eqx.combine(jax.tree.unflatten(structure, leaves), static), example)

    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), examples_of(landscape))
    plan = make_plan(fn, named, selected, example)
    leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in named.values()]
    return Source(fn, tuple(named), selected, plan, leaves, example)


def _selected(network: Network, only: Only) -> tuple[str, ...]:
    """The paths of the parameters that a filter selects."""
    kept = eqx.filter(network, select(network, only))
    return tuple(path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(kept))


def _key(network: Network, flat: list[Any], structure: Any, landscape: Landscape, only: Only) -> Any:
    """What tells one function from another: all but the numbers; a key of its own where something has no hash."""
    examples, batch = jax.tree.flatten(examples_of(landscape))
    key = (
        structure,
        tuple((leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf for leaf in flat),
        batch,
        tuple((leaf.shape[1:], leaf.dtype) for leaf in examples),
        (landscape._predict, landscape._example_losses is None),
        only if only is None or isinstance(only, str) else _selected(network, only),
    )
    try:
        hash(key)
    except TypeError:
        return object()
    return key


def _check_mode(network: Network) -> None:
    """Raise for Equinox layers that are random or mix examples in training mode."""
    random = (eqx.nn.Dropout, eqx.nn.BatchNorm)
    for node in jax.tree.leaves(network, is_leaf=lambda node: isinstance(node, random)):
        if isinstance(node, random) and not node.inference and getattr(node, "p", 1) != 0:
            msg = (
                f"The network has a {type(node).__name__} in training mode, so its outputs on an example are random or "
                "depend on the others. Use equinox.nn.inference_mode(network)."
            )
            raise InputError(msg)


def _check_alone(network: Network, landscape: Landscape, predict: Callable[[Network, PyTree[Array]], Array]) -> None:
    """Raise unless predictions on single examples are those in a batch."""
    if landscape._predict is None:
        return
    num = min(_CHECKED, landscape.size)
    some = jax.tree.map(lambda a: a[:num], landscape.batch)
    together = landscape._predict(network, some)
    examples = [jax.tree.map(lambda a: a[i], some) for i in range(num)]  # noqa: B023
    alone = jnp.stack([predict(network, example) for example in examples])
    tol = math.sqrt(float(jnp.finfo(alone.dtype).eps)) * (1 + float(jnp.abs(together).max()))
    if alone.shape != together.shape or not float(jnp.abs(alone - together).max()) <= tol:
        msg = (
            "predict(params, batch) gives other predictions for an example alone than in a batch, so it has no kernel "
            "between examples. Use the evaluation mode of the network (running statistics, no dropout)."
        )
        raise InputError(msg)
