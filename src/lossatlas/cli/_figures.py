"""`lossatlas figures`: the figures of a run or a page as files for a paper."""

import pathlib
from typing import Annotated

from cyclopts import Parameter

from lossatlas.cli._store import StoreOptions


_Flag = Parameter(negative="", show_default=False)


def figures(
    what: str,
    /,
    *,
    to: pathlib.Path = pathlib.Path("figures"),
    format: str = "pdf",  # noqa: A002
    name: str = "*",
    narrow: Annotated[bool, _Flag] = False,
    width: float | None = None,
    height: float | None = None,
    dpi: float = 300.0,
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
) -> None:
    """Write the figures of a run or a page for a paper, as SVG, PDF or PNG.

    Parameters
    ----------
    what
        A run, as `lossatlas store show` takes it, or a page (.html) of a survey, a study, a diagnosis, a shrinking or a
        reproduction.
    to
        The folder of the files; it is made where it is missing.
    format
        svg, pdf, png, or several of them joined by commas.
    name
        Only figures whose name fits; * and ? stand for any letters.
    narrow
        For one column of a journal, 85 mm; otherwise for two, 175 mm.
    width
        In mm, for all figures; type keeps its size.
    height
        In mm, for all figures; by default what each was made for.
    dpi
        Pixels per inch of a PNG.
    options
        Which store.
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import say
    from lossatlas.workbench import save_figures

    is_page = what.endswith(".html")
    files = save_figures(
        what if is_page else options.open().directory(what),
        to,
        formats=[part.strip() for part in format.split(",")],
        name=name,
        narrow=narrow,
        width=width,
        height=height,
        dpi=dpi,
    )
    paths = [str(path) for path in files]
    say({"files": paths}, paths, as_json=json)
