"""Surveys: those of the folder, and a form that starts one."""

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._choose import TABLES, choice
from lossatlas.app._elements import button, field_input, heading, link, paragraph
from lossatlas.app._form import as_typed, form_fields, read_fields
from lossatlas.app._frame import frame
from lossatlas.app._job_view import job_list, start
from lossatlas.app._run import run_path
from lossatlas.app._watch import watch_runs
from lossatlas.atlas import SurveyConfig
from lossatlas.data import data_names
from lossatlas.workbench import Jobs, Runs, StoredRun, SurveyRun


_ALWAYS = ("target", "hidden", "preset", "seed")
_SHOWN = 12


def surveys_page(jobs: Jobs) -> None:
    """List surveys, and start one."""
    with frame(jobs, "Surveys", way="/surveys"):
        lead = "Which small networks does your data set hold, which of them does training visit, and which is the "
        paragraph(f"{lead}smallest that does the job?", "lead")
        with ui.element("div").classes("columns"):
            with ui.element("section").classes("card"):
                heading(2, "Start a survey")
                _form(jobs)
            job_list(jobs, "survey")
        watch_runs(jobs, lambda runs: _finished(jobs, runs), kind="survey")


def _form(jobs: Jobs) -> None:
    data = choice(jobs, "Data set or table", {name: name for name in data_names()}, TABLES)
    data.value = "iris"
    fields = form_fields(SurveyConfig)
    shown = [field for field in fields if field.name in _ALWAYS]
    more = [field for field in fields if field.name not in _ALWAYS]
    with ui.element("div").classes("fields"):
        elements = {field.name: field_input(field) for field in shown}
    with ui.expansion("More settings").classes("more"), ui.element("div").classes("fields"):
        elements |= {field.name: field_input(field) for field in more}

    def begin() -> None:
        typed = read_fields(fields, {name: element.value for name, element in elements.items()})
        options = {field.name: typed[field.name] for field in fields if typed[field.name] != field.default}
        title = f"Survey of {data.options[data.value]}"
        title += "".join(f", {name} {as_typed(value)}" for name, value in options.items())
        start(jobs, "survey", title, {"data": data.value, "options": options})

    button("Start the survey", begin, "action")


def _finished(jobs: Jobs, runs: Runs) -> None:
    heading(2, "Finished surveys")
    if not runs:
        paragraph("There is none yet. Choose a data set above: a quick survey of iris takes a minute or two.", "empty")
    with ui.element("div").classes("cards"):
        for run in runs[:_SHOWN]:
            _card(jobs, run)
    if len(runs) > _SHOWN:
        link(f"All {len(runs)} in the store", "/store?kind=survey")


def _card(jobs: Jobs, run: StoredRun) -> None:
    with ui.element("article").classes("card"):
        heading(3, f"{run.name}, seed {run.config.get('seed', 0)}")
        try:
            found = SurveyRun(jobs.root / run.path)
        except InputError as error:
            paragraph(str(error), "error")
            return
        paragraph(found.headline)
        with ui.element("div").classes("row actions"):
            link("Open the report", f"/files/{run.path}/report.html", "action")
            link("Settings and files", run_path(run.path))
            ui.label((run.created or "")[:16].replace("T", " ")).classes("remark")
