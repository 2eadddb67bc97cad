"""`lossatlas plane`: numbers, files, and what is refused."""

import importlib.util
import json
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

import lossatlas.workbench._plane as plane_module
from lossatlas.geometry import Slice, moved_along
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.workbench import Model, save_model
from lossatlas.workbench._arrays import read_arrays
from lossatlas.workbench._page import read_page_figures


TORCH = """
import torch
from torch import nn
class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 2)
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(h) + x
def skip():
    torch.manual_seed(0)
    return Skip().eval(), torch.zeros(2)
"""


@pytest.fixture
def files():
    """A model of 17 parameters without preprocessing, two others of its shape, and data."""
    networks = [Dense(jax.random.key(seed), [2, 3, 2]) for seed in range(3)]
    for i, network in enumerate(networks):
        save_model(f"net{i}.safetensors", Model(network, None, "cross_entropy", "a small network"))
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(20, 2)), rng.integers(0, 2, 20)
    np.savez("data.npz", inputs=inputs, targets=targets)
    return networks, Landscape(inputs, targets, loss="cross_entropy")


def ask(lossatlas, *words):
    code, out, err = lossatlas("plane", "net0.safetensors", "--data", "data.npz", *words, "--json")
    assert code == 0, err
    return json.loads(out), err


def test_a_plane_is_computed_where_it_is_needed_and_leaves_its_files(lossatlas, files):
    networks, landscape = files
    facts, err = ask(lossatlas)
    assert err.startswith("usually 300 points, 300 evaluations of the loss")  # the cost, before anything long
    assert re.search(r"about [\de.-]+ s, working memory [\d.]+ MB", err)
    picture = Slice.from_xarray(read_arrays(pathlib.Path(facts["files"]["arrays"]))["picture"].to_dataset())
    loss = picture.values["loss"]
    assert loss.shape == (81, 81)
    for i, j in ((0, 0), (40, 40), (17, 75)):
        there = moved_along(networks[0], picture.directions, [picture.coordinates[0][i], picture.coordinates[1][j]])
        assert abs(loss[i, j] - float(landscape(there))) <= facts["interpolation"]["allowed"]
    assert facts["points"] < 400
    assert "within" in facts["headline"]
    assert facts["regenerate"] == "lossatlas plane net0.safetensors --data data.npz --network recommended"
    shown, _ = read_page_figures(pathlib.Path(facts["files"]["page"]))
    assert {"loss", "accuracy"} <= set(shown)


def test_snapshots_give_the_plane_of_their_path_and_an_animation(lossatlas, files):
    networks, landscape = files
    words = ["--snapshots", *(f"net{i}.safetensors" for i in (2, 1, 0)), "--grid", "5"]
    facts, _ = ask(lossatlas, *words)
    assert facts["captured"] == pytest.approx(1.0)  # three points lie in a plane
    assert sum(row["explained_variance"] for row in facts["directions"]) == pytest.approx(1.0)
    shown, _ = read_page_figures(pathlib.Path(facts["files"]["page"]))
    assert len(shown["training"]["wide"]["frames"]) == 3
    path = read_arrays(pathlib.Path(facts["files"]["arrays"]))["trajectory"].to_dataset()
    np.testing.assert_allclose(path["loss"], [float(landscape(networks[i])) for i in (2, 1, 0)])
    assert facts["regenerate"].endswith("--snapshots net2.safetensors net1.safetensors net0.safetensors")


def test_a_line_to_another_model_ends_at_its_loss(lossatlas, files):
    networks, landscape = files
    facts, _ = ask(lossatlas, "--to", "net1.safetensors", "--grid", "7", "--test", "data.npz", "--gradient-norm")
    found = Slice.from_xarray(read_arrays(pathlib.Path(facts["files"]["arrays"]))["picture"].to_dataset())
    np.testing.assert_allclose(found.coordinates[0][[1, 5]], [0, 1], atol=1e-12)
    ends = [float(landscape(network)) for network in networks[:2]]
    np.testing.assert_allclose(found.values["loss"][[1, 5]], ends)
    np.testing.assert_allclose(found.values["test_loss"], found.values["loss"], rtol=1e-12)
    assert "none interpolated" in facts["headline"]
    assert "The length of the gradient along the line" in pathlib.Path(facts["files"]["page"]).read_text()


