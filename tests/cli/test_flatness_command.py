"""`lossatlas flatness`: numbers, files, several models, foreign modules, and what is refused."""

import importlib.util
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.geometry import flatness_report
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, apply_permutation
from lossatlas.workbench import Model, save_model


@pytest.fixture
def files():
    """Two models of 17 parameters, and their data."""
    inputs = np.random.default_rng(0).normal(size=(20, 2))
    targets = (inputs[:, 0] > 0).astype(int)
    np.savez("data.npz", inputs=inputs, targets=targets)
    landscape = Landscape(inputs, targets, loss="cross_entropy")
    networks = {}
    for name, seed in (("one", 0), ("two", 1)):
        networks[name] = Dense(jax.random.key(seed), [2, 3, 2], activation="relu")
        save_model(f"{name}.safetensors", Model(networks[name], None, "cross_entropy", name))
    return networks, landscape


CHEAP = ["--data", "data.npz", "--measures", "local_energy,sharpness", "--draws", "3"]


def test_one_model_is_measured_as_from_python(lossatlas, files):
    networks, landscape = files
    words = ["--data", "data.npz", "--measures", "sharpness"]
    code, out, err = lossatlas("flatness", "one.safetensors", *words)
    assert code == 0, err
    assert "gradients of" in err  # the cost, before anything long
    assert re.search(r"about [\de.-]+ s, working memory [\d.]+ MB", err)
    assert "adaptive sharpness" in out
    facts = json.loads(pathlib.Path("lossatlas/flatness/flatness.json").read_text())
    assert out.startswith(facts["headline"])
    report = flatness_report(jax.random.key(0), networks["one"], landscape, measures=["sharpness"])
    values = {row["measure"]: row["value"] for row in facts["rows"]}
    assert values == pytest.approx({name: m.value for name, m in report.measures.items()}, rel=1e-10)
    audit = facts["networks"]["one"]["audit"]
    assert audit["kind"] == "scale"
    assert len(audit["factors"]["hidden[0]"]) == 2
    assert all(abs(np.log2(factor)) >= 1 for factor in audit["factors"]["hidden[0]"])
    assert re.search(r"\(3 factors from \S+ to \S+\)", facts["headline"])
    assert {row["name"]: row["verdict"] for row in audit["rows"]}["adaptive sharpness"] == "unchanged"
    assert facts["regenerate"] == (
        "lossatlas flatness one.safetensors --data data.npz --network recommended --measures sharpness"
    )
    page = pathlib.Path("lossatlas/flatness/flatness.html").read_text()
    assert facts["headline"] in page
    assert "What depends on how the function is written" in page


def test_two_models_are_compared_and_a_terminal_has_a_table(lossatlas, files):
    del files
    words = [*CHEAP, "--no-audit", "--out", "both"]
    code, out, err = lossatlas("flatness", "one.safetensors", "two.safetensors", *words)
    assert code == 0, err
    assert out.startswith("Flatter by how many of 6 measures")
    assert "2 without an interval are not tested." in out
    assert "adaptive sharpness" in out
    facts = json.loads(pathlib.Path("both/flatness.json").read_text())
    assert set(facts["networks"]) == {"one", "two"}
    assert {row["flatter"] for row in facts["differences"]} <= {None, "one", "two"}
    assert len(facts["differences"]) == 8 + 3 * 2 * 5
    untested = {row["measure"] for row in facts["rows"] if row["flatter"] == "not tested"}
    assert untested == {"SAM sharpness", "adaptive sharpness"}
    assert {row["measure"] for row in facts["differences"] if row["p_value"] is None} == untested


def test_of_three_models_the_decided_pairs_are_said(lossatlas, files):
    networks, _ = files
    # The same as "one" but for the order of its units: no test can tell the two apart.
    turned = apply_permutation(networks["one"], "hidden[0]", jnp.array([2, 0, 1]))
    save_model("turned.safetensors", Model(turned, None, "cross_entropy", "turned"))
    words = ["--data", "data.npz", "--measures", "hessian", "--no-audit"]
    code, out, err = lossatlas("flatness", *(f"{name}.safetensors" for name in ("one", "turned", "two")), *words)
    assert code == 0, err
    facts = json.loads(pathlib.Path("lossatlas/flatness/flatness.json").read_text())
    trace = {(p["first"], p["second"]): p for p in facts["pairs"] if p["measure"] == "Hessian trace"}
    values = {name: found["measures"][0]["value"] for name, found in facts["networks"].items()}
    low, high = sorted(("one", "two"), key=values.__getitem__)
    assert {pair: row["flatter"] for pair, row in trace.items()} == {
        ("one", "turned"): "not decided",
        ("one", "two"): low,
        ("turned", "two"): low.replace("one", "turned"),
    }
    row = next(row for row in facts["rows"] if row["measure"] == "Hessian trace")
    said = {"one": "one than two; turned than two", "two": "two than one, turned"}[low]
    assert row["flatter"] == said
    assert out.startswith("Flatter by how many of 4 measures: ")
    assert f"{low} than {high} by " in out
    assert "difference" in out
    page = pathlib.Path("lossatlas/flatness/flatness.html").read_text()
    assert "Pair by pair" in page


def test_what_cannot_be_used_is_refused_in_one_line(lossatlas, files):
    del files
    for words, said in (
        (["flatness", *CHEAP], "Give at least one model"),
        (["flatness", "one.safetensors", "--data", "data.npz", "--measures", "hesian"], "Did you mean 'hessian'"),
        (["flatness", "one.safetensors", *CHEAP[:4], "--draws", "1"], "num_draws (--draws) must be at least 2, got 1."),
        (["flatness", "one.safetensors", *CHEAP, "--steps", "3"], "num_steps (--steps) must be at least 16, got 3."),
        (["flatness", "one.safetensors", *CHEAP, "--chains", "0"], "num_chains (--chains) must be at least 1, got 0."),
        (["flatness", "one.safetensors", *CHEAP, "--radius", "0"], "radius (--radius) must be above 0, got 0.0."),
        (["flatness", "one.safetensors", *CHEAP, "--threshold", "nan"], "threshold (--threshold) must be above 0"),
        (["flatness", "one.safetensors", *CHEAP, "--localisation", "-1"], "must be at least 0, got -1.0."),
        (["flatness", "one.safetensors", *CHEAP, "--level", "1"], "level (--level) must lie between 0 and 1"),
        (["flatness", "one.safetensors", *CHEAP, "--only", "nothing"], "selects no parameter"),
    ):
        code, out, err = lossatlas(*words)
        assert (code, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1, err  # before the cost is said, and one line
        assert not pathlib.Path("lossatlas").exists()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torchax"), reason="torchax is not installed")
def test_a_pytorch_module_is_audited_by_the_units_that_are_discovered(lossatlas, files):
    pytest.importorskip("torch")
    del files
    pathlib.Path("nets.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.last = torch.nn.Linear(2, 4), torch.nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        return self.last(torch.relu(self.first(x)))\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Net().eval(), torch.zeros(2)\n"
    )
    code, out, err = lossatlas("flatness", "nets:make", *CHEAP, "--json")
    assert code == 0, err
    (found,) = json.loads(out)["networks"].values()
    assert found["audit"]["kind"] == "scale", found["audit"]
    verdicts = {row["name"]: row["verdict"] for row in found["audit"]["rows"]}
    assert verdicts["local energy, multiplicative, loss"] == "unchanged"
    assert verdicts["SAM sharpness"] == "scale dependent"
