"""A study measured on a grid of its settings, and stored; a sweep that was stopped goes on where it was."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._progress import ProgressLike, ProgressMeter, as_meter
from lossatlas.studies import StudyKind, find_study
from lossatlas.workbench._arrays import write_arrays
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._record import is_finished
from lossatlas.workbench._run import ARRAYS
from lossatlas.workbench._store import Place, make_run, run_key
from lossatlas.workbench._study import keep_study, study_place, study_words
from lossatlas.workbench.sweeps._drive import drive
from lossatlas.workbench.sweeps._grid import Cell, Grid, make_grid
from lossatlas.workbench.sweeps._known import known_outcomes
from lossatlas.workbench.sweeps._outcome import FAILED, MEASURED, Outcome, pack, unpack
from lossatlas.workbench.sweeps._pool import open_pool
from lossatlas.workbench.sweeps._results import outcomes_of, sweep_results
from lossatlas.workbench.sweeps._run import KIND, SweepRun, count_cells
from lossatlas.workbench.sweeps._worker import Limits


def run_sweep(
    name: str,
    *,
    grid: Mapping[str, Sequence[Any]],
    seeds: int = 1,
    preset: str = "quick",
    toml: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | str | os.PathLike[str] | None = None,
    retries: int = 2,
    cell_seconds: float | None = None,
    cell_memory: float | None = None,
    resources: Mapping[str, float] | None = None,
    retry_failed: bool = False,
    force: bool = False,
    progress: ProgressLike | None = None,
    **options: Any,
) -> SweepRun:
    """Measure a study in every cell of a grid of its settings, with every seed, and store what came out.

    Cells of one program follow each other in it ([`lossatlas.studies.Sweepable`][]), so it is compiled once. Outcomes
    are kept as they come: a sweep that was stopped, or whose machine was, goes on with what is missing, and one with a
    larger grid takes over what is there. The results do not depend on the workers. A study without `measure` runs as a
    whole in each cell, and is a run of the store like any other; the sweep has what its claims measured.

    **Arguments:**
    - `name`: of the study. `grid`: settings and their values. `seeds`: how many in each cell of the grid, from 0.
    - `preset`, `toml`, `options`: the settings that all cells share, as for [`lossatlas.run_study`][].
    - `out`: the folder of runs; default the environment variable LOSSATLAS_STORE, else `lossatlas` here.
    - `workers`: how many processes here (default one for each processor), 0 for this process, without limits; the
      address of a dask scheduler (`tcp://host:8786`); or a TOML file that says how a batch system starts workers.
    - `retries`: how often a cell that raises, or whose process dies, is tried again.
    - `cell_seconds`, `cell_memory`: what a cell may take, compilation apart, and its process, in GB with jax and
      compiled programs (about half a GB). Beyond that it has failed. Workers of this process have no limits.
    - `resources`: that workers must have, by name, as dask knows them (`{"GPU": 1}`).
    - `retry_failed`: measure the cells anew that failed. `force`: measure all cells anew.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter; default rich on a terminal.

    **Returns:** a [`lossatlas.workbench.sweeps.SweepRun`][]. Cells that failed are in it, with their errors.

    **Raises:** `InputError` for unknown names and settings, and a scheduler out of reach, before any work;
    `SchedulerLostError` where the scheduler goes away, with what is finished kept.

    !!! example
        >>> run = lossatlas.run_sweep("my-study", grid={"width": (10, 20)}, seeds=16)  # doctest: +SKIP
        >>> run.results["loss"].mean("seed")  # doctest: +SKIP
    """
    kind = find_study(name)
    asked = make_grid(kind, grid, seeds, preset=preset, toml=toml, options=options)
    limits = check_limits(retries, cell_seconds, cell_memory)
    meter = as_meter(progress)
    root = store_root(out)
    check_folder(root)
    place, header = sweep_place(root, kind, asked)
    if is_finished(place.directory) and not force:
        run = SweepRun(place.directory)
        if not (retry_failed and run.failed()):
            return _with_page(run)

    def write(folder: pathlib.Path, journal: Journal) -> Mapping[str, Any]:
        del folder
        outcomes = {outcome.place: outcome for step in journal.finished() for outcome in unpack(step)}
        if not force:
            outcomes = _known_here(place) | known_outcomes(place, kind, asked) | outcomes
        if retry_failed:
            outcomes = {i: outcome for i, outcome in outcomes.items() if outcome.status in MEASURED}
        cells = [cell for cell in asked.cells() if cell.place not in outcomes]
        if cells:
            with open_pool(workers, limits, resources or {}) as pool:
                keeper = _Keeper(place, kind, asked, journal, outcomes, meter)
                drive(asked, cells, pool, keeper.keep, retries=limits.retries, meter=meter)
        results = sweep_results(asked.axes, asked.seeds, outcomes.values())
        write_arrays(place.partial / ARRAYS, results)
        return {"cells": count_cells(results), "measured": len(cells)}

    make_run(place, header, write, meter=meter, force=force or retry_failed)
    return _with_page(SweepRun(place.directory))


def check_limits(retries: int, cell_seconds: float | None, cell_memory: float | None) -> Limits:
    """The limits of a cell.

    **Raises:** `InputError` for numbers that are no limits.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        msg = f"retries must be a whole number from 0, got {retries!r}."
        raise InputError(msg)
    for word, value in (("cell_seconds", cell_seconds), ("cell_memory", cell_memory)):
        if value is not None and not value > 0:
            msg = f"{word} must be positive, got {value!r}."
            raise InputError(msg)
    return Limits(cell_seconds, None if cell_memory is None else int(cell_memory * 1e9), retries)


