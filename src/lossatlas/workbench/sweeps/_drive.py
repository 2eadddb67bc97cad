"""The driver: hands cells to a pool in tasks of a few seconds, and takes their outcomes as they come."""

import collections
import sys
import time
from collections.abc import Callable, Sequence

from lossatlas._progress import ProgressMeter
from lossatlas.workbench.sweeps._grid import Cell, Grid
from lossatlas.workbench.sweeps._measure import Task
from lossatlas.workbench.sweeps._outcome import KILLED, MEASURED, Outcome
from lossatlas.workbench.sweeps._pool import Pool


# A task should take about so many seconds: shorter ones cost messages, longer ones are lost with their worker.
_TASK = 3.0
# Cells in a task at most.
_MOST = 512
# Tasks that wait at each worker, so that it never waits for us.
_AHEAD = 2


def drive(
    grid: Grid,
    cells: Sequence[Cell],
    pool: Pool,
    keep: Callable[[Sequence[Outcome]], None],
    *,
    retries: int,
    meter: ProgressMeter,
) -> None:
    """Measure cells, each once; those of one program follow each other, and its first task is one cell.

    So a program is compiled by one worker before others need it (they share what was compiled), and after it the
    time of a cell is known.

    **Arguments:**
    - `keep`: gets the outcomes of a task as soon as it ended, in this thread.
    - `retries`: how often a cell is measured again whose worker died.
    """
    plan = _Plan(grid, cells)
    deaths: collections.Counter[int] = collections.Counter()
    ended, failed, begun = 0, 0, time.monotonic()
    with meter.task("sweep", len(cells)) as task:
        while ended < len(cells):
            slots = pool.slots()
            while plan.in_flight < max(1, slots) * _AHEAD and (chosen := plan.next(slots)):
                pool.submit(make_task(grid, chosen, retries))
            found = pool.next(timeout=1.0)
            if found is not None:
                sent, outcomes = found
                if outcomes is None:
                    outcomes = _lost(plan, sent.cells, deaths, retries)
                else:
                    plan.ended(sent.cells, outcomes)
                if outcomes:
                    keep(outcomes)
                ended += len(outcomes)
                failed += sum(outcome.status not in MEASURED for outcome in outcomes)
            task.update(ended, _note(slots, failed, ended, len(cells), time.monotonic() - begun))


class _Plan:
    """What is to be measured yet, program by program."""

    def __init__(self, grid: Grid, cells: Sequence[Cell]):
        self._grid = grid
        self._left: dict[tuple, collections.deque[Cell]] = {}
        for cell in cells:
            self._left.setdefault(grid.program(cell), collections.deque()).append(cell)
        self._seconds: dict[tuple, float] = {}
        self._tried: set[tuple] = set()
        self.alone: collections.deque[Cell] = collections.deque()
        self.in_flight = 0

    def next(self, slots: int) -> tuple[Cell, ...]:
        """The cells of the next task; none where all are under way, or wait for the first of their program."""
        cells: tuple[Cell, ...] = ()
        if self.alone:
            cells = (self.alone.popleft(),)
        for program, left in () if cells else self._left.items():
            if not left or (program in self._tried and program not in self._seconds):
                continue
            fair = -(-len(left) // (2 * max(1, slots)))  # towards the end all have something to do
            fits = int(_TASK / max(self._seconds.get(program, _TASK), 1e-9))
            count = max(1, min(fits, fair, _MOST)) if program in self._seconds else 1
            cells = tuple(left.popleft() for _ in range(min(count, len(left))))
            self._tried.add(program)
            break
        self.in_flight += bool(cells)
        return cells

    def ended(self, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> None:
        self.in_flight -= 1
        program = self._grid.program(cells[0])
        self._seconds[program] = sum(outcome.seconds for outcome in outcomes) / len(outcomes)

    def lost(self, cells: Sequence[Cell], *, again: bool) -> None:
        """The worker of some cells died: one of them may have killed it, so each goes alone, or not again."""
        self.in_flight -= 1
        self.alone.extend(cells if again else ())
        self._tried.discard(self._grid.program(cells[0]))


def _lost(plan: _Plan, cells: Sequence[Cell], deaths: "collections.Counter[int]", retries: int) -> list[Outcome]:
    """What is known of cells whose worker died: nothing, but of one that was alone too often."""
    first = cells[0].place
    deaths[first] += len(cells) == 1
    guilty = deaths[first] > retries
    plan.lost(cells, again=not guilty)
    return [Outcome(first, KILLED, error=f"Its worker died {deaths[first]} times.")] if guilty else []


def make_task(grid: Grid, cells: tuple[Cell, ...], retries: int) -> Task:
    """Cells of one program, with all that a process needs to measure them."""
    import cloudpickle

    return Task(cloudpickle.dumps(grid.base), tuple(sys.path), tuple(axis.name for axis in grid.axes), cells, retries)


def _note(slots: int, failed: int, ended: int, total: int, seconds: float) -> str:
    if not slots:
        return "waiting for workers"
    words = [f"{ended:,} of {total:,} cells"]
    words += [f"{failed:,} failed"] if failed else []
    if ended:
        words += [f"{ended / seconds:.3g} a second", f"{duration((total - ended) * seconds / ended)} left"]
    return ", ".join(words)


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