def test_two_others_span_a_plane_and_are_loaded_as_the_model(lossatlas, files, monkeypatch):
    networks, landscape = files
    asked = []
    whole = plane_module.load_model
    monkeypatch.setattr(
        plane_module, "load_model", lambda *given, **options: asked.append(given) or whole(*given, **options)
    )
    facts, _ = ask(lossatlas, "--to", "net1.safetensors", "net2.safetensors", "--grid", "3", "--network", "big")
    assert asked == [(pathlib.Path(f"net{i}.safetensors"), "big") for i in (1, 2)]
    assert len(facts["directions"]) == 2
    assert facts["regenerate"].endswith("--network big --grid 3 --to net1.safetensors net2.safetensors")
    again, _ = ask(lossatlas, "--to", "net1.safetensors", "--to", "net2.safetensors", "--grid", "3", "--network", "big")
    assert again["regenerate"] == facts["regenerate"]
    assert facts["loss"] == pytest.approx(float(landscape(networks[0])))


@pytest.mark.slow
def test_a_pytorch_module_has_its_plane(lossatlas, files, monkeypatch):
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchax") is None:
        pytest.skip("torch or torchax is not installed")
    del files
    monkeypatch.delitem(sys.modules, "torch_planes_here", raising=False)
    pathlib.Path("torch_planes_here.py").write_text(TORCH)
    words = ["--loss", "cross_entropy", "--directions", "hessian", "--line", "--grid", "3", "--json"]
    code, out, err = lossatlas("plane", "torch_planes_here:skip", "--data", "data.npz", *words)
    assert code == 0, err
    facts = json.loads(out)
    assert facts["num_parameters"] == 17
    assert facts["directions"][0]["eigenvalue"] > 0
    assert facts["points"] == 3


def test_what_cannot_be_used_is_refused_in_one_line(lossatlas, files):
    del files
    save_model("wide.safetensors", Model(Dense(jax.random.key(0), [2, 4, 2]), None, "cross_entropy", "another"))
    save_model("squares.safetensors", Model(Dense(jax.random.key(1), [2, 3, 2]), None, "mse", "another loss"))
    nets = [f"net{i}.safetensors" for i in range(3)]
    for words, said in (
        (["--only", "nothing"], "selects no parameter"),
        (["--only", "*bias"], "include_biases"),
        (["--extent", "-1"], "extent must be a positive number"),
        (["--grid", "1"], "at least 2"),
        (["--to", "wide.safetensors"], "does not fit"),
        (["--to", "net1.safetensors", "--snapshots", "net2.safetensors"], "not both"),
        (["--snapshots", "net1.safetensors"], "need at least 3 snapshots"),
        (["--snapshots", "net0.safetensors", "net1.safetensors", "wide.safetensors"], "Snapshot 3 has 22 parameters"),
        (["--max-error", "0"], "positive number"),
        (["--to", "net1.safetensors", "--directions", "hessian"], "--to) says the directions"),
        (["--snapshots", *nets, "--directions", "layer"], "--snapshots) says the directions"),
        (["--to", "net1.safetensors", "--include-biases"], "goes with random directions"),
        (["--directions", "hessian", "--include-biases"], "goes with random directions"),
        (["--snapshots", *nets, "--only", "layers[0].*"], "does not go with snapshots"),
        (["--line", "--to", "net1.safetensors", "net2.safetensors"], "span a plane"),
        (["--to", "squares.safetensors"], "differ in their loss"),
        (["--snapshots", *nets[:2], "squares.safetensors"], "differ in their loss"),
    ):
        code, out, err = lossatlas("plane", "net0.safetensors", "--data", "data.npz", *words)
        assert (code, out) == (2, ""), words
        assert said in err
        assert not pathlib.Path("lossatlas").exists()
