"""What a job says while it runs: lines of JSON that are only ever added, each the whole state at its time."""

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lossatlas._progress import Task


if TYPE_CHECKING:
    import xarray as xr


_FILE = "events.jsonl"
# A file in the folder of a job that is asked to stop.
CANCEL = "cancel"
# A state is told at most this often, in seconds, and less often the longer the job runs: so the file stays small.
_OFTEN, _SELDOM, _SHARE = 0.3, 10.0, 1 / 500


class Events:
    """The events of a job.

    **Arguments:**
    - `folder`: of the job.
    """

    def __init__(self, folder: pathlib.Path):
        self._path = folder / _FILE

    def append(self, event: str, **more: Any) -> None:
        """Add an event, with the time; a line appears whole, and one that a killed process left cut short is ended."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **more}, allow_nan=False)
        with self._path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(f"{line}\n".encode())

    def last(self) -> dict[str, Any]:
        """The newest event that is whole.

        **Raises:** `OSError` where there is no file, `ValueError` where no line of it can be read.
        """
        with self._path.open("rb") as file:
            size, length = file.seek(0, os.SEEK_END), 4096
            while True:
                file.seek(max(0, size - length))
                lines = file.read(length).split(b"\n")
                # The last is empty or still being written; the first may have lost its beginning.
                for line in reversed(lines[1:-1] if length < size else lines[:-1]):
                    with contextlib.suppress(ValueError):
                        return json.loads(line)
                if length >= size:
                    msg = f"{str(self._path)!r} has no event"
                    raise ValueError(msg)
                length *= 4


class JobProgress:
    """The meter of a job: tells the open tasks as events, and keeps partial results beside them.

    **Arguments:**
    - `folder`: of the job.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._events = folder, Events(folder)
        self._open: list[dict[str, Any]] = []
        self._since, self._told = time.time(), 0.0
        self.forget_partial()
        self.tell(at_once=True)

    @property
    def since(self) -> float:
        """When it began, seconds since 1970."""
        return self._since

    @contextlib.contextmanager
    def task(self, label: str, total: int | float) -> Iterator[Task]:
        """A task that is told while it is open."""
        entry = {"label": label, "total": float(total), "done": 0.0, "note": ""}
        self._open.append(entry)
        self.tell(at_once=len(self._open) == 1)
        try:
            yield _JobTask(self, entry)
        finally:
            self._open.remove(entry)

    def tell(self, *, at_once: bool = False) -> None:
        """Add an event with all open tasks, unless one was added just now."""
        now = time.time()
        interval = min(_SELDOM, max(_OFTEN, _SHARE * (now - self._since)))
        if at_once or now - self._told >= interval:
            self._told = now
            self._events.append("running", since=self._since, pid=os.getpid(), tasks=self._open)

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is asked to stop."""
        return (self._folder / CANCEL).exists()

    def heed_cancel(self) -> None:
        """Stop where the job is asked to, by `KeyboardInterrupt`.

        A signal alone does not do: it comes to nobody while the job starts, and the exception that it raises is thrown
        away when it happens to come in a callback of the garbage collector (JAX has one).
        """
        if self.is_cancelled:
            raise KeyboardInterrupt

    def partial(self, results: Mapping[str, Any]) -> None:
        """Keep the parts of a study that are finished, data sets by name, in place of the former."""
        import xarray as xr

        from lossatlas.workbench._arrays import write_arrays

        former = partial_results(self._folder)
        number = int(former[-1].name.rpartition("-")[2]) + 1 if former else 1
        new = self._folder / ".partial.new"
        shutil.rmtree(new, ignore_errors=True)
        write_arrays(new, xr.DataTree.from_dict(dict(results)))
        new.rename(self._folder / f"partial-{number:04}")
        for left in former[:-1]:  # the newest but one may be read just now
            shutil.rmtree(left)

    def forget_partial(self) -> None:
        """Remove partial results: the whole is stored, or made anew."""
        for left in partial_results(self._folder):
            shutil.rmtree(left)


def partial_results(folder: pathlib.Path) -> list[pathlib.Path]:
    """The partial results of a job, the newest last; more than one only for a moment each."""
    return sorted(folder.glob("partial-*"))


def read_partial(folder: pathlib.Path, *, other_than: str = "") -> tuple[str, "xr.DataTree"] | None:
    """The newest partial results of a job with their name; None where there are none `other_than` those."""
    from lossatlas.workbench._arrays import read_arrays

    found = partial_results(folder)
    if not found or found[-1].name == other_than:
        return None
    try:
        return found[-1].name, read_arrays(found[-1])
    except (OSError, ValueError, KeyError):  # replaced just now; there is a newer one, or the whole
        return None


class _JobTask:
    def __init__(self, meter: JobProgress, entry: dict[str, Any]):
        self._meter, self._entry = meter, entry

    def update(self, done: int | float, note: str = "") -> None:
        self._entry |= {"done": float(done), "note": note}
        self._meter.tell()
        self._meter.heed_cancel()
