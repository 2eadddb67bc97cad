"""Tables of numbers and text, turned into float64 columns, or refused with the row and the column named.

Rows are counted from 1, without the header: row 1 is the first row of data.
"""

import re
from typing import Any

import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError, unknown_name


MAX_CATEGORIES = 20
"""A text column with more categories than this is refused: it is an identifier or free text."""

_LARGEST = 1e150  # squares must not overflow

Categories = dict[str, tuple[str, ...]]
"""The categories of every text column, sorted; the first is the reference."""


def as_frame(table: Any, columns: tuple[str, ...] | None = None) -> Any:
    """A pandas DataFrame with text column names, from a frame, a series, an array, lists or a mapping.

    **Arguments:**
    - `table`: shape (n, d), or (n,) for a single column.
    - `columns`: names for a table without any; default `x0`, `x1`, ...

    **Raises:** `InputError` for more than two axes, rows of different lengths, no rows, duplicate names.
    """
    import pandas as pd

    if isinstance(table, pd.Series):
        table = table.to_frame(name=table.name if table.name is not None else "x0")
    if isinstance(table, dict):
        try:
            table = pd.DataFrame(table)
        except ValueError as error:
            msg = f"The columns of the table do not fit together: {error}."
            raise InputError(msg) from None
    if isinstance(table, pd.DataFrame):
        names = [str(name) for name in (table.columns if columns is None else columns)]
    else:
        array = _as_array(table)
        names = [f"x{i}" for i in range(array.shape[1])] if columns is None else [str(name) for name in columns]
        table = pd.DataFrame(array)
        if array.dtype == object:
            table = table.infer_objects()
    if len(names) != table.shape[1]:
        msg = f"The table has {table.shape[1]} columns, but {len(names)} column names were given."
        raise InputError(msg)
    check_names(names)
    if len(table) == 0:
        msg = "The data is empty: the table has no rows."
        raise InputError(msg)
    return table.set_axis(names, axis=1).reset_index(drop=True)


def _as_array(table: Any) -> np.ndarray:
    if hasattr(table, "toarray"):
        msg = "Sparse matrices are not read; give X.toarray()."
        raise InputError(msg)
    try:
        array = np.asarray(table)
    except ValueError as error:
        msg = f"The table cannot be read as an array: {error}. All rows need the same length."
        raise InputError(msg) from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        msg = f"The table must have shape (n, columns), got {array.shape}; flatten with X.reshape(len(X), -1)."
        raise InputError(msg)
    if array.dtype.kind in "US":
        array = array.astype(object)
    return array


def check_names(names: list[str]) -> None:
    """**Raises:** `InputError` when a column name occurs twice."""
    seen = set()
    for name in names:
        if name in seen:
            msg = f"The column {name!r} occurs twice; column names must differ. Rename or remove one."
            raise InputError(msg)
        seen.add(name)


def find_categories(frame: Any) -> Categories:
    """Which columns hold text, and their categories.

    **Raises:** `InputError` for a column that mixes numbers and text, and for one with more than 20 categories.
    """
    categories = {}
    for name in frame.columns:
        series = frame[name]
        check_complete(series, name)
        if is_text(series):
            categories[name] = _categories_of(series, name)
    return categories


def is_text(series: Any) -> bool:
    """Whether a column holds text: not numbers, not truth values, not numbers written as text."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        return True
    if pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series):
        return False
    if not (pd.api.types.is_object_dtype(series) or pd.api.types.is_string_dtype(series)):
        return False
    return bool(np.isnan(_parsed(series)).any())


def _parsed(series: Any) -> Float[np.ndarray, " n"]:
    """Numbers written as text; NaN where a cell is none."""
    import pandas as pd

    return np.asarray(pd.to_numeric(series.astype(object), errors="coerce"), np.float64)


def check_not_mixed(series: Any, name: str) -> None:
    """**Raises:** `InputError` for a text column whose cells are mostly numbers (a `?` among them)."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        return
    is_number = ~np.isnan(_parsed(series))
    if is_number.mean() > 0.5:
        row = int(np.argmin(is_number))
        msg = f"Column {name!r} holds numbers, but {series.iloc[row]!r} in row {row + 1}; mend or remove such rows."
        raise InputError(msg)


