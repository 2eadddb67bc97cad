"""`lossatlas job`: what the process of a job of the application is; not for people."""

import pathlib
import signal


def run_job(folder: pathlib.Path, /, *, at_most: int = 1) -> None:
    """Do the job of a folder.

    Parameters
    ----------
    folder
        Of the job, in the folder of runs.
    at_most
        How many jobs may run at once; when this one ends, the next is started.
    """
    from lossatlas.workbench import run_job as run

    # A program in the background may have been told to ignore it, but this is how a job is asked to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(folder, at_most=at_most)