def sweep_place(root: pathlib.Path, kind: StudyKind, grid: Grid) -> tuple[Place, dict[str, Any]]:
    """Where a sweep is kept, and what its record says beforehand."""
    config = {
        "settings": dataclasses.asdict(grid.base),
        "axes": [[axis.name, list(axis.values)] for axis in grid.axes],
        "seeds": grid.seeds,
        "version": kind.version,
    }
    axes = [f"{a.name.replace('_', '-')}={_values(a.values)}" for a in grid.axes]
    shared = dataclasses.replace(grid.base, **{axis.name: getattr(kind.config(), axis.name) for axis in grid.axes})
    words = ["lossatlas", "sweep", *study_words(kind, shared)]
    words += [word for axis in axes for word in ("--grid", f"'{axis}'" if ";" in axis else axis)]
    header = {
        "config": config,
        "papers": list(kind.papers),
        "title": kind.title,
        "regenerate": " ".join([*words, "--seeds", str(grid.seeds)]),
    }
    return Place(root, KIND, kind.name, run_key(KIND, kind.version, config, kind.name)), header


def _values(values: Sequence[Any]) -> str:
    if any(isinstance(value, tuple) for value in values):
        return ";".join(",".join(map(str, value)) for value in values)
    return ",".join(map(str, values))


def _known_here(place: Place) -> dict[int, Outcome]:
    """The outcomes of the finished sweep whose failed cells are measured anew."""
    if not is_finished(place.directory):
        return {}
    return {outcome.place: outcome for outcome in outcomes_of(SweepRun(place.directory).results)}


@dataclasses.dataclass
class _Keeper:
    """Keeps outcomes as they come: in the journal of the sweep, and whole studies as runs of the store."""

    place: Place
    kind: StudyKind
    grid: Grid
    journal: Journal
    outcomes: dict[int, Outcome]
    meter: ProgressMeter

    def __post_init__(self) -> None:
        self._cells: list[Cell] = self.grid.cells()
        self._steps = sum(1 for _ in self.journal.finished())
        measured = (outcome for outcome in self.outcomes.values() if outcome.values)
        self._shapes = next(map(_shapes, measured), None)

    def keep(self, outcomes: Sequence[Outcome]) -> None:
        """Keep the outcomes of a task."""
        checked = [self._same_shapes(outcome) for outcome in outcomes]
        for outcome in checked:
            if outcome.study is not None:
                self._keep_study(outcome)
        self._steps += 1
        self.journal(f"cells-{self._steps:06d}", lambda: pack(checked))
        self.outcomes.update((outcome.place, outcome) for outcome in checked)

    def _keep_study(self, outcome: Outcome) -> None:
        cell, (results, claims) = self._cells[outcome.place], outcome.study
        config = self.grid.study(cell)
        place = study_place(self.place.root, self.kind, config, cell.seed)
        keep_study(
            place, self.kind, config, cell.seed, lambda _: (results, claims), meter=self.meter, seconds=outcome.seconds
        )

    def _same_shapes(self, outcome: Outcome) -> Outcome:
        """An outcome that fits beside the others, or the reason why it does not."""
        if outcome.study is not None or not outcome.values:
            return outcome
        shapes = _shapes(outcome)
        self._shapes = self._shapes or shapes
        if shapes == self._shapes:
            return outcome
        error = f"measure returned {shapes}, but {self._shapes} in another cell; the shapes must be the same in all."
        return Outcome(outcome.place, FAILED, error=error, seconds=outcome.seconds)


def _shapes(outcome: Outcome) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in outcome.values.items()}


def _with_page(run: SweepRun) -> SweepRun:
    if not run.report.exists():
        run.write_report()
    return run
