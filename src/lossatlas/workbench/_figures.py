"""The figures of a run or a page, to look at or to write as files for a paper."""

import os
import pathlib
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from lossatlas._errors import InputError


if TYPE_CHECKING:
    import plotly.graph_objects as go


def figures_of(what: Any, *, compact: bool = False) -> "dict[str, go.Figure]":
    """Every figure of a run, a result or a page, by name.

    **Arguments:**
    - `what`: a survey, a study or a sweep that was run, a reproduction, a shrinking, a diagnosis; the folder of a run;
      or a page that one of them wrote (HTML). Of a reproduction those of its studies, their names before the figures'.
    - `compact`: as for narrow pages, which is also the form for one column of a journal.

    **Raises:** `InputError` for what has no figures.
    """
    from lossatlas.workbench._diagnose import Diagnosed
    from lossatlas.workbench._report import survey_figures
    from lossatlas.workbench._reproduce import Reproduction
    from lossatlas.workbench._run import SurveyRun
    from lossatlas.workbench._runs import open_run
    from lossatlas.workbench._shrink import Shrunk
    from lossatlas.workbench._shrink_page import shrinking_figures
    from lossatlas.workbench._study import StudyRun
    from lossatlas.workbench.sweeps import SweepRun
    from lossatlas.workbench.sweeps._page import sweep_pictures

    if isinstance(what, str | os.PathLike):
        path = pathlib.Path(what).expanduser()
        return _page_figures(path, compact) if path.suffix == ".html" else figures_of(open_run(path), compact=compact)
    if isinstance(what, Diagnosed):
        return _page_figures(what.page, compact)
    if isinstance(what, Reproduction):
        return {
            f"{run.name}-{name}": figure
            for run in what.runs
            for name, figure in figures_of(run, compact=compact).items()
        }
    if isinstance(what, SurveyRun):
        makers = survey_figures(what.tables, what.arrays)
    elif isinstance(what, StudyRun):
        makers = {name: picture.draw for name, picture in what.study.figures(what.results).items()}
    elif isinstance(what, SweepRun):
        makers = {name: picture.draw for name, picture in sweep_pictures(what.results).items()}
    elif isinstance(what, Shrunk):
        makers = shrinking_figures(what)
    else:
        msg = f"{type(what).__name__} has no figures here; give a run, its folder, or a page of ours."
        raise InputError(msg)
    return {name: make(compact) for name, make in makers.items()}


def save_figures(
    what: Any,
    out: str | os.PathLike[str],
    *,
    formats: Sequence[str] = ("pdf",),
    name: str = "*",
    narrow: bool = False,
    width: int | float | None = None,
    height: int | float | None = None,
    dpi: int | float = 300,
) -> list[pathlib.Path]:
    """Write the figures of a run, a result or a page as files for a paper, one for each figure and format.

    Needs the extra `paper` and an installed Chromium or Chrome, which is started once; see
    [`lossatlas.figures.save`][]. About a second a file.

    **Arguments:**
    - `what`: as for [`lossatlas.workbench.figures_of`][].
    - `out`: a folder, made where it is missing; files that are there are replaced.
    - `formats`: of `"svg"`, `"pdf"` and `"png"`. `name`: only figures whose name fits; it may have `*` and `?`.
    - `narrow`: for one column of a journal, 85 mm, instead of 175 mm.
    - `width`, `height`: in mm, for all. `dpi`: pixels per inch of a PNG.

    **Returns:** the files.

    **Raises:** `InputError` before anything is written, as `figures_of` and `figures.save` do, for a name that fits no
    figure, and for a folder that cannot be written.

    !!! example
        >>> workbench.save_figures(run, "figures", formats=["svg", "pdf"])  # doctest: +SKIP
    """
    from lossatlas.figures import ONE_COLUMN, check_export, format_of, save_all

    endings = list(dict.fromkeys(format_of(form) for form in formats))
    check_export()
    drawn = figures_of(what, compact=narrow)
    chosen = {key: figure for key, figure in drawn.items() if fnmatch(key, name)}
    if not chosen or not endings:
        msg = f"No figure is called {name!r} (--name); there are {', '.join(drawn) or 'none'}."
        raise InputError(msg if endings else "Name a format (--format): svg, pdf or png.")
    folder = pathlib.Path(out).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"The folder {str(folder)!r} cannot be made ({error.strerror or error}); choose another with --to."
        raise InputError(msg) from error
    return save_all(
        {folder / f"{_file_name(key)}.{end}": figure for key, figure in chosen.items() for end in endings},
        width=width if width is not None or not narrow else ONE_COLUMN,
        height=height,
        dpi=dpi,
    )


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _page_figures(path: pathlib.Path, compact: bool) -> "dict[str, go.Figure]":
    """The figures that a page shows; of one without any, those of the runs whose pages it links to."""
    import plotly.graph_objects as go

    from lossatlas.workbench._page import read_page_figures

    found, links = read_page_figures(path)
    if found:
        return {name: go.Figure(sizes["narrow" if compact else "wide"]) for name, sizes in found.items()}
    linked = {link.parent.name: figures_of(link, compact=compact) for link in links}
    if not linked:
        msg = f"The page {str(path)!r} shows no figures."
        raise InputError(msg)
    return {f"{run}-{name}": figure for run, drawn in linked.items() for name, figure in drawn.items()}
