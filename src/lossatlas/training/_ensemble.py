from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import Unravel, named_parameters, num_parameters
from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.training._loop import DIVERGED, Job, State, advance, begin, compiled, unravel_of
from lossatlas.training._optimizer import Optimizer, OptimizerLike, as_optimizer
from lossatlas.training._result import Ensemble
from lossatlas.training._snapshots import DEFAULT_SNAPSHOTS, as_steps
from lossatlas.training._state import TrainingState, adopt, check_end
from lossatlas.training._train import STATUS, as_batch_size, as_settings, check_numbers, drive


_VMAP_SIZE = 256


def train_ensemble(
    keys: Key[Array, " m"] | Sequence[PRNGKeyArray],
    networks: Callable[[PRNGKeyArray], Network] | Sequence[Network],
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
    progress: ProgressLike = "none",
    chunk_seconds: float = 1.0,
    vmap_size: int | None = None,
) -> Ensemble:
    """Train networks of one shape as one program: seeds, hyperparameters, or both.

    Member i is `train(keys[i], networks[i], ...)` with the i-th hyperparameters. On the CPU the members run one
    after the other inside the program (`lax.map`), to the same bits as alone and faster there than side by side; on
    a GPU side by side (`vmap`) in groups of `vmap_size`, equal up to rounding.

    **Arguments:**
    - `keys`: one key per member, as an array of keys or a list.
    - `networks`: a function from a key to a network, called with each of the keys, or one network per key.
    - `learning_rate`, `hyperparameters`: as in [`lossatlas.training.train`][]; a number serves all members, an
      array of shape (m,) has one value for each.
    - `start`: the `state` of an ensemble, whose members go on, or that of one run, from which all members branch:
      they see their data in the order of their own keys from there on.
    - `vmap_size`: how many members run side by side; default 1 on the CPU and 256 elsewhere.
    - all others: as in [`lossatlas.training.train`][].

    **Returns:**
    An [`lossatlas.training.Ensemble`][]; `.member(i)` is a [`lossatlas.training.Training`][].

    **Raises:** `InputError` as `train` does, and for networks of different shapes or arrays of another length.

    !!! example
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> runs = train_ensemble(keys, lambda key: Dense(key, [1, 8, 1]), landscape, num_steps=100)
        >>> runs.loss.shape[0], runs.member(2).steps[-1]
        (3, 100)
    """
    check_numbers(num_steps, batch_size, gradient_tolerance, chunk_seconds)
    if vmap_size is not None and vmap_size < 1:
        msg = f"vmap_size must be at least 1, got {vmap_size}."
        raise InputError(msg)
    keys = keys if isinstance(keys, Array) else jnp.stack(list(keys))
    if keys.ndim != 1 or keys.shape[0] == 0:
        msg = f"keys must be a non-empty list of keys, got shape {keys.shape}; use jax.random.split(key, m)."
        raise InputError(msg)
    size = keys.shape[0]
    members = [networks(key) for key in keys] if callable(networks) else list(networks)
    stacked = _stack(members, size)
    unravel = unravel_of(stacked)
    dtype = jnp.result_type(*jax.tree.leaves(unravel.like))
    rule = as_optimizer(optimizer, learning_rate, hyperparameters, dtype)
    values = {name: _spread(name, value, size) for name, value in rule.hyperparameters.items()}
    first = 0 if start is None else check_end(num_steps, start)
    each = Optimizer(values, rule.make, rule.is_factory, rule.on_vector)
    job = Job(
        key=keys,
        unravel=unravel,
        landscape=landscape,
        optimizer=each,
        snapshot_steps=jnp.asarray(as_steps(snapshots, num_steps, first=first), jnp.int32),
        tolerance=None if gradient_tolerance is None else jnp.asarray(gradient_tolerance, dtype),
        batch_size=as_batch_size(batch_size, landscape),
    )
    if vmap_size is None:
        vmap_size = 1 if jax.default_backend() == "cpu" else _VMAP_SIZE
    jobs = _Jobs(job, min(vmap_size, size))
    work = landscape.size * num_parameters(stacked)
    origin = None if start is None else _adopt_all(start, members, each)
    state, stats = drive(_begin_all, _advance_all, jobs, num_steps, work, chunk_seconds, progress, origin=origin)
    settings = as_settings(optimizer, {}, num_steps, batch_size, gradient_tolerance)
    trained = compiled(_networks_of)(unravel, state.point.vector)
    return _as_ensemble(trained, state, values, stats, settings)


class _Jobs(eqx.Module):
    """The runs of all members: key, network and hyperparameters have a leading axis, the rest is common."""

    job: Job
    vmap_size: int = eqx.field(static=True)


