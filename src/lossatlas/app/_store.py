"""Store: the runs of the folder, chosen, counted and verified."""

import asyncio
import math
import urllib.parse
from typing import Any

from nicegui import ui

from lossatlas.app._elements import button, heading, paragraph
from lossatlas.app._frame import frame
from lossatlas.app._job_view import duration
from lossatlas.app._run import run_path
from lossatlas.workbench import Jobs, Runs, Store, StoredRun


_COLUMNS = ("name", "kind", "status", "outcome", "created", "seconds", "key")
# Columns that narrower windows do without.
_NARROW = {"kind": "gt-xs", "outcome": "gt-xs", "created": "gt-sm", "seconds": "gt-sm", "key": "gt-sm"}
_ALL = "all"
_STATUSES = (_ALL, "finished", "running", "interrupted", "failed", "killed", "replaced", "unreadable")
_ROWS = 50
_OFTEN = 3.0
_SLOTS = {
    "name": '<q-td :props="props"><a :href="props.row.link">{{ props.value }}</a></q-td>',
    "status": """<q-td :props="props"><span :class="'chip chip-' + props.value">{{ props.value }}</span></q-td>""",
}


def store_page(jobs: Jobs, kind: str, text: str) -> None:
    """The runs, newest first; `kind` and `text` are what the lists start with."""
    store = Store(jobs.root)
    with frame(jobs, "Store", way="/store"):
        paragraph(f"Every run of {store.root.absolute()}, newest first.", "lead")
        runs = store.runs()
        if not runs:
            paragraph("There is no run yet. Start a survey or a study; what it finds is kept here.", "empty")
            return
        kinds = [_ALL, *sorted({run.kind for run in runs})]
        with ui.element("div").classes("fields"):
            chosen = {
                "kind": ui.select(kinds, label="Kind", value=kind if kind in kinds else _ALL),
                "status": ui.select(list(_STATUSES), label="Status", value=_ALL),
                "text": ui.input("Name or key", value=text).props("clearable"),
            }
            for element in chosen.values():
                element.props("outlined dense").classes("field")
        _list(store, chosen)
        heading(2, "Is all of it whole?")
        paragraph("Every file of every run is read and compared with its checksum.", "remark")
        button("Verify the store", lambda: _verify(store, found))
        found = ui.element("div").props("role=status")


def _list(store: Store, chosen: dict[str, Any]) -> None:
    """A page of the runs that fit; only what is shown goes to the browser."""
    columns = [
        {"name": name, "label": name, "field": name, "align": "left"}
        | {"classes": _NARROW.get(name, ""), "headerClasses": _NARROW.get(name, "")}
        for name in _COLUMNS
    ]
    shown = ui.table(rows=[], columns=columns, row_key="path").classes("runs")
    shown.props('flat bordered no-data-label="No run fits."')
    for name, content in _SLOTS.items():
        shown.add_slot(f"body-cell-{name}", content)
    with ui.element("div").classes("row"):
        pages = ui.pagination(1, 1, direction_links=True).props("max-pages=5 boundary-numbers")
        count = ui.label("").classes("remark")

    def show(runs: list[StoredRun]) -> None:
        pages.max = max(1, math.ceil(len(runs) / _ROWS))
        pages.set_visibility(pages.max > 1)
        page = min(pages.value or 1, pages.max)
        pages.value = page
        count.set_text(f"{len(runs):,} runs")
        rows = _rows(runs[_ROWS * (page - 1) : _ROWS * page], store)
        if rows != shown.rows:
            shown.rows = rows

    async def refresh() -> None:
        show(await asyncio.to_thread(_fitting, store, **{name: e.value or "" for name, e in chosen.items()}))

    show(_fitting(store, **{name: element.value or "" for name, element in chosen.items()}))
    for element in (*chosen.values(), pages):
        element.on_value_change(refresh)
    ui.timer(_OFTEN, refresh)


def _fitting(store: Store, *, kind: str, status: str, text: str) -> list[StoredRun]:
    chosen = {name: None if value == _ALL else value for name, value in (("kind", kind), ("status", status))}
    return [run for run in store.runs(**chosen) if text.lower() in run.path.lower()]


def _rows(runs: list[StoredRun], store: Store) -> list[dict[str, Any]]:
    return [
        {name: "" if value is None else str(value) for name, value in row.items()}
        | {
            "path": run.path,
            "link": run_path(urllib.parse.quote(run.path)),
            "seconds": "" if run.seconds is None else duration(run.seconds),
        }
        for row, run in zip(Runs(runs, store.root).table(), runs, strict=True)
    ]


async def _verify(store: Store, area: Any) -> None:
    found = await asyncio.to_thread(store.verify)
    area.clear()
    with area:
        if not found:
            paragraph("Every run is whole.")
        for finding in found:
            word = "Damaged" if finding.is_damaged else "Left over"
            paragraph(f"{word}: {finding.path}: {finding.problem}. {finding.remedy}", "error")
