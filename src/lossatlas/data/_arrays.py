"""Data sets from arrays and tables in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lossatlas._errors import InputError, unknown_name
from lossatlas.data._dataset import DataSet, fit_preprocessing
from lossatlas.data._preprocessing import Scaling
from lossatlas.data._table import as_frame, encode, encoded_names, find_categories, looks_like_identifier
from lossatlas.data._target import read_target


def from_arrays(
    X: Any,
    y: Any,
    *,
    columns: Sequence[str] | None = None,
    name: str = "data",
    source: str = "arrays in memory",
    kind: str = "auto",
    scaling: Scaling = "standard",
    target_scaling: Scaling = "standard",
    drop: Sequence[str] = (),
) -> DataSet:
    """A data set from what a user has in memory.

    Text columns of a DataFrame are one-hot encoded, which a note of the result says; see
    [`lossatlas.data.Preprocessing`][]. Text, truth values and one-hot rows as target are classes; whole numbers are
    classes when there are at most 20 different ones and at least 3 rows for each on average; everything else is
    regression.

    **Arguments:**
    - `X`: shape (n, d) or (n,): array, lists, DataFrame, Series or mapping of columns.
    - `y`: shape (n,) or (n, o): array, list, Series, or the name of a column of `X`.
    - `columns`: names of the inputs where `X` has none.
    - `name`, `source`: what reports call the data, and where they say it comes from.
    - `kind`: `"regression"` or `"classification"` where the rule above decides wrongly.
    - `scaling`: of the inputs: `"standard"`, `"none"` or a number to divide by; `target_scaling` likewise for
      regression.
    - `drop`: columns to leave out.

    **Raises:** `InputError` naming column and row for NaN, infinity and text among numbers; for lengths that differ,
    duplicate columns, one class only, a constant target, text columns with more than 20 categories.
    """
    frame = as_frame(X, None if columns is None else tuple(columns))
    if isinstance(y, str):
        if y not in frame.columns:
            raise unknown_name("target column", y, frame.columns)
        frame, y = frame.drop(columns=[y]), frame[y]
    for dropped in drop:
        if dropped not in frame.columns:
            raise unknown_name("column to drop", dropped, frame.columns)
    frame = frame.drop(columns=list(drop))
    if frame.shape[1] == 0:
        msg = "The table has no input column beside the target; give at least one."
        raise InputError(msg)
    target_name = str(getattr(y, "name", None) or "target")
    num_targets = np.shape(y)[0] if np.ndim(y) else 0
    if num_targets != len(frame):
        msg = f"X and y need as many rows, got {len(frame)} and {num_targets}."
        raise InputError(msg)
    if len(frame) < 2:
        msg = "The data has a single row; at least two are needed."
        raise InputError(msg)
    target = read_target(y, target_name, kind)
    categories = find_categories(frame)
    names = tuple(frame.columns)
    features = encode(frame, names, categories)
    notes = [*target.notes, *_notes(names, categories, features)]
    fitted = fit_preprocessing(
        features, target.values, names, categories, target.name, target.classes, scaling, target_scaling
    )
    return DataSet(
        name=name,
        source=source,
        kind=target.kind,
        features=features,
        target=target.values,
        classes=target.classes,
        preprocessing=fitted,
        scaling=scaling,
        target_scaling=target_scaling,
        notes=tuple(notes),
    )


def _notes(names: tuple[str, ...], categories: dict[str, tuple[str, ...]], features: np.ndarray) -> list[str]:
    notes = [
        f"The text column {name!r} was one-hot encoded: {len(levels)} categories, {levels[0]!r} is the reference."
        for name, levels in categories.items()
    ]
    encoded = encoded_names(names, categories)
    for i, name in enumerate(encoded):
        if looks_like_identifier(name, features[:, i]):
            notes.append(f"The column {name!r} only counts the rows; leave it out with drop=[{name!r}].")
    constant = [name for name, spread in zip(encoded, np.ptp(features, axis=0), strict=True) if spread == 0]
    if constant:
        listed = ", ".join(constant[:5]) + (" and more" if len(constant) > 5 else "")
        notes.append(f"{len(constant)} column(s) are constant and say nothing: {listed}.")
    return notes
