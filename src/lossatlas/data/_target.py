"""The target column: its kind and its values."""

import dataclasses
from typing import Any, Literal

import numpy as np

from lossatlas._errors import InputError, unknown_name
from lossatlas.data._table import as_frame, check_complete, check_not_mixed, encode, is_text


Kind = Literal["regression", "classification"]
Label = str | int | bool

MAX_CLASSES = 20
MIN_ROWS_PER_CLASS = 3


@dataclasses.dataclass(frozen=True)
class Target:
    """The target: `values` are class numbers (n,), int64, or real values (n, o), float64."""

    kind: Kind
    values: np.ndarray
    classes: tuple[Label, ...]
    name: str
    notes: tuple[str, ...] = ()


def read_target(y: Any, name: str, kind: str = "auto") -> Target:
    """Decide what a target is.

    The rule: text, truth values and one-hot rows are classes; whole numbers are classes when there are at most 20
    different ones and at least 3 rows for each on average; everything else is regression.

    **Arguments:**
    - `y`: shape (n,), or (n, o) for regression with o outputs or one-hot rows.
    - `kind`: `"auto"`, or what it shall be.

    **Raises:** `InputError` for missing values, one class only, a constant target, text for regression.
    """
    if kind not in ("auto", "regression", "classification"):
        raise unknown_name("kind", kind, ("auto", "regression", "classification"))
    frame = as_frame(y)
    if frame.shape[1] > 1:
        return _read_columns(frame, name, kind)
    series = frame.iloc[:, 0]
    check_complete(series, name)
    if is_text(series):
        check_not_mixed(series, name)
    text = is_text(series) or series.dtype == bool
    if kind == "regression" and text:
        msg = f"The target {name!r} holds text, e.g. {str(series.iloc[0])!r}; regression needs numbers."
        raise InputError(msg)
    if text:
        return _classes(np.array([_plain(value) for value in series], dtype=object), name)
    values = encode(series.to_frame(name), (name,), {})[:, 0]
    num_values = len(np.unique(values))
    whole = bool(np.all(values == np.round(values)))
    few = num_values <= MAX_CLASSES and num_values * MIN_ROWS_PER_CLASS <= len(values)
    if kind == "classification" or (kind == "auto" and whole and few):
        if not whole:
            row = int(np.argmax(values != np.round(values)))
            msg = (
                f"The target {name!r} holds {values[row]:g} in row {row + 1}; class labels must be text or whole "
                "numbers. Use kind='regression'."
            )
            raise InputError(msg)
        note = f"The target {name!r} holds {num_values} different whole numbers: read as classes."
        labels = np.array([int(value) for value in values], dtype=object)
        return _classes(labels, name, () if kind == "classification" else (note,))
    return _regression(values[:, None], name)


def _read_columns(frame: Any, name: str, kind: str) -> Target:
    names = [f"{name}[{i}]" for i in range(frame.shape[1])]
    values = encode(frame.set_axis(names, axis=1), tuple(names), {})
    one_hot = bool(np.all((values == 0) | (values == 1)) and np.all(values.sum(axis=1) == 1))
    if kind == "classification" and not one_hot:
        msg = f"The target {name!r} of shape {values.shape} does not hold one-hot rows; give class labels, shape (n,)."
        raise InputError(msg)
    if one_hot and kind != "regression":
        note = f"The target {name!r} holds one-hot rows: read as {values.shape[1]} classes."
        return _classes(values.argmax(axis=1).astype(object), name, (note,))
    return _regression(values, name)


def _plain(value: Any) -> Label:
    return bool(value) if isinstance(value, bool | np.bool_) else str(value)


def _classes(labels: np.ndarray, name: str, notes: tuple[str, ...] = ()) -> Target:
    # Truth values before text, each in its own order.
    classes: tuple[Label, ...] = tuple(sorted(set(labels), key=lambda label: (isinstance(label, str), label)))
    if len(classes) < 2:
        msg = f"The target {name!r} has one class only, {labels[0]!r}; a classification needs at least two."
        raise InputError(msg)
    if len(classes) > max(MAX_CLASSES, len(labels) // 2):
        msg = (
            f"The target {name!r} has {len(classes)} different labels in {len(labels)} rows; "
            "that is an identifier, not a class. Name another target column."
        )
        raise InputError(msg)
    number = {label: i for i, label in enumerate(classes)}
    values = np.array([number[label] for label in labels], dtype=np.int64)
    return Target("classification", values, classes, name, notes)


def _regression(values: np.ndarray, name: str) -> Target:
    constant = np.ptp(values, axis=0) == 0
    if constant.any():
        i = int(np.argmax(constant))
        msg = f"The target {name!r} is constant ({values[0, i]:g} in every row); there is nothing to learn."
        raise InputError(msg)
    return Target("regression", values, (), name)
