"""The smoke preset of a study, run once for all tests."""

import functools as ft

from lossatlas._progress import NoProgress
from lossatlas.studies import configure, find_study


class Collector(NoProgress):
    """Keeps what a study hands out while it runs."""

    def __init__(self):
        self.parts = []

    def partial(self, results):
        """Keep the data sets that are there."""
        self.parts.append(dict(results))


@ft.cache
def _smoke(name):
    study, meter = configure(find_study(name), preset="smoke"), Collector()
    return study, study.run(0, meter), meter.parts


def smoke_run(name):
    """The study and its results."""
    return _smoke(name)[:2]


def smoke_parts(name):
    """What it handed out while it ran: data sets by name, more each time."""
    return _smoke(name)[2]
