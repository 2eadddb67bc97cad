"""`lossatlas kernel`: numbers, files, and what is refused."""

import json
import pathlib
import re
import shlex
import sys

import equinox as eqx
import jax
import numpy as np
import pytest

from lossatlas.data import Preprocessing
from lossatlas.figures import format_number
from lossatlas.geometry import alignment, kernel_regression, ntk, target_kernel
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.workbench import Model, kernel, save_model
from lossatlas.workbench._arrays import read_arrays


@pytest.fixture
def files():
    """A model of 17 parameters without preprocessing, and its data."""
    network = Dense(jax.random.key(0), [2, 3, 2])
    save_model("net.safetensors", Model(network, None, "cross_entropy", "a small network"))
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, 2)), rng.integers(0, 2, 20)
    np.savez("data.npz", inputs=inputs, targets=targets)
    return network, Landscape(inputs, targets, loss="cross_entropy")


def test_the_kernel_is_that_of_the_library(lossatlas, files):
    network, landscape = files
    words = ["kernel", "net.safetensors", "--data", "data.npz", "--examples", "12", "--store", "whole.npy"]
    code, out, err = lossatlas(*words, "--json")
    assert code == 0, err
    assert "multiplications" in err  # the cost, before anything long
    assert re.search(r"about [\de.-]+ s, working memory [\d.]+ MB", err)
    facts = json.loads(out)
    whole = ntk(network, landscape).matrix
    np.testing.assert_allclose(np.load("whole.npy"), whole, rtol=1e-12)
    chosen = np.sort(np.random.default_rng(0).permutation(20)[:12])
    part = whole[np.ix_(chosen, chosen)]
    np.testing.assert_allclose(facts["eigenvalues"], np.linalg.eigvalsh(part)[::-1][:10], atol=1e-10)
    assert facts["rank"] == np.linalg.matrix_rank(part)
    assert facts["examples"] == 12 and facts["frozen"]["test"] == 3
    assert sum(row["share"] for row in facts["layers"]) == pytest.approx(1)
    assert [row["layer"] for row in facts["layers"]] == ["layers[0]", "layers[1]"]
    page = pathlib.Path(facts["files"]["page"]).read_text()
    assert facts["headline"] in page and "drawn at random" in page
    assert facts["regenerate"] == (
        "lossatlas kernel net.safetensors --data data.npz --network recommended --examples 12 --store whole.npy"
    )


def test_blocks_and_outputs_respect_the_batches(lossatlas, files):
    network, landscape = files
    whole = np.linalg.eigvalsh(ntk(network, landscape).matrix)[::-1][:10]
    for size in ("7", "all"):
        code, out, err = lossatlas("kernel", "net.safetensors", "--data", "data.npz", "--batch-size", size, "--json")
        assert code == 0, err
        facts = json.loads(out)
        np.testing.assert_allclose(facts["eigenvalues"], whole, atol=1e-10)
        assert facts["regenerate"].endswith(f"--batch-size {size}")
        assert facts["rows_of_a_block"] == {"7": 7, "all": 20}[size]


def test_the_frozen_kernel_predicts_other_data_and_one_hot_rows_are_classes(lossatlas, files):
    network, landscape = files
    rows = np.eye(2)[np.asarray(landscape.targets)]
    save_model("rows.safetensors", Model(network, None, "mse", "a small network"))
    np.savez("rows.npz", inputs=landscape.inputs, targets=rows)
    np.savez("other.npz", inputs=landscape.inputs[:6], targets=rows[:6])
    code, out, err = lossatlas("kernel", "rows.safetensors", "--data", "rows.npz", "--test", "other.npz", "--json")
    assert code == 0, err
    facts = json.loads(out)
    data, test = (Landscape(landscape.inputs[:n], rows[:n]) for n in (20, 6))
    found = kernel_regression(network, data, test)
    assert facts["frozen"]["measure"] == "accuracy"
    assert facts["frozen"]["kernel"] == found.accuracy
    assert facts["frozen"]["network"] == found.network_accuracy
    assert (facts["frozen"]["train"], facts["frozen"]["test"]) == (20, 6)
    assert facts["regenerate"].endswith("--test other.npz")
    assert any("6 of the test examples are among the others" in said for said in facts["cautions"])
    assert "ordered by class" in pathlib.Path(facts["files"]["page"]).read_text()


def cosine_distance(one, two):
    return 1 - np.sum(one * two) / np.sqrt(np.sum(one**2) * np.sum(two**2))


