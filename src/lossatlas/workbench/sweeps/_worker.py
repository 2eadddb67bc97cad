"""What a worker of the scheduler does: hand cells to a process of its own, and end that where a cell breaks a limit."""

import atexit
import collections
import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from lossatlas.workbench.sweeps._grid import Cell
from lossatlas.workbench.sweeps._measure import CAPACITY, Started, Task
from lossatlas.workbench.sweeps._messages import EndOfTask, receive, send
from lossatlas.workbench.sweeps._outcome import KILLED, OUT_OF_MEMORY, TIMED_OUT, Outcome


# How often the memory of a process is looked at, in seconds.
_LOOK = 0.05
# A process that so often ends before its first word will never speak.
_STILLBORN = 5
_MINE = threading.local()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a cell may take.

    - `seconds`: of a cell, compilation apart; None for any. `memory`: bytes of the process that measures it, with jax
      and all compiled programs; None for any. `retries`: how often a cell that raises, or whose process dies, is tried
      again. A cell beyond a limit is not.
    """

    seconds: float | None = None
    memory: int | None = None
    retries: int = 2


class CellProcess:
    """A process that measures cells, started with the first and again after each death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._said: Any = None

    def measure(self, task: Task, limits: Limits) -> Iterator[Started | Outcome]:
        """Measure cells under limits: as [`measure_cells`][], and whatever a cell does, the others are measured."""
        deaths: collections.Counter[int] = collections.Counter()
        fresh: set[int] = set()  # those beyond the limit of memory, measured once more in a process of their own
        left, together, stillborn = list(task.cells), self._together(limits), 0
        while left:
            self._start(dataclasses.replace(task, cells=tuple(left)), together)
            blamed: list[Cell] = []
            reason, silent = "", True
            done: set[int] = set()
            for event in self._events(limits):
                silent = silent and isinstance(event, str)
                if isinstance(event, str):
                    reason = event
                elif isinstance(event, Started):
                    blamed = left[event.first : event.first + event.count]
                    yield event
                else:
                    done.add(event.place)
                    yield event
            left = [cell for cell in left if cell.place not in done]
            blamed = [cell for cell in blamed if cell.place not in done]
            together = 1 if reason else together
            stillborn = stillborn + 1 if silent else 0
            if stillborn > _STILLBORN:
                msg = f"The process that measures cells does not start: {reason}."
                raise RuntimeError(msg)
            if not reason or silent or len(blamed) != 1:
                continue
            (cell,) = blamed
            deaths[cell.place] += 1
            if reason == OUT_OF_MEMORY and cell.place not in fresh:
                fresh.add(cell.place)  # the memory may be that of the cells before
                left.sort(key=lambda one: one.place != cell.place)
            elif reason in (TIMED_OUT, OUT_OF_MEMORY) or deaths[cell.place] > limits.retries:
                status = reason if reason in (TIMED_OUT, OUT_OF_MEMORY) else KILLED
                yield Outcome(cell.place, status, error=self._words(reason, limits))
                left.remove(cell)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None
            self._said.close()

    @staticmethod
    def _together(limits: Limits) -> int:
        # A limit of memory blames one cell at a time; a limit of time is that of a call.
        return CAPACITY if limits.seconds is None and limits.memory is None else 1

    def _start(self, task: Task, together: int) -> None:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._said = tempfile.TemporaryFile()  # noqa: SIM115
            environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lossatlas.workbench.sweeps._child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
            )
            self._messages = queue.SimpleQueue()
            threading.Thread(target=_read, args=(self._process.stdout, self._messages), daemon=True).start()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it died just now; its messages end, which is told as any other death
            send(self._process.stdin, (task, together))

    def _events(self, limits: Limits) -> Iterator[Started | Outcome | str]:
        """What the process says of a task; last, where it did not come to the end of it, why."""
        assert self._process is not None
        memory = _Memory(self._process.pid) if limits.memory is not None else None
        since, timed = time.monotonic(), False
        while True:
            try:
                message = self._messages.get(timeout=_LOOK)
            except queue.Empty:
                if timed and limits.seconds is not None and time.monotonic() - since > limits.seconds:
                    self._process.kill()
                    yield TIMED_OUT
                    break
                if memory is not None and limits.memory is not None and memory.bytes() > limits.memory:
                    self._process.kill()
                    yield OUT_OF_MEMORY
                    break
                continue
            if message is None:
                yield self._how_it_died()
                break
            event = pickle.loads(message)
            if isinstance(event, EndOfTask):
                return
            since = time.monotonic()
            timed = isinstance(event, Started) and not event.compiles
            yield event
        self.close()

    def _how_it_died(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}" + (f": {lines[-1][:500]}" if lines else "")

    @staticmethod
    def _words(reason: str, limits: Limits) -> str:
        if reason == TIMED_OUT:
            return f"It took more than {limits.seconds:g} seconds."
        if reason == OUT_OF_MEMORY:
            assert limits.memory is not None
            return f"Its process took more than {limits.memory / 1e9:.3g} GB."
        return f"{reason[0].upper()}{reason[1:]}."


class _Memory:
    def __init__(self, process: int):
        import psutil

        self._gone, self._process = psutil.Error, psutil.Process(process)

    def bytes(self) -> int:
        try:
            return self._process.memory_info().rss
        except self._gone:
            return 0


def _read(stream: Any, messages: "queue.SimpleQueue[bytes | None]") -> None:
    try:
        while True:
            messages.put(receive(stream))
    except (EOFError, OSError, ValueError):
        messages.put(None)


def measure_here(task: Task, limits: Limits) -> Iterator[Started | Outcome]:
    """Measure cells in the process that belongs to this thread of a worker; it stays, with its compiled programs."""
    process = getattr(_MINE, "process", None)
    if process is None:
        process = _MINE.process = CellProcess()
        atexit.register(process.close)
    yield from process.measure(task, limits)


def run_task(content: bytes) -> bytes:
    """What the scheduler sends to a worker, and what comes back; both pickled, since a worker need not know the study.

    **Arguments:**
    - `content`: a task and its limits.
    """
    import cloudpickle

    task, limits = pickle.loads(content)
    return cloudpickle.dumps([event for event in measure_here(task, limits) if isinstance(event, Outcome)])
