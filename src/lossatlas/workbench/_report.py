"""The report of a survey: one HTML file that works offline, made of figures, sentences and tables."""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossatlas.figures import (
    atlas_figure,
    dark_colours,
    distance_figure,
    reduction_figure,
    selection_figure,
    shown_training,
    tree_figure,
)
from lossatlas.workbench import _report_tables as cells
from lossatlas.workbench import _report_words as words


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
    text = render_report(tables, arrays, regenerate=regenerate, versions=versions, folder=path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    new = pathlib.Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        new.chmod(0o666 & ~_umask())  # mkstemp's files are private; a report is not
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
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
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        **_content(tables),
        tables=tables,
        regenerate=regenerate,
        versions=versions,
        recommended_file=RECOMMENDED if (folder / RECOMMENDED).exists() else None,
        figures=Markup(_script_json(_figures(tables, arrays))),
        dark=Markup(_script_json(dark_colours())),
        plotly=Markup(get_plotlyjs()),
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


def _figures(tables: Mapping[str, Any], arrays: "xr.DataTree") -> dict[str, dict[str, Any]]:
    """Every figure, for wide and for narrow pages, as plotly reads it."""
    makers = {
        "atlas": lambda compact: atlas_figure(tables, arrays, compact=compact),
        "distance": lambda compact: distance_figure(tables, arrays, compact=compact),
        "tree": lambda compact: tree_figure(tables, compact=compact),
        "reduction": lambda compact: reduction_figure(tables, compact=compact),
        "selection": lambda compact: selection_figure(tables, compact=compact),
    }
    return {
        name: {size: json.loads(str(make(size == "narrow").to_json())) for size in ("wide", "narrow")}
        for name, make in makers.items()
    }


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
