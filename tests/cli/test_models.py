"""Models from anywhere, from the shell."""

import json
import pathlib

import jax
import numpy as np
import pandas as pd
import pytest

from lossatlas import data
from lossatlas.networks import Conv, Dense
from lossatlas.workbench import Model, save_model


NETS = """
import jax, jax.numpy as jnp, equinox as eqx
from lossatlas.networks import Conv, Dense
def conv():
    return Conv(jax.random.key(0), (1, 4, 4), [2], [3])
def foreign():
    return eqx.nn.Linear(2, 1, key=jax.random.key(0))
def wants(path):
    return conv()
def failing():
    return open("no such file").read()
def training():
    return eqx.nn.Sequential([eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.nn.Dropout(0.5)])
"""


@pytest.fixture(autouse=True)
def files(monkeypatch):
    """The current folder with a module, a model and data; the module is imported anew for every test."""
    import sys

    monkeypatch.delitem(sys.modules, "nets_of_mine", raising=False)
    pathlib.Path("nets_of_mine.py").write_text(NETS)
    relu = Dense(jax.random.key(0), [10, 2, 1], activation="relu")
    save_model("relu.safetensors", Model(relu, data.load("diabetes").preprocessing, "mse", "a test"))
    images = np.random.default_rng(0).normal(size=(6, 1, 4, 4))
    np.savez("images.npz", inputs=images, targets=np.array([0, 1, 2, 0, 1, 2]))
    return images


def test_predictions_on_arrays_are_csv(lossatlas, files):
    code, out, _ = lossatlas("predict", "nets_of_mine:conv", "--data", "images.npz", "--loss", "cross_entropy")
    assert code == 0
    pathlib.Path("out.csv").write_text(out)
    answer = pd.read_csv("out.csv")
    network = Conv(jax.random.key(0), (1, 4, 4), [2], [3])
    expected = np.asarray(jax.vmap(network)(jax.numpy.asarray(files)))
    assert list(answer["class"]) == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(answer.iloc[:, 1:], jax.nn.softmax(expected), atol=1e-14)


def test_units_by_name_with_what_was_measured(lossatlas):
    words = ["grow", "nets_of_mine:conv", "--widths", "channels[0]=3", "--data", "images.npz", "--out", "w.safetensors"]
    code, out, _ = lossatlas(*words)
    assert code == 0
    first, second, third, last = out.splitlines()
    assert first == "conv 1x4x4: 2 | 3 (119 parameters) -> conv 1x4x4: 3 | 3 (177 parameters)"
    assert second.startswith("outputs stay for all inputs; changed by at most ")
    assert second.endswith(" on these 6 rows")
    assert third.startswith("largest entry of the gradient of the mean loss (cross_entropy): ")
    assert last == "model: w.safetensors"
    assert lossatlas("predict", "w.safetensors", "--data", "images.npz")[0] == 0


def test_a_layer_more_in_json(lossatlas):
    words = [
        "grow",
        "relu.safetensors",
        "--depth",
        "2",
        "--widths",
        "3,3",
        "--data",
        "diabetes",
        "--out",
        "d.safetensors",
    ]
    code, out, _ = lossatlas(*words, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["after"] == {"widths": "10-3-3-1", "parameters": 49}
    assert (facts["outputs_stay_on_all_inputs"], facts["rows"], facts["loss"]) == (False, 442, "mse")
    assert facts["largest_change"] < 1e-9
    assert "outputs changed by at most" in lossatlas(*words)[1]


def test_export_prints_what_it_wrote(lossatlas):
    code, out, _ = lossatlas("export", "relu.safetensors", "--to", "sklearn", "--out", "out")
    assert (code, out) == (0, "10-2-1 (25 parameters) for sklearn\nout/model.py\nout/model.npz\n")
    code, out, _ = lossatlas(
        "export", "relu.safetensors", "--to", "safetensors", "--out", "again.safetensors", "--json"
    )
    assert json.loads(out)["files"] == ["again.safetensors"]
    assert pathlib.Path("again.safetensors").stat().st_size > 0


def test_debug_shows_where_an_error_came_from(lossatlas, monkeypatch):
    words = ("predict", "nets_of_mine:failing", "--data", "images.npz")
    assert lossatlas(*words)[2].count("\n") == 1
    monkeypatch.setenv("LOSSATLAS_DEBUG", "1")
    code, _, err = lossatlas(*words)
    assert code == 2
    assert 'return open("no such file").read()' in err
    assert "nets_of_mine:failing raised FileNotFoundError" in err.splitlines()[-1]


GROW, EXPORT = "--widths 9 --out w.safetensors", "--to sklearn --out out"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"grow nowhere:net {GROW}", "There is no module 'nowhere'"),
        (f"grow nets_of_mine:convv {GROW}", "Did you mean 'conv'"),
        (f"grow nets_of_mine:wants {GROW}", "needs arguments (path)"),
        (f"grow nets_of_mine:failing {GROW}", "raised FileNotFoundError: [Errno 2] No such file"),
        (f"grow nets_of_mine:training {GROW}", "equinox.nn.inference_mode"),
        (f"grow nets_of_mine:foreign {GROW}", "found on an example: give rows"),
        ("grow relu.safetensors --out w.safetensors", "Say how to grow"),
        ("grow relu.safetensors --depth 2 --out w.safetensors", "needs data (--data)"),
        ("grow relu.safetensors --widths hidden[0] --out w.safetensors", "whole numbers above zero"),
        ("grow relu.safetensors --widths hidden[0]=x --out w.safetensors", "written like hidden[0]=40"),
        ("grow relu.safetensors --widths hidden[0]=4,hidden[0]=5 --out w.safetensors", "each once"),
        ("grow relu.safetensors --depth 2 --before x --data diabetes --out w.safetensors", "whole numbers from zero"),
        ("grow nets_of_mine:conv --widths channels[0]=3 --data text.npz --out w.safetensors", "Python objects"),
        (
            "grow nets_of_mine:conv --widths channels[0]=3 --data flat.npz --out w.safetensors",
            "of shape (1, 4, 4), got",
        ),
        ("shrink relu.safetensors --data images.npz --tolerance 1 --out w.safetensors", "reads 10 columns"),
        ("predict nets_of_mine:conv --data images.npz --checkpoint w.safetensors", "There is no checkpoint"),
        (f"export nets_of_mine:conv {EXPORT}", "scikit-learn knows fully connected networks only"),
        ("export relu.safetensors --to safetensors --out no/w.safetensors", "cannot be written"),
        ("export relu.safetensors --to onnx --out out", "onnx"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lossatlas, words, said):
    np.savez("text.npz", inputs=np.array([{}], object))
    np.savez("flat.npz", inputs=np.ones((3, 15)))
    before = sorted(pathlib.Path().rglob("*.*"))
    code, out, err = lossatlas(*words.split())
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert [path for path in sorted(pathlib.Path().rglob("*.*")) if "__pycache__" not in str(path)] == before
