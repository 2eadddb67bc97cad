import functools as ft
import time
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import Unravel, ravel
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._status import Status
from lossatlas._types import Network, Vector
from lossatlas.landscape import Landscape
from lossatlas.training._loop import compiled
from lossatlas.training._result import Flow
from lossatlas.training._snapshots import DEFAULT_SNAPSHOTS


_FIRST_TIME = 1e-3  # log-spaced times start at this share of t1
_SOLVERS = ("tsit5", "kvaerno5")


def gradient_flow(
    network: Network,
    landscape: Landscape,
    *,
    t1: float,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    solver: Literal["tsit5", "kvaerno5"] | str = "tsit5",
    snapshots: int | Sequence[float] | np.ndarray = DEFAULT_SNAPSHOTS,
    gradient_tolerance: float | None = None,
    max_steps: int = 100_000,
    progress: ProgressLike = "none",
) -> Flow:
    r"""Follow the gradient flow $\dot\theta = -\nabla R(\theta)$ from time 0 to `t1`.

    Adaptive Runge-Kutta: the local error of every step is held below `atol + rtol * |theta|` (root mean square over
    the parameters). Gradient descent with rate $\eta$ after $t / \eta$ steps approximates the flow at time t.
    The flow is integrated from snapshot to snapshot by one compiled program, so Ctrl-C works between them.

    Cost: six gradients a step (`tsit5`); `kvaerno5` solves linear systems in p unknowns by dense LU, p gradients
    of the gradient and O(p^3) each: for stiff flows of small networks.

    **Arguments:**
    - `network`, `landscape`: the starting point and the loss.
    - `t1`: the final time.
    - `rtol`, `atol`: tolerances of the local error; float64 is needed much below the defaults.
    - `solver`: `"tsit5"` (explicit, order 5) or `"kvaerno5"` (implicit, order 5, stiffly accurate).
    - `snapshots`: how many times to keep, 0, then log-spaced from `t1 / 1000` to `t1`; or the times themselves.
    - `gradient_tolerance`: end at the first snapshot whose gradient norm is at most this.
    - `max_steps`: largest number of solver steps between two snapshots; beyond it the status is `MAX_STEPS`.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.

    **Returns:**
    A [`lossatlas.training.Flow`][]; after `MAX_STEPS`, and `STALLED` where the solver failed otherwise, it ends
    at the last snapshot reached.

    **Raises:** `InputError` for numbers out of range and an unknown solver.

    !!! cite
        Ch. Tsitouras, Computers and Mathematics with Applications 62 (2011) 770; A. Kvaerno, BIT 44 (2004) 489;
        P. Kidger, On neural differential equations (2021), arXiv:2202.02435, for the implementation (diffrax).
    """
    if solver not in _SOLVERS:
        raise unknown_name("solver", solver, _SOLVERS)
    for name, value in (("t1", t1), ("rtol", rtol), ("atol", atol), ("max_steps", max_steps)):
        if not (value > 0 and np.isfinite(value)):
            msg = f"{name} must be finite and positive, got {value}."
            raise InputError(msg)
    times = _as_times(snapshots, t1)
    vector, unravel = ravel(network)
    problem = (unravel, landscape)
    settings = {"t1": t1, "rtol": rtol, "atol": atol, "solver": solver, "max_steps": max_steps}
    integrate, evaluate = compiled(_integrator(solver, max_steps)), compiled(_evaluate)
    clock = time.perf_counter()
    at = ft.partial(jnp.asarray, dtype=vector.dtype)
    loss, norm = evaluate(problem, vector)
    # Over no time at all: compiles the program, so that the run is timed without the compiler.
    jax.block_until_ready(integrate(problem, vector, at(0.0), at(0.0), at(rtol), at(atol)))
    compile_seconds, clock = time.perf_counter() - clock, time.perf_counter()
    rows: list[tuple[float, float, float, np.ndarray]] = []
    counts, status, now = np.zeros(2, int), Status.FINISHED, 0.0
    with as_meter(progress).task("gradient flow", t1) as task:
        for t in times:
            if t > now:
                moved, steps, reached, exhausted = integrate(problem, vector, at(now), at(t), at(rtol), at(atol))
                counts += np.asarray(steps)
                if not bool(reached) and bool(jnp.isfinite(moved).all()):
                    status = Status.MAX_STEPS if bool(exhausted) else Status.STALLED
                    break
                vector, now = moved, float(t)
                loss, norm = evaluate(problem, vector)
            rows.append((float(t), float(loss), float(norm), np.asarray(vector)))
            task.update(t, f"loss {float(loss):.4g}")
            if not np.isfinite(rows[-1][1]):
                status = Status.DIVERGED
                break
            if gradient_tolerance is not None and rows[-1][2] <= gradient_tolerance:
                status = Status.CONVERGED
                break
    return Flow(
        network=unravel(vector),
        times=np.asarray([row[0] for row in rows], dtype=float),
        loss=np.asarray([row[1] for row in rows], dtype=float),
        gradient_norm=np.asarray([row[2] for row in rows], dtype=float),
        parameters=np.stack([row[3] for row in rows]) if rows else np.zeros((0, vector.size)),
        status=status,
        diverged_at=rows[-1][0] if status is Status.DIVERGED else None,
        stats={
            "num_accepted": int(counts[0]),
            "num_rejected": int(counts[1]),
            "compile_seconds": compile_seconds,
            "run_seconds": time.perf_counter() - clock,
        },
        settings=settings,
    )


