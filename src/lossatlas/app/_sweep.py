"""One sweep: the map of its grid as it fills in, the cells of a place, and what was measured."""

import asyncio
import itertools
import pathlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from nicegui import events, ui

from lossatlas._errors import InputError
from lossatlas.app._elements import chip, heading, link, paragraph, table
from lossatlas.app._figure import Figure, figure
from lossatlas.app._frame import frame
from lossatlas.app._run import run_path
from lossatlas.studies import Study, configure, find_study
from lossatlas.workbench import Jobs, Store, StoredRun, sized_figures, sweep_so_far
from lossatlas.workbench.sweeps import cells_table, sweep_pictures


if TYPE_CHECKING:
    import xarray as xr


_OFTEN = 2.0
_STATUS = "status"


def sweep_page(jobs: Jobs, folder: str) -> None:
    """A sweep, while it runs and when it has ended."""
    try:
        run = _find(jobs, folder)
    except InputError as error:
        with frame(jobs, "No such sweep", way="/sweeps"):
            paragraph(str(error), "empty")
        return
    with frame(jobs, f"{run.name}, {run.key}", way="/sweeps"):
        head = ui.element("div").classes("row")
        heading(2, "The grid")
        _Map(jobs, folder, run, head)


def _find(jobs: Jobs, folder: str) -> StoredRun:
    """The sweep of a folder, finished or not.

    **Raises:** `InputError` for none.
    """
    store = Store(jobs.root)
    try:
        return store.find(f"sweep/{folder}")
    except InputError:
        return store.find(f"sweep/{folder}.partial")


class _Map:
    """The parts of the page that change while the sweep runs."""

    def __init__(self, jobs: Jobs, folder: str, run: StoredRun, head: Any):
        self._jobs, self._folder, self._run, self._head = jobs, folder, run, head
        self._results: xr.DataTree | None = None
        self._drawn: dict[str, Figure] = {}
        self._seen, self._rest = "", 0.0
        self._map = ui.element("div")
        with ui.element("section"):
            heading(3, "The cells of a place")
            paragraph("Click a place of the map, or choose it here.", "remark")
            with ui.element("div").classes("fields"):
                self._places = [self._place(name, values) for name, values in run.config["axes"]]
            self._cells = ui.element("div").props("aria-live=polite")
        heading(2, "What was measured")
        self._measured = ui.element("div")
        ui.timer(_OFTEN, self.refresh)

    def _place(self, name: str, values: list[Any]) -> Any:
        options = {i: str(value) for i, value in enumerate(values)}
        chosen = ui.select(options, label=name.replace("_", " "), value=0, on_change=self.show_cells)
        return chosen.props("outlined dense").classes("field")

    async def refresh(self) -> None:
        """Look what there is now, and draw it; the longer that takes, the more seldom."""
        if time.monotonic() < self._rest:
            return
        begun = time.monotonic()
        try:
            self._run = await asyncio.to_thread(_find, self._jobs, self._folder)
            results = await asyncio.to_thread(sweep_so_far, self._jobs.root / self._run.path)
        except (InputError, OSError):  # it takes its place just now, or was removed
            return
        counts = Counter(results.ds[_STATUS].values.ravel().tolist())
        seen = f"{self._run.status} {sorted(counts.items())}"
        if seen != self._seen:
            self._seen, self._results = seen, results
            self._show_head(counts)
            await self._draw(results)
            self.show_cells()
        self._rest = time.monotonic() + 10 * (time.monotonic() - begun)

    def _show_head(self, counts: "Counter[str]") -> None:
        self._head.clear()
        with self._head:
            chip(self._run.status)
            total, words = sum(counts.values()), (f"{count:,} {status}" for status, count in counts.most_common())
            ui.label(f"{total:,} cells: {', '.join(words)}")
            if self._run.status == "finished":
                link("Open the report", f"/files/{self._run.path}/report.html", "action")
            link("Settings and files", run_path(self._run.path))

    async def _draw(self, results: "xr.DataTree") -> None:
        pictures = sweep_pictures(results)
        makers = {name: picture.draw for name, picture in pictures.items()}
        for name, sizes in (await asyncio.to_thread(sized_figures, makers)).items():
            if name in self._drawn:
                self._drawn[name].show(sizes)
                continue
            with self._map if name == _STATUS else self._measured:
                self._drawn[name] = figure(name, pictures[name].title, pictures[name].caption, sizes)
            if name == _STATUS:
                self._drawn[name].on("choose", self.choose)

    def choose(self, event: events.GenericEventArguments) -> None:
        """Show the cells of the place that was clicked."""
        at = place_of(event.args, [len(values) for _, values in self._run.config["axes"]])
        for element, i in zip(self._places, at, strict=True):
            element.value = i

    def show_cells(self) -> None:
        """A row for each seed at the chosen place, with links to the runs of whole studies."""
        if self._results is None:
            return
        at = [int(element.value) for element in self._places]
        self._cells.clear()
        with self._cells:
            table(cells_table(self._results, at))
            runs = cell_runs(self._jobs.root, self._run, at)
            if runs:
                with ui.element("ul").classes("pills"):
                    for seed, path in runs.items():
                        ui.html(f'<a href="{run_path(path)}">Run of seed {seed}</a>', tag="li", sanitize=False)


def place_of(clicked: dict[str, int], sizes: list[int]) -> list[int]:
    """The place on the grid of a cell of the map: its column is the first setting, its row the second.

    Its panel is the place of the others.

    **Arguments:**
    - `clicked`: `row`, `column` and `panel`. `sizes`: how many values each setting has.
    """
    if len(sizes) < 2:
        return [clicked["column"]][: len(sizes)]
    others = [int(i) for i in np.unravel_index(clicked["panel"], sizes[2:])] if sizes[2:] else []
    return [clicked["column"], clicked["row"], *others]


def cell_runs(root: pathlib.Path, run: StoredRun, at: list[int]) -> dict[int, str]:
    """The runs of the store behind the cells of a place, by seed; none for a study whose cells are measured."""
    from lossatlas.workbench import study_place

    try:
        kind = find_study(run.name)
    except InputError:  # not installed any more
        return {}
    if hasattr(kind.config, "measure"):
        return {}
    on_grid = {name: values[i] for (name, values), i in zip(run.config["axes"], at, strict=True)}
    study: Study = configure(kind, preset="quick", options=run.config["settings"] | on_grid)
    found = {}
    for seed in itertools.islice(range(run.config["seeds"]), 100):
        place = study_place(root, kind, study, seed)
        if place.directory.is_dir():
            found[seed] = place.directory.relative_to(root).as_posix()
    return found
