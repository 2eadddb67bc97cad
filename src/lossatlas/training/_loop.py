import functools as ft
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from lossatlas._parameters import Unravel
from lossatlas._types import Vector
from lossatlas.landscape import Landscape
from lossatlas.training._optimizer import Optimizer


RUNNING, CONVERGED, DIVERGED = 0, 1, 2
_ORDER = 0x0DE5  # what separates the order of minibatches from other uses of the same key


class Job(eqx.Module):
    """What stays the same along one training run."""

    key: PRNGKeyArray
    unravel: Unravel
    landscape: Landscape
    optimizer: Optimizer
    snapshot_steps: Int[Array, " s"]
    tolerance: Float[Array, ""] | None
    batch_size: int | None = eqx.field(static=True)


class Records(eqx.Module):
    """The snapshots. Row `count` holds the latest point of the run and is kept when that point is a snapshot."""

    count: Int[Array, ""]
    steps: Int[Array, " s+1"]
    loss: Float[Array, " s+1"]
    gradient_norm: Float[Array, " s+1"]
    parameters: Float[Array, "s+1 p"]


class State(eqx.Module):
    """One point of a training run, complete: what follows depends on nothing else.

    `loss` and `gradient` belong to `vector`, except with minibatches, where `loss` is that of the last batch and
    there is no gradient.
    """

    step: Int[Array, ""]
    code: Int[Array, ""]
    vector: Vector
    memory: PyTree
    loss: Float[Array, ""]
    gradient: Vector | None
    records: Records


def start(job: Job, vector: Vector) -> State:
    """The state before the first step."""
    loss, gradient = _evaluate(job, vector)
    rows = job.snapshot_steps.shape[0] + 1  # one more for a run that ends early, between two snapshots
    state = State(
        step=jnp.asarray(0, jnp.int32),
        code=_code(job, loss, gradient),
        vector=vector,
        memory=job.optimizer.init(vector, job.unravel),
        loss=loss,
        gradient=gradient if job.batch_size is None else None,
        records=Records(
            count=jnp.asarray(0, jnp.int32),
            steps=jnp.zeros(rows, jnp.int32),
            loss=jnp.full(rows, jnp.nan, loss.dtype),
            gradient_norm=jnp.full(rows, jnp.nan, vector.dtype),
            parameters=jnp.full((rows, vector.size), jnp.nan, vector.dtype),
        ),
    )
    return _record(job, state)


def advance(job: Job, state: State, stop: Int[Array, ""]) -> State:
    """Run until `stop` steps have been made in all, the gradient is small enough or the loss is not finite.

    Two loops: the inner one makes steps and nothing else, up to the next snapshot, epoch or `stop`; the outer one
    records. The stop is a traced number, so one program serves every length.
    """

    def segment(state: State) -> State:
        upcoming = jnp.where(job.snapshot_steps > state.step, job.snapshot_steps, stop).min()
        target = jnp.minimum(upcoming, stop)
        if job.batch_size is None:
            step = ft.partial(_full_step, job)
        else:
            per_epoch = -(-job.landscape.size // job.batch_size)
            epoch = state.step // per_epoch
            target = jnp.minimum(target, (epoch + 1) * per_epoch)
            key = jax.random.fold_in(jax.random.fold_in(job.key, _ORDER), epoch)
            order = jax.random.permutation(key, job.landscape.size)
            step = ft.partial(_batch_step, job, order, epoch * per_epoch)
        # The records stay out of the inner loop, which carries as little as possible.
        records, state = state.records, eqx.tree_at(lambda s: s.records, state, None)
        state = jax.lax.while_loop(lambda s: (s.step < target) & (s.code == RUNNING), step, state)
        return _record(job, eqx.tree_at(lambda s: s.records, state, records, is_leaf=lambda x: x is None))

    return jax.lax.while_loop(lambda s: (s.step < stop) & (s.code == RUNNING), segment, state)


def _full_step(job: Job, state: State) -> State:
    assert state.gradient is not None
    vector, memory = job.optimizer.update(state.gradient, state.memory, state.vector, job.unravel)
    loss, gradient = _evaluate(job, vector)
    return State(state.step + 1, _code(job, loss, gradient), vector, memory, loss, gradient, state.records)


def _batch_step(job: Job, order: Int[Array, " n"], first: Int[Array, ""], state: State) -> State:
    size, b = job.landscape.size, job.batch_size
    assert b is not None
    place = (state.step - first) * b + jnp.arange(b, dtype=jnp.int32)
    rows = order[jnp.minimum(place, size - 1)]
    batch = jax.tree.map(lambda a: a[rows], job.landscape.batch)
    # The last batch of an epoch may be smaller: the places beyond the data have weight 0.
    weights = (place < size).astype(state.vector.dtype)

    def mean_loss(vector: Vector) -> Float[Array, ""]:
        return job.landscape._weighted_loss(vector, job.unravel, batch, weights) / weights.sum()

    loss, gradient = jax.value_and_grad(mean_loss)(state.vector)
    vector, memory = job.optimizer.update(gradient, state.memory, state.vector, job.unravel)
    # The loss of this batch belongs to the point before the update: not finite means that `step` diverged.
    finite = jnp.isfinite(loss)
    code = jnp.where(finite, RUNNING, DIVERGED).astype(jnp.int32)
    step = jnp.where(finite, state.step + 1, state.step)
    vector = jnp.where(finite, vector, state.vector)
    return State(step, code, vector, memory, loss.astype(state.loss.dtype), None, state.records)


def _evaluate(job: Job, vector: Vector) -> tuple[Float[Array, ""], Vector]:
    return job.landscape.value_and_gradient(job.unravel(vector))


def _code(job: Job, loss: Float[Array, ""], gradient: Vector) -> Int[Array, ""]:
    code = jnp.where(jnp.isfinite(loss), RUNNING, DIVERGED)
    if job.tolerance is not None:
        code = jnp.where((code == RUNNING) & (jnp.linalg.norm(gradient) <= job.tolerance), CONVERGED, code)
    return code.astype(jnp.int32)


def _record(job: Job, state: State) -> State:
    """Write the point into the current row, and keep the row where it is a snapshot or the end of the run."""
    records, row = state.records, state.records.count
    due = (job.snapshot_steps == state.step).any()
    if state.gradient is not None:
        loss, gradient, code = state.loss, state.gradient, state.code
    else:
        evaluate = lambda vector: _evaluate(job, vector)  # noqa: E731
        shapes = jax.eval_shape(evaluate, state.vector)
        skip = lambda vector: jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)  # noqa: E731, ARG005
        loss, gradient = jax.lax.cond(due | (state.code != RUNNING), evaluate, skip, state.vector)
        code = jnp.where(due & (state.code == RUNNING), _code(job, loss, gradient), state.code)
    keep = due | (code != RUNNING)
    records = Records(
        count=row + keep.astype(jnp.int32),
        steps=records.steps.at[row].set(state.step),
        loss=records.loss.at[row].set(loss),
        gradient_norm=records.gradient_norm.at[row].set(jnp.linalg.norm(gradient)),
        parameters=records.parameters.at[row].set(state.vector),
    )
    return eqx.tree_at(lambda s: (s.records, s.code), state, (records, code), is_leaf=lambda x: x is None)


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
