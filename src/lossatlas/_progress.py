"""Progress of long work as a meter object: none, text or rich.

A meter is handed down to whatever takes long. Work opens a task (`with meter.task("training", total) as task`)
and reports `task.update(done, note)`. Meters never influence results.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from lossatlas._errors import unknown_name


@runtime_checkable
class Task(Protocol):
    """One piece of work with a known total."""

    def update(self, done: int | float, note: str = "") -> None:
        """Say how much is done, and what is going on."""
        ...


@runtime_checkable
class ProgressMeter(Protocol):
    """What every meter can do."""

    def task(self, label: str, total: int | float) -> contextlib.AbstractContextManager[Task]:
        """Open a task; tasks may be nested."""
        ...


@runtime_checkable
class PartialMeter(ProgressMeter, Protocol):
    """A meter that also wants the results that are there so far, to draw figures while the work goes on."""

    def partial(self, results: Mapping[str, Any]) -> None:
        """Take the parts that are finished, data sets by name."""
        ...


def show_partial(progress: ProgressMeter, results: Mapping[str, Any]) -> None:
    """Hand the parts that are finished to a meter that wants them; most do not."""
    if isinstance(progress, PartialMeter):
        progress.partial(results)


ProgressLike = Literal["none", "text", "rich"] | ProgressMeter


class _SilentTask:
    def update(self, done: int | float, note: str = "") -> None:
        del done, note


class NoProgress:
    """Says nothing."""

    @contextlib.contextmanager
    def task(self, label: str, total: int | float) -> Iterator[Task]:
        """A task that says nothing."""
        del label, total
        yield _SilentTask()


class _TextTask:
    def __init__(self, label: str, total: int | float, interval: float):
        self.label, self.total, self.interval = label, total, interval
        self.last = time.monotonic()

    def update(self, done: int | float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < self.interval and done < self.total:
            return
        self.last = now
        percent = 100 * done / self.total if self.total else 100.0
        sys.stderr.write(f"{self.label}: {percent:3.0f} % {note}\n")


class TextProgress:
    """A line on stderr at most every `interval` seconds; for logs and terminals without control codes."""

    def __init__(self, interval: float = 5.0):
        self.interval = interval

    @contextlib.contextmanager
    def task(self, label: str, total: int | float) -> Iterator[Task]:
        """A task that writes lines."""
        task = _TextTask(label, total, self.interval)
        sys.stderr.write(f"{label}\n")
        yield task


class _RichTask:
    def __init__(self, bar, task_id):
        self.bar, self.task_id = bar, task_id

    def update(self, done: int | float, note: str = "") -> None:
        self.bar.update(self.task_id, completed=done, note=note)


class RichProgress:
    """A live bar per open task on stderr; in a notebook, a bar in the cell."""

    def __init__(self):
        self._bar = None
        self._open = 0

    @contextlib.contextmanager
    def task(self, label: str, total: int | float) -> Iterator[Task]:
        """A task drawn as a bar; it disappears when done."""
        bar = self._bar
        if bar is None:
            bar = self._bar = _rich_bar()
            bar.start()
        self._open += 1
        task_id = bar.add_task(label, total=total, note="")
        try:
            yield _RichTask(bar, task_id)
        finally:
            bar.remove_task(task_id)
            self._open -= 1
            if self._open == 0:
                bar.stop()
                self._bar = None


def _rich_bar():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )


def as_meter(progress: ProgressLike) -> ProgressMeter:
    """The meter for a name, or the meter itself.

    **Raises:** `InputError` for an unknown name.
    """
    if not isinstance(progress, str):
        return progress
    meters = {"none": NoProgress, "text": TextProgress, "rich": RichProgress}
    if progress not in meters:
        raise unknown_name("progress meter", progress, meters)
    return meters[progress]()
