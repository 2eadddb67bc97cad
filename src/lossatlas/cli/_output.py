"""How commands print: tables for people, strict JSON for machines; both to stdout."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


# Columns with longer cells are wrapped to this width at least.
_WRAPPED = 18
# What goes, in this order, where the terminal has no room for it; the report and --json have everything.
_DISPENSABLE = ("kind", "words", "loss", "visited", "seconds", "created")


def print_json(value: Any) -> None:
    """Print as JSON a value of what JSON knows; NaN and infinity are refused, since no reader could rely on them."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def say(facts: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """Print lines for people, or the facts behind them as JSON."""
    if as_json:
        print_json(dict(facts))
    else:
        sys.stdout.write("\n".join(lines) + "\n")


def print_survey(result: Any) -> None:
    """The headline, a table with a row per small network, and where the files are.

    **Arguments:**
    - `result`: the survey, with `.headline`, `.table()`, `.report` and `.directory`.
    """
    console = _console()
    console.print(result.headline, highlight=False, markup=False)
    console.print(_table(result.table(), console.width))
    for label, path in (("report", result.report), ("run", result.directory)):
        # Never wrapped or shortened: a path is there to be copied.
        sys.stdout.write(f"{label}: {os.fspath(path)}\n")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of rows by column name; nothing for no rows."""
    if rows:
        console = _console()
        console.print(_table(rows, console.width))


def _console():
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    return console


def _table(rows: Sequence[Mapping[str, Any]], room: int):
    from rich import box
    from rich.table import Table

    rows = [_join_error(row) for row in rows]
    named = dict.fromkeys(name for row in rows for name in row)
    cells = {name: [_cell(row.get(name)) for row in rows] for name in named}
    cells = {name: column for name, column in cells.items() if any(column)}
    for name in _DISPENSABLE:
        if sum(min(_longest(n, column), _WRAPPED) + 3 for n, column in cells.items()) > room:
            cells.pop(name, None)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, column in cells.items():
        numeric = all(_is_number(row.get(name)) for row in rows)
        # Words are wrapped where the terminal is narrow; numbers and names never.
        no_wrap = _longest(name, column) <= _WRAPPED
        table.add_column(name, justify="right" if numeric else "left", no_wrap=no_wrap)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*row)
    return table


def _longest(name: str, column: Sequence[str]) -> int:
    return max(len(text) for text in (name, *column))


def _join_error(row: Mapping[str, Any]) -> dict[str, Any]:
    """`held-out loss` and `standard error` as one cell, which a terminal has room for."""
    joined = dict(row)
    if joined.get("accuracy") is not None:
        joined["accuracy"] = f"{100 * joined['accuracy']:.1f} %"
    error = joined.pop("standard error", None)
    if error is not None:
        joined["held-out loss"] = f"{_cell(joined['held-out loss'])} ± {error:.2g}"
    return joined


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool)) or hasattr(value, "dtype")


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