@ft.cache
def _integrator(solver: str, max_steps: int):
    import diffrax

    method: diffrax.AbstractSolver = {"tsit5": diffrax.Tsit5, "kvaerno5": diffrax.Kvaerno5}[solver]()

    def velocity(_: Any, vector: Vector, problem: tuple[Unravel, Landscape]) -> Vector:
        unravel, landscape = problem
        return -landscape.value_and_gradient(unravel(vector))[1]

    def integrate(
        problem: tuple[Unravel, Landscape], vector: Vector, t0: Array, t1: Array, rtol: Array, atol: Array
    ) -> tuple[Vector, Int[Array, "2"], Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            method,
            t0,
            t1,
            None,
            vector,
            args=problem,
            stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
            max_steps=max_steps,
            throw=False,
            # Nobody differentiates through the flow, and a plain while loop compiles faster.
            adjoint=diffrax.ForwardMode(),
        )
        assert solution.ys is not None
        counts = jnp.stack([solution.stats["num_accepted_steps"], solution.stats["num_rejected_steps"]])
        is_reached = solution.result == diffrax.RESULTS.successful
        is_exhausted = solution.result == diffrax.RESULTS.max_steps_reached
        return solution.ys[-1], counts, is_reached, is_exhausted

    return integrate


def _evaluate(problem: tuple[Unravel, Landscape], vector: Vector) -> tuple[Float[Array, ""], Float[Array, ""]]:
    unravel, landscape = problem
    loss, gradient = landscape.value_and_gradient(unravel(vector))
    return loss, jnp.linalg.norm(gradient)


def _as_times(snapshots: int | Sequence[float] | np.ndarray, t1: float) -> np.ndarray:
    if isinstance(snapshots, int | np.integer):
        if snapshots < 2:
            msg = f"snapshots must be at least 2 (time 0 and t1), got {snapshots}."
            raise InputError(msg)
        times = np.geomspace(_FIRST_TIME * t1, t1, int(snapshots) - 1)
        times[-1] = t1
        return np.concatenate([[0.0], times])
    times = np.unique(np.asarray(snapshots, dtype=float))
    if times.size == 0 or not np.isfinite(times).all() or times[0] < 0 or times[-1] > t1:
        msg = f"snapshots must be times between 0 and t1 = {t1}, got {snapshots!r}."
        raise InputError(msg)
    return times
