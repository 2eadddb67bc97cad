"""Jobs: all of them, and one with its log and what is there of its figures."""

import asyncio
import contextlib
import html
import json

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
        job_list(jobs, most=50)


def job_page(jobs: Jobs, name: str) -> None:
    """A job while it runs and when it has ended."""
    with frame(jobs, "Job"):
        job = found_job(jobs, name)
        if job is None:
            return
        refresh_card = job_card(jobs, job, linked=False)
        if job.kind == "sweep":
            with contextlib.suppress(InputError):  # of a study that is not installed any more
                link("Map of the grid", _map_path(jobs, job), "action")
        figures = _Figures(jobs)
        with ui.expansion("What was asked, and the log").classes("more"):
            ui.html(html.escape(json.dumps(job.asked, indent=1)), tag="pre", sanitize=False)
            log = ui.html("", tag="pre", sanitize=False).classes("log")

        async def refresh() -> None:
            try:
                now = jobs.find(name)
            except InputError:  # removed
                ui.navigate.to("/jobs")
                return
            refresh_card(now)
            if log.content != html.escape(now.log):
                log.set_content(html.escape(now.log))
            if now.kind == "study":
                await figures.refresh(now)

        ui.timer(1.0, refresh)


def _map_path(jobs: Jobs, job: Job) -> str:
    """The page of the sweep that a job makes."""
    kind, asked = find_study(job.asked["study"]), job.asked
    grid = make_grid(kind, asked["grid"], asked["seeds"], preset=asked["preset"], options=asked["options"])
    return f"/sweep/{sweep_place(jobs.root, kind, grid)[0].directory.name}"


class _Figures:
    """The figures of a study: while it runs those whose parts are there, and all of them when it is finished."""

    def __init__(self, jobs: Jobs):
        self._jobs, self._area = jobs, ui.element("div")
        self._drawn: dict[str, Figure] = {}
        self._seen = ""

    async def refresh(self, job: Job) -> None:
        """Draw what is new."""
        # A study of someone else may be gone, or its figures may need a part that is not there yet.
        with contextlib.suppress(InputError, KeyError):
            if job.status == "finished" and job.page is not None:
                await self._show_all(job.page.rpartition("/")[0])
            else:
                await self._show_partial(job)

    async def _show_all(self, path: str) -> None:
        if self._seen == path:
            return
        self._seen = path
        run = StudyRun(self._jobs.root / path)
        self._area.clear()
        with self._area:
            heading(2, "Figures")
            link("Claims and settings", run_path(path))
            await show_figures(run.study, lambda: run.results)

    async def _show_partial(self, job: Job) -> None:
        found = await asyncio.to_thread(read_partial, job.folder, other_than=self._seen)
        if found is None:
            return
        self._seen, results = found
        study = configure(find_study(job.asked["study"]), preset=job.asked["preset"], options=job.asked["options"])
        pictures = await asyncio.to_thread(draw, study, lambda: results)
        with self._area:
            if pictures and not self._drawn:
                heading(2, "Figures so far")
            for name, (picture, sizes) in pictures.items():
                if name in self._drawn:
                    self._drawn[name].show(sizes)
                else:
                    self._drawn[name] = figure(name, picture.title, picture.caption, sizes)
