"""One run of the store: what was asked and found, its figures, its files, and what can be done with it."""

import asyncio
import html
import pathlib
import tempfile
import zipfile
from typing import Any

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._elements import ask_first, button, chip, heading, link, paragraph, table
from lossatlas.app._figure import figure
from lossatlas.app._frame import frame
from lossatlas.app._job_view import duration
from lossatlas.workbench import (
    Jobs,
    Store,
    StudyRun,
    SurveyRun,
    SweepRun,
    claims_table,
    settings_table,
    sized_figures,
    verdicts_sentence,
)


_FORMS = {"nc": "NetCDF", "csv": "CSV tables", "parquet": "Parquet tables"}


def run_path(path: str) -> str:
    """The page of a run, by its folder inside the store."""
    return f"/run/{path}"


async def run_page(jobs: Jobs, kind: str, folder: str) -> None:
    """A run: record, claims, figures, export, removal."""
    store, path = Store(jobs.root), f"{kind}/{folder}"
    try:
        run, record = store.find(path), store.record(path)
    except InputError as error:
        with frame(jobs, "No such run", way="/store"):
            paragraph(str(error), "empty")
        return
    with frame(jobs, f"{run.name}, {run.key}", way="/store"):
        with ui.element("div").classes("row"):
            chip(run.status)
            words = [run.kind, (run.created or "")[:16].replace("T", " ")]
            words += [] if run.seconds is None else [f"took {duration(run.seconds)}"]
            ui.label(", ".join(words)).classes("remark")
        if record.get("error"):
            paragraph(record["error"], "error")
        if run.status == "finished":
            await _content(store.open(path), path)
        heading(2, "Settings, and how to make it again")
        ui.html("", tag="pre", sanitize=False).set_content(html.escape(record.get("regenerate", "")))
        table(settings_table("Settings", _settings(run.config)), "narrow")
        _actions(store, path, is_finished=run.status == "finished")


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run; those of a sweep stand one level deeper, beside its grid."""
    if "axes" not in config:
        return config
    axes = {name: ", ".join(map(str, values)) for name, values in config["axes"]}
    return config["settings"] | axes | {"seeds": config["seeds"]}


async def _content(found: StudyRun | SurveyRun | SweepRun, path: str) -> None:
    if isinstance(found, SweepRun):
        paragraph(", ".join(f"{count:,} {status}" for status, count in found.counts().items()), "lead")
        with ui.element("div").classes("row"):
            link("Open the report", f"/files/{path}/report.html", "action")
            link("Map of the grid", f"/{path}")
        return
    if isinstance(found, SurveyRun):
        paragraph(found.headline, "lead")
        link("Open the report", f"/files/{path}/report.html", "action")
        heading(2, "Networks")
        words = "Model files, with what they need to predict on raw columns. (k,r): k neurons beside r linear units."
        paragraph(words, "remark")
        with ui.element("ul").classes("pills"):
            for name, file in found.network_files.items():
                ui.html(
                    f'<a href="/files/{path}/{html.escape(file)}">{html.escape(name)}</a>', tag="li", sanitize=False
                )
        return
    paragraph(f"{found.record['title']}. {verdicts_sentence(found.counts())}", "lead")
    link("Open the report", f"/files/{path}/report.html", "action")
    table(claims_table(found.claims, {}), "claims")
    await show_figures(found.study, lambda: found.results)


async def show_figures(study: Any, results: Any) -> None:
    """The figures of a study, drawn aside so that the application goes on meanwhile."""
    for name, (picture, sizes) in (await asyncio.to_thread(draw, study, results)).items():
        figure(name, picture.title, picture.caption, sizes)


def draw(study: Any, results: Any) -> dict[str, tuple[Any, Any]]:
    """Every figure whose part is there, with its picture, by name."""
    pictures = study.figures(results())
    drawn = sized_figures({name: picture.draw for name, picture in pictures.items()})
    return {name: (pictures[name], sizes) for name, sizes in drawn.items()}


def _actions(store: Store, path: str, *, is_finished: bool) -> None:
    def remove() -> None:
        store.remove(path)
        ui.navigate.to("/store")

    heading(2, "Files")
    with ui.element("div").classes("row actions"):
        if is_finished:
            for form, words in _FORMS.items():
                button(f"Export as {words}", lambda form=form: _export(store, path, form))
        button("Verify", lambda: _verify(store, path))
        words = f"{path} goes with its arrays and its report. Only computing it again brings it back."
        button("Remove", ask_first("Remove this run?", words, remove), "danger")


async def _export(store: Store, path: str, form: str) -> None:
    name = path.rpartition("/")[2]
    content, suffix = await asyncio.to_thread(_exported, store, path, form)
    ui.download.content(content, f"{name}{suffix}")


def _exported(store: Store, path: str, form: str) -> tuple[bytes, str]:
    """NetCDF is one file; tables are several, in an archive."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        if form == "nc":
            store.export(path, place / "arrays.nc")
            return (place / "arrays.nc").read_bytes(), ".nc"
        files = store.export(path, place / "tables", form=form)
        with zipfile.ZipFile(place / "tables.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)
        return (place / "tables.zip").read_bytes(), f"-{form}.zip"


async def _verify(store: Store, path: str) -> None:
    found = await asyncio.to_thread(store.verify, [path])
    if not found:
        ui.notify("Every file is as it was written.", type="positive")
    for finding in found:
        ui.notify(f"{finding.problem}. {finding.remedy}", type="negative", close_button="Close", timeout=0)
