"""Studies: which there are, a form for one, its jobs and its runs."""

import dataclasses
import inspect

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._elements import button, field_input, heading, link, paragraph
from lossatlas.app._form import Field, as_typed, form_fields, read_fields
from lossatlas.app._frame import frame
from lossatlas.app._job_view import job_list, start
from lossatlas.app._run import run_path
from lossatlas.app._watch import watch_runs
from lossatlas.studies import StudyKind, configure, find_study, study_kinds
from lossatlas.workbench import Jobs, Runs, verdicts_sentence


_PRESETS = {"smoke": "smoke: seconds", "quick": "quick: a minute or two", "paper": "paper: the paper's size"}
_SEED = Field("seed", "Seed", "Of everything that is random.", int, 0)
_PRESET = Field("preset", "Preset", "Fills the settings below; change any of them.", str, "quick")
_SHOWN = 8


def studies_page(jobs: Jobs) -> None:
    """List the studies."""
    with frame(jobs, "Studies", way="/studies"):
        paragraph("Each study tests the claims of a paper: what it states beside what is measured here.", "lead")
        with ui.element("div").classes("cards"):
            for kind in study_kinds().values():
                with ui.element("article").classes("card"):
                    heading(2, kind.title)
                    paragraph(_question(kind))
                    paragraph(f"{kind.name}; cites {', '.join(kind.papers)}", "remark")
                    link(f"Open {kind.name}", f"/studies/{kind.name}", "action")
        job_list(jobs, "study")


def study_page(jobs: Jobs, name: str) -> None:
    """A form for a study, its jobs and its runs."""
    try:
        kind = find_study(name)
    except InputError as error:
        with frame(jobs, "No such study", way="/studies"):
            paragraph(str(error), "empty")
        return
    with frame(jobs, kind.title, way="/studies"):
        paragraph(_question(kind), "lead")
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                heading(2, f"Start {kind.name}")
                _form(jobs, kind)
            job_list(jobs, "study", fits=lambda job: job.asked["study"] == kind.name)
        watch_runs(jobs, lambda runs: _runs(kind, runs), kind="study", name=kind.name)


def _question(kind: StudyKind) -> str:
    return (inspect.getdoc(kind.config) or "").partition("\n")[0]


def _form(jobs: Jobs, kind: StudyKind) -> None:
    fields = form_fields(kind.config)
    with ui.element("div").classes("fields"):
        with ui.element("div").classes("field"):
            preset = ui.select(_PRESETS, label=_PRESET.label, value=_PRESET.default).props("outlined dense")
            paragraph(_PRESET.help, "remark")
        seed = field_input(_SEED)
        elements = {field.name: field_input(field) for field in fields}

    def fill() -> None:
        settings = configure(kind, preset=preset.value)
        for name, element in elements.items():
            element.value = as_typed(getattr(settings, name))

    def begin() -> None:
        settings = read_fields(fields, {name: element.value for name, element in elements.items()})
        chosen = dataclasses.asdict(configure(kind, preset=preset.value))
        options = {name: value for name, value in settings.items() if value != chosen[name]}
        asked = {"study": kind.name, "preset": preset.value, **read_fields([_SEED], {"seed": seed.value})}
        title = f"{kind.name}, {preset.value}" + "".join(f", {name} {as_typed(v)}" for name, v in options.items())
        start(jobs, "study", title, {**asked, "options": options})

    preset.on_value_change(fill)
    fill()
    button("Start the study", begin, "action")


def _runs(kind: StudyKind, runs: Runs) -> None:
    heading(2, "Finished runs")
    if not runs:
        paragraph("This study was not run here yet. Start it above; the preset smoke takes seconds.", "empty")
    with ui.element("div").classes("cards"):
        for run in runs[:_SHOWN]:
            with ui.element("article").classes("card"):
                heading(3, f"{run.key}, seed {run.config.get('seed', 0)}")
                paragraph(verdicts_sentence({"holds": 0, "fails": 0, "undecided": 0} | run.verdicts))
                with ui.element("div").classes("row actions"):
                    link("Figures and claims", run_path(run.path), "action")
                    link("Report", f"/files/{run.path}/report.html")
                    ui.label((run.created or "")[:16].replace("T", " ")).classes("remark")
    if len(runs) > _SHOWN:
        link(f"All {len(runs)} in the store", f"/store?kind=study&text={kind.name}")
