"""The page of a sweep: what was measured on the grid, and how its cells came out."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lossatlas import figures
from lossatlas._citation import citation
from lossatlas.studies import Picture
from lossatlas.workbench import _report_words as words
from lossatlas.workbench._page import render_page, sized_figures, write_page
from lossatlas.workbench._report_tables import Cell, Table, settings_table
from lossatlas.workbench.sweeps._results import STATUS
from lossatlas.workbench.sweeps._run import SweepRun


if TYPE_CHECKING:
    import plotly.graph_objects as go
    import xarray as xr


_MOST_FIGURES = 12
_MOST_FAILED = 50


def write_sweep_page(run: SweepRun) -> pathlib.Path:
    """Write the page of a sweep into its folder; it appears whole or not at all."""
    pictures = sweep_pictures(run.results)
    failed = run.failed()
    axes = {name: ", ".join(map(str, values)) for name, values in run.axes.items()}
    text = render_page(
        "sweep.html",
        sized_figures({name: picture.draw for name, picture in pictures.items()}),
        run=run,
        title=run.record["title"],
        counts=", ".join(f"{count:,} {status}" for status, count in run.counts().items()),
        pictures=pictures,
        failed=_failed_table(failed[:_MOST_FAILED], len(failed)) if failed else None,
        axes=settings_table("The grid", axes | {"seeds": f"0 to {run.seeds - 1}"}),
        settings=settings_table(
            "Settings that all cells share", {n: v for n, v in run.config.items() if n not in axes}
        ),
        regenerate=run.record["regenerate"],
        versions=settings_table("Versions", run.record["versions"]),
        bibtex=citation(*run.papers),
        words=words,
    )
    write_page(run.report, text)
    return run.report


def sweep_pictures(results: "xr.DataTree") -> dict[str, Picture]:
    """A picture of every number of a cell that is one number, the first twelve, and one of the statuses."""
    status = results.ds[STATUS]
    numbers = [
        array
        for name, array in results.ds.data_vars.items()
        if array.dims == status.dims and array.dtype.kind in "iufb" and name != STATUS
    ]
    caption = "The mean over the seeds; what is not finite counts in no mean, and places without a finite number are "
    caption += "crossed out."
    drawn = {f"measured-{i}": _picture(array, caption) for i, array in enumerate(numbers[:_MOST_FIGURES])}
    drawn["status"] = Picture(
        title="How the cells came out",
        caption="The worst of the seeds at each place of the grid.",
        draw=lambda compact: figures.sweep_status_figure(status, compact=compact),
    )
    return drawn


def _picture(array: "xr.DataArray", caption: str) -> Picture:
    def draw(compact: bool) -> "go.Figure":
        return figures.sweep_figure(array.astype(float), compact=compact)

    return Picture(title=str(array.name).replace("_", " "), caption=caption, draw=draw)


def _failed_table(rows: Sequence[dict[str, Any]], total: int) -> Table:
    more = f"; the first {len(rows)} of {total:,}" if total > len(rows) else ""
    heads = [Cell(name.replace("_", " ")) for name in rows[0]]
    return Table(f"Cells that failed{more}", heads, [[Cell(str(value)) for value in row.values()] for row in rows], ())
