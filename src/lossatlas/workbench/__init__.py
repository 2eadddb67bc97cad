"""Runs: surveys made once, stored whole and found again; the models in them, and their reports.

Names load on first use, so that the command line can check a folder without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lossatlas.workbench._data import Examples as Examples
    from lossatlas.workbench._data import read_examples as read_examples
    from lossatlas.workbench._diagnose import Diagnosed as Diagnosed
    from lossatlas.workbench._diagnose import diagnose as diagnose
    from lossatlas.workbench._export import export as export
    from lossatlas.workbench._export_arrays import export_arrays as export_arrays
    from lossatlas.workbench._figures import figures_of as figures_of
    from lossatlas.workbench._figures import save_figures as save_figures
    from lossatlas.workbench._flatness import flatness as flatness
    from lossatlas.workbench._grow import Grown as Grown
    from lossatlas.workbench._grow import grow as grow
    from lossatlas.workbench._instrument import Measured as Measured
    from lossatlas.workbench._job_events import read_partial as read_partial
    from lossatlas.workbench._job_run import run_job as run_job
    from lossatlas.workbench._jobs import Job as Job
    from lossatlas.workbench._jobs import Jobs as Jobs
    from lossatlas.workbench._kernel import kernel as kernel
    from lossatlas.workbench._load import load as load
    from lossatlas.workbench._model import Model as Model
    from lossatlas.workbench._model import save_model as save_model
    from lossatlas.workbench._page import page_script as page_script
    from lossatlas.workbench._page import render_table as render_table
    from lossatlas.workbench._page import sized_figures as sized_figures
    from lossatlas.workbench._path import Connection as Connection
    from lossatlas.workbench._path import path as path
    from lossatlas.workbench._plane import plane as plane
    from lossatlas.workbench._report import write_report as write_report
    from lossatlas.workbench._report_tables import settings_table as settings_table
    from lossatlas.workbench._reproduce import Reproduction as Reproduction
    from lossatlas.workbench._reproduce import reproduce as reproduce
    from lossatlas.workbench._resized import check_writable as check_writable
    from lossatlas.workbench._resized import write_resized as write_resized
    from lossatlas.workbench._run import SurveyRun as SurveyRun
    from lossatlas.workbench._runs import Runs as Runs
    from lossatlas.workbench._runs import Store as Store
    from lossatlas.workbench._shrink import Shrunk as Shrunk
    from lossatlas.workbench._shrink import Size as Size
    from lossatlas.workbench._shrink import covering as covering
    from lossatlas.workbench._shrink import shrink as shrink
    from lossatlas.workbench._shrink_page import write_shrink_page as write_shrink_page
    from lossatlas.workbench._spectrum import spectrum as spectrum
    from lossatlas.workbench._stored import UPLOADS as UPLOADS
    from lossatlas.workbench._stored import StoredRun as StoredRun
    from lossatlas.workbench._study import StudyRun as StudyRun
    from lossatlas.workbench._study import run_study as run_study
    from lossatlas.workbench._study import study_place as study_place
    from lossatlas.workbench._study_page import claims_table as claims_table
    from lossatlas.workbench._study_page import verdicts_sentence as verdicts_sentence
    from lossatlas.workbench._survey import survey as survey
    from lossatlas.workbench._verify import Finding as Finding
    from lossatlas.workbench.sweeps import SweepEstimate as SweepEstimate
    from lossatlas.workbench.sweeps import SweepRun as SweepRun
    from lossatlas.workbench.sweeps import estimate_sweep as estimate_sweep
    from lossatlas.workbench.sweeps import run_sweep as run_sweep
    from lossatlas.workbench.sweeps import sweep_so_far as sweep_so_far

_NAMES = {
    "Examples": "lossatlas.workbench._data",
    "Finding": "lossatlas.workbench._verify",
    "Grown": "lossatlas.workbench._grow",
    "Connection": "lossatlas.workbench._path",
    "Diagnosed": "lossatlas.workbench._diagnose",
    "Job": "lossatlas.workbench._jobs",
    "Jobs": "lossatlas.workbench._jobs",
    "Measured": "lossatlas.workbench._instrument",
    "Model": "lossatlas.workbench._model",
    "Reproduction": "lossatlas.workbench._reproduce",
    "Runs": "lossatlas.workbench._runs",
    "Shrunk": "lossatlas.workbench._shrink",
    "Size": "lossatlas.workbench._shrink",
    "Store": "lossatlas.workbench._runs",
    "StoredRun": "lossatlas.workbench._stored",
    "StudyRun": "lossatlas.workbench._study",
    "SurveyRun": "lossatlas.workbench._run",
    "UPLOADS": "lossatlas.workbench._stored",
    "check_writable": "lossatlas.workbench._resized",
    "claims_table": "lossatlas.workbench._study_page",
    "covering": "lossatlas.workbench._shrink",
    "export": "lossatlas.workbench._export",
    "export_arrays": "lossatlas.workbench._export_arrays",
    "figures_of": "lossatlas.workbench._figures",
    "flatness": "lossatlas.workbench._flatness",
    "grow": "lossatlas.workbench._grow",
    "diagnose": "lossatlas.workbench._diagnose",
    "load": "lossatlas.workbench._load",
    "plane": "lossatlas.workbench._plane",
    "reproduce": "lossatlas.workbench._reproduce",
    "run_job": "lossatlas.workbench._job_run",
    "run_study": "lossatlas.workbench._study",
    "page_script": "lossatlas.workbench._page",
    "read_partial": "lossatlas.workbench._job_events",
    "render_table": "lossatlas.workbench._page",
    "sized_figures": "lossatlas.workbench._page",
    "verdicts_sentence": "lossatlas.workbench._study_page",
    "read_examples": "lossatlas.workbench._data",
    "save_figures": "lossatlas.workbench._figures",
    "save_model": "lossatlas.workbench._model",
    "path": "lossatlas.workbench._path",
    "settings_table": "lossatlas.workbench._report_tables",
    "shrink": "lossatlas.workbench._shrink",
    "study_place": "lossatlas.workbench._study",
    "kernel": "lossatlas.workbench._kernel",
    "spectrum": "lossatlas.workbench._spectrum",
    "survey": "lossatlas.workbench._survey",
    "SweepEstimate": "lossatlas.workbench.sweeps",
    "SweepRun": "lossatlas.workbench.sweeps",
    "estimate_sweep": "lossatlas.workbench.sweeps",
    "run_sweep": "lossatlas.workbench.sweeps",
    "sweep_so_far": "lossatlas.workbench.sweeps",
    "write_resized": "lossatlas.workbench._resized",
    "write_shrink_page": "lossatlas.workbench._shrink_page",
    "write_report": "lossatlas.workbench._report",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    msg = f"module 'lossatlas.workbench' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
