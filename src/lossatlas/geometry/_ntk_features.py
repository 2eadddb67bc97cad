r"""What kernels are contracted from: for every example, factors of its gradients in each layer.

A gradient in the weights of one layer is $\sum_s h_s b_s^\top$ over positions s, so the inner product of two of
them is $\sum_{st} (h_s \cdot h'_t)(b_s \cdot b'_t)$: a Gram matrix of inputs times one of slopes (`Pair`). Where
there are so many positions that this costs more, and for parameters without that structure, the gradients are
formed (`Gradient`).
"""

import dataclasses
import functools as ft
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lossatlas.geometry._ntk_plan import Factored, Plan, layer_of
from lossatlas.numerics import Var, evaluate, shape_of


Convention = Literal["full", "trace", "sum_logits"]


class Pair(eqx.Module):
    """Inputs and slopes of one layer: `k` rows of the kernel an example, its positions side by side."""

    layer: str = eqx.field(static=True)
    inputs: Float[Array, "n positions inputs"]
    slopes: Float[Array, "n positions k slopes"]


class Gradient(eqx.Module):
    """Gradients of one layer, `k` rows of the kernel an example."""

    layer: str = eqx.field(static=True)
    values: Float[Array, "n k p"]


Features = list[Pair | Gradient]


@dataclasses.dataclass(frozen=True)
class Rows:
    r"""Which directions in the space of predictions a kernel takes.

    `num` directions an example; `k` rows of the kernel: all of them (`full`), or one, over which the directions are
    summed (`trace`, scaled by $1/\sqrt C$; `sum_logits`, a single direction of equal entries $1/\sqrt C$).
    """

    convention: Convention
    num_outputs: int

    @property
    def num(self) -> int:
        """How many gradients of predictions an example has."""
        return 1 if self.convention == "sum_logits" else self.num_outputs

    @property
    def k(self) -> int:
        """How many rows of the kernel an example has."""
        return self.num_outputs if self.convention == "full" else 1

    @property
    def per_pair(self) -> int:
        """How many inner products of gradients a pair of examples takes."""
        return self.num * self.k

    def directions(self, dtype: Any) -> Float[Array, "num outputs"]:
        """One a row."""
        size = self.num_outputs
        if self.convention == "full":
            return jnp.eye(size, dtype=dtype)
        rows = jnp.eye(size, dtype=dtype) if self.convention == "trace" else jnp.ones((1, size), dtype)
        return rows / jnp.asarray(math.sqrt(size), dtype)

    def split(self, slopes: Float[Array, "n num s o"]) -> Float[Array, "n s k rest"]:
        """Slopes with the directions that are summed over beside what they are slopes in."""
        n, num, positions, size = slopes.shape
        return jnp.moveaxis(slopes, 1, 2).reshape(n, positions, self.k, num // self.k * size)


@dataclasses.dataclass(frozen=True)
class Layer:
    """Parameters of one layer that share their slopes: some of one position with a bias, or one alone."""

    name: str
    weights: tuple[Factored, ...]
    shifts: tuple[str, ...] = ()

    def is_paired(self, rows: Rows) -> bool:
        """Whether two Gram matrices cost less than gradients that are formed."""
        if self.weights[0].uses[0].groups > 1:
            return False
        positions, size = self.weights[0].num_positions, self.weights[0].shape[1]
        return self.pair_cost(positions, size, rows) <= self.gradient_cost(rows)

    @property
    def num_inputs(self) -> int:
        """Of all parameters together; a bias has one."""
        return sum(weight.shape[0] for weight in self.weights) + len(self.shifts)

    def pair_cost(self, positions: int, size: int, rows: Rows) -> float:
        """Multiplications for a pair of examples, with Gram matrices."""
        return float(positions**2 * (self.num_inputs + rows.per_pair * size))

    def gradient_cost(self, rows: Rows) -> float:
        """Multiplications for a pair of examples, with gradients."""
        return float(rows.per_pair * self.num_inputs * self.weights[0].shape[1] * self.weights[0].uses[0].groups)

    def cost(self, rows: Rows) -> float:
        """The smaller of the two."""
        if not self.is_paired(rows):
            return self.gradient_cost(rows)
        return self.pair_cost(self.weights[0].num_positions, self.weights[0].shape[1], rows)


def float_type(leaves: Sequence[Array | jax.ShapeDtypeStruct]) -> Any:
    """The type of the numbers of a network."""
    return jnp.result_type(*(leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)))


