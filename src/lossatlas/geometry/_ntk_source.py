"""Predictions on single examples as functions of arrays by path, traced once for networks of one shape."""

import collections
import dataclasses
import math
from collections.abc import Callable, Sequence
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
    return Landscape(inputs, jnp.zeros(inputs.shape[:1], jnp.zeros(()).dtype))


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
    predict = predictor(network, landscape)
    chosen = select(network, only)
    arrays, static = eqx.partition(network, eqx.is_array)
    named = jax.tree_util.tree_leaves_with_path(arrays)
    kept = jax.tree_util.tree_leaves_with_path(eqx.filter(network, chosen))
    paths, selected = (tuple(path_name(path) for path, _ in leaves) for leaves in (named, kept))
    leaves = [leaf for _, leaf in named]
    example = jax.tree.map(lambda a: a[0], examples_of(landscape))
    key = (
        _key(static),
        tuple((leaf.shape, str(leaf.dtype)) for leaf in (*leaves, *jax.tree.leaves(example))),
        (paths, selected, landscape._predict, jax.tree.structure(arrays)),
    )
    if key not in _sources:
        _check_alone(network, landscape, predict)
        _sources[key] = _make(predict, arrays, static, paths, selected, leaves, example)
        while len(_sources) > _KEPT:
            _sources.popitem(last=False)
    _sources.move_to_end(key)
    return _sources[key], leaves


def _make(
    predict: Callable[[Network, PyTree[Array]], Array],
    arrays: PyTree,
    static: PyTree,
    paths: tuple[str, ...],
    selected: Sequence[str],
    leaves: list[Array],
    example: PyTree,
) -> Source:
    structure = jax.tree.structure(arrays)

    def fn(leaves: list[Array], example: PyTree) -> Array:
        return predict(eqx.combine(jax.tree.unflatten(structure, leaves), static), example)

    plan = make_plan(fn, dict(zip(paths, leaves, strict=True)), selected, example)
    shape = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype)  # noqa: E731
    return Source(fn, paths, tuple(selected), plan, [shape(leaf) for leaf in leaves], jax.tree.map(shape, example))


def _key(static: PyTree) -> Any:
    """What tells one function from another beside its arrays; the object itself where it has no hash."""
    leaves, structure = jax.tree.flatten(static)
    try:
        hash((tuple(leaves), structure))
    except TypeError:
        return id(static)
    return tuple(leaves), structure


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
