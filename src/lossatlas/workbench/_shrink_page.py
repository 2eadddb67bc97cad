"""The page of a shrinking: the curve of size against change, and what was done."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from lossatlas.figures import shrinking_figure
from lossatlas.workbench import _report_tables as cells
from lossatlas.workbench import _report_words as words
from lossatlas.workbench._page import render_page, sized_figures, write_page
from lossatlas.workbench._record import versions
from lossatlas.workbench._report_tables import Cell, Table, number, percent
from lossatlas.workbench._shrink import Shrunk, Size


def write_shrink_page(path: pathlib.Path, found: Shrunk, *, name: str, data: str, regenerate: str) -> pathlib.Path:
    """Write the page of a shrinking: one HTML file that works offline. It appears whole or not at all.

    **Arguments:**
    - `path`: of the HTML file; a file that is there is replaced.
    - `name`, `data`: of the model and of the rows, as they were given. `regenerate`: the command that makes it again.

    **Returns:** the path.
    """
    text = render_page(
        "shrinking.html",
        sized_figures(shrinking_figures(found)),
        found=found,
        name=name,
        data=data,
        sizes=sizes_table(found),
        regenerate=regenerate,
        versions=cells.settings_table("Versions", versions()),
        words=words,
        number=lambda value: number(value, 3).text,
    )
    write_page(path, text)
    return path


def shrinking_figures(found: Shrunk) -> dict[str, Callable[[bool], Any]]:
    """The figure by name; a maker takes whether it is for narrow pages."""
    tables: dict[str, Any] = {
        "curve": [dataclasses.asdict(size) for size in found.curve],
        "before": dataclasses.asdict(found.before),
        "chosen": dataclasses.asdict(found.chosen),
        "tolerance": found.tolerance,
    }
    return {"curve": lambda compact: shrinking_figure(tables, compact=compact)}


def sizes_table(found: Shrunk) -> Table:
    """A row for every size, the chosen one marked."""
    heads = [
        Cell("parameters", "", True),
        Cell(
            "network",
            "units left in each space; 0+12 is a layer of 12 linear units, the first factor of the next matrix",
        ),
        Cell("largest change", "of an output on the rows seen", True),
        Cell("new rows", "a change that covers 95 % of new rows, with 95 % confidence", True),
    ]
    has_accuracy, has_loss = (getattr(found.before, name) is not None for name in ("accuracy", "loss"))
    heads += [Cell("accuracy", "on the rows held back", True)] * has_accuracy
    heads += [Cell("loss", "mean on the rows held back", True)] * has_loss

    def row(size: Size) -> list[Cell]:
        made = [number(size.num_parameters), Cell(size.shape), number(size.change, 3), number(size.fresh_change, 3)]
        made += [percent(size.accuracy)] * has_accuracy
        return made + [number(size.loss, 4)] * has_loss

    listed = sorted({found.before, *found.curve, found.chosen}, key=lambda size: (-size.num_parameters, size.change))
    return Table("Sizes, from the whole model down", heads, [row(s) for s in listed], (listed.index(found.chosen),))
