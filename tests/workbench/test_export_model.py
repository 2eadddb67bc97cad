"""Models handed to other programs."""

import dataclasses
import json
import subprocess
import sys
import types

import jax
import numpy as np
import pandas as pd
import pytest

import lossatlas
from lossatlas import data, interop
from lossatlas._errors import InputError
from lossatlas.networks import Conv, Dense
from lossatlas.workbench import Model, export


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Dense(jax.random.key(0), [4, 3, 3]), data.load("iris").preprocessing, "cross_entropy", "a test")


def test_scikit_learn_gets_files_that_need_neither_lossatlas_nor_a_pickle(model, tmp_path, monkeypatch):
    files = export(model, "sklearn", tmp_path / "out")
    assert [path.name for path in files] == ["model.py", "model.npz"]
    iris = data.load("iris")
    frame = pd.DataFrame(iris.features, columns=list(iris.columns))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    code = """
import sys, pandas
sys.path.insert(0, "out")
import model
found = model.load().predict_proba(pandas.read_csv("rows.csv"))
assert not any(name.startswith("lossatlas") for name in sys.modules)
print(found.tolist(), "|", model.load().predict(pandas.read_csv("rows.csv"))[0])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers, _, label = done.stdout.partition(" | ")
    answer = model.predict(frame)
    np.testing.assert_allclose(json.loads(numbers), answer.iloc[:, 1:], atol=1e-12)
    assert label.strip() == answer.iloc[0, 0]
    monkeypatch.chdir(tmp_path / "out")
    again = lossatlas.load("model:load")
    np.testing.assert_allclose(again.predict(frame).iloc[:, 1:], answer.iloc[:, 1:], atol=1e-12)


def test_a_regression_goes_to_scikit_learn_in_its_units(tmp_path, monkeypatch):
    diabetes = data.load("diabetes")
    model = Model(Dense(jax.random.key(0), [10, 2, 1]), diabetes.preprocessing, "mse", "")
    export(model, "sklearn", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    namespace: dict = {"__file__": str(tmp_path / "model.py")}
    exec((tmp_path / "model.py").read_text(), namespace)
    frame = pd.DataFrame(diabetes.features, columns=list(diabetes.columns))
    np.testing.assert_allclose(namespace["load"]().predict(frame), model.predict(frame).iloc[:, 0], rtol=1e-12)


def test_safetensors_is_the_model_file(model, tmp_path):
    (path,) = export(model, "safetensors", tmp_path / "m.safetensors")
    pd.testing.assert_frame_equal(
        lossatlas.load(path).predict(data.load("iris").features), model.predict(data.load("iris").features)
    )


def test_a_torch_module_has_its_preprocessing_beside_it(model, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        interop, "export_torch", lambda network, folder: written.append((network, folder)), raising=False
    )
    (path,) = export(model, "torch", tmp_path / "out")
    assert written == [(model.network, tmp_path / "out")]
    facts = json.loads(path.read_text())
    assert (path.name, facts["loss"]) == ("preprocessing.json", "cross_entropy")
    assert data.Preprocessing.from_dict(facts["preprocessing"]) == model.preprocessing


def test_a_version_without_torch_says_so(model, tmp_path, monkeypatch):
    bare = types.ModuleType("lossatlas.interop")
    monkeypatch.setitem(sys.modules, "lossatlas.interop", bare)
    monkeypatch.setattr(lossatlas, "interop", bare, raising=False)
    with pytest.raises(InputError, match="writes no PyTorch modules"):
        export(model, "torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_another_program_cannot_hold_is_refused(model, tmp_path):
    conv = Model(Conv(jax.random.key(0), (1, 4, 4), [2], [3]), None, "mse", "")
    with pytest.raises(InputError, match="fully connected networks only, got conv 1x4x4"):
        export(conv, "sklearn", tmp_path / "out")
    with pytest.raises(InputError, match="networks with preprocessing only"):
        export(dataclasses.replace(model, preprocessing=None), "sklearn", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; sklearn is exported to a folder"):
        export(model, "sklearn", tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        export(model, "sklearn", tmp_path / "file" / "out")
