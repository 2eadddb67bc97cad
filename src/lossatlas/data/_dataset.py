"""A data set: raw columns, the target and its kind, and the landscape that they make."""

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas.data._preprocessing import Preprocessing, Scaling, fit_scaling
from lossatlas.data._table import encoded_names
from lossatlas.data._target import Kind, Label


if TYPE_CHECKING:
    from lossatlas.landscape import Landscape


@shown
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DataSet:
    """A table with a target.

    - `name`, `source`: what it is called and where it came from.
    - `features`: the encoded columns before scaling, float64, shape (n, d).
    - `target`: class numbers, int64, shape (n,), or values in the user's units, float64, shape (n, o).
    - `kind`: `"regression"` or `"classification"`; `classes`: the labels in the order of the class numbers.
    - `preprocessing`: how inputs and targets are scaled; fitted on these rows, or on the training part of a split.
    - `scaling`, `target_scaling`: the rule it is fitted by.
    - `notes`: what was decided while reading (columns encoded, numbers read as classes).
    - `held_out`: the test part where `test_fraction` was asked for, else None.
    """

    name: str
    source: str
    kind: Kind
    features: Float[np.ndarray, "n d"]
    target: np.ndarray
    classes: tuple[Label, ...]
    preprocessing: Preprocessing
    scaling: Scaling = "standard"
    target_scaling: Scaling = "standard"
    notes: tuple[str, ...] = ()
    held_out: "DataSet | None" = None

    def __post_init__(self):
        for array in (self.features, self.target):
            array.setflags(write=False)

    def __repr__(self) -> str:
        what = f"{len(self.classes)} classes" if self.classes else f"{self.target.shape[1]} target(s)"
        return f"DataSet({self.name!r}, {self.num_rows} rows, {self.num_inputs} inputs, {what})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the encoded columns, what a network reads."""
        return self.preprocessing.encoded_columns

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.features.shape[0]

    @property
    def num_inputs(self) -> int:
        """How many inputs a network needs."""
        return self.features.shape[1]

    def num_outputs(self, loss: str = "mse") -> int:
        """How many outputs a network needs for a loss."""
        return self.preprocessing.num_outputs(loss)

    @property
    def y(self) -> np.ndarray:
        """The raw target: labels, shape (n,), or values in the user's units, shape (n, o)."""
        return np.array(self.classes)[self.target] if self.classes else self.target

    @property
    def class_counts(self) -> dict[Label, int]:
        """How many rows each class has."""
        counts = np.bincount(self.target, minlength=len(self.classes)) if self.classes else []
        return dict(zip(self.classes, map(int, counts), strict=True))

    def arrays(self, loss: str = "mse", rows: Any = None) -> tuple[Float[np.ndarray, "n d"], np.ndarray]:
        """Scaled inputs (n, d) and the targets of a loss; see [`lossatlas.data.Preprocessing.targets`][]."""
        data = self if rows is None else self.take(rows)
        inputs = self.preprocessing.standardise(data.features)
        return inputs, self.preprocessing.encode_targets(data.target, loss)

    def landscape(
        self, loss: Any = "mse", *, rows: Any = None, batch_size: int | None = None, dtype: str = "float64"
    ) -> "Landscape":
        r"""The landscape of these rows: scaled inputs, and the targets that the loss wants.

        Squared error (also any callable loss) takes one-hot rows for classes and standardised values for regression;
        `"cross_entropy"` takes class numbers; `"logistic"` (two classes) zeros and ones, shape (n, 1).

        **Arguments:**
        - `loss`: a name, `"auto"` (squared error), or a callable on (prediction, target) of one example.
        - `rows`: row numbers or a mask; the scaling stays that of the whole data set.
        - `batch_size`: see [`lossatlas.landscape.Landscape`][].
        - `dtype`: of the inputs and real targets.

        **Raises:** `InputError` for a loss that does not fit, and for float64 where JAX has it switched off.
        """
        import jax
        import jax.numpy as jnp

        from lossatlas.landscape import Landscape

        if dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            msg = (
                "A float64 landscape needs `with jax.enable_x64(True):` or "
                "`jax.config.update('jax_enable_x64', True)`; or ask for dtype='float32'."
            )
            raise InputError(msg)
        loss = "mse" if isinstance(loss, str) and loss == "auto" else loss
        name = loss if isinstance(loss, str) else getattr(loss, "name", "callable")
        inputs, targets = self.arrays(name, rows)
        targets = targets.astype(dtype if np.issubdtype(targets.dtype, np.floating) else "int32")
        return Landscape(jnp.asarray(inputs.astype(dtype)), jnp.asarray(targets), loss=loss, batch_size=batch_size)

    def take(self, rows: Any, *, preprocessing: Preprocessing | None = None) -> "DataSet":
        """Some rows, with the same preprocessing unless another is given.

        **Raises:** `InputError` when no row is selected or a row does not exist.
        """
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool and index.shape == (self.num_rows,) else index
        if index.ndim != 1 or index.size == 0 or not np.issubdtype(index.dtype, np.integer):
            msg = f"rows must be row numbers or a mask of length {self.num_rows} that select at least one row."
            raise InputError(msg)
        if index.min() < -self.num_rows or index.max() >= self.num_rows:
            msg = f"rows must lie in 0..{self.num_rows - 1}, got {int(index.min())}..{int(index.max())}."
            raise InputError(msg)
        return dataclasses.replace(
            self,
            features=self.features[index],
            target=self.target[index],
            preprocessing=preprocessing or self.preprocessing,
            held_out=None,
        )

    def refit(self, *, scaling: Scaling | None = None, target_scaling: Scaling | None = None) -> "DataSet":
        """The same rows with preprocessing fitted on them, by the same rule or another."""
        scaling = self.scaling if scaling is None else scaling
        target_scaling = self.target_scaling if target_scaling is None else target_scaling
        old = self.preprocessing
        new = fit_preprocessing(
            self.features, self.target, old.columns, old.categories, old.target, self.classes, scaling, target_scaling
        )
        return dataclasses.replace(self, preprocessing=new, scaling=scaling, target_scaling=target_scaling)

    def split(
        self, test_fraction: float = 0.25, *, seed: int = 0, stratified: bool | None = None
    ) -> tuple["DataSet", "DataSet"]:
        """Training and test part; the preprocessing of both is fitted on the training part.

        **Arguments:**
        - `test_fraction`: share of the rows for the test part, strictly between 0 and 1.
        - `seed`: of the shuffling.
        - `stratified`: keep the shares of the classes; default for classification.

        **Raises:** `InputError` for a share that leaves a part empty, and for classes too small to stratify.
        """
        from sklearn.model_selection import train_test_split

        _check_seed(seed)
        num_test = round(test_fraction * self.num_rows) if 0 < test_fraction < 1 else 0
        if num_test < 1 or num_test >= self.num_rows:
            msg = (
                f"test_fraction must leave both parts of the {self.num_rows} rows at least one row, "
                f"got {test_fraction}."
            )
            raise InputError(msg)
        strata = self._strata(stratified, 2)
        if strata is not None and min(num_test, self.num_rows - num_test) < len(self.classes):
            msg = (
                f"test_fraction={test_fraction} gives {num_test} test and {self.num_rows - num_test} training rows, "
                f"fewer than the {len(self.classes)} classes; use another fraction or stratified=False."
            )
            raise InputError(msg)
        rows = np.arange(self.num_rows)
        parts = train_test_split(rows, test_size=num_test, random_state=seed, stratify=strata)
        return self._parts(np.asarray(parts[0]), np.asarray(parts[1]))

    def hold_out(self, test_fraction: float, *, seed: int = 0, stratified: bool | None = None) -> "DataSet":
        """The training part of a split, which carries the test part as `held_out`."""
        train, test = self.split(test_fraction, seed=seed, stratified=stratified)
        return dataclasses.replace(train, held_out=test)

    def folds(
        self, num: int = 5, *, seed: int = 0, stratified: bool | None = None
    ) -> list[tuple["DataSet", "DataSet"]]:
        """Cross-validation: `num` pairs of training and test part; every row is tested once.

        **Raises:** `InputError` for fewer than 2 folds, more folds than rows, and classes too small to stratify.
        """
        from sklearn.model_selection import KFold, StratifiedKFold

        _check_seed(seed)
        if num < 2 or num > self.num_rows:
            msg = f"num must lie in 2..{self.num_rows} (the rows), got {num} folds."
            raise InputError(msg)
        strata = self._strata(stratified, num)
        splitter = (KFold if strata is None else StratifiedKFold)(num, shuffle=True, random_state=seed)
        return [self._parts(*pair) for pair in splitter.split(self.features, strata)]

    def _parts(self, train: np.ndarray, test: np.ndarray) -> tuple["DataSet", "DataSet"]:
        training = self.take(np.sort(train)).refit()
        return training, self.take(np.sort(test), preprocessing=training.preprocessing)

    def _strata(self, stratified: bool | None, least: int) -> np.ndarray | None:
        if stratified is False or (stratified is None and self.kind == "regression"):
            return None
        if self.kind == "regression":
            msg = "stratified=True needs classes; this is a regression."
            raise InputError(msg)
        label, count = min(self.class_counts.items(), key=lambda item: item[1])
        if count < least:
            msg = (
                f"Class {label!r} has {count} row(s); stratifying into {least} parts needs at least {least}. "
                "Merge or remove small classes, or use stratified=False."
            )
            raise InputError(msg)
        return self.target

    def fingerprint(self) -> str:
        """SHA-256 of the content: columns, values, classes and scaling rule; not of the name or the source.

        The same on every machine; it enters the keys of runs.
        """
        header = {
            "version": 1,
            "columns": self.columns,
            "kind": self.kind,
            "classes": self.classes,
            "scaling": [s if isinstance(s, str) else float(s) for s in (self.scaling, self.target_scaling)],
            "shapes": [self.features.shape, self.target.shape],
        }
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(np.ascontiguousarray(self.features, dtype="<f8").tobytes())
        digest.update(np.ascontiguousarray(self.target, dtype="<i8" if self.classes else "<f8").tobytes())
        return digest.hexdigest()


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        msg = f"seed must lie in 0..2**32 - 1, got {seed}."
        raise InputError(msg)


def fit_preprocessing(
    features: Float[np.ndarray, "n d"],
    target: np.ndarray,
    columns: tuple[str, ...],
    categories: dict[str, tuple[str, ...]],
    target_name: str,
    classes: tuple[Label, ...],
    scaling: Scaling,
    target_scaling: Scaling,
) -> Preprocessing:
    """The preprocessing fitted on given rows; classes are not scaled."""
    assert len(encoded_names(columns, categories)) == features.shape[1]
    means, scales = fit_scaling(features, scaling)
    target_means, target_scales = ((), ()) if classes else fit_scaling(target, target_scaling)
    return Preprocessing(
        kind="classification" if classes else "regression",
        columns=columns,
        categories=categories,
        means=means,
        scales=scales,
        target=target_name,
        classes=classes,
        target_means=target_means,
        # A constant target (possible in a fold) must still decode to itself.
        target_scales=tuple(scale or 1.0 for scale in target_scales),
    )
