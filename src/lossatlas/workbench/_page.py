"""Pages: one HTML file that works offline, made of a template, figures and tables."""

import html
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from lossatlas._errors import InputError
from lossatlas.figures import dark_colours


_FIGURES = '<script id="figures" type="application/json">'


def write_page(path: pathlib.Path, text: str) -> None:
    """Write a page; it appears whole or not at all."""
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


def render_page(template: str, figures: Mapping[str, Any], **content: Any) -> str:
    """The text of a page from a template of ours; `figures` as of `sized_figures`."""
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
    return environment.get_template(template).render(
        **content,
        figures=Markup(_script_json(figures)),
        dark=Markup(_script_json(dark_colours())),
        plotly=Markup(get_plotlyjs()),
    )


def sized_figures(makers: Mapping[str, Callable[[bool], Any]]) -> dict[str, dict[str, Any]]:
    """Every figure, for wide and for narrow pages, as plotly reads it; a maker takes whether it is for narrow ones."""
    return {
        name: {size: json.loads(str(make(size == "narrow").to_json())) for size in ("wide", "narrow")}
        for name, make in makers.items()
    }


def read_page_figures(path: pathlib.Path) -> tuple[dict[str, dict[str, Any]], list[pathlib.Path]]:
    """The figures that a page of ours holds, as `sized_figures` made them, and the pages on this machine it links to.

    **Raises:** `InputError` for a file that cannot be read, or is no page of ours.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content, found, rest = text.partition(_FIGURES)
        figures = json.loads(rest.partition("</script>")[0]) if found else None
    except (OSError, ValueError) as error:
        msg = f"The page {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        raise InputError(msg) from error
    if figures is None:
        msg = f"{str(path)!r} is no page of LossAtlas."
        raise InputError(msg)
    links = [path.parent / html.unescape(link) for link in re.findall(r'<a href="([^"#:]+\.html)"', content)]
    return figures, [link for link in links if link.is_file()]


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
