"""What the process of a job does: one function a kind, and how the end is written down."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from lossatlas._errors import InputError, is_interruption
from lossatlas._process import prepare_jax
from lossatlas.workbench._job_events import Events, JobProgress
from lossatlas.workbench._jobs import LOCK, Jobs


# Seconds: whoever looks whether a job runs holds its lock for a moment.
_PATIENCE = 5.0


def run_job(folder: str | os.PathLike[str], *, at_most: int = 1) -> None:
    """Do a job, write down how it ended, and start those that wait.

    A second process for the same job does nothing.

    **Arguments:**
    - `folder`: of the job. `at_most`: how many may run at once.

    **Raises:** `InputError` for what the job was asked and cannot do, and whatever else the work raises, when it is
    written down.
    """
    import filelock

    place = pathlib.Path(folder)
    jobs = Jobs(place.parent.parent, at_most=at_most)
    try:
        with filelock.FileLock(place / LOCK, timeout=_PATIENCE):
            job = jobs.find(place.name)
            meter, events = JobProgress(place), Events(place)
            try:
                meter.heed_cancel()
                prepare_jax()
                page = KINDS[job.kind](job.asked, jobs.root, place, meter)
            except BaseException as error:
                status = "cancelled" if is_interruption(error) or meter.is_cancelled else "failed"
                events.append(status, since=meter.since, error=None if status == "cancelled" else _line(error))
                raise
            relative = pathlib.Path(os.path.relpath(page, jobs.root)).as_posix()
            meter.forget_partial()
            events.append("finished", since=meter.since, page=relative)
    except filelock.Timeout:
        return
    finally:
        jobs.start_waiting()


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return words if isinstance(error, InputError) else f"{type(error).__name__}: {words}"


def _survey(asked: Mapping[str, Any], root: pathlib.Path, folder: pathlib.Path, meter: JobProgress) -> pathlib.Path:
    del folder
    from lossatlas.workbench._survey import survey

    return survey(asked["data"], out=root, progress=meter, **asked["options"]).report


def _study(asked: Mapping[str, Any], root: pathlib.Path, folder: pathlib.Path, meter: JobProgress) -> pathlib.Path:
    del folder
    from lossatlas.workbench._study import run_study

    named = {name: asked[name] for name in ("preset", "seed")}
    return run_study(asked["study"], out=root, progress=meter, **named, **asked["options"]).report


def _diagnosis(asked: Mapping[str, Any], root: pathlib.Path, folder: pathlib.Path, meter: JobProgress) -> pathlib.Path:
    del root
    from lossatlas.workbench._diagnose import diagnose
    from lossatlas.workbench._load import load

    place, network = asked["model"], asked["network"]
    model = load(place, network, architecture=asked["architecture"], loss=asked["loss"])
    named = {"origin": place, "network": network, "target": asked["target"]}
    return diagnose(model, asked["data"], out=folder / "result", progress=meter, **named, **asked["options"]).page


def _reproduction(
    asked: Mapping[str, Any], root: pathlib.Path, folder: pathlib.Path, meter: JobProgress
) -> pathlib.Path:
    del folder
    from lossatlas.workbench._reproduce import reproduce

    found = reproduce(asked["studies"], preset=asked["preset"], seed=asked["seed"], out=root, progress=meter)
    if found.failed:
        msg = "; ".join(f"{name} did not end: {reason}" for name, reason in found.failed.items())
        raise RuntimeError(msg)
    return found.page


def _sweep(asked: Mapping[str, Any], root: pathlib.Path, folder: pathlib.Path, meter: JobProgress) -> pathlib.Path:
    del folder
    from lossatlas.workbench.sweeps import run_sweep

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that measure
    named = {name: asked[name] for name in ("grid", "seeds", "preset", "workers", "cell_seconds")}
    return run_sweep(asked["study"], out=root, progress=meter, **named, **asked["options"]).report


Work = Callable[[Mapping[str, Any], pathlib.Path, pathlib.Path, JobProgress], pathlib.Path]
KINDS: dict[str, Work] = {
    "survey": _survey,
    "study": _study,
    "diagnosis": _diagnosis,
    "reproduction": _reproduction,
    "sweep": _sweep,
}