def test_the_kernel_of_another_model_stands_beside_the_first(lossatlas, files):
    network, landscape = files
    first, last = network.layers
    larger = Dense.from_layers([first, type(last)(3 * last.weight, 3 * last.bias)], "tanh")
    save_model("large.safetensors", Model(larger, None, "cross_entropy", "its last layer times three"))
    words = ["kernel", "net.safetensors", "--data", "data.npz", "--network", "recommended", "--examples", "12"]
    code, out, err = lossatlas(*words, "--to", "large.safetensors", "--json")
    assert code == 0, err
    facts = json.loads(out)
    chosen = np.sort(np.random.default_rng(0).permutation(20)[:12])
    rows, targets = landscape.inputs[chosen], np.eye(2)[np.asarray(landscape.targets)[chosen]]
    before, after = (ntk(net, rows, method="contraction", per_layer=True) for net in (network, larger))
    (plain, centred), layers = facts["moved"]["kernels"], facts["moved"]["layers"]
    assert plain["distance"] == pytest.approx(cosine_distance(before.matrix, after.matrix))
    norms = [np.linalg.norm(each) for each in (before.matrix, after.matrix, after.matrix - before.matrix)]
    assert (plain["scale"], plain["change"]) == pytest.approx((norms[1] / norms[0], norms[2] / norms[0]))
    assert plain["angle"] == pytest.approx(np.degrees(np.arccos(1 - plain["distance"])))
    centring = np.eye(12) - 1 / 12
    both = [centring @ each.matrix @ centring for each in (before, after)]
    assert centred["distance"] == pytest.approx(cosine_distance(*both))
    assert facts["moved"]["cka"] == pytest.approx(1 - centred["distance"])
    product = centring @ targets @ targets.T @ centring
    alignments = [1 - cosine_distance(each, product) for each in both]
    assert [facts["target_alignment"], facts["to"]["target_alignment"]] == pytest.approx(alignments)
    # In closed form: the part of the last layer stays, that of the one below has nine times the size; f' is 3 f.
    assert [row["layer"] for row in layers] == ["layers[0]", "layers[1]"]
    assert [row["distance"] for row in layers] == pytest.approx([0, 0], abs=1e-12)
    assert [row["change"] for row in layers] == pytest.approx([8, 0], abs=1e-12)
    assert [row["share second"] for row in layers] == pytest.approx(list(after.shares.values()))
    assert (facts["moved"]["outputs"], facts["moved"]["linear_error"]) == pytest.approx((2, 0), abs=1e-12)
    np.testing.assert_allclose(facts["to"]["eigenvalues"], np.linalg.eigvalsh(after.matrix)[::-1][:10], atol=1e-10)
    order = np.random.default_rng(1).permutation(12)
    parts = [
        Landscape(rows[at], np.asarray(landscape.targets)[chosen][at], loss="cross_entropy")
        for at in (order[3:], order[:3])
    ]
    for said, net in ((facts, network), (facts["to"], larger)):
        found = kernel_regression(net, *parts)
        assert (said["frozen"]["kernel"], said["frozen"]["network"]) == (found.accuracy, found.network_accuracy)
    assert facts["moved"]["gain"] == pytest.approx(facts["to"]["frozen"]["kernel"] - facts["frozen"]["kernel"])
    page = pathlib.Path(facts["files"]["page"]).read_text()
    assert facts["headline"] in page and "Lazy, or kernel regime" in page and "kernel-second" in page
    count = format_number(2.0 * facts["multiplications"], 2)
    assert f"two kernels of 12 examples: {count} multiplications" in err
    assert facts["regenerate"] == " ".join(["lossatlas", *words, "--to", "large.safetensors"])
    arrays = read_arrays(pathlib.Path(facts["files"]["arrays"]))
    np.testing.assert_allclose(arrays["second"]["kernel"], after.matrix)
    np.testing.assert_allclose(arrays["moved"]["distance"].sel(part="whole"), plain["distance"])
    np.testing.assert_array_equal(arrays["first"]["example"], chosen)


def test_a_model_and_itself_from_a_factory_with_other_weights_have_no_distance(lossatlas, files, monkeypatch):
    network, _ = files
    monkeypatch.delitem(sys.modules, "nets_of_kernel", raising=False)
    code = "import jax\nfrom lossatlas.networks import Dense\n"
    pathlib.Path("nets_of_kernel.py").write_text(code + "def net():\n    return Dense(jax.random.key(7), [2, 3, 2])\n")
    eqx.tree_serialise_leaves("net.eqx", network)
    words = ["kernel", "net.safetensors", "--data", "data.npz", "--network", "recommended"]
    words += ["--loss", "cross_entropy", "--checkpoint-to", "net.eqx", "--only", "layers[1].*"]
    words += ["--to", "nets_of_kernel:net"]
    code, out, err = lossatlas(*words)
    assert code == 0, err
    assert "every parameter is equal" in out and "S = 0 " in out and "those of layers[1].*;" in out
    facts = json.loads(pathlib.Path("lossatlas/kernel/kernel.json").read_text())
    assert [row[name] for row in facts["moved"]["kernels"] for name in ("distance", "change")] == [0, 0, 0, 0]
    assert facts["moved"]["outputs"] == 0 and facts["moved"]["linear_error"] is None
    assert shlex.split(facts["regenerate"]) == ["lossatlas", *words]