@ft.lru_cache(maxsize=64)
def layers_of(plan: Plan) -> tuple[Layer, ...]:
    """The factored parameters of a plan, those of one layer and one output together."""
    alone: list[Layer] = []
    shared: dict[tuple[str, Var], tuple[list[Factored], list[str]]] = defaultdict(lambda: ([], []))
    for found in plan.factored:
        if found.num_positions == 1 and found.uses[0].groups == 1:
            shared[layer_of(found.path), found.uses[0].output][0].append(found)
        else:
            alone.append(Layer(layer_of(found.path), (found,)))
    for path, tap in plan.shifts.items():
        shared[layer_of(path), tap][1].append(path)
    together = []
    for (name, _), (weights, shifts) in shared.items():
        if weights:
            together.append(Layer(name, tuple(weights), tuple(shifts)))
    return (*together, *alone)


def direct_paths(plan: Plan) -> tuple[str, ...]:
    """Parameters whose gradients are formed by reverse mode: those that no layer holds."""
    held = {path for layer in layers_of(plan) for path in (*layer.shifts, *(w.path for w in layer.weights))}
    return tuple(path for path in plan.paths if path in {*plan.direct, *plan.shifts} - held)


@ft.partial(jax.jit, static_argnums=(0, 1))
def structured(plan: Plan, rows: Rows, leaves: list[Array], examples: Any) -> Features:
    """The features of a batch by structure: one forward pass, one backward pass a direction to outputs of layers."""
    layers = layers_of(plan)
    uses = [use for layer in layers for weight in layer.weights for use in weight.uses]
    outputs = list(dict.fromkeys(use.output for use in uses))
    inputs = list(dict.fromkeys(use.other for use in uses))
    direct = direct_paths(plan)
    places = [plan.paths.index(path) for path in direct]
    zeros = [jnp.zeros(like.shape, like.dtype) for like in map(shape_of, outputs)]
    directions = rows.directions(float_type(leaves))

    def of_example(example):
        def run(nudges, moved):
            replaced = list(leaves)
            for place, leaf in zip(places, moved, strict=True):
                replaced[place] = leaf
            values = [*replaced, *jax.tree.leaves(example)]
            (prediction,), seen = evaluate(plan.closed, values, [*outputs, *inputs], nudges)
            return prediction.reshape(-1), seen[len(outputs) :]

        _, pull, seen = jax.vjp(run, zeros, [leaves[place] for place in places], has_aux=True)
        slopes, gradients = jax.vmap(pull)(directions)
        return seen, slopes, gradients

    seen, slopes, gradients = jax.vmap(of_example)(examples)
    values = dict(zip(inputs, seen, strict=True))
    cotangents = dict(zip(outputs, slopes, strict=True))
    features = [_of_layer(layer, rows, values, cotangents) for layer in layers]
    return [*features, *_formed(direct, rows, gradients)]


