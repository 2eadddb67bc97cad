"""Figures as files for a paper: SVG, PDF and PNG of a stated size, drawn by an installed Chromium or Chrome."""

import asyncio
import concurrent.futures
import math
import os
import pathlib
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossatlas._errors import InputError, unknown_name


if TYPE_CHECKING:
    import plotly.graph_objects as go

ONE_COLUMN = 85.0
"""The width in mm of a column of a journal, for figures drawn with `compact=True`."""

TWO_COLUMNS = 175.0
"""The width in mm of two columns, or of a whole page, for all other figures."""

FORMATS = ("svg", "pdf", "png")

# Points of print for a pixel of the figure: its type of 10 to 13 pixels is 6 to 7.8 points high in print.
_POINTS = 0.6
_POINTS_PER_MM = 72 / 25.4


def save(
    figure: "go.Figure",
    path: str | os.PathLike[str],
    *,
    width: int | float | None = None,
    height: int | float | None = None,
    dpi: int | float = 300,
) -> pathlib.Path:
    """Write a figure as SVG, PDF or PNG, which the ending of the path decides.

    Type is 6 to 8 points high whatever the size. Needs the extra `paper` (kaleido) and an installed Chromium or Chrome,
    whose start takes a second or two; [`lossatlas.figures.save_all`][] starts it once for many. Asks nothing of the
    network.

    **Arguments:**
    - `figure`: of ours or any of plotly's. `path`: of the file; one that is there is replaced.
    - `width`: in mm; default `TWO_COLUMNS`, 175 mm. Give `ONE_COLUMN`, 85 mm, for a figure drawn with `compact=True`.
    - `height`: in mm; default what the figure was made for.
    - `dpi`: pixels per inch of a PNG.

    **Returns:** the path.

    **Raises:** `InputError` before anything is written: for an unknown ending, a folder that is not there, sizes that
    are not positive, and without kaleido or a browser, with how to get it.

    !!! example
        >>> figures.save(run.figures()["atlas"], "atlas.pdf")  # doctest: +SKIP
    """
    return save_all({path: figure}, width=width, height=height, dpi=dpi)[0]


def save_all(
    figures: "Mapping[str | os.PathLike[str], go.Figure]",
    *,
    width: int | float | None = None,
    height: int | float | None = None,
    dpi: int | float = 300,
) -> list[pathlib.Path]:
    """Write many figures by one start of the browser.

    **Arguments:**
    - `figures`: by the path of the file. `width`, `height`, `dpi`: as for [`lossatlas.figures.save`][].

    **Returns:** the paths.

    **Raises:** `InputError` as `save` does.
    """
    for name, value in {"width": width, "height": height, "dpi": dpi}.items():
        if value is not None and not 0 < value < math.inf:
            msg = f"{name} (--{name}) must be a positive number{'' if name == 'dpi' else ' of mm'}, got {value}."
            raise InputError(msg)
    paths = [pathlib.Path(path) for path in figures]
    for path in paths:
        format_of(path.suffix.lstrip("."))
        if not path.absolute().parent.is_dir():
            msg = f"The folder of {str(path)!r} is not there; make it first."
            raise InputError(msg)
    check_export()
    drawn = {
        "width": (width or TWO_COLUMNS) * _POINTS_PER_MM / _POINTS,
        "height": None if height is None else height * _POINTS_PER_MM / _POINTS,
    }
    orders = [
        _order(figure, format_of(path.suffix.lstrip(".")), drawn, dpi)
        for path, figure in zip(paths, figures.values(), strict=True)
    ]
    # In a thread of its own: a notebook has a running loop already.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        images = pool.submit(asyncio.run, _draw(orders)).result()
    for path, image in zip(paths, images, strict=True):
        try:
            path.write_bytes(_with_resolution(image, dpi) if path.suffix.lower() == ".png" else image)
        except OSError as error:
            msg = f"{str(path)!r} cannot be written: {error.strerror or error}."
            raise InputError(msg) from error
    return paths


def format_of(name: str) -> str:
    """The format of a name or an ending.

    **Raises:** `InputError` for one that is not known.
    """
    if name.lower() not in FORMATS:
        raise unknown_name("format of a figure", name, FORMATS)
    return name.lower()


def check_export() -> None:
    """See that figures can be written as files.

    **Raises:** `InputError` without kaleido, and without a browser that it finds.
    """
    try:
        import kaleido  # noqa: F401
        from choreographer.browsers.chromium import Chromium
    except ImportError as error:  # kaleido before version 1 comes without choreographer
        msg = "Writing figures as files needs kaleido 1 or newer; get it by `pip install 'lossatlas[paper]'`."
        raise InputError(msg) from error
    browser = os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)
    if browser is None or not pathlib.Path(browser).is_file():
        found = f"there is none at BROWSER_PATH={browser}" if browser else "none was found"
        msg = f"Writing figures as files needs Chromium or Chrome, and {found}; install one (like `apt-get install "
        msg += "chromium`, or `plotly_get_chrome`), or name it in the environment variable BROWSER_PATH."
        raise InputError(msg)


def _order(figure: "go.Figure", form: str, drawn: Mapping[str, Any], dpi: int | float) -> tuple[dict, Any]:
    """What kaleido is asked for: the figure, and its size in pixels with their scale."""
    content = figure.to_dict()
    height = drawn["height"] or content["layout"].get("height") or 0.62 * drawn["width"]
    # A pixel of CSS is 3/4 of a point.
    scale = dpi * _POINTS / 72 if form == "png" else _POINTS / 0.75
    content["layout"] = content["layout"] | {"width": drawn["width"], "height": height}
    return content, {"format": form, "width": drawn["width"], "height": height, "scale": scale}


async def _draw(orders: list[tuple[dict, Any]]) -> list[bytes]:
    import kaleido
    from choreographer.errors import BrowserClosedError, BrowserFailedError

    try:
        # Without mathjax=False its page would ask a server for MathJax.
        async with kaleido.Kaleido(mathjax=False) as browser:
            return [await browser.calc_fig(content, opts=options) for content, options in orders]
    except (BrowserClosedError, BrowserFailedError) as error:
        msg = "The browser that draws the figures ended; the environment variable BROWSER_PATH names another one."
        raise InputError(msg) from error


def _with_resolution(png: bytes, dpi: int | float) -> bytes:
    """A PNG that says how large it is to be printed: a chunk pHYs, in pixels per metre, after the header."""
    header = 8 + 25  # the signature, and the chunk IHDR
    pixels = round(dpi / 0.0254)
    content = b"pHYs" + struct.pack(">IIB", pixels, pixels, 1)
    chunk = struct.pack(">I", 9) + content + struct.pack(">I", zlib.crc32(content))
    return png[:header] + chunk + png[header:]
