"""Examples of any shape in NPZ files."""

import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from lossatlas._errors import InputError
from lossatlas.data._files import INPUT_NAMES, TARGET_NAMES, check_file


class Arrays(NamedTuple):
    """Examples in memory: `inputs`, shape (n, ...), and `targets`, shape (n,) or (n, ...), None where not given."""

    inputs: np.ndarray
    targets: np.ndarray | None


def read_npz(path: str | pathlib.Path) -> Arrays:
    """The arrays `inputs` and, if it is there, `targets` of an NPZ file; `X` and `y` are understood too.

    **Arguments:**
    - `path`: the file; each array has one entry per example along its first axis.

    **Raises:** `InputError` for a file that is missing or unreadable, arrays of objects (nothing is unpickled), text or
    complex numbers as inputs, NaN and infinity, no examples, and different numbers of them.
    """
    path = pathlib.Path(path)
    check_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            listed = list(file.files)
            x_name = next((name for name in INPUT_NAMES if name in listed), None)
            y_name = next((name for name in TARGET_NAMES if name in listed), None)
            inputs, targets = (None if name is None else file[name] for name in (x_name, y_name))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        if "allow_pickle" in str(error):
            msg = f"The file {path.name!r} holds an array of Python objects, which only unpickling reads; save numbers."
            raise InputError(msg) from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        msg = f"The file {path.name!r} cannot be read as NPZ: {reason}"
        raise InputError(msg) from None
    if x_name is None or inputs is None:
        msg = f"The file {path.name!r} holds the arrays {', '.join(listed)}; the examples are missing: inputs."
        raise InputError(msg)
    return check_arrays(inputs, targets, names=(x_name, y_name or "targets"))


def check_arrays(
    inputs: np.ndarray, targets: np.ndarray | None = None, *, names: tuple[str, str] = ("inputs", "targets")
) -> Arrays:
    """See that arrays hold examples.

    **Arguments:**
    - `inputs`, `targets`: one example each along the first axis. `names`: what errors call them.

    **Raises:** `InputError` as [`lossatlas.data.read_npz`][].
    """
    for name, array in zip(names, (inputs, targets), strict=True):
        if array is None:
            continue
        is_label = name == names[1] and array.dtype.kind in "US"
        if array.dtype.kind not in "fiub" and not is_label:
            msg = f"{name} must hold real numbers, got an array of {array.dtype}."
            raise InputError(msg)
        if array.ndim == 0 or len(array) == 0:
            msg = f"{name} must hold at least one example along its first axis, got shape {array.shape}."
            raise InputError(msg)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
            msg = f"{name} holds NaN or infinity, first in example {row + 1}; remove or mend such examples."
            raise InputError(msg)
    if targets is not None and len(targets) != len(inputs):
        msg = f"{names[0]} and {names[1]} need as many examples, got {len(inputs)} and {len(targets)}."
        raise InputError(msg)
    return Arrays(inputs, targets)