def _begin_all(jobs: _Jobs, origins: TrainingState | None = None) -> State:
    return _map(begin, jobs, origins)


def _advance_all(jobs: _Jobs, states: State, stop: Int[Array, ""]) -> State:
    return _map(lambda job, state: advance(job, state, stop), jobs, states)


def _networks_of(unravels: Unravel, vectors: Float[Array, "m p"]) -> Network:
    arrays, static = eqx.partition(unravels, eqx.is_array)
    trained = jax.vmap(lambda unravel, vector: eqx.combine(unravel, static).tangent(vector))(arrays, vectors)
    return eqx.combine(trained, unravels.rest)


def _map(fn: Callable[[Job, Any], State], jobs: _Jobs, states: State | TrainingState | None) -> State:
    job = jobs.job
    common = lambda j: (j.landscape, j.snapshot_steps, j.tolerance)  # noqa: E731
    own = eqx.tree_at(common, job, (None, None, None), is_leaf=lambda x: x is None)
    own, static = eqx.partition(own, eqx.is_array)

    def one(member: tuple[Any, Any]) -> State:
        mine = eqx.tree_at(common, eqx.combine(member[0], static), common(job), is_leaf=lambda x: x is None)
        return fn(mine, member[1])

    return jax.lax.map(one, (own, states), batch_size=None if jobs.vmap_size == 1 else jobs.vmap_size)


def _stack(members: Sequence[Network], size: int) -> Network:
    """One network whose arrays have a leading member axis."""
    if len(members) != size:
        msg = f"There are {size} keys and {len(members)} networks; give one network per key."
        raise InputError(msg)
    shapes = [{name: leaf.shape for name, leaf in named_parameters(member).items()} for member in members]
    for i, shape in enumerate(shapes):
        if shape != shapes[0] or jax.tree.structure(members[i]) != jax.tree.structure(members[0]):
            msg = f"The networks of an ensemble need one shape; network {i} has {shape} and network 0 {shapes[0]}."
            raise InputError(msg)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *members)


def _adopt_all(start: TrainingState, members: Sequence[Network], rule: Optimizer) -> TrainingState:
    """A state for each member: its own, or the one that all branch from."""
    if start.step.ndim == 0:
        states = [start] * len(members)
    elif start.step.shape[0] == len(members):
        states = [jax.tree.map(lambda a: a[i], start) for i in range(len(members))]  # noqa: B023
    else:
        msg = f"start has the states of {start.step.shape[0]} runs, and there are {len(members)} members."
        raise InputError(msg)
    values = {name: value[0] if isinstance(value, Array) else value for name, value in rule.hyperparameters.items()}
    one = Optimizer(values, rule.make, rule.is_factory, rule.on_vector)
    adopted = [adopt(state, unravel_of(member), one) for state, member in zip(states, members, strict=True)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *adopted)


def _spread(name: str, value: Any, size: int) -> Any:
    """One value for each member."""
    if not isinstance(value, Array):
        return value
    if value.shape not in ((), (size,)):
        msg = f"{name} must be one number or one for each of the {size} members, got shape {value.shape}."
        raise InputError(msg)
    return jnp.broadcast_to(value, (size,))


def _as_ensemble(
    trained: Network, state: State, values: dict[str, Any], stats: dict[str, Any], settings: dict[str, Any]
) -> Ensemble:
    point, records = state.point, state.records
    counts, codes, last = np.asarray(records.count), np.asarray(point.code), np.asarray(point.step)
    rows = int(counts.max())
    real = np.arange(rows) < counts[:, None]
    steps = np.where(real, np.asarray(records.steps)[:, :rows], -1)
    masked = lambda a: np.where(real, np.asarray(a)[:, :rows], np.asarray(np.nan, a.dtype))  # noqa: E731
    parameters = np.where(real[:, :, None], np.asarray(records.parameters)[:, :rows], np.nan)
    return Ensemble(
        networks=trained,
        steps=steps,
        loss=masked(records.loss),
        gradient_norm=masked(records.gradient_norm),
        parameters=parameters.astype(point.vector.dtype),
        num_snapshots=counts,
        num_steps=last,
        status=tuple(STATUS[int(code)] for code in codes),
        diverged_at=tuple(int(s) if code == DIVERGED else None for s, code in zip(last, codes, strict=True)),
        hyperparameters={k: np.asarray(v) if isinstance(v, Array) else v for k, v in values.items()},
        stats={"num_steps": int(last.sum()), **stats},
        settings=settings,
        state=state.point,
    )
