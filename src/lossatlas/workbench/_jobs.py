"""Jobs: surveys, studies and diagnoses that go on by themselves, each in a process and a folder of its own.

What is known of a job is in `ROOT/jobs/<name>`: what was asked, its events, its log. Whoever started it may end, or be
killed; any later process finds it again. A job that waits is started by whoever comes by: the application, or a job
that ends.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, final

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._job_events import CANCEL, Events
from lossatlas.workbench._stored import JOBS


JOB_FILE, LOG, LOCK = "job.json", "log.txt", "process.lock"
# Seconds that a process that was just started may take until it holds its lock.
_START = 60.0
# Seconds between the request to stop, which lets a job write down how far it came, and the end by force.
GRACE = 10.0

# Kept until they end, so that none stays a zombie of a program that runs for days.
_children: list[subprocess.Popen[bytes]] = []


@shown
@dataclasses.dataclass(frozen=True)
class Job:
    """A job as it is now.

    - `name`: of its folder. `kind`: `"survey"`, `"study"`, `"diagnosis"`, `"reproduction"` or `"sweep"`.
    - `title`: what it does, a few words. `asked`: the arguments, as JSON knows them. `created`: ISO 8601 in UTC.
    - `status`: `"waiting"`, `"running"`, `"stopping"`, and when it ended `"finished"`, `"failed"`, `"cancelled"`, or
      `"killed"` (its process ended without a word).
    - `tasks`: the open tasks, outermost first: `label`, `total`, `done`, `note`. `seconds`: how long it runs, or ran.
    - `error`: one line for a job that failed. `page`: what it wrote to be read, relative to the folder of runs.
    - `folder`: of the job.
    """

    name: str
    kind: str
    title: str
    asked: dict[str, Any]
    created: str
    status: str
    tasks: tuple[dict[str, Any], ...]
    seconds: float | None
    error: str | None
    page: str | None
    folder: pathlib.Path

    @property
    def has_ended(self) -> bool:
        """Whether nothing happens any more unless it is started again."""
        return self.status in ("finished", "failed", "cancelled", "killed")

    @property
    def log(self) -> str:
        """The end of what its process wrote, at most 20,000 bytes."""
        try:
            with (self.folder / LOG).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


@final
class Jobs:
    """The jobs of a folder of runs.

    **Arguments:**
    - `root`: the folder of runs; default the environment variable LOSSATLAS_STORE, else `lossatlas` here.
    - `at_most`: how many run at once; the others wait. Default one for two processors.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, at_most: int | None = None):
        self.root = store_root(root)
        self.at_most = max(1, (os.cpu_count() or 2) // 2) if at_most is None else at_most
        if self.at_most < 1:
            msg = f"At least one job must be allowed at once, got {at_most}."
            raise InputError(msg)

    @property
    def folder(self) -> pathlib.Path:
        """Where jobs are kept."""
        return self.root / JOBS

    def add(self, kind: str, title: str, asked: Mapping[str, Any]) -> Job:
        """Write down a job, and start it if there is room.

        **Arguments:**
        - `kind`, `title`, `asked`: as of [`lossatlas.workbench.Job`][].

        **Raises:** `InputError` for an unknown kind, and a folder that cannot be written.
        """
        from lossatlas.workbench._job_run import KINDS

        if kind not in KINDS:
            raise unknown_name("kind of job", kind, KINDS)
        check_folder(self.root)
        now = datetime.datetime.now(datetime.UTC)
        name = f"{now:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}"
        new = self.folder / f".{name}.new"
        new.mkdir(parents=True)
        content = {"kind": kind, "title": title, "asked": dict(asked), "created": now.isoformat(timespec="seconds")}
        (new / JOB_FILE).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        Events(new).append("waiting")
        new.rename(self.folder / name)
        self.start_waiting()
        return self.find(name)

    def list(self) -> list[Job]:
        """Every job, newest first; those whose folder cannot be read are left out."""
        if not self.folder.is_dir():
            return []
        names = sorted((path.name for path in self.folder.iterdir() if not path.name.startswith(".")), reverse=True)
        return [job for job in map(self._read, names) if job is not None]

    def find(self, name: str) -> Job:
        """The job of a name.

        **Raises:** `InputError` where there is none.
        """
        job = self._read(name) if pathlib.PurePath(name).name == name else None
        if job is None:
            msg = f"There is no job {name!r} in {str(self.folder)!r}; it may have been removed."
            raise InputError(msg)
        return job

    def cancel(self, name: str) -> None:
        """Stop a job: one that waits is taken from the queue, one that runs is asked to stop, then ended by force.

        What a study or survey has finished is kept; started again, it goes on from there.
        """
        with self._queue():
            job = self.find(name)
            if job.status == "waiting":
                Events(job.folder).append("cancelled")
            elif job.status == "running":
                (job.folder / CANCEL).touch()
                self._signal(job, signal.SIGINT)

    def start_again(self, name: str) -> None:
        """Put a job that ended back into the queue."""
        with self._queue():
            job = self.find(name)
            if not job.has_ended:
                return
            (job.folder / CANCEL).unlink(missing_ok=True)
            Events(job.folder).append("waiting")
        self.start_waiting()

    def remove(self, name: str) -> None:
        """Forget a job that ended, with what it wrote into its own folder; the runs that it made stay.

        **Raises:** `InputError` for one that waits or runs.
        """
        with self._queue():
            job = self.find(name)
            if not job.has_ended:
                msg = "The job waits or runs; cancel it first."
                raise InputError(msg)
            hidden = job.folder.with_name(f".{job.name}.removed")
            job.folder.rename(hidden)
        shutil.rmtree(hidden)

    def start_waiting(self) -> None:
        """Start the jobs that wait as far as there is room, the oldest first, and end those that do not stop.

        Whoever comes by calls this: it does the same however often and from how many processes.
        """
        if not self.folder.is_dir():
            return
        _children[:] = [process for process in _children if process.poll() is None]
        with self._queue():
            jobs = self.list()
            for job in jobs:
                if job.status == "stopping" and time.time() - (job.folder / CANCEL).stat().st_mtime > GRACE:
                    self._signal(job, signal.SIGKILL)
            room = self.at_most - sum(job.status in ("running", "stopping") for job in jobs)
            waiting = sorted((job for job in jobs if job.status == "waiting"), key=lambda job: _since(job.folder))
            for job in waiting[: max(0, room)]:
                self._start(job)

    def _start(self, job: Job) -> None:
        Events(job.folder).append("starting")
        command = [sys.executable, "-m", "lossatlas", "job", str(job.folder.absolute())]
        command += ["--at-most", str(self.at_most)]
        with (job.folder / LOG).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _children.append(process)

    def _signal(self, job: Job, number: int) -> None:
        """Send a signal to the process of a job, by force to all that it started."""
        pid = Events(job.folder).last().get("pid")
        if pid is None or not _is_held(job.folder):
            return
        try:
            (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)
        except ProcessLookupError:
            return

    def _queue(self):
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.folder / ".queue.lock")

    def _read(self, name: str) -> Job | None:
        folder = self.folder / name
        try:
            content = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
            last = Events(folder).last()
            status = _status(folder, last)
            return Job(
                name=name,
                kind=content["kind"],
                title=content["title"],
                asked=content["asked"],
                created=content["created"],
                status=status,
                tasks=tuple(last.get("tasks", ())) if status in ("running", "stopping") else (),
                seconds=_seconds(status, last),
                error=last.get("error"),
                page=last.get("page"),
                folder=folder,
            )
        except (OSError, ValueError, KeyError):
            return None


def _status(folder: pathlib.Path, last: Mapping[str, Any]) -> str:
    event = last["event"]
    if event in ("waiting", "finished", "failed", "cancelled"):
        return event
    asked_to_stop = (folder / CANCEL).exists()
    if _is_held(folder) or (event == "starting" and time.time() - last["time"] < _START):
        return "stopping" if asked_to_stop else "running"
    return "cancelled" if asked_to_stop else "killed"


def _seconds(status: str, last: Mapping[str, Any]) -> float | None:
    if "since" not in last:
        return None
    return (time.time() if status in ("running", "stopping") else last["time"]) - last["since"]


def _since(folder: pathlib.Path) -> float:
    return Events(folder).last()["time"]


def _is_held(folder: pathlib.Path) -> bool:
    """Whether a process works on a job."""
    import filelock

    lock = folder / LOCK
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True
