"""Where cells are measured: in this process, in worker processes here, or wherever a scheduler has workers."""

import contextlib
import inspect
import itertools
import math
import os
import pathlib
import pickle
import queue
import secrets
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lossatlas._errors import InputError, unknown_name
from lossatlas.workbench.sweeps._measure import Task, measure_cells
from lossatlas.workbench.sweeps._outcome import Outcome
from lossatlas.workbench.sweeps._worker import Limits, run_task


if TYPE_CHECKING:
    import distributed


_GONE = "The scheduler went away."
# Seconds that a scheduler has to answer.
_PATIENCE = 10
# How often workers here are started that die as they start.
_STARTS = 10
# The kinds of batch systems that dask-jobqueue knows, by the word in a profile.
_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
}


class SchedulerLostError(RuntimeError):
    """The scheduler went away while cells were measured."""


@runtime_checkable
class Pool(Protocol):
    """Measures tasks, several at once."""

    def slots(self) -> int:
        """How many tasks it measures at once; 0 while no worker is there."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task."""
        ...

    def next(self, timeout: float) -> "tuple[Task, list[Outcome] | None] | None":
        """A task that ended, with its outcomes, or None where its worker was lost; None where none ended in time."""
        ...


class Here:
    """The process that asks: one task at a time, without limits; what a cell prints and raises is at hand."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, task: Task) -> None:
        """Keep a task for later."""
        self._tasks.append(task)

    def next(self, timeout: float) -> "tuple[Task, list[Outcome] | None] | None":
        """Measure the oldest task."""
        del timeout
        if not self._tasks:
            return None
        task = self._tasks.pop(0)
        return task, [event for event in measure_cells(task) if isinstance(event, Outcome)]


class Workers:
    """The workers of a dask scheduler.

    **Arguments:**
    - `client`: connected to it. `limits`: of every cell. `resources`: that a task needs of its worker, by name.
    """

    def __init__(self, client: "distributed.Client", limits: Limits, resources: Mapping[str, float]):
        self._client, self._limits, self._resources = client, limits, dict(resources)
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._tasks: dict[str, tuple[Task, Any]] = {}
        self._slots, self._counted = 0, -math.inf

    def slots(self) -> int:
        """The threads of all workers, counted once a second.

        **Raises:** `SchedulerLostError`.
        """
        if time.monotonic() - self._counted > 1.0:
            self._slots, self._counted = sum(self._ask(self._client.nthreads).values()), time.monotonic()
        return self._slots

    def submit(self, task: Task) -> None:
        """Send a task to the scheduler."""
        content, key = pickle.dumps((task, self._limits)), f"cells-{task.cells[0].place}-{secrets.token_hex(4)}"
        future = self._ask(self._client.submit, run_task, content, key=key, pure=False, resources=self._resources)
        self._tasks[future.key] = task, future
        future.add_done_callback(self._ready.put)

    def next(self, timeout: float) -> "tuple[Task, list[Outcome] | None] | None":
        """The next task that ended.

        **Raises:** `SchedulerLostError`; whatever the worker raised that is no fault of a cell.
        """
        from distributed import KilledWorker

        try:
            future = self._ready.get(timeout=timeout)
        except queue.Empty:
            return None
        task, _ = self._tasks.pop(future.key)
        if future.status == "error" and isinstance(future.exception(), KilledWorker):
            return task, None
        if future.status in ("cancelled", "lost"):
            raise SchedulerLostError(_GONE)
        return task, pickle.loads(self._ask(future.result))

    def _ask(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        from distributed.comm.core import CommClosedError

        if self._client.status != "running":
            raise SchedulerLostError(_GONE)
        try:
            return action(*arguments, **options)
        except (CommClosedError, TimeoutError, CancelledError) as error:
            raise SchedulerLostError(_GONE) from error


@contextlib.contextmanager
def open_pool(
    workers: int | str | os.PathLike[str] | None, limits: Limits, resources: Mapping[str, float]
) -> Iterator[Pool]:
    """Workers of the kind that was asked for, until the block ends.

    **Arguments:**
    - `workers`: 0 for this process, a number of processes here, the address of a scheduler, or a TOML file that says
      how a batch system starts workers. Default: a process for each processor.

    **Raises:** `InputError` for a scheduler out of reach, a profile that cannot be used.
    """
    if workers is None:
        workers = os.cpu_count() or 1
    if isinstance(workers, int) and workers >= 0:
        if workers == 0:
            yield Here()
            return
        with _local(workers, resources) as cluster, _connected(cluster) as client:
            yield Workers(client, limits, resources)
    elif isinstance(workers, str) and "://" in workers:
        with _connected(workers) as client:
            yield Workers(client, limits, resources)
    elif isinstance(workers, str | os.PathLike):
        with _batch(pathlib.Path(workers)) as cluster, _connected(cluster) as client:
            yield Workers(client, limits, resources)
    else:
        msg = f"workers must be a number from 0, an address like tcp://host:8786 or a TOML file, got {workers!r}."
        raise InputError(msg)


def _local(count: int, resources: Mapping[str, float]) -> Any:
    import dask.config
    from distributed import LocalCluster

    options: dict[str, Any] = {"dashboard_address": None, "silence_logs": 50, "resources": dict(resources)}
    # Whose fault the death of a worker was, and what memory a cell may take, is decided here and not by dask.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        for start in itertools.count(1):
            try:
                return LocalCluster(n_workers=count, threads_per_worker=1, processes=True, memory_limit=0, **options)
            except RuntimeError:  # a worker died as it started
                if start == _STARTS:
                    raise
    raise AssertionError


@contextlib.contextmanager
def _connected(where: Any) -> Iterator["distributed.Client"]:
    from distributed import Client

    try:
        client = Client(where, timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"The scheduler at {where} cannot be reached within {_PATIENCE} seconds ({reason}). `dask scheduler` "
        msg += "starts one and prints its address."
        raise InputError(msg) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # it may be gone, which was told already
            client.close(timeout=_PATIENCE)


def _batch(path: pathlib.Path) -> Any:
    """A batch system that starts workers as a profile says."""
    try:
        profile = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"Cannot read the profile {str(path)!r}: {getattr(error, 'strerror', None) or error}."
        raise InputError(msg) from None
    system, jobs, arguments = profile.get("system", "slurm"), profile.get("jobs", 1), profile.get("arguments", {})
    if system not in _SYSTEMS:
        raise unknown_name("batch system", system, _SYSTEMS)
    strange = sorted(profile.keys() - {"system", "jobs", "arguments"})
    if strange or not isinstance(jobs, int) or jobs < 1 or not isinstance(arguments, dict):
        msg = f"{str(path)!r} has system, jobs (a whole number from 1) and a table [arguments], nothing else; "
        msg += f"got {', '.join(strange) or profile}."
        raise InputError(msg)
    try:
        import dask_jobqueue
    except ImportError:
        msg = "Batch systems need the package dask-jobqueue: pip install 'lossatlas[cluster]'."
        raise InputError(msg) from None
    made = getattr(dask_jobqueue, _SYSTEMS[system])
    # A cluster that refuses its arguments half-way leaves its scheduler behind, so their names are looked at first.
    known = {name for kind in (*made.__mro__, *made.job_cls.__mro__) for name in inspect.signature(kind).parameters}
    for name in arguments:
        if name not in known:
            what = f"argument in {str(path)!r} of dask_jobqueue.{_SYSTEMS[system]}"
            raise unknown_name(what, name, known - {"args", "kwargs", "self"})
    cluster = made(**arguments)
    cluster.scale(jobs=jobs)
    return cluster
