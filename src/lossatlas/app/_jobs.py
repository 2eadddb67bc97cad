"""Jobs: all of them, and one with its log and what is there of its figures."""

import asyncio
import html
import json
from typing import Any

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._elements import heading, link, paragraph
from lossatlas.app._figure import Figure, figure
from lossatlas.app._frame import frame
from lossatlas.app._job_view import found_job, job_card, job_list
from lossatlas.app._run import draw, run_path, show_figures
from lossatlas.studies import configure, find_study
from lossatlas.workbench import Job, Jobs, StudyRun, read_partial
from lossatlas.workbench.sweeps import make_grid, sweep_place


def jobs_page(jobs: Jobs) -> None:
    """All jobs."""
    with frame(jobs, "Jobs"):
        most = (
            f"At most {jobs.at_most} at once; the others wait. They go on when this page or the application is closed."
        )
        paragraph(most, "lead")
        job_list(jobs, most=100, named=False)


def job_page(jobs: Jobs, name: str) -> None:
    """A job while it runs and when it has ended."""
    with frame(jobs, "Job"):
        job = found_job(jobs, name)
        if job is None:
            return
        refresh_card = job_card(jobs, job, linked=False)
        if job.kind == "sweep":
            link("Map of the grid", _map_path(jobs, job), "action")
        area = ui.element("div")
        drawn: dict[str, Figure] = {}
        state = {"seen": "", "busy": False}

        async def refresh() -> None:
            try:
                now = jobs.find(name)
            except InputError:  # removed
                ui.navigate.to("/jobs")
                return
            refresh_card(now)
            if log.content != html.escape(now.log):
                log.set_content(html.escape(now.log))
            if now.kind == "study" and not state["busy"]:
                state["busy"] = True
                try:
                    await _live_figures(jobs, now, area, drawn, state)
                finally:
                    state["busy"] = False

        with ui.expansion("What was asked, and the log").classes("more"):
            ui.html(html.escape(json.dumps(job.asked, indent=1)), tag="pre", sanitize=False)
            log = ui.html("", tag="pre", sanitize=False).classes("log")
        ui.timer(1.0, refresh)


def _map_path(jobs: Jobs, job: Job) -> str:
    """The page of the sweep that a job makes."""
    kind, asked = find_study(job.asked["study"]), job.asked
    grid = make_grid(kind, asked["grid"], asked["seeds"], preset=asked["preset"], options=asked["options"])
    return f"/sweep/{sweep_place(jobs.root, kind, grid)[0].directory.name}"


async def _live_figures(jobs: Jobs, job: Job, area: Any, drawn: dict[str, Figure], state: dict[str, Any]) -> None:
    """Draw what is there of a study while it runs, and all of it when it has ended."""
    if job.status == "finished" and job.page is not None:
        if state["seen"] == "whole":
            return
        state["seen"] = "whole"
        run = StudyRun((jobs.root / job.page).parent)
        area.clear()
        with area:
            heading(2, "Figures")
            link("Claims and settings", run_path(job.page.rpartition("/")[0]))
            await show_figures(run.study, lambda: run.results)
        return
    found = await asyncio.to_thread(read_partial, job.folder, newer_than=state["seen"])
    if found is None:
        return
    state["seen"], results = found
    study = configure(find_study(job.asked["study"]), preset=job.asked["preset"], options=job.asked["options"])
    try:
        pictures = await asyncio.to_thread(draw, study, lambda: results)
    except KeyError:  # a study of someone else whose figures need a part that is not there yet
        return
    with area:
        if pictures and not drawn:
            heading(2, "Figures so far")
        for name, (picture, sizes) in pictures.items():
            if name in drawn:
                drawn[name].show(sizes)
            else:
                drawn[name] = figure(name, picture.title, picture.caption, sizes)
