"""The plateau doctor from the shell and from Python: page, model files, JSON."""

import json
import re

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

import lossatlas
from lossatlas import data, embedding
from lossatlas._errors import InputError
from lossatlas.cli._app import app
from lossatlas.cli._run import run as call
from lossatlas.networks import Dense, DenseLayer
from lossatlas.workbench import Model, diagnose, save_model
from lossatlas.workbench._diagnosis_page import render_diagnosis


@pytest.fixture(scope="module")
def model() -> Model:
    """Near the minimum of width 2 of the one-dimensional problem, in a network of width 5."""
    surveyed = data.load("hierarchy-1d")
    as_array = lambda value: jnp.asarray(value, float)  # noqa: E731
    first = DenseLayer(as_array([[-6.721661], [-4.30498]]), as_array([-1.121143, -6.076392]), None)
    narrow = Dense.from_layers([first, DenseLayer(as_array([[0.793406, -1.156048]]), as_array([-0.333006]), None)])
    wide, _ = embedding.split(narrow, "hidden[0]", 1, [0.3, 0.2, 0.4, 0.1])
    return Model(wide, surveyed.preprocessing, "mse", "a planted plateau")


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    return diagnose(model, "hierarchy-1d", out=tmp_path_factory.mktemp("out") / "here", num_steps=20)


def test_page_says_the_verdict_and_asks_nothing_of_the_network(written):
    text = written.page.read_text(encoding="utf-8")
    assert "Training is stuck at a network of 2 neurons (7 parameters of 16)" in text
    assert "<h1>Stuck</h1>" in text
    assert "default-src 'none'" in text
    assert not re.search(r"<(?:script|img|link)[^>]+(?:src|href)=", text)
    (found,) = re.findall(r'<script id="figures" type="application/json">(.*?)</script>', text, re.S)
    figures = json.loads(found)
    assert set(figures) == {"widths", "groups", "ways", "eigenvalues"}
    assert set(figures["ways"]) == {"wide", "narrow"}


def test_network_after_the_step_is_what_the_page_says(written, model):
    before, after = model.network, lossatlas.load(written.after_step).network
    assert [leaf.shape for leaf in jax.tree.leaves(before)] == [leaf.shape for leaf in jax.tree.leaves(after)]
    landscape = data.load("hierarchy-1d").landscape()
    assert float(landscape(after)) == pytest.approx(written.tables["ways"][0]["loss"], abs=1e-12)
    assert lossatlas.load(written.small).shape == "1-2-1"


def test_tables_are_strict_json(written):
    text = json.dumps(written.tables, allow_nan=False)
    assert json.loads(text)["standing"]["point"]["inertia"]["counts"] == [0, 0, 7]


def test_command_prints_verdict_ways_and_paths(model, tmp_path, capsys):
    save_model(tmp_path / "m.safetensors", model)
    options = ["--data", "hierarchy-1d", "--out", str(tmp_path / "out"), "--num-steps", "0"]
    assert call(app, ["diagnose", str(tmp_path / "m.safetensors"), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Training is stuck at a network of 2 neurons")
    assert "hidden[0]" in printed
    assert "split unit" in printed
    assert f"page: {tmp_path / 'out' / 'diagnosis.html'}" in printed
    assert call(app, ["diagnose", str(tmp_path / "m.safetensors"), *options, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["state"] == "stuck"
    assert facts["files"]["page"].endswith("diagnosis.html")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("iris", "The model reads x"),
        (pd.DataFrame({"x": [1.0, 2.0]}), "needs the target column"),
        (pd.DataFrame({"z": [1.0, 2.0], "y": [1.0, 2.0]}), "x"),
    ],
)
def test_data_that_do_not_fit_are_refused(model, tmp_path, table, message):
    with pytest.raises(InputError, match=message):
        diagnose(model, table, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_of_the_model_cannot_break_the_page(written):
    tables = written.tables | {"name": "</script><script>alert(1)</script>"}
    text = render_diagnosis(tables, curve=None, regenerate=tables["name"], versions={}, files={})
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
