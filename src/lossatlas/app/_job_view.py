"""Jobs on the pages: a card each, kept up to date while the page is open."""

import html
from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui

from lossatlas._errors import InputError
from lossatlas.app._elements import ask_first, button, heading, paragraph
from lossatlas.workbench import Job, Jobs


_OFTEN = 1.0
_SHOWN, _SHOWN_ALONE = 6, 50


def job_list(
    jobs: Jobs,
    *kinds: str,
    fits: Callable[[Job], bool] | None = None,
    most: int = _SHOWN,
) -> None:
    """The jobs of some kinds, newest first: those that have not ended, and the last that have; kept up to date.

    **Arguments:**
    - `jobs`: of the folder of runs. `kinds`: which; default all, on a page of their own. `fits`: which of these.
    - `most`: how many are shown; the others are a click away.
    """
    area = ui.element("section").classes("jobs")
    cards: dict[str, Callable[[Job], None]] = {}
    shown: list[str] | None = None

    def show_more() -> None:
        nonlocal most
        most += _SHOWN_ALONE
        refresh()

    def refresh() -> None:
        nonlocal shown
        found = [job for job in jobs.list() if (not kinds or job.kind in kinds) and (fits is None or fits(job))]
        active = [job for job in found if not job.has_ended]
        chosen = (active + [job for job in found if job.has_ended])[: max(most, len(active))]
        if shown != [job.name for job in chosen]:
            shown = [job.name for job in chosen]
            area.clear()
            cards.clear()
            with area:
                if kinds:
                    heading(2, "Jobs")
                if not chosen:
                    paragraph(
                        "Nothing runs, and nothing has run. What you start here goes on without this page.", "empty"
                    )
                cards.update({job.name: job_card(jobs, job) for job in chosen})
                if len(found) > len(chosen) and kinds:
                    ui.html('<a href="/jobs">All jobs</a>', tag="p", sanitize=False)
                elif len(found) > len(chosen):
                    button(f"Show older ones ({len(found) - len(chosen):,})", show_more)
        for job in chosen:
            cards[job.name](job)

    refresh()
    ui.timer(_OFTEN, refresh)


def job_card(jobs: Jobs, job: Job, *, linked: bool = True) -> Callable[[Job], None]:
    """A card for a job; returns what brings it up to date."""
    with ui.element("article").classes("card job"):
        with ui.element("div").classes("row"):
            target = f'<a href="/job/{html.escape(job.name)}">{html.escape(job.title)}</a>'
            ui.html(target if linked else html.escape(job.title), tag="h3", sanitize=False)
            status = ui.html("", tag="span", sanitize=False)
        error = paragraph("", "error").props("role=alert")
        tasks = ui.element("div").classes("tasks")
        with ui.element("div").classes("row actions"):
            opened = ui.html("", tag="span", sanitize=False)
            cancel = button("Cancel", lambda: jobs.cancel(job.name))
            again = button("Start again", lambda: jobs.start_again(job.name))
            remove = button("Remove", _removal(jobs, job))
            for element in (cancel, again, remove):
                element.props["aria-label"] = f"{element.text}: {job.title}"
            seconds = ui.label("").classes("remark")
    bars: list[tuple[Any, Any]] = []

    def refresh(now: Job) -> None:
        _set(status, f'<span class="chip chip-{now.status}">{now.status}</span>')
        _set(error, html.escape(now.error or ""))
        error.set_visibility(now.error is not None)
        page = "" if now.page is None else f'<a class="action" href="/files/{html.escape(now.page)}" target="_blank" '
        _set(opened, page and f'{page}rel="noopener">Open the page</a>')
        opened.set_visibility(bool(page))
        cancel.set_visibility(now.status in ("waiting", "running"))
        again.set_visibility(now.has_ended and now.status != "finished")
        remove.set_visibility(now.has_ended)
        seconds.set_text("" if now.seconds is None else duration(now.seconds))
        _show_tasks(tasks, bars, now.tasks, now.status)

    refresh(job)
    return refresh


def _removal(jobs: Jobs, job: Job) -> Callable[[], Any]:
    """Runs stay when their job goes; what a diagnosis wrote is in the folder of the job itself."""
    if job.kind != "diagnosis":
        return lambda: jobs.remove(job.name)
    words = "The page goes, and the model files beside it. Only diagnosing again brings them back."
    return ask_first("Remove this diagnosis?", words, lambda: jobs.remove(job.name))


def _show_tasks(area: Any, bars: list[tuple[Any, Any]], open_tasks: Sequence[dict[str, Any]], status: str) -> None:
    if status in ("running", "stopping") and not open_tasks:
        open_tasks = [{"label": "starting" if status == "running" else "stopping", "total": 0, "done": 0, "note": ""}]
    while len(bars) > len(open_tasks):
        for element in bars.pop():
            element.delete()
    while len(bars) < len(open_tasks):
        with area:
            words = ui.label("")
            bars.append((words, ui.linear_progress(0, show_value=False, size="6px").props("rounded")))
    for (words, bar), task in zip(bars, open_tasks, strict=True):
        share = task["done"] / task["total"] if task["total"] else 0.0
        note = f": {task['note']}" if task["note"] else ""
        words.set_text(f"{task['label']}{note}, {100 * share:.0f} %" if task["total"] else f"{task['label']}{note}")
        bar.set_value(min(1.0, share))
        bar.props(f'aria-label="Progress of {html.escape(task["label"])}"')
        bar.props("indeterminate" if not task["total"] else "", remove="indeterminate" if task["total"] else "")


def _set(element: ui.html, content: str) -> None:
    if element.content != content:
        element.content = content


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def start(jobs: Jobs, kind: str, title: str, asked: dict[str, Any]) -> None:
    """Start a job, and say so.

    **Raises:** `InputError` where it cannot be written down.
    """
    job = jobs.add(kind, title, asked)
    word = "waits: another runs" if job.status == "waiting" else "started"
    ui.notify(f"{title}: {word}", type="positive")


def found_job(jobs: Jobs, name: str) -> Job | None:
    """The job of a name; None, with a sentence on the page, where there is none."""
    try:
        return jobs.find(name)
    except InputError as error:
        paragraph(str(error), "empty")
        return None
