"""`lossatlas spectrum`: numbers, files, and what is refused."""

import json
import pathlib
import re
import shlex
import sys

import equinox as eqx
import jax
import numpy as np
import pandas as pd
import pytest

from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.workbench import Model, save_model
from lossatlas.workbench._instrument import command_words, open_point


FACTORY = """
import jax
from lossatlas.networks import Dense
def dense():
    return Dense(jax.random.key(7), [2, 3, 2])
"""


@pytest.fixture
def files():
    """A model of 17 parameters without preprocessing, and its data."""
    network = Dense(jax.random.key(0), [2, 3, 2])
    save_model("net.safetensors", Model(network, None, "cross_entropy", "a small network"))
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, 2)), rng.integers(0, 2, 20)
    np.savez("data.npz", inputs=inputs, targets=targets)
    return network, Landscape(inputs, targets, loss="cross_entropy")


def test_the_ends_agree_with_the_dense_hessian(lossatlas, files):
    network, landscape = files
    words = [
        "spectrum",
        "net.safetensors",
        "--data",
        "data.npz",
        "--top",
        "2",
        "--bottom",
        "1",
        "--per-layer",
        "--per-array",
    ]
    code, out, err = lossatlas(*words, "--json")
    assert code == 0, err
    # The cost, before anything long: a product a parameter for the matrix and again for its blocks, five probes of a
    # density, 15 for the top of each layer and of the whole, and the kernel of the layers.
    assert re.search(
        r"about 1[78]\d products of \S+ ms, about \S+ s, working memory .* MB; compiling comes on top", err
    )
    facts = json.loads(out)
    assert facts["trace_standard_error"] == 0.0  # all eigenvalues are known, so probes would be worse and dearer
    assert facts["products"] >= 2 * 17 + 5 * 17
    exact = np.linalg.eigvalsh(np.asarray(landscape.hessian(network)))[::-1]
    found = [row["eigenvalue"] for row in facts["eigenvalues"]]
    np.testing.assert_allclose(found, exact[[0, 1, -1]], atol=1e-12)
    np.testing.assert_allclose(facts["trace"], exact.sum(), atol=1e-10)
    assert sum(row["size"] for row in facts["blocks"]) == facts["num_parameters"] == 17
    np.testing.assert_allclose(sum(row["trace"] for row in facts["blocks"]), exact.sum(), atol=1e-10)
    hessian, start = np.asarray(landscape.hessian(network)), 0
    for row in facts["blocks"]:
        stop = start + row["size"]
        values = np.linalg.eigvalsh(hessian[start:stop, start:stop])
        np.testing.assert_allclose([row["smallest"], row["largest"]], values[[0, -1]], atol=1e-12)
        start = stop
    outer = np.asarray(landscape.gauss_newton(network))
    assert [row["layer"] for row in facts["layers"]] == ["layers[0]", "layers[1]"]
    np.testing.assert_allclose(sum(row["trace"] for row in facts["layers"]), np.trace(outer), rtol=1e-12)
    assert [row["is the Hessian"] for row in facts["layers"]] == [False, True]
    assert facts["verdict"] == "balanced"
    assert json.loads(pathlib.Path(facts["files"]["json"]).read_text())["headline"] == facts["headline"]
    page = pathlib.Path(facts["files"]["page"]).read_text()
    assert facts["headline"] in page
    assert "curvature neither vanishes nor explodes" in page
    said = re.search(r"along the gradient, where the curvature is ([\d.]+); .* the largest eigenvalue, ([\d.]+),", page)
    assert said is not None
    np.testing.assert_allclose([float(said[1]), float(said[2])], [1 / facts["best_step"], exact[0]], rtol=0.01)
    assert facts["regenerate"] == (
        "lossatlas spectrum net.safetensors --data data.npz --network recommended --top 2 --bottom 1 --per-layer "
        "--per-array"
    )


def test_the_command_to_regenerate_loads_the_same_weights(lossatlas, files, monkeypatch):
    network, landscape = files
    monkeypatch.delitem(sys.modules, "nets_of_spectrum", raising=False)
    pathlib.Path("nets_of_spectrum.py").write_text(FACTORY)
    eqx.tree_serialise_leaves("trained.eqx", network)
    words = ["nets_of_spectrum:dense", "--data", "data.npz", "--network", "recommended"]
    words += ["--checkpoint", "trained.eqx", "--loss", "cross_entropy", "--batch-size", "7"]
    words += ["--top", "1", "--bottom", "0", "--no-density"]
    code, out, err = lossatlas("spectrum", *words, "--json")
    assert code == 0, err
    facts = json.loads(out)
    np.testing.assert_allclose(facts["loss"], float(landscape(network)))  # of the checkpoint, not of the factory
    assert shlex.split(facts["regenerate"]) == ["lossatlas", "spectrum", *words]


def test_a_stable_step_is_told_of_the_hessian_and_of_what_moves(lossatlas, files):
    del files
    base = ["spectrum", "net.safetensors", "--data", "data.npz", "--no-density", "--json"]
    facts = json.loads(lossatlas(*base, "--curvature", "gauss_newton", "--top", "30", "--bottom", "1")[1])
    assert facts["largest_stable_step"] is None
    assert "stable" not in facts["headline"]
    assert 0 < abs(facts["lowest"]) < 1e-14  # a shift of both logits changes nothing: zero but for rounding
    assert "lie between 0 and " in facts["headline"]
    assert [row["end"] for row in facts["eigenvalues"]] == 17 * ["largest"]  # not more than there are
    facts = json.loads(lossatlas(*base, "--only", "layers[0].*", "--top", "1", "--bottom", "0")[1])
    assert facts["largest_stable_step"] == 2 / facts["sharpness"]
    assert (facts["products"], facts["trace_standard_error"]) == (9, 0.0)  # the matrix, and its trace for nothing
    assert "Gradient descent of these parameters alone is stable" in facts["headline"]


def test_what_only_python_has_is_asked_again_in_python(files):
    del files
    frame = pd.DataFrame({"a": [0.0, 1.0], "b": [1.0, 0.0], "target": [0, 1]})
    point = open_point("net.safetensors", "data.npz", target=None, batch_size=None, precision="float32")
    again = "lossatlas spectrum net.safetensors --data data.npz --network recommended --batch-size all"
    assert command_words("spectrum", point) == f"{again} --precision float32"
    in_memory = "lossatlas.workbench.spectrum(model, table)"
    assert command_words("spectrum", point, test=frame) == in_memory
    assert command_words("spectrum", point._replace(asked=None)) == in_memory
    assert command_words("spectrum", point._replace(origin=None)) == in_memory


def test_what_cannot_be_used_is_refused_in_one_line(lossatlas, files):
    del files
    base = ["spectrum", "net.safetensors", "--data", "data.npz"]
    for words, said in (
        (["--batch-size", "0"], "must be a number of examples, auto or all"),
        (["--only", "layers[0].*", "--per-array"], "give one of them"),
        (["--only", "nothing"], "selects no parameter"),
        (["--top", "0", "--bottom", "0"], "num_top (--top) and num_bottom (--bottom) are both 0"),
        (["--top", "-1"], "num_top (--top) must be at least 0, got -1."),
        (["--rtol", "0"], "rtol (--rtol) must be above 0, got 0.0."),
    ):
        code, out, err = lossatlas(*base, *words)
        assert (code, out) == (2, "")
        assert said in err
        assert not pathlib.Path("lossatlas").exists()
