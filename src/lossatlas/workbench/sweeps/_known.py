"""Cells that were measured before, by other sweeps of the same store or as runs of the study: nothing is done twice."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lossatlas._errors import InputError
from lossatlas.studies import StudyKind
from lossatlas.workbench._record import canonical, is_finished, read_record, versions
from lossatlas.workbench._run import stored_arrays
from lossatlas.workbench._store import Place
from lossatlas.workbench._study import StudyRun, study_place
from lossatlas.workbench.sweeps._grid import Axis, Cell, Grid
from lossatlas.workbench.sweeps._measure import claim_values
from lossatlas.workbench.sweeps._outcome import MEASURED, Outcome, measured
from lossatlas.workbench.sweeps._results import outcomes_of
from lossatlas.workbench.sweeps._run import KIND


def known_outcomes(place: Place, kind: StudyKind, grid: Grid) -> dict[int, Outcome]:
    """The outcomes of cells that other finished sweeps measured, with the same versions of the packages."""
    if not hasattr(kind.config, "measure"):
        return dict(_of_studies(place.root, kind, grid))
    former = [
        found for directory in sorted((place.root / place.kind).glob("*/")) if (found := _former(directory, kind))
    ]
    if not former:
        return {}
    cells = {canonical([dataclasses.asdict(grid.study(cell)), cell.seed]): cell for cell in grid.cells()}
    known: dict[int, Outcome] = {}
    for directory, other in former:
        known |= _of_sweep(directory, other, cells)
    return known


def _former(directory: pathlib.Path, kind: StudyKind) -> tuple[pathlib.Path, Grid] | None:
    """A finished sweep of the study and its grid; None for others, and where the study has other settings by now."""
    try:
        record = read_record(directory)
    except InputError:
        return None
    same = {"kind": KIND, "name": kind.name, "status": "finished", "versions": versions()}
    config = record.get("config", {})
    if any(record.get(name) != value for name, value in same.items()) or config.get("version") != kind.version:
        return None
    axes = tuple(Axis(name, tuple(map(_hashable, values))) for name, values in config["axes"])
    settings = {name: _hashable(value) for name, value in config["settings"].items()}
    try:
        return directory, Grid(kind.config(**settings), axes, config["seeds"])
    except (TypeError, ValueError):
        return None


def _of_sweep(directory: pathlib.Path, former: Grid, cells: Mapping[str, Cell]) -> dict[int, Outcome]:
    asked = [(cells.get(canonical([dataclasses.asdict(former.study(c)), c.seed])), c.place) for c in former.cells()]
    wanted = [(cell, place) for cell, place in asked if cell is not None]
    if not wanted:
        return {}
    try:
        outcomes = outcomes_of(stored_arrays(directory))
    except InputError:  # damaged: measured again
        return {}
    return {
        cell.place: dataclasses.replace(outcomes[place], place=cell.place)
        for cell, place in wanted
        if outcomes[place].status in MEASURED
    }


def _of_studies(root: pathlib.Path, kind: StudyKind, grid: Grid) -> Iterator[tuple[int, Outcome]]:
    for cell in grid.cells():
        directory = study_place(root, kind, grid.study(cell), cell.seed).directory
        if is_finished(directory):
            run = StudyRun(directory)
            yield cell.place, measured(cell.place, claim_values(run.claims), float(run.record["seconds"]), run)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
