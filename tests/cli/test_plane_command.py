"""`lossatlas plane`: numbers, files, and what is refused."""

import importlib.util
import json
import pathlib
import re
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lossatlas.workbench._plane as plane_module
from lossatlas.figures import format_number
from lossatlas.geometry import Slice, as_directions, loss_slice, merge_tree, moved_along, refined_slice
from lossatlas.geometry._refine import ErrorScale
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.workbench import Model, save_model
from lossatlas.workbench._arrays import read_arrays
from lossatlas.workbench._page import read_page_figures
from lossatlas.workbench._plane_page import View, cautions, headline, plane_facts


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
    lowest = float(landscape(moved_along(networks[0], picture.directions, facts["lowest_at"])))
    assert facts["lowest"] == pytest.approx(lowest, rel=1e-12)  # computed
    assert facts["minima"][0]["minimum"] == facts["lowest"] <= loss.min()
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
    losses = [float(landscape(each)) for each in networks]
    assert [row["loss"] for row in facts["networks"]] == pytest.approx(losses)  # which lie between the three points
    assert [row["network"] for row in facts["networks"]] == ["the network", "network 2", "network 3"]
    assert facts["lowest"] <= min(losses) * (1 + 1e-12)
    assert f"{format_number(losses[2])} at network 3 and up to" in facts["headline"]
    shown, _ = read_page_figures(pathlib.Path(facts["files"]["page"]))
    assert {"the network", "network 2", "network 3"} <= {trace.get("name") for trace in shown["loss"]["wide"]["data"]}
    assert facts["regenerate"].endswith("--network big --grid 3 --to net1.safetensors net2.safetensors")
    again, _ = ask(lossatlas, "--to", "net1.safetensors", "--to", "net2.safetensors", "--grid", "3", "--network", "big")
    assert again["regenerate"] == facts["regenerate"]
    assert facts["loss"] == pytest.approx(float(landscape(networks[0])))


def test_a_tolerance_relative_to_the_value_is_said_so(lossatlas, files):
    del files
    facts, err = ask(lossatlas, "--line", "--relative-to", "value")
    assert err.startswith("at least 100 points, 100 evaluations of the loss")
    assert "relative to the value often thousands of points" in err
    assert "between them the loss is within 1 % of itself on 95 % of the line" in facts["headline"]


def test_what_is_lower_and_what_is_known_is_judged_by_the_error_that_holds_there():
    # From 5e-4 to 1: a hundredth of the spread is above the lowest losses, a hundredth of the loss is not.
    landscape = Landscape.from_function(lambda p, batch: batch * (5e-4 + (p[0] - 0.3) ** 2), jnp.ones(1))
    line = as_directions(jnp.zeros(1), [np.ones(1)])
    scales: tuple[tuple[ErrorScale, bool], ...] = (("range", True), ("value", False))
    for relative_to, is_cautioned in scales:
        found = refined_slice(jax.random.key(0), jnp.zeros(1), landscape, line, relative_to=relative_to)
        # The polynomial is exact: put the error to what was allowed.
        refined = found.settings["refined"]
        shares = {"loss": 0.01} if relative_to == "value" else {}
        settings = {**found.settings, "refined": {**refined, "relative_error": shares}}
        found = eqx.tree_at(lambda f: (f.error["loss"], f.settings), found, (0.01, settings))
        view = View(found, found.on_grid(301), merge_tree(found), None)
        facts = plane_facts(view, 0.0905, [{"network": "the network", "at": [0.0], "loss": 0.0905}])
        assert any("--relative-to" in caution for caution in cautions(facts)) == is_cautioned
        assert "the lowest that was computed, 0.0005, is at (0.3)" in headline(facts, 1)
        assert facts["lowest"] in found.values["loss"]
        assert "no point that was computed is clearly lower" in headline({**facts, "loss": facts["lowest"]}, 1)


def test_directions_that_are_orthogonal_to_rounding_have_the_cosine_zero():
    landscape = Landscape.from_function(lambda p, batch: batch + jnp.sum(p**2), jnp.zeros(1))
    plane = as_directions(jnp.zeros(2), [np.array([1.0, -2e-16]), np.array([0.0, 1.0])])
    found = loss_slice(jnp.zeros(2), landscape, plane, num=3)
    assert found.directions.cosines[0, 1] != 0
    assert repr(plane_facts(View(found, found, merge_tree(found), None), 0.0, [])["cosine"]) == "0.0"


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
        (["--grid", "1"], "grid (--grid) must be at least 2, got 1"),
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
