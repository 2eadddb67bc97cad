"""Data sets by name or path."""

import inspect
import pathlib
from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas.data._arrays import from_arrays
from lossatlas.data._dataset import DataSet
from lossatlas.data._files import FORMATS, load_file
from lossatlas.data._generators import hierarchy_1d, sigmoid_grid, teacher
from lossatlas.data._mnist import load_mnist


_EMBEDDED = {
    "iris": ("load_iris", "species"),
    "wine": ("load_wine", "cultivar"),
    "breast_cancer": ("load_breast_cancer", "diagnosis"),
    "digits": ("load_digits", "digit"),
    "diabetes": ("load_diabetes", "progression"),
}
_LOADERS: dict[str, Callable[..., DataSet]] = {
    "mnist": load_mnist,
    "hierarchy-1d": hierarchy_1d,
    "sigmoid-grid": sigmoid_grid,
    "teacher": teacher,
}
_FROM_ARRAYS = {"kind", "scaling", "target_scaling", "drop", "name"}


def data_names() -> list[str]:
    """The names that [`lossatlas.data.load`][] knows."""
    return sorted([*_EMBEDDED, *_LOADERS])


def load(
    name_or_path: str | pathlib.Path,
    *,
    target: str | None = None,
    folder: str | pathlib.Path | None = None,
    key: PRNGKeyArray | None = None,
    test_fraction: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> DataSet:
    """A data set by name or path.

    Names: `iris`, `wine`, `breast_cancer`, `digits`, `diabetes` (embedded in scikit-learn), `mnist`, and the
    generators `teacher`, `hierarchy-1d`, `sigmoid-grid`. Paths: `.csv`, `.tsv`, `.npz` (arrays `X` and `y`) and
    `.parquet` (needs pyarrow).

    **Arguments:**
    - `target`: the target column; default the last one of a file, or the usual one of an embedded set. What makes
      it a classification: see [`lossatlas.data.from_arrays`][].
    - `folder`: of the MNIST files; default the environment variable LOSSATLAS_DATA.
    - `key`: of the generator `teacher`; default `jax.random.key(seed)`.
    - `test_fraction`: share of the rows that is held out: then the result is the training part and `held_out` the
      rest, stratified for classes; 0 keeps all rows.
    - `seed`: of that split.
    - `options`: `kind`, `scaling`, `target_scaling`, `drop`, `name` of [`lossatlas.data.from_arrays`][] for embedded
      sets and files; `part`, `limit`, `scaling` for MNIST; those of the generator otherwise (`network`, `num`,
      `num_inputs`, `inputs`, `noise` for `teacher`; `num`, `input_scale` for `hierarchy-1d`; `num` for
      `sigmoid-grid`).

    **Raises:** `InputError`, one line with the remedy, for an unknown name, target or option, a file that is missing,
    empty or unreadable, and whatever [`lossatlas.data.from_arrays`][] refuses.

    !!! example
        >>> load("iris")
        DataSet('iris', 150 rows, 4 inputs, 3 classes)
    """
    name = str(name_or_path)
    given = {"target": target, "folder": folder, "key": key}
    options |= {option: value for option, value in given.items() if value is not None}
    if name in _EMBEDDED:
        _check_options(name, options, _FROM_ARRAYS | {"target"})
        data = _embedded(name, **options)
    elif name in _LOADERS:
        loader = _LOADERS[name]
        _check_options(name, options, set(inspect.signature(loader).parameters))
        if name == "teacher" and key is None:
            options["key"] = _key_of(seed)
        data = loader(**options)
    elif _is_path(name_or_path):
        _check_options(name, options, _FROM_ARRAYS | {"target"})
        data = load_file(pathlib.Path(name_or_path).expanduser(), **options)
    else:
        msg = f"{unknown_name('data set', name, data_names())} Or give a file ending in {', '.join(FORMATS)}."
        raise InputError(msg)
    return data if test_fraction == 0 else data.hold_out(test_fraction, seed=seed)


def _is_path(name: str | pathlib.Path) -> bool:
    path = pathlib.Path(name)
    return isinstance(name, pathlib.Path) or bool(path.suffix) or len(path.parts) > 1 or path.exists()


def _check_options(name: str, options: dict[str, Any], known: set[str]) -> None:
    for option in options:
        if option not in known:
            kind = f"option of the data set {name!r}:"
            raise unknown_name(kind, option, known)


def _key_of(seed: int) -> PRNGKeyArray:
    import jax

    return jax.random.key(seed)


def _embedded(which: str, *, target: str | None = None, **options: Any) -> DataSet:
    import pandas as pd
    import sklearn
    import sklearn.datasets

    function, own_target = _EMBEDDED[which]
    bunch = getattr(sklearn.datasets, function)()
    labels = bunch.target
    if which == "digits":
        options = {"kind": "classification", **options}
    elif hasattr(bunch, "target_names"):
        labels = bunch.target_names[labels]
    frame = pd.DataFrame(bunch.data, columns=[str(column) for column in bunch.feature_names])
    frame[own_target] = labels
    options = {"name": which, "source": f"scikit-learn {sklearn.__version__}", **options}
    return from_arrays(frame, target or own_target, **options)
