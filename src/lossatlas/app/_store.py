"""Store: the runs of the folder, chosen, counted and verified."""

import asyncio
import urllib.parse
from typing import Any

from nicegui import ui

from lossatlas.app._elements import button, heading, paragraph
from lossatlas.app._frame import frame
from lossatlas.app._job_view import duration
from lossatlas.app._run import run_path
from lossatlas.workbench import Jobs, Store


_COLUMNS = ("name", "kind", "status", "claims", "created", "seconds", "key")
_NARROW = {"kind": "gt-xs", "claims": "gt-xs", "created": "gt-sm", "seconds": "gt-sm", "key": "gt-sm"}
_ALL = "all"
_STATUSES = (_ALL, "finished", "running", "interrupted", "failed", "killed", "replaced", "unreadable")


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
        columns = [
            {
                "name": name,
                "label": name,
                "field": name,
                "align": "left",
                "sortable": True,
                "classes": _NARROW.get(name, ""),
            }
            | {"headerClasses": _NARROW.get(name, "")}
            for name in _COLUMNS
        ]
        shown = ui.table(rows=[], columns=columns, row_key="path", pagination=25).classes("runs")
        shown.props('flat bordered rows-per-page-label="Runs a page" no-data-label="No run fits."')
        shown.add_slot("body-cell-name", '<q-td :props="props"><a :href="props.row.link">{{ props.value }}</a></q-td>')
        shown.add_slot(
            "body-cell-status",
            """<q-td :props="props"><span :class="'chip chip-' + props.value">{{ props.value }}</span></q-td>""",
        )

        def refresh() -> None:
            asked = {name: element.value or "" for name, element in chosen.items()}
            rows = _rows(store, **asked)
            if rows != shown.rows:
                shown.rows = rows

        refresh()
        for element in chosen.values():
            element.on_value_change(refresh)
        ui.timer(3.0, refresh)
        heading(2, "Is all of it whole?")
        paragraph("Every file of every run is read and compared with its checksum.", "remark")
        button("Verify the store", lambda: _verify(store, found))
        found = ui.element("div").props("role=status")


def _rows(store: Store, *, kind: str, status: str, text: str) -> list[dict[str, Any]]:
    chosen = {name: None if value == _ALL else value for name, value in (("kind", kind), ("status", status))}
    runs = store.runs(**chosen)
    return [
        {name: "" if value is None else str(value) for name, value in row.items()}
        | {
            "path": run.path,
            "link": run_path(urllib.parse.quote(run.path)),
            "seconds": "" if run.seconds is None else duration(run.seconds),
        }
        for row, run in zip(runs.table(), runs, strict=True)
        if text.lower() in run.path.lower()
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
