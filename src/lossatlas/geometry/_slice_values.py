"""What the landscape is at many points of a slice: one compiled program, driven in chunks."""

import functools as ft
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
        if accuracy is None:
            accuracy = all(has_classes(each) for each in landscapes)
        if accuracy and not all(has_classes(each) for each in landscapes):
            msg = "accuracy needs loss='cross_entropy' or 'logistic' on every landscape; leave it out or give False."
            raise InputError(msg)
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
        fixed = (self.origin, self.unravel, self.vectors, self.landscapes, self.names)
        return np.asarray(run(*fixed, jnp.asarray(full), jnp.asarray(len(part))))[: len(part)]

    def _driven(self, point: Array) -> np.ndarray:
        """The quantities at one point, from means over parts of the data, one program for all of one size."""
        found: dict[str, Any] = {}
        for prefix, parts in zip(("", "test_"), self.parts, strict=False):
            with_gradient = self.gradient_norm and not prefix
            fixed = (self.origin, self.unravel, self.vectors, self.accuracy, with_gradient)
            means = [_means_at(*fixed, each, point) for each in parts]
            shares = [each.size / sum(part.size for part in parts) for each in parts]
            loss, right, gradient = (
                sum(share * np.asarray(mean, float) for share, mean in zip(shares, column, strict=True))
                for column in zip(*means, strict=True)
            )
            found |= {f"{prefix}loss": loss, f"{prefix}accuracy": right}
            found[f"{prefix}gradient_norm"] = np.linalg.norm(gradient)
        return np.array([found[name] for name in self.names])


def has_classes(landscape: Landscape) -> bool:
    """Whether the predictions of a landscape can be right or wrong."""
    return landscape.loss is not None and landscape.loss.name in ("cross_entropy", "logistic")


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
def _means_at(origin, unravel, vectors, accuracy, with_gradient, landscape, point):
    return _means(landscape, unravel, accuracy, with_gradient, origin + point @ vectors)


@eqx.filter_jit
def _in_turn(origin, unravel, vectors, landscapes, names, points, count):
    def step(i, values):
        return values.at[i].set(_quantities(origin, unravel, vectors, landscapes, names, points[i]))

    return jax.lax.fori_loop(0, count, step, jnp.zeros((len(points), len(names))))


@eqx.filter_jit
def _side_by_side(origin, unravel, vectors, landscapes, names, points, count):
    del count
    return jax.vmap(lambda point: _quantities(origin, unravel, vectors, landscapes, names, point))(points)


def _quantities(origin, unravel, vectors, landscapes, names, point) -> Float[Array, " q"]:
    """The quantities at one point, in the order of their names."""
    vector = origin + point @ vectors
    found: dict[str, Array] = {}
    for prefix, landscape in zip(("", "test_"), landscapes, strict=False):
        with_gradient = "gradient_norm" in names and not prefix
        loss, right, gradient = _means(landscape, unravel, "accuracy" in names, with_gradient, vector)
        found |= {f"{prefix}loss": loss, f"{prefix}accuracy": right}
        found[f"{prefix}gradient_norm"] = jnp.linalg.norm(gradient)
    return jnp.stack([found[name].astype(jnp.zeros(()).dtype) for name in names])


def _means(landscape: Landscape, unravel: Unravel, accuracy: bool, with_gradient: bool, vector: Vector):
    """Mean loss, share of right predictions, and gradient (0 where it is not wanted) over the data."""
    sums = ft.partial(_sums, landscape, unravel, accuracy)
    if not with_gradient:
        return *landscape._mean(lambda *batch: sums(vector, *batch)), jnp.zeros((1,))
    differentiated = jax.value_and_grad(sums, has_aux=True)
    (loss, right), gradient = landscape._mean(lambda *batch: differentiated(vector, *batch))
    return loss, right, gradient


def _sums(landscape: Landscape, unravel: Unravel, accuracy: bool, vector: Vector, batch: Any, weights: Array):
    """The sum of the losses of a batch, and how many predictions are right; each prediction is made once."""
    network, keep = unravel(vector), weights > 0
    if not accuracy:
        losses = landscape._losses_of(network, batch)
        return jnp.sum(jnp.where(keep, losses, 0.0)), jnp.zeros(())
    predictions, loss = landscape._predictions_of(network, batch), landscape._require_loss()
    losses = jax.vmap(loss)(predictions, batch[-1])
    # A prediction that is not finite is wrong, whatever argmax makes of it.
    right = keep & _is_right(loss.name, predictions, batch[-1]) & jnp.isfinite(losses)
    return jnp.sum(jnp.where(keep, losses, 0.0)), jnp.sum(jnp.where(right, 1.0, 0.0))


def _is_right(loss: str, predictions: Array, targets: Array) -> Array:
    if loss == "logistic":
        predictions, targets = predictions.reshape(len(predictions), -1), targets.reshape(len(targets), -1)
        return jnp.all((predictions > 0) == (targets > 0.5), axis=1)
    chosen = jnp.argmax(predictions, axis=1)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        return chosen == targets.reshape(-1).astype(chosen.dtype)
    return chosen == jnp.argmax(targets, axis=1)


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
