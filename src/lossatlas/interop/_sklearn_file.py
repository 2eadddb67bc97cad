"""A perceptron of scikit-learn in files, without a pickle: its arrays, and a few lines that build it."""

import pathlib

import numpy as np

from lossatlas.data import Preprocessing
from lossatlas.interop._sklearn import to_sklearn
from lossatlas.networks import Dense


_CODE = '''"""A network as a fitted scikit-learn Pipeline: load() builds it from model.npz beside this file."""

import pathlib

import numpy as np
from sklearn.neural_network import {kind}
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler


def load():
    """The pipeline; predict takes raw columns."""
    with np.load(pathlib.Path(__file__).with_name("model.npz"), allow_pickle=False) as file:
        arrays = dict(file)
    weights = [arrays[f"weight_{{i}}"] for i in range({num_layers})]
    biases = [arrays[f"bias_{{i}}"] for i in range({num_layers})]
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = arrays["mean"], arrays["scale"], arrays["scale"] ** 2
    scaler.n_features_in_, scaler.n_samples_seen_ = len(arrays["mean"]), 1
    if "columns" in arrays:
        scaler.feature_names_in_ = arrays["columns"].astype(object)
    model = {kind}(hidden_layer_sizes={hidden}, activation={activation!r})
    model.coefs_, model.intercepts_ = weights, biases
    model.n_layers_, model.n_outputs_ = len(weights) + 1, len(biases[-1])
    model.n_features_in_, model.out_activation_ = len(arrays["mean"]), {out_activation!r}
    if "classes" in arrays:
        model.classes_ = arrays["classes"]
        model._label_binarizer = LabelBinarizer().fit(model.classes_)
    return make_pipeline(scaler, model)
'''


def write_sklearn(network: Dense, preprocessing: Preprocessing, loss: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Write `model.py` and `model.npz`: `model.load()` is the pipeline of [`lossatlas.interop.to_sklearn`][].

    They need NumPy and scikit-learn alone, and nothing is pickled. [`lossatlas.load`][] reads them as `model:load`.

    **Arguments:**
    - `network`, `preprocessing`, `loss`: as for [`lossatlas.interop.to_sklearn`][].
    - `folder`: made where it is missing.

    **Returns:** the files written.

    **Raises:** `InputError` for what scikit-learn cannot express.
    """
    scaler, model = (step for _, step in to_sklearn(network, preprocessing, loss).steps)
    arrays = {"mean": scaler.mean_, "scale": scaler.scale_}
    arrays |= {f"weight_{i}": weight for i, weight in enumerate(model.coefs_)}
    arrays |= {f"bias_{i}": bias for i, bias in enumerate(model.intercepts_)}
    if hasattr(scaler, "feature_names_in_"):
        arrays["columns"] = np.array([str(name) for name in scaler.feature_names_in_])
    if preprocessing.kind == "classification":
        arrays["classes"] = np.array(model.classes_)
    code = _CODE.format(
        kind=type(model).__name__,
        num_layers=len(model.coefs_),
        hidden=tuple(model.hidden_layer_sizes),
        activation=model.activation,
        out_activation=model.out_activation_,
    )
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "model.npz", **arrays)
    (folder / "model.py").write_text(code, encoding="utf-8")
    return [folder / "model.py", folder / "model.npz"]