def test_models_of_other_architecture_and_loss_have_a_distance_and_no_pairs_of_layers(files):
    network, landscape = files
    other = Dense(jax.random.key(1), [2, 4, 3, 2])
    found = kernel("net.safetensors", "data.npz", to=Model(other, None, "mse", "a deeper network"))
    facts = json.loads(found.json.read_text())
    assert facts["regenerate"] == "lossatlas.workbench.kernel(model, table, to=other)"  # it is in memory only
    wanted = cosine_distance(*(ntk(net, landscape).matrix for net in (network, other)))
    assert facts["moved"]["kernels"][0]["distance"] == pytest.approx(wanted)
    assert facts["moved"]["layers"] == []
    assert (facts["moved"]["linear_error"], facts["moved"]["parameters"]) == (None, None)
    assert [len(each["layers"]) for each in (facts, facts["to"])] == [2, 3]
    assert facts["to"]["frozen"]["network"] is None and facts["frozen"]["network"] is not None
    said = " ".join(facts["cautions"])
    assert "not paired" in said and "no linearisation" in said and "different losses (cross_entropy, mse)" in said


def test_every_output_of_an_example_is_a_row_in_the_convention_full(lossatlas, files, monkeypatch):
    network, landscape = files
    targets = np.random.default_rng(5).normal(size=(20, 2))
    landscape = Landscape(landscape.inputs, targets)
    save_model("real.safetensors", Model(network, None, "mse", "a small network"))
    np.savez("real.npz", inputs=landscape.inputs, targets=targets)
    monkeypatch.setattr("lossatlas.workbench._kernel._USUAL_ROWS", 32)
    code, out, err = lossatlas("kernel", "real.safetensors", "--data", "real.npz", "--convention", "full", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["examples"] == 16  # by default as many as make so many rows
    assert "a kernel of 16 examples, 32 × 32 numbers: " in err
    chosen = np.sort(np.random.default_rng(0).permutation(20)[:16])
    data = landscape.subset(chosen)
    matrix = ntk(network, data, convention="full", method="contraction").matrix
    np.testing.assert_allclose(facts["eigenvalues"], np.linalg.eigvalsh(matrix)[::-1][:10], atol=1e-10)
    assert facts["target_alignment"] == pytest.approx(alignment(ntk(network, data), target_kernel(data.targets)))
    # Ridge regression by hand: the outputs of an example share information.
    order = np.random.default_rng(1).permutation(16)
    test, train = (np.stack([2 * at, 2 * at + 1], axis=1).reshape(-1) for at in (order[:4], order[4:]))
    offset = targets[chosen][order[4:]].mean(axis=0)
    centred = (targets[chosen] - offset).reshape(-1)
    own = matrix[np.ix_(train, train)]
    ridge = 1e-3 * np.trace(own) / len(own) * np.eye(len(own))
    scores = matrix[np.ix_(test, train)] @ np.linalg.solve(own + ridge, centred[train])
    errors = 0.5 * np.sum((scores - centred[test]).reshape(4, 2) ** 2, axis=1)
    assert facts["frozen"]["kernel"] == pytest.approx(errors.mean())
    assert "of the mean over the outputs" in pathlib.Path(facts["files"]["page"]).read_text()
    rows = read_arrays(pathlib.Path(facts["files"]["arrays"]))["example"]
    np.testing.assert_array_equal(rows, np.repeat(chosen, 2))


def test_what_cannot_be_used_is_refused_in_one_line(lossatlas, files):
    network, _ = files
    plain = {
        "kind": "classification",
        "columns": ("a", "b"),
        "categories": {},
        "means": (0.0, 1.0),
        "scales": (1.0, 1.0),
    }
    prepared = Preprocessing(**plain, target="c", classes=(0, 1))
    save_model("prepared.safetensors", Model(network, prepared, "cross_entropy", "other columns"))
    for name, sizes in (("three", [2, 3, 3]), ("inputs", [5, 3, 2])):
        save_model(f"{name}.safetensors", Model(Dense(jax.random.key(0), sizes), None, "cross_entropy", name))
    base = ["kernel", "net.safetensors", "--data", "data.npz"]
    for words, said in (
        (["--examples", "1"], "num_examples (--examples) must be at least 2"),
        (["--only", "nothing"], "selects no parameter"),
        (["--store", "k.zarr"], "ending in .npy"),
        (["--to", "three.safetensors"], "The first model has 2 outputs, the second (--to) 3"),
        (["--to", "inputs.safetensors"], "Of the second model (--to): The network reads one example of shape (5)"),
        (["--to", "prepared.safetensors"], "differ in their preprocessing"),
        (["--to", "missing.safetensors"], "There is no run 'missing.safetensors'"),
        (["--checkpoint-to", "net.eqx"], "goes with another model (--to)"),
    ):
        code, out, err = lossatlas(*base, *words)
        assert (code, out) == (2, "")
        assert said in err and err.count("\n") == 1, err
        assert not pathlib.Path("lossatlas").exists()
