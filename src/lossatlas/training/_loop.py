import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from lossatlas._parameters import Unravel, ravel_tangent, select
from lossatlas._types import Network, Vector
from lossatlas.landscape import Landscape
from lossatlas.training._optimizer import Optimizer
from lossatlas.training._state import TrainingState


RUNNING, CONVERGED, DIVERGED = 0, 1, 2
_ORDER = 0x0DE5  # what separates the order of minibatches from other uses of the same key


class Job(eqx.Module):
    """What stays the same along one training run."""

    key: Key[Array, "..."]
    unravel: Unravel
    landscape: Landscape
    optimizer: Optimizer
    snapshot_steps: Int[Array, " s"]
    tolerance: Float[Array, ""] | None
    batch_size: int | None = eqx.field(static=True)


class Records(eqx.Module):
    """The snapshots. Row `count` holds the latest point of the run and is kept when that point is a snapshot."""

    count: Int[Array, ""]
    steps: Int[Array, " rows"]
    loss: Float[Array, " rows"]
    gradient_norm: Float[Array, " rows"]
    parameters: Float[Array, "rows p"]


class State(eqx.Module):
    """Where a run is, and its snapshots so far."""

    point: TrainingState
    records: Records


def begin(job: Job, origin: TrainingState | None = None) -> State:
    """The state before the first step: at the parameters that `job.unravel` was made from, or where another run is."""
    vector = ravel_tangent(job.unravel.like) if origin is None else origin.vector
    loss, gradient = _evaluate(job, vector)
    if origin is not None and origin.gradient is not None:
        loss, gradient = _same_or_fresh(origin, loss, gradient)
    point = TrainingState(
        step=jnp.asarray(0, jnp.int32) if origin is None else origin.step,
        code=_code(job, loss, gradient),
        vector=vector,
        memory=job.optimizer.init(vector, job.unravel) if origin is None else origin.memory,
        loss=loss,
        gradient=gradient if job.batch_size is None else None,
    )
    rows = job.snapshot_steps.shape[0] + 1  # one more for a run that ends early, between two snapshots
    records = Records(
        count=jnp.asarray(0, jnp.int32),
        steps=jnp.zeros(rows, jnp.int32),
        loss=jnp.full(rows, jnp.nan, loss.dtype),
        gradient_norm=jnp.full(rows, jnp.nan, vector.dtype),
        parameters=jnp.full((rows, vector.size), jnp.nan, vector.dtype),
    )
    return _record(job, State(point, records))


