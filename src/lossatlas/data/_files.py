"""Tables in files: CSV, NPZ and Parquet."""

import csv
import difflib
import pathlib
import warnings
from typing import Any

import numpy as np

from lossatlas._errors import InputError, unknown_name
from lossatlas.data._arrays import from_arrays
from lossatlas.data._dataset import DataSet
from lossatlas.data._table import check_names


FORMATS = (".csv", ".tsv", ".npz", ".parquet")

INPUT_NAMES = ("X", "x", "inputs", "features", "data")
TARGET_NAMES = ("y", "Y", "targets", "target", "labels")


def load_file(path: pathlib.Path, *, target: str | None = None, **options: Any) -> DataSet:
    """The data set in a file; its options are those of [`lossatlas.data.from_arrays`][].

    **Arguments:**
    - `target`: the target column, default the last; for NPZ the array, default `y`.

    **Raises:** `InputError` for a file that is missing, empty or unreadable, and for an unknown target column.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        msg = f"The format of {path.name!r} is not read; give a file ending in {', '.join(FORMATS)}."
        raise InputError(msg)
    check_file(path)
    options = {"name": path.stem, "source": f"file {path.name}", **options}
    if suffix == ".npz":
        inputs, y, columns = _read_npz(path, target)
        return from_arrays(inputs, y, columns=columns, **options)
    frame = read_table(path)
    target = frame.columns[-1] if target is None else target
    return from_arrays(frame, target, **options)


def read_table(path: pathlib.Path) -> Any:
    """The DataFrame in a CSV, TSV or Parquet file; how `predict` reads new rows too.

    **Raises:** `InputError` for a file that is missing, empty or unreadable, and for duplicate columns.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        msg = f"{path.name!r} is no table; give a file ending in .csv, .tsv or .parquet."
        raise InputError(msg)
    check_file(path)
    frame = _read_parquet(path) if suffix == ".parquet" else _read_csv(path)
    if len(frame) == 0:
        msg = f"The file {path.name!r} has no rows below its header."
        raise InputError(msg)
    return frame


def check_file(path: pathlib.Path) -> None:
    """**Raises:** `InputError` for a path that is no file, and for an empty one, with the nearest name."""
    if path.is_dir():
        msg = f"{str(path)!r} is a folder; give a file."
        raise InputError(msg)
    if not path.exists():
        near = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=1)
        hint = f" Did you mean {str(path.with_name(close[0]))!r}?" if close else ""
        msg = f"There is no file {str(path)!r}.{hint}"
        raise InputError(msg)
    if path.stat().st_size == 0:
        msg = f"The file {str(path)!r} is empty."
        raise InputError(msg)


def _unreadable(path: pathlib.Path, what: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"The file {path.name!r} cannot be read as {what}: {reason}")


def _read_csv(path: pathlib.Path) -> Any:
    import pandas as pd

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next((line for line in file if line.strip()), "")
    except UnicodeDecodeError:
        msg = f"The file {path.name!r} is not text in UTF-8; save it as UTF-8."
        raise InputError(msg) from None
    except OSError as error:
        raise _unreadable(path, "text", error) from None
    separator = "," if "," in header else next((s for s in (";", "\t") if s in header), ",")
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    if not any(names):
        msg = f"The file {path.name!r} is empty."
        raise InputError(msg)
    check_names(names)
    if all(_is_number(name) for name in names):
        msg = f"The first line of {path.name!r} holds numbers; add a line with the names of the columns above it."
        raise InputError(msg)
    # What pandas would otherwise repair silently (rows longer than the header) is an error here.
    options: dict[str, Any] = {"sep": separator, "index_col": False, "skipinitialspace": True, "encoding": "utf-8-sig"}
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"  # later versions read every bit by default
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, **options)
            if separator == ";" and _has_decimal_commas(frame):
                frame = pd.read_csv(path, decimal=",", **options)
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, ValueError) as error:
        raise _unreadable(path, "CSV", error) from None
    return frame.rename(columns=lambda name: str(name).strip())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _has_decimal_commas(frame: Any) -> bool:
    text = [frame[name].astype(str) for name in frame.columns if frame[name].dtype.kind not in "iufb"]
    return any(column.str.fullmatch(r"[-+]?\d+,\d+").all() for column in text)


def _read_npz(path: pathlib.Path, target: str | None) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise _unreadable(path, "NPZ", error) from None
    listed = ", ".join(arrays)
    if target is not None and target not in arrays:
        raise unknown_name("target array", target, arrays)
    y_name = target or next((name for name in TARGET_NAMES if name in arrays), None)
    x_name = next((name for name in INPUT_NAMES if name in arrays and name != y_name), None)
    if x_name is None or y_name is None:
        msg = (
            f"The file {path.name!r} holds the arrays {listed}; it needs X (rows, columns) and y (rows,), "
            "or name the array of the targets with target=."
        )
        raise InputError(msg)
    columns = arrays.get("columns")
    return arrays[x_name], arrays[y_name], None if columns is None else [str(name) for name in columns]


def _read_parquet(path: pathlib.Path) -> Any:
    import pandas as pd

    try:
        import pyarrow  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        msg = f'Reading {path.name!r} needs pyarrow; install it with: pip install "lossatlas[export]"'
        raise InputError(msg) from None
    try:
        return pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise _unreadable(path, "Parquet", error) from None
