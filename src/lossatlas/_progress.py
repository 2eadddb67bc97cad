"""Progress of long work as a meter object: none, text or rich, which is a bar on a terminal or in a notebook.

A meter is handed down to whatever takes long. Work opens a task (`with meter.task("training", total) as task`)
and reports `task.update(done, note)`. Meters never influence results.
"""

import contextlib
import html
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

from lossatlas._errors import unknown_name
from lossatlas._show import in_notebook


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
    """A live bar per open task on stderr, for terminals."""

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


class _NotebookTask:
    def __init__(self, meter: "NotebookProgress", label: str, total: int | float):
        self.meter, self.label, self.total = meter, label, total
        self.done: int | float = 0
        self.note = ""

    def update(self, done: int | float, note: str = "") -> None:
        self.done, self.note = done, note
        self.meter.draw()

    def line(self) -> str:
        share = self.done / self.total if self.total else 1.0
        bar = f'<progress value="{share:.4f}" max="1"></progress>'
        return f"<div>{html.escape(self.label)} {bar} {100 * share:.0f} % {html.escape(self.note)}</div>"


class NotebookProgress:
    """A bar per open task in the cell of a notebook; they disappear when all is done. rich needs ipywidgets there.

    **Arguments:**
    - `interval`: seconds between two drawings, at least.
    """

    def __init__(self, interval: float = 0.2):
        self.interval = interval
        self._tasks: list[_NotebookTask] = []
        self._output = None
        self._drawn = 0.0

    @contextlib.contextmanager
    def task(self, label: str, total: int | float) -> Iterator[Task]:
        """A task drawn as a bar; it disappears when done."""
        task = _NotebookTask(self, label, total)
        self._tasks.append(task)
        self.draw(at_once=True)
        try:
            yield task
        finally:
            self._tasks.remove(task)
            self.draw(at_once=True)

    def draw(self, *, at_once: bool = False) -> None:
        """Draw the bars anew, unless that was done just now."""
        now = time.monotonic()
        if not at_once and now - self._drawn < self.interval:
            return
        self._drawn = now
        from IPython.display import HTML, display

        bars = HTML("".join(task.line() for task in self._tasks))
        if self._output is None:
            self._output = display(bars, display_id=True)
        else:
            self._output.update(bars)
        if not self._tasks:
            self._output = None


def as_meter(progress: ProgressLike | None) -> ProgressMeter:
    """The meter for a name, or the meter itself; without one rich on a terminal and in a notebook, none elsewhere.

    **Raises:** `InputError` for an unknown name.
    """
    if progress is None:
        progress = "rich" if sys.stderr.isatty() or in_notebook() else "none"
    if not isinstance(progress, str):
        return progress
    bars = NotebookProgress if in_notebook() else RichProgress
    meters = {"none": NoProgress, "text": TextProgress, "rich": bars}
    if progress not in meters:
        raise unknown_name("progress meter", progress, meters)
    return meters[progress]()
