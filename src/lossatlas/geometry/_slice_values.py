"""What the landscape is at many points of a slice: one compiled program, driven in chunks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import Unravel, named_parameters, num_parameters
from lossatlas._types import Network, Vector
from lossatlas.geometry._classes import ClassKind, class_kind, losses_and_errors
from lossatlas.geometry._directions import Directions
from lossatlas.landscape import Landscape
from lossatlas.numerics import flat_jaxpr


Loop = Literal["auto", "map", "vmap", "host"]
_LOOPS = ("auto", "map", "vmap", "host")
_CHUNK_OPERATIONS = 2e9  # of a chunk, so that progress and Ctrl-C come within a second or so
_MOST_POINTS = 512  # of a chunk
_CACHE_NUMBERS = 500_000  # of the widest activation of a part
_LEAST_ROWS = 64
_VMAP_NUMBERS = 2e8  # of activations and parameters that points side by side may take
_PASSES = 3  # what a gradient costs, in evaluations of the loss


class SliceValues:
    """Quantities of a network that moves along directions, at any points.

    `names` are what each point gives: `loss`; `gradient_norm`, the Euclidean norm of the gradient in the moving
    parameters; `accuracy`; `test_loss` and `test_accuracy` with another landscape. Non-finite values stay so.

    On a CPU the points run one after another inside one compiled loop, which is faster there than side by side; with
    convolutions, which are slow inside loops, Python drives them one by one, over parts of the data whose activations
    stay in the cache of the processor (twice as fast). Elsewhere they run side by side in chunks of a fixed size. A
    value does not depend on the points that it is computed with.

    **Raises:** `InputError` for an unknown `loop`, and accuracies that the losses do not have.
    """

    def __init__(
        self,
        network: Network,
        landscape: Landscape,
        directions: Directions,
        *,
        test: Landscape | None = None,
        gradient_norm: bool = False,
        accuracy: bool | None = None,
        loop: Loop = "auto",
    ):
        if loop not in _LOOPS:
            raise unknown_name("loop", loop, _LOOPS)
        self.origin, self.unravel = directions.split(network)
        self.vectors = jnp.asarray(directions.vectors, self.origin.dtype)
        landscapes = (landscape,) if test is None else (landscape, test)
        kinds = tuple(class_kind(each) for each in landscapes)
        if accuracy is None:
            accuracy = None not in kinds
        if accuracy and None in kinds:
            msg = (
                "accuracy needs classes on every landscape: loss='cross_entropy' or 'logistic', or squared error with "
                "one-hot targets; leave it out or give False."
            )
            raise InputError(msg)
        self.kinds = kinds if accuracy else (None,) * len(kinds)
        self.accuracy, self.gradient_norm = bool(accuracy), gradient_norm
        self.names = tuple(_names(test is not None, gradient_norm, self.accuracy))
        self.evaluations = _evaluations(landscapes, gradient_norm)
        self.loop = loop if loop != "auto" else _best_loop(network, landscape)
        self.chunk = self._chunk_size(network, landscapes)
        self.landscapes = landscapes
        self.parts = tuple(_parts(network, each) for each in landscapes) if self.loop == "host" else ()

    def _chunk_size(self, network: Network, landscapes: Sequence[Landscape]) -> int:
        if self.loop == "host":
            return 1
        if self.loop == "vmap":
            rows = max(each.batch_size or each.size for each in landscapes)
            width = num_parameters(network) + rows * _widest(network, landscapes[0])
            return int(np.clip(_VMAP_NUMBERS / max(width, 1), 1, _MOST_POINTS))
        operations = 2.0 * num_parameters(network) * landscapes[0].size * self.evaluations
        return int(np.clip(_CHUNK_OPERATIONS / operations, 1, _MOST_POINTS))

    def __call__(
        self, points: Float[np.ndarray, "m k"], report: Callable[[int], None] | None = None
    ) -> Float[np.ndarray, "m q"]:
        """The quantities at points, a column for each of `names`, in float64; `report` hears how many are done."""
        values = np.empty((len(points), len(self.names)))
        points = np.asarray(points, self.origin.dtype)
        for start in range(0, len(points), self.chunk):
            part = points[start : start + self.chunk]
            values[start : start + len(part)] = self._chunk_values(part)
            if report is not None:
                report(start + len(part))
        return values

    def _chunk_values(self, part: np.ndarray) -> np.ndarray:
        if self.loop == "host":
            return self._driven(jnp.asarray(part[0]))
        # Filled up, so that one program serves all; the compiled loop leaves out what was filled in.
        full = np.concatenate([part, np.repeat(part[-1:], self.chunk - len(part), axis=0)])
        run = _in_turn if self.loop == "map" else _side_by_side
        fixed = (self.origin, self.unravel, self.vectors, self.landscapes, self.kinds, self.names)
        return np.asarray(run(*fixed, jnp.asarray(full), jnp.asarray(len(part))))[: len(part)]

    def _driven(self, point: Array) -> np.ndarray:
        """The quantities at one point, from means over parts of the data, one program for all of one size."""
        found: dict[str, Any] = {}
        for prefix, parts, kind in zip(("", "test_"), self.parts, self.kinds, strict=False):
            with_gradient = self.gradient_norm and not prefix
            fixed = (self.origin, self.unravel, self.vectors, kind, with_gradient)
            means = [_means_at(*fixed, each, point) for each in parts]
            shares = [each.size / sum(part.size for part in parts) for each in parts]
            loss, error, gradient = (
                sum(share * np.asarray(mean, float) for share, mean in zip(shares, column, strict=True))
                for column in zip(*means, strict=True)
            )
            found |= {f"{prefix}loss": loss, f"{prefix}accuracy": 1 - error}
            found[f"{prefix}gradient_norm"] = np.linalg.norm(gradient)
        return np.array([found[name] for name in self.names])


def _names(has_test: bool, gradient_norm: bool, accuracy: bool) -> list[str]:
    names = ["loss"] + ["gradient_norm"] * gradient_norm + ["accuracy"] * accuracy
    return names + (["test_loss"] + ["test_accuracy"] * accuracy) * has_test


def _evaluations(landscapes: Sequence[Landscape], gradient_norm: bool) -> float:
    """What a point costs, in evaluations of the training loss."""
    first, *others = (each.size for each in landscapes)
    return (_PASSES if gradient_norm else 1) + sum(others) / first


def _best_loop(network: Network, landscape: Landscape) -> Loop:
    if jax.default_backend() != "cpu":
        return "vmap"
    return "host" if _has_convolutions(network, landscape) else "map"


def _parts(network: Network, landscape: Landscape) -> tuple[Landscape, ...]:
    """The data in pieces, no larger than its batches."""
    if getattr(network, "batch_statistics", False):
        return (landscape,)
    rows = max(_LEAST_ROWS, _CACHE_NUMBERS // _widest(network, landscape))
    rows = min(rows, landscape.batch_size or landscape.size)
    starts = range(0, landscape.size, rows)
    return tuple(landscape.subset(slice(start, min(start + rows, landscape.size))) for start in starts)


@eqx.filter_jit
def _means_at(origin, unravel, vectors, kind, with_gradient, landscape, point):
    return _means(landscape, unravel, kind, with_gradient, origin + point @ vectors)


@eqx.filter_jit
def _in_turn(origin, unravel, vectors, landscapes, kinds, names, points, count):
    def step(i, values):
        return values.at[i].set(_quantities(origin, unravel, vectors, landscapes, kinds, names, points[i]))

    return jax.lax.fori_loop(0, count, step, jnp.zeros((len(points), len(names))))


@eqx.filter_jit
def _side_by_side(origin, unravel, vectors, landscapes, kinds, names, points, count):
    del count
    return jax.vmap(lambda point: _quantities(origin, unravel, vectors, landscapes, kinds, names, point))(points)


def _quantities(origin, unravel, vectors, landscapes, kinds, names, point) -> Float[Array, " q"]:
    """The quantities at one point, in the order of their names."""
    vector = origin + point @ vectors
    found: dict[str, Array] = {}
    for prefix, landscape, kind in zip(("", "test_"), landscapes, kinds, strict=False):
        with_gradient = "gradient_norm" in names and not prefix
        loss, error, gradient = _means(landscape, unravel, kind, with_gradient, vector)
        found |= {f"{prefix}loss": loss, f"{prefix}accuracy": 1 - error}
        found[f"{prefix}gradient_norm"] = jnp.linalg.norm(gradient)
    return jnp.stack([found[name].astype(jnp.zeros(()).dtype) for name in names])


def _means(
    landscape: Landscape, unravel: Unravel, kind: ClassKind | None, with_gradient: bool, vector: Vector
) -> tuple[Float[Array, ""], Float[Array, ""], Array]:
    """Mean loss, mean error (NaN without classes), and gradient (0 where it is not wanted) over the data."""

    def sums(vector: Vector, batch: Any, weights: Array):
        both = losses_and_errors(landscape, kind, unravel(vector), batch)
        return tuple(jnp.sum(jnp.where(weights > 0, values, 0.0)) for values in both)

    if not with_gradient:
        return *landscape._mean(lambda *batch: sums(vector, *batch)), jnp.zeros((1,))
    differentiated = jax.value_and_grad(sums, has_aux=True)
    (loss, error), gradient = landscape._mean(lambda *batch: differentiated(vector, *batch))
    return loss, error, gradient


def _traced(network: Network, landscape: Landscape):
    """The operations of the loss of one example."""
    arrays, static = eqx.partition(network, eqx.is_array)
    one = jax.tree.map(lambda a: a[:1], landscape.batch)
    alone = landscape.with_batch_size(None)
    return flat_jaxpr(lambda arrays, batch: alone._losses_of(eqx.combine(arrays, static), batch), arrays, one).jaxpr


def _has_convolutions(network: Network, landscape: Landscape) -> bool:
    if all(array.ndim < 3 for array in named_parameters(network).values()):
        return False  # no parameter is a kernel: no need to trace
    return any(eqn.primitive.name == "conv_general_dilated" for eqn in _traced(network, landscape).eqns)


def _widest(network: Network, landscape: Landscape) -> int:
    """The size of the largest value that one example passes through."""
    shapes = [getattr(var.aval, "shape", ()) for eqn in _traced(network, landscape).eqns for var in eqn.outvars]
    return max((int(np.prod(shape)) for shape in shapes), default=1)
