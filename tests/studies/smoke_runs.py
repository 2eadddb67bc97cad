"""The smoke preset of a study, run once for all tests."""

import functools as ft

from lossatlas._progress import NoProgress
from lossatlas.studies import configure, find_study


@ft.cache
def smoke_run(name):
    """The study and its results."""
    study = configure(find_study(name), preset="smoke")
    return study, study.run(0, NoProgress())
