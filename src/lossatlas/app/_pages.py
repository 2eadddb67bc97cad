"""The pages of the application by address."""

from nicegui import ui
from starlette.responses import RedirectResponse

from lossatlas.app._claims import claims_page
from lossatlas.app._diagnose import diagnose_page
from lossatlas.app._jobs import job_page, jobs_page
from lossatlas.app._run import run_page
from lossatlas.app._store import store_page
from lossatlas.app._studies import studies_page, study_page
from lossatlas.app._surveys import surveys_page
from lossatlas.app._sweep import sweep_page
from lossatlas.app._sweeps import sweeps_page
from lossatlas.workbench import Jobs


def add_pages(jobs: Jobs) -> None:
    """Register every page, for the jobs and runs of one folder."""

    @ui.page("/")
    def first():
        return RedirectResponse("/surveys")

    @ui.page("/surveys")
    def surveys():
        surveys_page(jobs)

    @ui.page("/diagnose")
    def diagnose():
        diagnose_page(jobs)

    @ui.page("/studies")
    def studies():
        studies_page(jobs)

    @ui.page("/studies/{name}")
    def study(name: str):
        study_page(jobs, name)

    @ui.page("/sweeps")
    def sweeps():
        sweeps_page(jobs)

    @ui.page("/sweep/{folder}")
    def sweep(folder: str):
        sweep_page(jobs, folder)

    @ui.page("/claims")
    def claims():
        claims_page(jobs)

    @ui.page("/store")
    def store(kind: str = "", text: str = ""):
        store_page(jobs, kind, text)

    @ui.page("/run/{kind}/{folder}", response_timeout=60.0)
    async def run(kind: str, folder: str):
        await run_page(jobs, kind, folder)

    @ui.page("/jobs")
    def all_jobs():
        jobs_page(jobs)

    @ui.page("/job/{name}")
    def job(name: str):
        job_page(jobs, name)
