"""The report of a survey: one HTML file that works offline, made of figures, sentences and tables."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lossatlas.figures import (
    atlas_figure,
    distance_figure,
    reduction_figure,
    selection_figure,
    shown_training,
    tree_figure,
)
from lossatlas.workbench import _report_tables as cells
from lossatlas.workbench import _report_words as words
from lossatlas.workbench._page import render_page, sized_figures, write_page


if TYPE_CHECKING:
    import xarray as xr

RECOMMENDED = "networks/recommended.safetensors"


def write_report(
    path: str | os.PathLike[str],
    tables: Mapping[str, Any],
    arrays: "xr.DataTree",
    *,
    regenerate: str,
    versions: Mapping[str, str],
) -> pathlib.Path:
    """Write the report of a survey: one HTML file with everything in it.

    It asks nothing of the network (its own content policy forbids it), follows the reader's light or dark setting,
    fits a phone, prints, and says all numbers of its figures in tables. The file appears whole or not at all.

    **Arguments:**
    - `path`: of the HTML file; its folder must be there. A file that is there is replaced.
    - `tables`, `arrays`: of `lossatlas.atlas.survey_tables` and `survey_arrays`.
    - `regenerate`: the command that makes the survey again.
    - `versions`: of the packages that made it.

    **Returns:**
    The path. About 5 MB, nearly all of it plotly.js.
    """
    path = pathlib.Path(path)
    write_page(path, render_report(tables, arrays, regenerate=regenerate, versions=versions, folder=path.parent))
    return path


def render_report(
    tables: Mapping[str, Any],
    arrays: "xr.DataTree",
    *,
    regenerate: str,
    versions: Mapping[str, str],
    folder: pathlib.Path,
) -> str:
    """The text of the report; `folder` is where it will stand, beside the networks that it names."""
    return render_page(
        "report.html",
        sized_figures(survey_figures(tables, arrays)),
        **_content(tables),
        tables=tables,
        regenerate=regenerate,
        versions=versions,
        recommended_file=RECOMMENDED if (folder / RECOMMENDED).exists() else None,
        words=words,
        cells=cells,
    )


def _content(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Sentences and tables."""
    run = shown_training(tables)
    selection = tables["selection"]
    chosen = next(r for r in selection["rows"] if r["name"] == selection["recommended"])
    big = words.big_row(tables)
    return {
        "run": run,
        "chosen": chosen,
        "big": None if big is None or big is chosen else big,
        "visits": cells.visits_table(tables, run),
        "misses": cells.misses_table(tables, run),
        "slow_downs": cells.slow_downs_table(tables, run),
        "seeds": cells.seeds_table(tables),
        "catalogue": cells.catalogue_table(tables, short=cells.long_catalogue(tables)),
        "whole_catalogue": cells.catalogue_table(tables) if cells.long_catalogue(tables) else None,
        "reductions": cells.reductions_table(tables),
        "layers": cells.layers_table(tables),
        "candidates": cells.selection_table(tables),
        "shared_settings": [
            cells.settings_table("Asked for", tables["config"]),
            cells.settings_table("Training of the big network", run["settings"]),
            cells.settings_table("Search for the small networks", tables.get("catalogue_settings") or {}),
            cells.settings_table("Fits for the held-out figures", selection["recipe"] or {}),
        ],
        "seconds": cells.settings_table("Seconds by stage", tables["seconds"]),
    }


def survey_figures(tables: Mapping[str, Any], arrays: "xr.DataTree") -> dict[str, Callable[[bool], Any]]:
    """Every figure of a survey by name; a maker takes whether it is for narrow pages."""
    return {
        "atlas": lambda compact: atlas_figure(tables, arrays, compact=compact),
        "distance": lambda compact: distance_figure(tables, arrays, compact=compact),
        "tree": lambda compact: tree_figure(tables, compact=compact),
        "reduction": lambda compact: reduction_figure(tables, compact=compact),
        "selection": lambda compact: selection_figure(tables, compact=compact),
    }
