"""How commands print: tables for people, strict JSON for machines; both to stdout."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(value: Any) -> None:
    """Print as JSON a value of what JSON knows; NaN and infinity are refused, since no reader could rely on them."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_survey(result: Any) -> None:
    """The headline, a table with a row per small network, and where the files are.

    **Arguments:**
    - `result`: the survey, with `.headline`, `.table()`, `.report` and `.directory`.
    """
    console = _console()
    console.print(result.headline, highlight=False, markup=False)
    console.print(_table(result.table()))
    for label, path in (("report", result.report), ("run", result.directory)):
        # Never wrapped or shortened: a path is there to be copied.
        sys.stdout.write(f"{label}: {os.fspath(path)}\n")


def _console():
    from rich.console import Console

    console = Console(file=sys.stdout)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 140
    return console


def _table(rows: Sequence[Mapping[str, Any]]):
    from rich import box
    from rich.table import Table

    rows = [_join_error(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    named = dict.fromkeys(name for row in rows for name in row)
    columns = [name for name in named if any(row.get(name) is not None for row in rows)]
    numeric = {name for name in columns if all(_is_number(row.get(name)) for row in rows)}
    for name in columns:
        table.add_column(name, justify="right" if name in numeric else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _join_error(row: Mapping[str, Any]) -> dict[str, Any]:
    """`held-out loss` and `standard error` as one cell, which a terminal has room for."""
    joined = dict(row)
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
