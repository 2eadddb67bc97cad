"""Runs of the store on a page, drawn anew when there are others."""

import asyncio
from collections.abc import Callable

from nicegui import ui

from lossatlas.workbench import Jobs, Runs, Store


_OFTEN = 3.0


def watch_runs(
    jobs: Jobs, draw: Callable[[Runs], None], *, kind: str, name: str | None = None, status: str | None = "finished"
) -> None:
    """Draw the runs that fit into a place of the page, and again whenever they change.

    **Arguments:**
    - `jobs`: of the folder of runs. `draw`: makes the content, newest runs first.
    - `kind`, `name`, `status`: which runs, as of `Store.runs`.
    """
    area = ui.element("section")
    seen: object = None

    def find() -> Runs:
        return Store(jobs.root).runs(kind=kind, name=name, status=status)

    def show(runs: Runs) -> None:
        nonlocal seen
        now = [(run.path, run.created, run.status) for run in runs]
        if now != seen:
            seen = now
            area.clear()
            with area:
                draw(runs)

    async def refresh() -> None:
        show(await asyncio.to_thread(find))

    show(find())
    ui.timer(_OFTEN, refresh)
