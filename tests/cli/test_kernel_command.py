"""`lossatlas kernel`: numbers, files, and what is refused."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest

from lossatlas.geometry import kernel_regression, ntk
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.workbench import Model, save_model


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
    assert "ordered by class" in pathlib.Path(facts["files"]["page"]).read_text()


def test_what_cannot_be_used_is_refused_in_one_line(lossatlas, files):
    del files
    base = ["kernel", "net.safetensors", "--data", "data.npz"]
    for words, said in (
        (["--examples", "1"], "num_examples (--examples) must be at least 2"),
        (["--only", "nothing"], "selects no parameter"),
        (["--store", "k.zarr"], "ending in .npy"),
    ):
        code, out, err = lossatlas(*base, *words)
        assert (code, out) == (2, "")
        assert said in err
        assert not pathlib.Path("lossatlas").exists()
