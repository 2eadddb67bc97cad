"""Train the bends of a curve between two networks so that the loss is low all along it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import Unravel, named_arrays, named_parameters, num_parameters, ravel_tangent
from lossatlas._progress import ProgressLike
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Vector
from lossatlas.landscape import Landscape
from lossatlas.numerics import control_weights
from lossatlas.training._loop import DIVERGED, RUNNING, unravel_of
from lossatlas.training._optimizer import Optimizer, OptimizerLike, as_optimizer
from lossatlas.training._train import STATUS, as_batch_size, as_settings, check_numbers, drive


_KINDS = ("bezier", "polygon")
_WINDOWS = 100


@shown
class CurveTraining(eqx.Module):
    """A curve between two networks whose inner control points were trained.

    - `vertices`: the control points: the first network, the bends, the last network; the ends as they were given.
    - `kind`: `"bezier"`, or `"polygon"` (PolyChain) for straight pieces.
    - `steps`, `loss`: the mean loss of the steps since the one before, each at a random place of the curve.
    - `status`: `FINISHED` or `DIVERGED`; `diverged_at`: the first step whose loss is not finite, None otherwise.
    - `stats`: `num_steps`, `compile_seconds`, `run_seconds`. `settings`: what was run.
    """

    vertices: tuple[Network, ...]
    kind: Literal["bezier", "polygon"] = eqx.field(static=True)
    steps: Int[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    status: Status
    diverged_at: int | None
    stats: dict[str, Any]
    settings: dict[str, Any]

    def to_xarray(self) -> Any:
        """The loss over `step`."""
        import xarray as xr

        attributes = {**self.settings, "status": str(self.status)}
        return xr.Dataset({"loss": ("step", self.loss)}, {"step": self.steps}, attributes)

    def _figure(self) -> Any:
        from lossatlas.figures import curves_figure

        name = "mean loss at random places of the curve"
        return curves_figure({"loss": (self.steps, self.loss)}, x="training step", y=name, y_scale="log")


class _CurveJob(eqx.Module):
    key: Key[Array, ""]
    ends: tuple[Network, Network]
    unravel: Unravel  # of the tuple of bends
    landscape: Landscape
    optimizer: Optimizer
    num_steps: Int[Array, ""]
    kind: str = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)


class _CurvePoint(eqx.Module):
    step: Int[Array, ""]
    code: Int[Array, ""]
    vector: Vector
    memory: Any
    loss: Float[Array, ""]


class _CurveState(eqx.Module):
    point: _CurvePoint
    sums: Float[Array, "2 windows"]  # of losses, and how many


def train_curve(
    key: PRNGKeyArray,
    start: Network,
    end: Network,
    landscape: Landscape,
    *,
    kind: Literal["bezier", "polygon"] = "bezier",
    num_bends: int = 1,
    bends: Sequence[Network] | None = None,
    optimizer: OptimizerLike = "adam",
    learning_rate: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    num_steps: int = 2000,
    batch_size: int | None = None,
    progress: ProgressLike = "none",
    chunk_seconds: float = 1.0,
) -> CurveTraining:
    r"""Find a curve of low loss between two networks.

    Minimises $E_{t \sim U(0,1)}\, L(\varphi(t))$ over the bends $\theta_1 .. \theta_k$, by one fresh t a step, for
    $\varphi(t) = \sum_k w_k(t)\,\theta_k$ with Bernstein weights (`"bezier"`: with one bend
    $(1-t)^2 \theta_A + 2t(1-t)\theta + t^2\theta_B$) or hat functions (`"polygon"`, the PolyChain). The ends stay as
    they are, to the last bit. Steps run as compiled chunks of about a second; results do not depend on their length.

    Cost: one gradient of the loss a step. [`lossatlas.geometry.find_curve`][] also measures what came out.

    **Arguments:**
    - `key`: of the places t and of the batches.
    - `start`, `end`: networks of one structure. Where they have running statistics (`has_statistics`), those of the
      step's examples normalise, as in training; buffers of other networks must agree.
    - `num_bends`: inner control points; at first at equal steps on the straight line.
    - `bends`: what to start from instead, such as those of an earlier run.
    - `optimizer`, `learning_rate`, `hyperparameters`, `chunk_seconds`: as in [`lossatlas.training.train`][]; the
      default rate is 0.005 for `"adam"`.
    - `num_steps`: how many steps.
    - `batch_size`: examples a step, drawn with replacement; None for all.

    **Returns:** A [`lossatlas.training.CurveTraining`][].

    **Raises:** `InputError` for networks of different structures, statistics that differ, and numbers out of range.

    !!! cite
        Garipov et al. 2018, arXiv 1802.10026.
    """
    check_numbers(num_steps, batch_size, None, chunk_seconds)
    if kind not in _KINDS:
        raise unknown_name("kind of curve", kind, _KINDS)
    check_ends(start, end, num_bends)
    inner = _on_the_line(start, end, num_bends) if bends is None else tuple(bends)
    for bend in inner:
        check_ends(start, bend)
    unravel = unravel_of(inner)
    dtype = jnp.result_type(*jax.tree.leaves(unravel.like))
    if optimizer == "adam" and learning_rate is None and "learning_rate" not in (hyperparameters or {}):
        learning_rate = 5e-3
    rule = as_optimizer(optimizer, learning_rate, hyperparameters, dtype)
    job = _CurveJob(
        key,
        (start, end),
        unravel,
        landscape,
        rule,
        jnp.asarray(max(num_steps, 1), jnp.int32),
        kind,
        as_batch_size(batch_size, landscape),
    )
    begin = time.perf_counter()
    work = (job.batch_size or landscape.size) * num_parameters(start)
    state, stats = drive(_start, _advance, job, num_steps, work, chunk_seconds, progress)
    sums = np.asarray(state.sums)
    seen = np.flatnonzero(sums[1])
    code, last = int(state.point.code), int(state.point.step)
    windows = np.minimum(-(-(np.arange(_WINDOWS) + 1) * num_steps // _WINDOWS), num_steps)
    settings = as_settings(optimizer, rule.hyperparameters, num_steps, batch_size, None)
    return CurveTraining(
        vertices=(start, *unravel(state.point.vector), end),
        kind=kind,
        steps=windows[seen],
        loss=np.asarray(sums[0, seen] / sums[1, seen], float),
        status=STATUS[code],
        diverged_at=last if code == DIVERGED else None,
        stats={"num_steps": last, **stats, "seconds": time.perf_counter() - begin},
        settings={**settings, "num_bends": len(inner), "kind": kind},
    )


def _start(job: _CurveJob) -> _CurveState:
    vector = ravel_tangent(job.unravel.like)
    zero = jnp.asarray(0, jnp.int32)
    loss = eqx.filter_eval_shape(job.landscape, job.ends[0])
    point = _CurvePoint(
        zero, zero + RUNNING, vector, job.optimizer.init(vector, job.unravel), jnp.zeros((), loss.dtype)
    )
    return _CurveState(point, jnp.zeros((2, _WINDOWS), loss.dtype))


def _advance(job: _CurveJob, state: _CurveState, stop: Int[Array, ""]) -> _CurveState:
    def running(state: _CurveState) -> Array:
        return (state.point.step < stop) & (state.point.code == RUNNING)

    return jax.lax.while_loop(running, lambda state: _step(job, state), state)


def _step(job: _CurveJob, state: _CurveState) -> _CurveState:
    point, landscape = state.point, job.landscape
    at_key, rows_key = jax.random.split(jax.random.fold_in(job.key, point.step))
    t = jax.random.uniform(at_key, dtype=point.vector.dtype)
    batch, count = landscape.batch, landscape.size
    if job.batch_size is not None:
        rows = jax.random.randint(rows_key, (job.batch_size,), 0, landscape.size)
        batch, count = jax.tree.map(lambda a: a[rows], batch), job.batch_size
    renews = getattr(job.ends[0], "has_statistics", False)

    def mean_loss(vector: Vector) -> Float[Array, ""]:
        controls = (job.ends[0], *job.unravel(vector), job.ends[1])
        network = mixed(controls, control_weights(job.kind, len(controls), t))  # pyright: ignore[reportArgumentType]
        if renews:
            network = network.with_statistics(batch[0])
        if job.batch_size is None:
            return landscape(network)
        return jnp.sum(landscape._losses_of(network, batch)) / count

    loss, gradient = jax.value_and_grad(mean_loss)(point.vector)
    vector, memory = job.optimizer.update(gradient, point.memory, point.vector, job.unravel, jax.grad(mean_loss))
    finite = jnp.isfinite(loss)
    window = jnp.minimum(point.step * _WINDOWS // job.num_steps, _WINDOWS - 1)
    added = jnp.stack([loss, jnp.ones_like(loss)])
    return _CurveState(
        _CurvePoint(
            step=point.step + finite.astype(jnp.int32),
            code=jnp.where(finite, RUNNING, DIVERGED).astype(jnp.int32),
            vector=jnp.where(finite, vector, point.vector),
            memory=memory,
            loss=loss,
        ),
        state.sums.at[:, window].add(jnp.where(finite, added, jnp.zeros_like(added))),
    )


def mixed(controls: tuple[Network, ...], weights: Float[Array, " k"]) -> Network:
    """The weighted sum of networks of one structure, array by array; what is no array is that of the first."""
    arrays, rest = zip(*(eqx.partition(network, eqx.is_inexact_array) for network in controls), strict=True)
    sums = lambda *leaves: sum((w.astype(x.dtype) * x for w, x in zip(weights, leaves, strict=True)), 0 * leaves[0])  # noqa: E731
    return eqx.combine(jax.tree.map(sums, *arrays), rest[0])


def _on_the_line(start: Network, end: Network, count: int) -> tuple[Network, ...]:
    places = np.linspace(0.0, 1.0, count + 2)[1:-1]
    return tuple(mixed((start, end), jnp.asarray([1 - t, t])) for t in places)


def check_ends(start: Network, end: Network, num_bends: int = 1) -> None:
    """See that a curve can be trained between two networks.

    **Raises:** `InputError` for networks of different structures, statistics that differ, and a curve without bends.
    """
    if num_bends < 1:
        msg = f"num_bends must be at least 1, got {num_bends}; without bends the curve is the straight line."
        raise InputError(msg)
    if jax.tree.structure(start) != jax.tree.structure(end):
        msg = "The networks of a curve need one structure: the same architecture, activation and settings."
        raise InputError(msg)
    first, last = named_arrays(start), named_arrays(end)
    for name, array in first.items():
        if array.shape != last[name].shape:
            msg = f"The networks of a curve need one shape: {name} is {array.shape} and {last[name].shape}."
            raise InputError(msg)
    buffers = first.keys() - named_parameters(start).keys()
    if getattr(start, "batch_statistics", False) or getattr(start, "has_statistics", False):
        return
    for name in sorted(buffers):
        if not np.array_equal(np.asarray(first[name]), np.asarray(last[name])):
            msg = (
                f"The networks differ in a buffer ({name}), which a curve cannot train. Fold a normalisation into the "
                "weights first, or give networks that compute their statistics anew (with_statistics)."
            )
            raise InputError(msg)
