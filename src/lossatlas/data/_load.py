"""Data sets by name or path."""

import pathlib
from typing import Any

from lossatlas._errors import unknown_name
from lossatlas.data._arrays import from_arrays
from lossatlas.data._dataset import DataSet


_EMBEDDED = {
    "iris": ("load_iris", "species"),
    "wine": ("load_wine", "cultivar"),
    "breast_cancer": ("load_breast_cancer", "diagnosis"),
    "digits": ("load_digits", "digit"),
    "diabetes": ("load_diabetes", "progression"),
}


def data_names() -> list[str]:
    """The names that [`lossatlas.data.load`][] knows."""
    return sorted(_EMBEDDED)


def load(name_or_path: str | pathlib.Path, *, test_fraction: float = 0.0, seed: int = 0, **options: Any) -> DataSet:
    """A data set by name."""
    name = str(name_or_path)
    if name not in _EMBEDDED:
        raise unknown_name("data set", name, data_names())
    data = _embedded(name, **options)
    del test_fraction, seed
    return data


def _embedded(name: str, **options: Any) -> DataSet:
    import pandas as pd
    import sklearn
    import sklearn.datasets

    function, target = _EMBEDDED[name]
    bunch = getattr(sklearn.datasets, function)()
    columns = [str(column) for column in bunch.feature_names]
    frame = pd.DataFrame(bunch.data, columns=columns)
    labels = bunch.target
    if name != "digits" and hasattr(bunch, "target_names"):
        labels = bunch.target_names[labels]
    frame[target] = labels
    return from_arrays(frame, target, name=name, source=f"scikit-learn {sklearn.__version__}", **options)
