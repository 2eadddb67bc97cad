"""What a sweep will cost, from a few of its cells."""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas.studies import find_study
from lossatlas.workbench._folder import store_root
from lossatlas.workbench._record import is_finished
from lossatlas.workbench.sweeps._drive import make_task
from lossatlas.workbench.sweeps._grid import Cell, Grid, make_grid
from lossatlas.workbench.sweeps._known import known_outcomes
from lossatlas.workbench.sweeps._measure import Started
from lossatlas.workbench.sweeps._outcome import MEASURED, Outcome
from lossatlas.workbench.sweeps._run import sweep_so_far
from lossatlas.workbench.sweeps._sweep import sweep_place
from lossatlas.workbench.sweeps._worker import CellProcess, Limits


# Programs of which a cell is timed; between them time is interpolated.
_TIMED = 3


@shown
@dataclasses.dataclass(frozen=True)
class SweepEstimate:
    """What a sweep will cost.

    - `cells`: of the grid. `known`: those measured before. `programs`: distinct compiled programs of the others.
    - `compile_seconds`, `cell_seconds`: of one program and one cell, averaged over the programs timed; None where no
      cell could be timed. `errors`: of those that failed, by their settings.
    """

    cells: int
    known: int
    programs: int
    compile_seconds: float | None
    cell_seconds: float | None
    errors: dict[str, str]

    def seconds(self, workers: int) -> float | None:
        """How long the rest takes on some workers; what was compiled before is compiled faster than that."""
        if self.cell_seconds is None or self.compile_seconds is None:
            return None
        left = self.cells - self.known
        compiling = self.compile_seconds * self.programs / min(workers, max(1, self.programs))
        return compiling + self.cell_seconds * left / workers


def estimate_sweep(
    name: str,
    *,
    grid: Mapping[str, Sequence[Any]],
    seeds: int = 1,
    preset: str = "quick",
    toml: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    **options: Any,
) -> SweepEstimate:
    """Say what a sweep will cost: a cell of the first, the middle and the last program is timed, and thrown away.

    **Arguments:**
    - `name`, `grid`, `seeds`, `preset`, `toml`, `out`, `options`: as of [`lossatlas.workbench.run_sweep`][].

    **Returns:** a [`lossatlas.workbench.sweeps.SweepEstimate`][]. Nothing is written.

    **Raises:** `InputError` for unknown names and settings.
    """
    kind = find_study(name)
    asked = make_grid(kind, grid, seeds, preset=preset, toml=toml, options=options)
    place, _ = sweep_place(store_root(out), kind, asked)
    known = set(known_outcomes(place, kind, asked))
    for directory in (place.directory, place.partial):
        if is_finished(directory) or directory.exists():
            status = sweep_so_far(directory).ds["status"].values.ravel()
            known |= {i for i, word in enumerate(status) if word in MEASURED}
    first: dict[tuple, Cell] = {}
    for cell in asked.cells():
        if cell.place not in known:
            first.setdefault(asked.program(cell), cell)
    programs = list(first.values())
    chosen = {programs[round(i * (len(programs) - 1) / (_TIMED - 1))].place for i in range(_TIMED)} if programs else ()
    times, errors = [], {}
    process = CellProcess()
    try:
        with as_meter(progress).task("timing", len(chosen)) as task:
            for done, at in enumerate(sorted(chosen)):
                task.update(done)
                cell = asked.cells()[at]
                compiling, outcome = _time(process, asked, cell)
                if outcome.status in MEASURED:
                    times.append((compiling, outcome.seconds))
                else:
                    settings = ", ".join(f"{name}={value}" for name, value in asked.settings(cell).items())
                    errors[settings] = outcome.error
    finally:
        process.close()
    compiling, measuring = (sum(column) / len(times) for column in zip(*times, strict=True)) if times else (None, None)
    return SweepEstimate(len(asked.cells()), len(known), len(first), compiling, measuring, errors)


def _time(process: CellProcess, grid: Grid, cell: Cell) -> tuple[float, Outcome]:
    """Seconds of compilation, and the outcome of a cell with those of the measurement."""
    compiling, since = 0.0, None
    for event in process.measure(make_task(grid, (cell,), 0), Limits()):
        now = time.perf_counter()
        if isinstance(event, Outcome):
            return compiling, event
        if since is not None:
            compiling = now - since
        since = now if isinstance(event, Started) and event.compiles else None
    msg = "The cell was not measured."
    raise RuntimeError(msg)
