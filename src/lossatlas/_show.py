"""How results show themselves in a notebook: how sure they are, a short table, a figure."""

import dataclasses
import enum
import html
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from lossatlas._status import Certificate


_Class = TypeVar("_Class", bound=type)
_MOST_ROWS = 20
_MOST_ITEMS = 6  # of an array, a tuple or a dictionary in a cell
_MARKS = {Certificate.YES: "✓", Certificate.NO: "✗", Certificate.NOT_CERTIFIED: "?"}


def shown(cls: _Class) -> _Class:
    """Decorate the class of a result, so that it shows itself in a notebook; a terminal has the `repr` alone.

    Its `_repr_html_`, unless the class has one, is a table with a row for each field, what is certified first, and one
    more table for each field that holds results. A method `_figure` returns a plotly figure, made by a function of
    [`lossatlas.figures`][], or None where there is nothing to draw; under IPython it follows the table, as plotly is
    set up to show it.
    """
    if not hasattr(cls, "_repr_html_"):
        cls._repr_html_ = _fields_page
    if hasattr(cls, "_figure"):
        cls._ipython_display_ = _display
    return cls


def html_page(
    title: str, rows: Sequence[Mapping[str, Any]], *, more: Sequence[str] = (), most: int = _MOST_ROWS
) -> str:
    """A title, a table of rows by column name, at most so many, and further lines, as HTML."""
    kept = rows[:most]
    lines = [f"and {len(rows) - len(kept):,} more"] if len(rows) > len(kept) else []
    body = [f"<p><b>{html.escape(title)}</b></p>", html_table(kept)]
    return "".join(body + [f"<p>{html.escape(line)}</p>" for line in [*lines, *more]])


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows by column name; empty without rows."""
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    lines = ("".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) for row in rows)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _cell(value: Any) -> str:
    return "" if value is None else html.escape(in_words(value))


def _fields_page(result: Any) -> str:
    """The fields of a result as a table, certificates and statuses first; then a table for those that hold results."""
    values = _fields(result)
    first = [name for name, value in values.items() if isinstance(value, enum.Enum)]
    ordered = [*first, *(name for name in values if name not in first)]
    rows = [{"": name, "value": in_words(values[name])} for name in ordered]
    kind = type(result)
    about = (inspect.getdoc(kind) or "").partition("\n")[0]
    text = f"<p><b>{kind.__name__}</b> {html.escape(about)}</p>" + html_table(rows)
    for name, value in values.items():
        if isinstance(value, tuple) and value and all(hasattr(item, "_repr_html_") for item in value):
            text += html_page(name, [_row(item) for item in value])
    return text


def _row(result: Any) -> dict[str, str]:
    """The fields of a result that fit into a cell."""
    return {name: in_words(value) for name, value in _fields(result).items() if _is_short(value)}


def _fields(result: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(result):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return dict(result._asdict())  # a NamedTuple


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 60
    return value is None or isinstance(value, int | float | enum.Enum) or (_is_array(value) and value.size == 1)


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def in_words(value: Any) -> str:
    """A value in a few words: numbers short, large arrays by shape and range, networks by kind and parameters."""
    if value is None:
        return "–"
    if isinstance(value, Certificate):
        return f"{_MARKS[value]} {value}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str | enum.Enum):
        return str(value)
    if _is_array(value):
        return _array_in_words(value)
    if isinstance(value, Mapping):
        return _joined([f"{name}: {in_words(item)}" for name, item in value.items()])
    if isinstance(value, tuple | list):
        return _joined([in_words(item) for item in value])
    if dataclasses.is_dataclass(value):
        return _result_in_words(value)
    return getattr(value, "__name__", type(value).__name__)


def _joined(parts: Sequence[str]) -> str:
    if len(parts) > _MOST_ITEMS:
        parts = [*parts[:_MOST_ITEMS], f"… ({len(parts)} in all)"]
    return ", ".join(parts) or "none"


def _array_in_words(array: Any) -> str:
    import numpy as np

    if not isinstance(array.dtype, np.dtype):
        return str(array.dtype)  # random keys
    values = np.asarray(array)
    if values.ndim == 0:
        return in_words(values.item())
    if values.size <= _MOST_ITEMS:
        return ", ".join(in_words(value) for value in values.ravel().tolist()) or "none"
    shape = " × ".join(map(str, values.shape))
    if values.dtype.kind == "b":
        return f"{shape}, {int(values.sum()):,} of {values.size:,} yes"
    if values.dtype.kind not in "iuf":
        return f"{shape} {values.dtype}"
    finite = values[np.isfinite(values)]
    missing = f", {values.size - finite.size:,} not finite" if finite.size < values.size else ""
    between = f", {in_words(finite.min().item())} to {in_words(finite.max().item())}" if finite.size else ""
    return f"{shape}{between}{missing}"


def _result_in_words(value: Any) -> str:
    """The kind of a result or a network; a result with what certifies it, a network with its parameters."""
    name = type(value).__name__
    if hasattr(value, "_repr_html_"):
        sure = [in_words(item) for item in _fields(value).values() if isinstance(item, enum.Enum)]
        return f"{name} ({', '.join(sure)})" if sure else name
    import equinox as eqx

    from lossatlas._parameters import num_parameters

    count = num_parameters(value) if isinstance(value, eqx.Module) else 0
    return f"{name}, {count:,} parameters" if count else name


def in_notebook() -> bool:
    """Whether this runs in a notebook, or whatever else of IPython shows HTML."""
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and "text/html" in shell.display_formatter.active_types  # pyright: ignore


def _display(result: Any) -> None:
    """What IPython calls to show a result: its table, and its figure where there is more than a terminal."""
    from IPython.display import display

    display({"text/plain": repr(result), "text/html": result._repr_html_()}, raw=True)
    figure = result._figure() if in_notebook() else None
    if figure is not None:
        display(figure)
