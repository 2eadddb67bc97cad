"""Preprocessing: fitted on training rows, saved with a network, applied to new tables."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas.data._table import Categories, as_frame, check_complete, encode, encoded_names
from lossatlas.data._target import Kind, Label


Scaling = str | float | int
"""`"standard"`: mean 0 and standard deviation 1; `"none"`; or a number to divide by."""


@shown
@dataclasses.dataclass(frozen=True)
class Decoded:
    """Predictions in the user's terms.

    - `values`: for regression the predicted values in the units of the target, shape (n, o); for classes the
      scores, shape (n, classes): the network's outputs (`mse`) or the probabilities.
    - `labels`: for classes the predicted label of every row, shape (n,); else None.
    - `probabilities`: for `cross_entropy` and `logistic`, shape (n, classes); else None (outputs fitted to
      one-hot targets by squared error are no probabilities).
    """

    values: Float[np.ndarray, "n o"]
    labels: np.ndarray | None = None
    probabilities: Float[np.ndarray, "n classes"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    r"""From a raw table to what a network reads, and back from its outputs to the user's units.

    Inputs are $(x - \text{mean})/\text{scale}$ per encoded column; a column that was constant on the training rows
    (scale 0) becomes 0. A text column of k categories becomes k - 1 columns of zeros and ones, scaled likewise.

    - `columns`: the raw input columns in order; `categories`: those of every text column, the first the reference.
    - `means`, `scales`: one number per encoded column.
    - `kind`, `target`, `classes`: what is predicted; `target_means`, `target_scales`: of regression targets.
    """

    kind: Kind
    columns: tuple[str, ...]
    categories: Categories
    means: tuple[float, ...]
    scales: tuple[float, ...]
    target: str = "target"
    classes: tuple[Label, ...] = ()
    target_means: tuple[float, ...] = ()
    target_scales: tuple[float, ...] = ()

    @property
    def encoded_columns(self) -> tuple[str, ...]:
        """The names of what the network reads."""
        return encoded_names(self.columns, self.categories)

    def inputs(self, table: Any) -> Float[np.ndarray, "n d"]:
        """The standardised inputs of a raw table.

        **Arguments:**
        - `table`: a DataFrame or a mapping with the raw columns (others are ignored), or an array of shape
          (n, columns) in their order.

        **Raises:** `InputError` for missing columns, unknown categories, text, NaN or infinity, by column and row.
        """
        import pandas as pd

        if isinstance(table, pd.DataFrame | dict):
            frame = as_frame(table)
        else:
            size = np.shape(table)[-1] if np.ndim(table) == 2 else 1
            if size != len(self.columns):
                msg = f"The network reads {len(self.columns)} columns ({self._listed()}), got a table of {size}."
                raise InputError(msg)
            frame = as_frame(table, self.columns)
        return self.standardise(encode(frame, self.columns, self.categories))

    def _listed(self) -> str:
        return ", ".join(self.columns[:6]) + (", ..." if len(self.columns) > 6 else "")

    def standardise(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """The standardised inputs of encoded columns."""
        scales = np.array(self.scales)
        inverse = np.where(scales == 0, 0.0, 1.0 / np.where(scales == 0, 1.0, scales))
        return (features - np.array(self.means)) * inverse

    def targets(self, y: Any, loss: str = "mse") -> np.ndarray:
        """The targets that a network is trained on.

        **Arguments:**
        - `y`: raw labels, or raw values of shape (n,) or (n, o).
        - `loss`: classes give one-hot rows, float64 (n, classes); for `"cross_entropy"` class numbers, int64 (n,);
          for `"logistic"` (two classes) zeros and ones, float64 (n, 1). Regression gives standardised values (n, o).

        **Raises:** `InputError` for unknown labels, text or NaN for numbers, and a loss that does not fit the kind.
        """
        if self.kind == "regression":
            values = as_frame(y)
            names = (
                tuple(f"{self.target}[{i}]" for i in range(values.shape[1])) if values.shape[1] > 1 else (self.target,)
            )
            return self.encode_targets(encode(values.set_axis(list(names), axis=1), names, {}), loss)
        frame = as_frame(y)
        if frame.shape[1] != 1:
            msg = f"Class labels must have shape (n,), got {frame.shape}."
            raise InputError(msg)
        series = frame.iloc[:, 0]
        check_complete(series, self.target)
        number = {str(label): i for i, label in enumerate(self.classes)}
        codes = np.zeros(len(series), np.int64)
        for row, value in enumerate(series):
            whole = isinstance(value, float | np.floating) and math.isfinite(value) and value == int(value)
            label = str(int(value)) if whole else str(value)
            if label not in number:
                msg = f"Target {self.target!r}, row {row + 1}: {unknown_name('class', label, number)}"
                raise InputError(msg)
            codes[row] = number[label]
        return self.encode_targets(codes, loss)

    def encode_targets(self, values: np.ndarray, loss: str = "mse") -> np.ndarray:
        """The targets of class numbers (n,) or raw values (n, o)."""
        self._check_loss(loss)
        if self.kind == "regression":
            return (values - np.array(self.target_means)) / np.array(self.target_scales)
        if loss == "cross_entropy":
            return values
        if loss == "logistic":
            return values[:, None].astype(np.float64)
        return np.eye(len(self.classes))[values]

    def num_outputs(self, loss: str = "mse") -> int:
        """How many outputs a network needs."""
        self._check_loss(loss)
        if self.kind == "regression":
            return len(self.target_means)
        return 1 if loss == "logistic" else len(self.classes)

    def _check_loss(self, loss: str) -> None:
        if self.kind == "regression" and loss in ("cross_entropy", "logistic"):
            msg = f"loss={loss!r} needs classes, but the target {self.target!r} is a regression; use loss='mse'."
            raise InputError(msg)
        if loss == "logistic" and len(self.classes) != 2:
            msg = f"loss='logistic' needs two classes, got {len(self.classes)}; use loss='cross_entropy'."
            raise InputError(msg)

    def decode(self, predictions: Any, loss: str = "mse") -> Decoded:
        """A network's outputs as labels, probabilities or values in the user's units.

        **Arguments:**
        - `predictions`: outputs, shape (n, o); logits for `"cross_entropy"` and `"logistic"`.

        **Raises:** `InputError` for another number of outputs.
        """
        outputs = np.asarray(predictions, np.float64)
        if outputs.ndim != 2 or outputs.shape[1] != self.num_outputs(loss):
            msg = f"predictions must have shape (n, {self.num_outputs(loss)}), got {outputs.shape}."
            raise InputError(msg)
        if self.kind == "regression":
            return Decoded(outputs * np.array(self.target_scales) + np.array(self.target_means))
        probabilities = None
        if loss == "cross_entropy":
            shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs = probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        elif loss == "logistic":
            # 1 / (1 + exp(-z)) written with tanh, which never overflows.
            positive = 0.5 * (1 + np.tanh(0.5 * outputs))
            outputs = probabilities = np.concatenate([1 - positive, positive], axis=1)
        labels = np.array(self.classes)[outputs.argmax(axis=1)]
        return Decoded(outputs, labels, probabilities)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of what JSON knows; floats survive exactly."""
        return {field.name: _to_json(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of [`lossatlas.data.Preprocessing.to_dict`][].

        **Raises:** `InputError` when entries are missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            wrong = sorted(set(values) ^ known)
            msg = f"This is no saved preprocessing: missing or unknown entries {', '.join(wrong)}."
            raise InputError(msg)
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        read["categories"] = {name: tuple(levels) for name, levels in values["categories"].items()}
        return cls(**read)


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: list(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def fit_scaling(values: Float[np.ndarray, "n d"], scaling: Scaling) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and scales of columns: population standard deviation; scale 0 for a constant column.

    **Raises:** `InputError` for an unknown name or a divisor that is not positive.
    """
    zeros, ones = (0.0,) * values.shape[1], (1.0,) * values.shape[1]
    if isinstance(scaling, str):
        if scaling == "none":
            return zeros, ones
        if scaling != "standard":
            raise unknown_name("scaling", scaling, ("standard", "none"))
        means = values.mean(axis=0)
        scales = values.std(axis=0)
        # A constant column has a standard deviation of rounding size, not always of 0.
        scales = np.where((np.ptp(values, axis=0) == 0) | (scales <= 1e-14 * np.abs(means)), 0.0, scales)
        return tuple(means.tolist()), tuple(scales.tolist())
    if not (math.isfinite(scaling) and scaling > 0):
        msg = f"A scaling must be 'standard', 'none' or a positive divisor, got {scaling}."
        raise InputError(msg)
    return zeros, (float(scaling),) * values.shape[1]