def _of_layer(layer: Layer, rows: Rows, values: dict[Var, Array], cotangents: dict[Var, Array]) -> Pair | Gradient:
    first = layer.weights[0]
    if len(layer.weights) > 1 or layer.shifts:  # one position, the same slopes
        columns = [
            weight.scale * jax.vmap(weight.uses[0].inputs)(values[weight.uses[0].other]) for weight in layer.weights
        ]
        like = columns[0]
        ones = [jnp.ones((*like.shape[:3], len(layer.shifts)), like.dtype)] if layer.shifts else []
        seen = jnp.concatenate([*columns, *ones], axis=-1)
        made = jax.vmap(jax.vmap(first.uses[0].outputs))(cotangents[first.uses[0].output])
    else:
        seen = first.scale * jnp.concatenate([jax.vmap(use.inputs)(values[use.other]) for use in first.uses], axis=2)
        made = [jax.vmap(jax.vmap(use.outputs))(cotangents[use.output]) for use in first.uses]
        made = jnp.concatenate(made, axis=3)
    if layer.is_paired(rows):
        return Pair(layer.name, seen[:, 0], rows.split(made[:, :, 0]))
    # Directions and outputs side by side: one matrix product an example, which a CPU does much faster than two axes.
    n, num, groups, positions, size = made.shape
    beside = jnp.moveaxis(made, 1, 3).reshape(n, groups, positions, num * size)
    gradients = jnp.einsum("ngsm,ngsq->ngqm", seen, beside).reshape(n, groups, num, size, seen.shape[-1])
    return Gradient(layer.name, jnp.moveaxis(gradients, 1, 2).reshape(n, rows.k, -1))


def _formed(paths: tuple[str, ...], rows: Rows, gradients: list[Array]) -> Features:
    """Gradients by layer, those of its parameters side by side."""
    by_layer: dict[str, list[Array]] = defaultdict(list)
    for path, values in zip(paths, gradients, strict=True):
        by_layer[layer_of(path)].append(values.reshape(len(values), rows.k, -1))
    return [Gradient(name, jnp.concatenate(parts, axis=-1)) for name, parts in by_layer.items()]


@ft.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def contracted(
    fn: Callable[..., Array],
    paths: tuple[str, ...],
    selected: tuple[str, ...],
    rows: Rows,
    leaves: list[Array],
    examples: Any,
) -> Features:
    """The features of a batch without structure: the whole gradient of every direction."""
    places = [paths.index(path) for path in selected]
    directions = rows.directions(float_type(leaves))

    def of_example(example):
        def run(moved):
            replaced = list(leaves)
            for place, leaf in zip(places, moved, strict=True):
                replaced[place] = leaf
            return fn(replaced, example).reshape(-1)

        _, pull = jax.vjp(run, [leaves[place] for place in places])
        return jax.vmap(lambda direction: pull(direction)[0])(directions)

    return _formed(selected, rows, jax.vmap(of_example)(examples))


@jax.jit
def block(first: Features, second: Features) -> dict[str, Float[Array, "n k n2 k2"]]:
    """The block of the kernel between two batches, by layer."""
    total: dict[str, Array] = {}
    for one, other in zip(first, second, strict=True):
        part = _of_pairs(one, other) if isinstance(one, Pair) else _of_gradients(one, other)
        total[one.layer] = total[one.layer] + part if one.layer in total else part
    return total


@jax.jit
def summed_block(first: Features, second: Features) -> Float[Array, "n k n2 k2"]:
    """The block of the kernel between two batches."""
    return ft.reduce(jnp.add, block(first, second).values())


def _of_gradients(one: Gradient, other: Any) -> Float[Array, "n k n2 k2"]:
    (n, k, size), (m, k2, _) = one.values.shape, other.values.shape
    return (one.values.reshape(n * k, size) @ other.values.reshape(m * k2, size).T).reshape(n, k, m, k2)


def _of_pairs(one: Pair, other: Any) -> Float[Array, "n k n2 k2"]:
    (n, s, k, size), (m, t, k2, _) = one.slopes.shape, other.slopes.shape
    seen = one.inputs.reshape(n * s, -1) @ other.inputs.reshape(m * t, -1).T
    made = one.slopes.reshape(n * s * k, size) @ other.slopes.reshape(m * t * k2, size).T
    both = seen.reshape(n, s, 1, m, t, 1) * made.reshape(n, s, k, m, t, k2)
    return both.sum(axis=(1, 4))
