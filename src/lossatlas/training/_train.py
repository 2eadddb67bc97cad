import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._status import Status
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.training._loop import (
    CONVERGED,
    DIVERGED,
    RUNNING,
    Job,
    State,
    advance,
    begin,
    compiled,
    network_of,
    unravel_of,
)
from lossatlas.training._optimizer import OptimizerLike, as_optimizer, optimizer_name
from lossatlas.training._result import Training
from lossatlas.training._snapshots import DEFAULT_SNAPSHOTS, as_steps
from lossatlas.training._state import TrainingState, adopt, check_end


Observer = Callable[[int, Network], Any]
"""`observe(step, network)`; what it returns is ignored."""

STATUS = {RUNNING: Status.FINISHED, CONVERGED: Status.CONVERGED, DIVERGED: Status.DIVERGED}
_CACHED_SECONDS = 0.02  # a program that answers within this was not compiled
_FLOPS = 1e9  # a cautious guess of operations in a second, for the length of the first chunk only


def train(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    optimizer: OptimizerLike = "gd",
    learning_rate: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    num_steps: int,
    batch_size: int | None = None,
    snapshots: int | Sequence[int] | np.ndarray = DEFAULT_SNAPSHOTS,
    gradient_tolerance: float | None = None,
    start: TrainingState | None = None,
    observe: Observer | None = None,
    observe_at: Sequence[int] | np.ndarray | None = None,
    progress: ProgressLike = "none",
    chunk_seconds: float = 1.0,
) -> Training:
    r"""Train a network and keep snapshots of the way.

    Gradient descent $\theta_{t+1} = \theta_t - \eta \nabla R(\theta_t)$, or any optimiser, on the mean loss $R$ of the
    landscape. The steps run as one compiled program, called from Python about once a second, so that progress and
    Ctrl-C work; results do not depend, to the last bit, on how often it is called. The program is compiled once per
    shape of network and data, number of snapshots and kind of optimiser, not per learning rate or number of steps.
    Divergence is a result: the run ends there and says so. A run goes on by `start`: with the same key, a run in two
    parts is the whole run to the last bit; with another key it takes the batches in another order from there on.

    Cost: one gradient a step; with minibatches one more full gradient a snapshot. Memory: the snapshots hold
    `num_snapshots * num_parameters` numbers.

    **Arguments:**
    - `key`: decides the order of minibatches; unused without them. Same key, same bytes.
    - `network`: the starting point; its inexact arrays are trained.
    - `landscape`: data and loss; its own `batch_size` only streams the full gradient.
    - `optimizer`: `"gd"`, `"adam"` (optax's defaults), a factory such as `optax.adamw`, or an optax transformation
      such as `optax.chain(...)`. A factory is called with the learning rate and the hyperparameters as arrays, so
      its values cost no new compilation; a new transformation object does.
    - `learning_rate`: default 0.1 for `gd` and 0.001 for `adam`; for a factory a number or a schedule.
    - `hyperparameters`: further arguments of the factory, such as `{"b1": 0.8}`. Floats may vary freely; whatever
      else is given becomes part of the program.
    - `num_steps`: how many steps at most; of a run that goes on, counted from the beginning of the first.
    - `batch_size`: None for the full batch; a number for minibatches: each epoch is a fresh permutation of the data
      decided by `key` and the number of the epoch, its last batch may be smaller and has its own mean.
    - `snapshots`: how many log-spaced steps to keep, 0 and the last among them, or the steps themselves.
    - `gradient_tolerance`: end at the first step where the norm of the full gradient is at most this (with
      minibatches: at the first such snapshot).
    - `start`: go on from the `state` of an earlier run, whose `network` is then the network (or an
      [`lossatlas.networks.Expansion`][] of it): step, momentum and other memory of the optimiser, place in the
      schedules. Numbers such as a constant learning rate may be others. On other data the first gradient is theirs.
    - `observe`: called with step and network at the steps `observe_at` (default: at the snapshots), in order.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.
    - `chunk_seconds`: how long one call of the program lasts, about.

    **Returns:**
    A [`lossatlas.training.Training`][].

    **Raises:** `InputError` for numbers out of range, unknown names, hyperparameters the optimiser lacks, and a
    `start` of other parameters or another optimiser.

    !!! example
        >>> landscape = Landscape(jnp.array([[1.0], [2.0]]), jnp.array([[2.0], [4.0]]))
        >>> line = Dense(jax.random.key(0), [1, 1], use_output_bias=False)
        >>> run = train(jax.random.key(1), line, landscape, num_steps=100, learning_rate=0.1)
        >>> round(float(run.network.layers[0].weight[0, 0]), 6)
        2.0
        >>> more = train(jax.random.key(1), run.network, landscape, start=run.state, num_steps=150, learning_rate=0.01)
        >>> int(more.steps[0]), int(more.steps[-1])
        (100, 150)
    """
    check_numbers(num_steps, batch_size, gradient_tolerance, chunk_seconds)
    unravel = unravel_of(network)
    dtype = jnp.result_type(*jax.tree.leaves(unravel.like))
    rule = as_optimizer(optimizer, learning_rate, hyperparameters, dtype)
    for name, value in rule.hyperparameters.items():
        if isinstance(value, Array) and value.ndim:
            msg = f"{name} must be a single number, got shape {value.shape}; train_ensemble takes arrays."
            raise InputError(msg)
    first = 0 if start is None else check_end(num_steps, start)
    steps = as_steps(snapshots, num_steps, first=first)
    stops: np.ndarray | tuple = ()
    if observe is not None:
        stops = steps if observe_at is None else as_steps(np.asarray(observe_at), num_steps, "observe_at", first)
    job = Job(
        key=key,
        unravel=unravel,
        landscape=landscape,
        optimizer=rule,
        snapshot_steps=jnp.asarray(steps, jnp.int32),
        tolerance=None if gradient_tolerance is None else jnp.asarray(gradient_tolerance, dtype),
        batch_size=as_batch_size(batch_size, landscape),
    )

    origin = None if start is None else adopt(start, unravel, rule)
    build = compiled(network_of)

    def seen(state: State) -> None:
        step = int(state.point.step)
        if observe is not None and step in stops:
            observe(step, build(unravel, state.point.vector))

    work = landscape.size * num_parameters(network)
    state, stats = drive(begin, advance, job, num_steps, work, chunk_seconds, progress, stops, seen, origin)
    settings = as_settings(optimizer, rule.hyperparameters, num_steps, batch_size, gradient_tolerance)
    if start is not None:
        settings["first_step"] = first
    return _as_training(build(unravel, state.point.vector), state, stats, settings)


