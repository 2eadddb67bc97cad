"""`lossatlas path`: two models, their barrier, and the matched model that says the same."""

import json
import pathlib
import re
import shlex
import sys

import equinox as eqx
import jax
import numpy as np
import pytest

from lossatlas import load
from lossatlas.networks import Dense
from lossatlas.workbench import Model, save_model


@pytest.fixture
def files():
    """Two small models without preprocessing, the second with its units in another order, and their data."""
    network = Dense(jax.random.key(0), [2, 4, 2], activation="relu", init="he")
    network = jax.tree.map(lambda array: 3 * array, network)  # sure of itself, so that its classes are its own
    order = np.array([2, 0, 3, 1])
    first, last = network.layers
    moved = Dense.from_layers(
        [type(first)(first.weight[order], first.bias[order]), type(last)(last.weight[:, order], last.bias)], "relu"
    )
    save_model("a.safetensors", Model(network, None, "cross_entropy", "a small network"))
    save_model("b.safetensors", Model(moved, None, "cross_entropy", "its units in another order"))
    other = Dense(jax.random.key(0), [2, 5, 2], activation="relu")
    save_model("wide.safetensors", Model(other, None, "cross_entropy", "a wider network"))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(20, 2))
    targets = np.asarray(jax.vmap(network)(inputs)).argmax(1)
    np.savez("data.npz", inputs=inputs, targets=targets)
    return inputs


def test_a_planted_order_is_undone_and_the_matched_model_says_the_same(lossatlas, files):
    words = ["path", "a.safetensors", "b.safetensors", "--data", "data.npz", "--match", "weights", "--points", "5"]
    words += ["--batch-size", "all"]
    code, out, err = lossatlas(*words, "--test", "data.npz", "--out", "made", "--json")
    assert code == 0, err
    assert "evaluations of the loss" in err  # the cost, before anything long
    assert re.search(r"about [\de.-]+ s, working memory [\d.]+ MB", err)
    facts = json.loads(out)
    rises = {(row["path"], row["data"]): row["barrier"] for row in facts["paths"]}
    assert rises["straight line", "train"] > 1e-3
    assert rises["after matching", "train"] < 1e-12
    assert rises["after matching", "test"] < 1e-12
    assert {row["matching"] for row in facts["matchings"]} == {"weights", "weights, units as they stand"}
    matched, before = load("made/matched.safetensors"), load("a.safetensors")
    np.testing.assert_allclose(matched.network.layers[0].weight, before.network.layers[0].weight)
    np.testing.assert_allclose(matched.predict(files).to_numpy(), load("b.safetensors").predict(files).to_numpy())
    assert facts["regenerate"] == (
        "lossatlas path a.safetensors b.safetensors --data data.npz --network recommended "
        "--batch-size all --match weights --points 5 --test data.npz"
    )
    assert facts["headline"] in pathlib.Path("made/path.html").read_text()


def test_two_checkpoints_of_one_factory_are_named_in_the_command_to_regenerate(lossatlas, files, monkeypatch):
    del files
    monkeypatch.delitem(sys.modules, "nets_of_path", raising=False)
    code = "import jax\nfrom lossatlas.networks import Dense\n"
    code += "def dense():\n    return Dense(jax.random.key(7), [2, 4, 2], activation='relu')\n"
    pathlib.Path("nets_of_path.py").write_text(code)
    for name in "ab":
        eqx.tree_serialise_leaves(f"{name}.eqx", load(f"{name}.safetensors").network)
    words = ["path", "nets_of_path:dense", "nets_of_path:dense", "--data", "data.npz", "--network", "recommended"]
    words += ["--checkpoint", "a.eqx", "--loss", "cross_entropy", "--checkpoint-b", "b.eqx"]
    words += ["--match", "none", "--points", "5"]
    code, out, err = lossatlas(*words, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["distance"] > 0
    assert shlex.split(facts["regenerate"]) == ["lossatlas", *words]


def test_models_that_no_path_joins_are_refused_in_one_line(lossatlas, files):
    del files
    code, out, err = lossatlas("path", "a.safetensors", "wide.safetensors", "--data", "data.npz")
    assert (code, out) == (2, "")
    assert "one architecture and shape" in err
    assert "(5,) float64 and (4,) float64" in err
    words = ["path", "a.safetensors", "b.safetensors", "--data", "data.npz", "--curve", "bezier", "--bends", "0"]
    code, out, err = lossatlas(*words)
    assert (code, out) == (2, "")
    assert "bends (--bends) must be at least 1" in err
    code, out, err = lossatlas(*words[:-2], "--steps", "0")
    assert (code, out) == (2, "")
    assert "steps (--steps) must be at least 1, got 0." in err
    code, out, err = lossatlas(*words[:-4], "--points", "2")
    assert (code, out) == (2, "")
    assert "points (--points) must be at least 3, got 2." in err
    assert not pathlib.Path("lossatlas").exists()
