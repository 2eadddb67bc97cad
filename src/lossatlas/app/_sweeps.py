"""Sweeps: those of the folder, and a form that puts settings of a study on a grid."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from lossatlas.app._elements import button, chip, field_input, heading, link, paragraph
from lossatlas.app._form import Field, as_typed, form_fields, read_fields, split_grid
from lossatlas.app._frame import frame
from lossatlas.app._job_view import job_list, start
from lossatlas.app._watch import watch_runs
from lossatlas.studies import StudyKind, configure, find_study, study_kinds
from lossatlas.workbench import Jobs, Runs, StoredRun
from lossatlas.workbench.sweeps import make_grid


_PRESETS = ("smoke", "quick", "paper")
_ASKED = (
    Field("seeds", "Seeds", "How many in each cell of the grid, from 0.", int, 4),
    Field("workers", "Workers", "Processes on this machine; empty: one for each processor.", int | None, None),
    Field(
        "cell_seconds",
        "Seconds a cell",
        "What a cell may take, compilation apart; empty: no limit.",
        float | None,
        None,
    ),
)
_SHOWN = 12


def sweeps_page(jobs: Jobs) -> None:
    """List sweeps, and start one."""
    with frame(jobs, "Sweeps", way="/sweeps"):
        paragraph("A study in every cell of a grid of its settings, with many seeds: where does it change?", "lead")
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                heading(2, "Start a sweep")
                _form(jobs)
            job_list(jobs, "sweep")
        watch_runs(jobs, _sweeps, kind="sweep", status=None)


def _form(jobs: Jobs) -> None:
    kinds = study_kinds()
    with ui.element("div").classes("fields"):
        names = {name: f"{name}: {kind.title}" for name, kind in kinds.items()}
        study = ui.select(names, label="Study", value=next(iter(names), None)).props("outlined dense").classes("field")
        preset = ui.select(list(_PRESETS), label="Preset", value="smoke").props("outlined dense").classes("field")
        asked = {field.name: field_input(field) for field in _ASKED}
    words = "Several values put a setting on the grid: 10,20,40, or 0.5:2:0.25 for start, stop and step; lists are "
    paragraph(f"{words}separated by semicolons.", "remark")
    area = ui.element("div").classes("fields")
    settings: dict[str, Any] = {}

    def fill() -> None:
        kind = find_study(study.value)
        chosen = configure(kind, preset=preset.value)
        area.clear()
        with area:
            for field in form_fields(kind.config):
                # A list of choices and a switch hold one value; here several may be typed.
                typed = as_typed(getattr(chosen, field.name))
                help_ = field.help + (f" One of {', '.join(map(str, field.choices))}." if field.choices else "")
                plain = field._replace(wanted=str, choices=(), default=str(typed), help=help_)
                settings[field.name] = field_input(plain)

    def begin() -> None:
        kind = find_study(study.value)
        names = [field.name for field in form_fields(kind.config)]
        title, content = _asked(kind, preset.value, {name: settings[name].value for name in names})
        content |= read_fields(_ASKED, {name: element.value for name, element in asked.items()})
        make_grid(kind, content["grid"], content["seeds"], preset=preset.value, options=content["options"])
        start(jobs, "sweep", title, content)

    for element in (study, preset):
        element.on_value_change(fill)
    fill()
    button("Start the sweep", begin, "action")


def _asked(kind: StudyKind, preset: str, typed: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a sweep job is asked, and in a few words."""
    grid, settings = split_grid(form_fields(kind.config), typed)
    chosen = dataclasses.asdict(configure(kind, preset=preset))
    options = {name: value for name, value in settings.items() if value != chosen[name]}
    axes = "".join(f", {name} {_some(values)}" for name, values in grid.items())
    return f"Sweep of {kind.name}, {preset}{axes}", {
        "study": kind.name,
        "preset": preset,
        "grid": grid,
        "options": options,
    }


def _some(values: Sequence[Any]) -> str:
    if len(values) <= 4:
        return ",".join(map(str, values))
    return f"{values[0]} to {values[-1]} ({len(values)} values)"


def _sweeps(runs: Runs) -> None:
    heading(2, "Sweeps of this folder")
    if not runs:
        paragraph("There is none yet. Put a setting of a study on a grid above; what it measures is kept.", "empty")
    with ui.element("div").classes("cards"):
        for run in runs[:_SHOWN]:
            _card(run)
    if len(runs) > _SHOWN:
        link(f"All {len(runs)} in the store", "/store?kind=sweep")


def _card(run: StoredRun) -> None:
    with ui.element("article").classes("card"):
        with ui.element("div").classes("row"):
            heading(3, run.name)
            chip(run.status)
        axes = [f"{name}: {_some(values)}" for name, values in run.config.get("axes", ())]
        paragraph("; ".join([*axes, f"{run.config.get('seeds', 0)} seeds"]))
        with ui.element("div").classes("row actions"):
            link("Map of the grid", sweep_path(run), "action")
            ui.label((run.created or "")[:16].replace("T", " ")).classes("remark")


def sweep_path(run: StoredRun) -> str:
    """The page of a sweep; the same while it runs and when it is finished."""
    return f"/sweep/{run.path.rpartition('/')[2].removesuffix('.partial').removesuffix('.old')}"