def drive(
    first: Callable[..., Any],
    onward: Callable[..., Any],
    job: Any,
    num_steps: int,
    work: int,
    chunk_seconds: float,
    progress: ProgressLike,
    stops: Sequence[int] | np.ndarray = (),
    seen: Callable[[Any], None] = lambda state: None,  # noqa: ARG005
    origin: TrainingState | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Call the programs `first` and `onward` until all is done; the only place where training meets Python.

    `work` is the number of data times parameters, the scale of a step's cost; chunks end at `stops` as well. The
    program `first` is given the `origin` of a run that goes on.
    """
    first, onward = compiled(first), compiled(onward)
    clock = time.perf_counter()
    state = jax.block_until_ready(first(job) if origin is None else first(job, origin))
    if time.perf_counter() - clock > _CACHED_SECONDS:
        # `first` was probably compiled just now, so `onward` will be: a call of no steps, to tell compiler from run.
        state = jax.block_until_ready(onward(job, state, _as_stop(0)))
    compile_seconds = time.perf_counter() - clock
    clock = time.perf_counter()
    stops = np.asarray(stops, int)
    chunk = max(1, int(chunk_seconds * _FLOPS / (6 * work)))
    step = int(np.asarray(state.point.step).min())
    with as_meter(progress).task("training", num_steps) as task:
        seen(state)
        while step < num_steps and bool((np.asarray(state.point.code) == RUNNING).any()):
            stop = min(num_steps, step + chunk, *(int(s) for s in stops[stops > step][:1]))
            began = time.perf_counter()
            state = jax.block_until_ready(onward(job, state, _as_stop(stop)))
            seconds = max(time.perf_counter() - began, 1e-6)
            chunk = max(1, min(10 * chunk, int(chunk_seconds * (stop - step) / seconds)))
            step = stop
            task.update(step, f"loss {float(np.mean(np.asarray(state.point.loss))):.4g}")
            seen(state)
    stats = {"compile_seconds": compile_seconds, "run_seconds": time.perf_counter() - clock}
    return state, stats


def _as_stop(step: int) -> Array:
    return jnp.asarray(step, jnp.int32)


def _as_training(network: Network, state: State, stats: dict[str, Any], settings: dict[str, Any]) -> Training:
    count = int(state.records.count)
    code = int(state.point.code)
    keep = lambda a: np.asarray(a)[:count]  # noqa: E731
    return Training(
        network=network,
        steps=keep(state.records.steps),
        loss=keep(state.records.loss),
        gradient_norm=keep(state.records.gradient_norm),
        parameters=keep(state.records.parameters),
        status=STATUS[code],
        diverged_at=int(state.point.step) if code == DIVERGED else None,
        stats={"num_steps": int(state.point.step), **stats},
        settings=settings,
        state=state.point,
    )


def as_settings(
    optimizer: OptimizerLike,
    hyperparameters: Mapping[str, Any],
    num_steps: int,
    batch_size: int | None,
    gradient_tolerance: float | None,
) -> dict[str, Any]:
    """What was run, in plain numbers and words; what was not asked for is left out."""
    values = {name: float(v) if isinstance(v, Array) else str(v) for name, v in hyperparameters.items()}
    asked = {"num_steps": num_steps, "batch_size": batch_size, "gradient_tolerance": gradient_tolerance}
    given = {name: value for name, value in asked.items() if value is not None}
    return {"optimizer": optimizer_name(optimizer), **values, **given}


def as_batch_size(batch_size: int | None, landscape: Landscape) -> int | None:
    """None where the batch is the whole data."""
    return None if batch_size is None or batch_size >= landscape.size else int(batch_size)


def check_numbers(
    num_steps: int, batch_size: int | None, gradient_tolerance: float | None, chunk_seconds: float
) -> None:
    """Refuse numbers out of range.

    **Raises:** `InputError`.
    """
    if num_steps < 0 or num_steps >= 2**31:
        msg = f"num_steps must be between 0 and 2**31 - 1, got {num_steps}."
        raise InputError(msg)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1, or None for the full batch, got {batch_size}."
        raise InputError(msg)
    if gradient_tolerance is not None and not (gradient_tolerance >= 0 and math.isfinite(gradient_tolerance)):
        msg = f"gradient_tolerance must be finite and not negative, got {gradient_tolerance}."
        raise InputError(msg)
    if chunk_seconds < 0:
        msg = f"chunk_seconds must not be negative, got {chunk_seconds}."
        raise InputError(msg)