def _categories_of(series: Any, name: str) -> tuple[str, ...]:
    check_not_mixed(series, name)
    levels = sorted({str(value) for value in series})
    if len(levels) > MAX_CATEGORIES:
        msg = (
            f"Column {name!r} holds text with {len(levels)} different values; at most {MAX_CATEGORIES} are one-hot "
            f"encoded. Leave it out (drop=[{name!r}]), or recode it as numbers or fewer categories."
        )
        raise InputError(msg)
    return tuple(levels)


def encoded_names(columns: tuple[str, ...], categories: Categories) -> tuple[str, ...]:
    """The names of the encoded columns: `colour=red` for a category, the column itself for numbers."""
    names = []
    for name in columns:
        names += [f"{name}={level}" for level in categories[name][1:]] if name in categories else [name]
    return tuple(names)


def encode(frame: Any, columns: tuple[str, ...], categories: Categories) -> Float[np.ndarray, "n d"]:
    """The float64 columns of a raw table.

    A text column of k categories becomes k - 1 columns of zeros and ones: the first category is the reference, so
    that no column is a combination of others.

    **Raises:** `InputError` for missing columns, unknown categories, text, NaN and infinity, naming column and row.
    """
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise _missing_columns(absent, list(frame.columns))
    parts = []
    for name in columns:
        series = frame[name]
        check_complete(series, name)
        if name not in categories:
            parts.append(_numbers(series, name)[:, None])
            continue
        values = np.array([str(value) for value in series], dtype=object)
        levels = categories[name]
        known = np.isin(values, np.array(levels, dtype=object))
        if not known.all():
            row = int(np.argmin(known))
            error = unknown_name("category", values[row], levels)
            msg = f"Column {name!r}, row {row + 1}: {error}"
            raise InputError(msg)
        parts.append(values[:, None] == np.array(levels[1:], dtype=object)[None, :])
    return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)


def _missing_columns(names: list[str], given: list[str]) -> InputError:
    import difflib

    if len(names) > 1:
        return InputError(f"{len(names)} columns are missing: {_shorten(names)}. The table has: {_shorten(given)}.")
    close = difflib.get_close_matches(names[0], given, n=1)
    hint = f" Is it {close[0]!r}?" if close else ""
    return InputError(f"The column {names[0]!r} is missing.{hint} The table has: {_shorten(given)}.")


def _shorten(names: list[str]) -> str:
    listed = ", ".join(names[:12])
    return listed if len(names) <= 12 else f"{listed}, ... ({len(names)} columns)"


def check_complete(series: Any, name: str) -> None:
    """**Raises:** `InputError` when a value is missing (NaN, None, an empty cell)."""
    missing = series.isna().to_numpy()
    if missing.any():
        row = int(np.argmax(missing))
        msg = (
            f"Column {name!r} has no value (NaN) in row {row + 1}, {int(missing.sum())} of {len(missing)} rows in all; "
            "remove or fill such rows."
        )
        raise InputError(msg)


def _numbers(series: Any, name: str) -> Float[np.ndarray, " n"]:
    import pandas as pd

    is_number = pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series)
    if is_number and series.dtype.kind != "c":
        values = series.to_numpy(np.float64)
    else:
        if not (pd.api.types.is_object_dtype(series) or pd.api.types.is_string_dtype(series)):
            msg = f"Column {name!r} holds {series.dtype}; give real numbers or text (for dates, a number of days)."
            raise InputError(msg)
        values = _parsed(series)
        bad = np.isnan(values)
        if bad.any():
            row = int(np.argmax(bad))
            msg = f"Column {name!r} must hold numbers, got {series.iloc[row]!r} in row {row + 1}."
            raise InputError(msg)
    infinite = ~(np.abs(values) < _LARGEST)
    if infinite.any():
        row = int(np.argmax(infinite))
        msg = f"Column {name!r} is infinite or above {_LARGEST:g} in row {row + 1}; remove or mend such rows."
        raise InputError(msg)
    return values


def looks_like_identifier(name: str, values: Float[np.ndarray, " n"]) -> bool:
    """Whether a column merely counts the rows (`Id`, an index written by accident)."""
    named = re.fullmatch(r"(id|index|no|nr|row|unnamed: 0|.*[ _]id)", name.strip().lower()) is not None
    return named and len(values) > 2 and bool(np.all(np.diff(values) == 1))