def advance(job: Job, state: State, stop: Int[Array, ""]) -> State:
    """Run until `stop` steps have been made in all, the gradient is small enough or the loss is not finite.

    Two loops: the inner one makes steps and nothing else, up to the next snapshot, epoch or `stop`; the outer one
    records. The stop is a traced number, so one program serves every length.
    """

    def segment(state: State) -> State:
        now = state.point.step
        upcoming = jnp.where(job.snapshot_steps > now, job.snapshot_steps, stop).min()
        target = jnp.minimum(upcoming, stop)
        if job.batch_size is None:
            step = ft.partial(_full_step, job)
        else:
            per_epoch = -(-job.landscape.size // job.batch_size)
            epoch = now // per_epoch
            target = jnp.minimum(target, (epoch + 1) * per_epoch)
            key = jax.random.fold_in(jax.random.fold_in(job.key, _ORDER), epoch)
            order = jax.random.permutation(key, job.landscape.size)
            step = ft.partial(_batch_step, job, order, epoch * per_epoch)
        point = jax.lax.while_loop(lambda p: (p.step < target) & (p.code == RUNNING), step, state.point)
        return _record(job, State(point, state.records))

    return jax.lax.while_loop(lambda s: (s.point.step < stop) & (s.point.code == RUNNING), segment, state)


def _full_step(job: Job, point: TrainingState) -> TrainingState:
    assert point.gradient is not None
    gradient_at = lambda vector: _evaluate(job, vector)[1]  # noqa: E731
    vector, memory = job.optimizer.update(point.gradient, point.memory, point.vector, job.unravel, gradient_at)
    loss, gradient = _evaluate(job, vector)
    return TrainingState(point.step + 1, _code(job, loss, gradient), vector, memory, loss, gradient)


def _batch_step(job: Job, order: Int[Array, " n"], first: Int[Array, ""], point: TrainingState) -> TrainingState:
    size, b = job.landscape.size, job.batch_size
    assert b is not None
    place = (point.step - first) * b + jnp.arange(b, dtype=jnp.int32)
    rows = order[jnp.minimum(place, size - 1)]
    batch = jax.tree.map(lambda a: a[rows], job.landscape.batch)
    # The last batch of an epoch may be smaller: the places beyond the data have weight 0.
    weights = (place < size).astype(point.vector.dtype)

    def mean_loss(vector: Vector) -> Float[Array, ""]:
        return job.landscape._weighted_loss(vector, job.unravel, batch, weights) / weights.sum()

    loss, gradient = jax.value_and_grad(mean_loss)(point.vector)
    vector, memory = job.optimizer.update(gradient, point.memory, point.vector, job.unravel, jax.grad(mean_loss))
    # This loss belongs to the point before the update: where it is not finite, that point is the end.
    finite = jnp.isfinite(loss)
    return TrainingState(
        step=point.step + finite.astype(jnp.int32),
        code=jnp.where(finite, RUNNING, DIVERGED).astype(jnp.int32),
        vector=jnp.where(finite, vector, point.vector),
        memory=memory,
        loss=loss.astype(point.loss.dtype),
        gradient=None,
    )


def _evaluate(job: Job, vector: Vector) -> tuple[Float[Array, ""], Vector]:
    return job.landscape.value_and_gradient(job.unravel(vector))


def _same_or_fresh(origin: TrainingState, loss: Float[Array, ""], gradient: Vector) -> tuple[Float[Array, ""], Vector]:
    """Loss and gradient that a run kept, where they are those of this landscape to rounding; else the fresh ones.

    Another program may round the gradient otherwise, and a run in two parts has to be the whole run to the last bit.
    """
    assert origin.gradient is not None
    allowed = jnp.sqrt(jnp.finfo(gradient.dtype).eps) * (1 + jnp.linalg.norm(gradient))
    is_same = jnp.linalg.norm(origin.gradient - gradient) <= allowed
    return jnp.where(is_same, origin.loss, loss), jnp.where(is_same, origin.gradient, gradient)


def _code(job: Job, loss: Float[Array, ""], gradient: Vector) -> Int[Array, ""]:
    code = jnp.where(jnp.isfinite(loss), RUNNING, DIVERGED)
    if job.tolerance is not None:
        code = jnp.where((code == RUNNING) & (jnp.linalg.norm(gradient) <= job.tolerance), CONVERGED, code)
    return code.astype(jnp.int32)


def _record(job: Job, state: State) -> State:
    """Write the point into the current row, and keep the row where it is a snapshot or the end of the run."""
    point, records = state.point, state.records
    due = (job.snapshot_steps == point.step).any()
    if point.gradient is not None:
        loss, gradient, code = point.loss, point.gradient, point.code
    else:
        evaluate = lambda vector: _evaluate(job, vector)  # noqa: E731
        shapes = jax.eval_shape(evaluate, point.vector)
        skip = lambda vector: jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)  # noqa: E731, ARG005
        loss, gradient = jax.lax.cond(due | (point.code != RUNNING), evaluate, skip, point.vector)
        code = jnp.where(due & (point.code == RUNNING), _code(job, loss, gradient), point.code)
    row = records.count
    records = Records(
        count=row + (due | (code != RUNNING)).astype(jnp.int32),
        steps=records.steps.at[row].set(point.step),
        loss=records.loss.at[row].set(loss),
        gradient_norm=records.gradient_norm.at[row].set(jnp.linalg.norm(gradient)),
        parameters=records.parameters.at[row].set(point.vector),
    )
    return State(eqx.tree_at(lambda p: p.code, point, code), records)


def unravel_of(network: Network) -> Unravel:
    """What turns vectors into networks; the flattening itself is left to the program."""
    return Unravel(*eqx.partition(network, select(network)))


def network_of(unravel: Unravel, vector: Vector) -> Network:
    """The network of a parameter vector; a function, so that it can be one program."""
    return unravel(vector)


@ft.cache
def compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function as a program for the default backend, one per function.

    On the CPU with 512-bit vectors where the processor has them: LLVM's default of 256 makes tanh in float64 1.4
    times as slow. An option of these programs alone; no flag is set.
    """
    options: dict[str, Any] = {}
    if jax.default_backend() == "cpu":
        options["compiler_options"] = {"xla_cpu_prefer_vector_width": 512}
    return eqx.filter_jit(fn, **options)  # pyright: ignore[reportCallIssue]
