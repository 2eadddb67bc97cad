# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

"""Models made smaller and larger, from the shell and from Python."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import lossatlas
from lossatlas import data, networks
from lossatlas._errors import InputError
from lossatlas.cli._app import app
from lossatlas.cli._run import run as call
from lossatlas.embedding import split
from lossatlas.workbench import Model, grow, save_model, shrink
from lossatlas.workbench._shrink import covering


@pytest.fixture(scope="module")
def model() -> Model:
    """A network of 3 neurons on diabetes, one of them in three copies, and one that nothing reads."""
    surveyed = data.load("diabetes")
    narrow = networks.Dense(jax.random.key(0), [10, 3, 1])
    wide, _ = split(narrow, "hidden[0]", 1, [0.2, 1.1, -0.3])
    last = wide.layers[1].weight.at[0, 2].set(0.0)
    wide = networks.Dense.from_layers([wide.layers[0], networks.DenseLayer(last, wide.layers[1].bias)])
    return Model(wide, surveyed.preprocessing, "mse", "a test")


def test_a_model_shrinks_to_what_it_is_in_the_units_of_the_target(model):
    found = shrink(model, "diabetes", tolerance=1e-6)
    assert (model.shape, found.model.shape) == ("10-5-1", "10-2-1")
    assert found.change <= 1e-6
    assert found.rows_seen + found.rows_fresh == 442
    table = data.load("diabetes")
    before, after = (
        m.predict(pd.DataFrame(table.features, columns=table.preprocessing.columns)) for m in (model, found.model)
    )
    difference = np.abs(before.to_numpy() - after.to_numpy()).max()
    assert difference < 1e-6
    assert found.fresh_change is not None
    assert found.fresh_change <= difference * (1 + 1e-9) + 1e-12
    assert "10-5-1 -> 10-2-1" in found.model.summary


def test_the_tolerance_is_kept_on_the_rows_seen_and_nothing_is_invented(model):
    one = dataclasses.replace(model, network=networks.Dense(jax.random.key(5), [10, 2, 1], init=0.0))
    kept = shrink(one, "diabetes", tolerance=1e-9)
    assert kept.model.num_parameters == one.num_parameters
    loose = shrink(model, "diabetes", tolerance=5.0)
    assert loose.change <= 5.0
    assert loose.model.num_parameters < model.num_parameters


def test_a_grown_model_says_the_same(model, tmp_path):
    grown = grow(model, [9])
    wide = grown.model
    assert (grown.on_all_inputs, grown.change, grown.gradient_after) == (True, None, None)
    assert wide.shape == "10-9-1"
    rows = np.random.default_rng(0).normal(size=(7, 10))
    np.testing.assert_allclose(wide.predict(rows), model.predict(rows), rtol=1e-12)
    save_model(tmp_path / "wide.safetensors", wide)
    np.testing.assert_array_equal(lossatlas.load(tmp_path / "wide.safetensors").predict(rows), wide.predict(rows))


@settings(max_examples=20, deadline=None)
@given(st.integers(59, 400))
def test_the_rank_is_the_first_that_covers_with_confidence(n):
    value = covering(np.arange(1.0, n + 1))
    assert value is not None
    # P(the k-th smallest covers 95 %) = P(Bin(n, .95) <= k - 1)
    assert binom.cdf(value - 1, n, 0.95) >= 0.95
    assert value == 1 or binom.cdf(value - 2, n, 0.95) < 0.95


def test_too_few_rows_cover_nothing():
    assert covering(np.ones(58)) is None
    assert covering(np.ones(59)) == 1.0


def test_the_promise_for_new_rows_holds_on_new_rows():
    random = np.random.default_rng(1)

    def share_of_new_rows() -> float:
        bound = covering(random.exponential(size=100))
        assert bound is not None
        return float(np.mean(random.exponential(size=4000) <= bound))

    kept = [share_of_new_rows() >= 0.95 for _ in range(200)]
    # At least 95 % of the time, less five standard errors.
    assert np.mean(kept) > 0.95 - 5 * np.sqrt(0.95 * 0.05 / 200)


def test_the_promise_holds_for_a_network_with_factored_layers():
    network = networks.Dense(jax.random.key(2), [6, 20, 20, 2], init=0.5)
    random = np.random.default_rng(2)
    rows, new = random.normal(size=(500, 6)), random.normal(size=(4000, 6))
    found = shrink(Model(network, None, "mse", "a test"), data.Arrays(rows, None), parameters=300)
    assert any("factored to rank" in step for step in found.steps)
    assert found.model.num_parameters == found.chosen.num_parameters <= 300
    assert [size.num_parameters for size in found.curve] == sorted(
        {s.num_parameters for s in found.curve}, reverse=True
    )
    change = np.abs(found.model.predict(new).to_numpy() - Model(network, None, "mse", "a test").predict(new).to_numpy())
    assert found.fresh_change is not None
    kept = np.mean(change.max(1) <= found.fresh_change)
    assert kept > 0.95 - 5 * np.sqrt(0.95 * 0.05 / found.rows_fresh)


def test_from_the_shell(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    monkeypatch.chdir(tmp_path)
    save_model("big.safetensors", model)
    words = ["shrink", "big.safetensors", "--data", "diabetes", "--tolerance", "1e-6", "--out", "small.safetensors"]
    assert call(app, words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "10-5-1 (61 parameters) -> 10-2-1 (25 parameters)"
    assert said[1].startswith("largest change of an output on the 310 rows seen:")
    assert said[2].endswith("for 95 % of new rows, with 95 % confidence (132 rows were held back)")
    assert lossatlas.load("small.safetensors").shape == "10-2-1"
    assert call(app, [*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["after"]["widths"], facts["after"]["parameters"]) == ("10-2-1", 25)
    # Between two neurons and one: both, fed by the one linear unit that they share.
    assert [size["parameters"] for size in facts["curve"]] == [25, 17, 13]
    assert facts["curve"][1]["widths"] == "10-0+1-2-1"
    assert facts["steps"] == [
        "layer 0: 1 constant or unread neurons folded into biases",
        "layer 0: 4 neurons merged into 2",
    ]
    page = (tmp_path / "small.html").read_text()
    assert "61 → 25 parameters" in page
    assert "lossatlas shrink big.safetensors --data diabetes --tolerance 1e-06" in page
    assert call(app, ["grow", "small.safetensors", "--widths", "6", "--out", "wide.safetensors"]) == 0
    assert "10-2-1 (25 parameters) -> 10-6-1 (73 parameters)\noutputs stay for all inputs\n" in capsys.readouterr().out
    parted = ["grow", "small.safetensors", "--widths", "6", "--part", "0.02", "--out", "parted.safetensors"]
    assert call(app, parted) == 0
    assert "noise of 0.02 on the copies; --data measures by how much\ncaution: Noise" in capsys.readouterr().out
    assert call(app, [*parted, "--data", "diabetes"]) == 0
    assert "and may change on others\nlargest entry of the gradient" in capsys.readouterr().out
    again = ["shrink", "small.safetensors", "--data", "diabetes", "--tolerance", "1e-9", "--out", "same.safetensors"]
    assert call(app, again) == 0
    assert capsys.readouterr().out.startswith("Nothing can be removed at a tolerance of 1e-09: 10-2-1")


def test_a_budget_gives_the_best_network_of_the_size_with_its_curve(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    monkeypatch.chdir(tmp_path)
    save_model("big.safetensors", model)
    words = ["shrink", "big.safetensors", "--data", "diabetes", "--parameters", "20", "--out", "small.safetensors"]
    assert call(app, words) == 0
    said = capsys.readouterr().out
    assert said.startswith("10-5-1 (61 parameters) -> 10-0+1-2-1 (17 parameters)\n")
    assert "layer 0: factored to rank 1" in said
    assert "loss on the rows held back: " in said
    assert lossatlas.load("small.safetensors").shape == "10-0+1-2-1"
    assert "factored to rank 1" in (tmp_path / "small.html").read_text()


def test_a_convolutional_network_in_float32_is_shrunk_with_its_accuracy():
    rows = np.random.default_rng(0).normal(size=(150, 1, 5, 5)).astype(np.float32)
    narrow = networks.Conv(jax.random.key(0), (1, 5, 5), [2], [3], norm="batch", pool="max")
    wide, _ = split(narrow, "channels[0]", 0, [0.2, 0.5, 0.3])
    wide = jax.tree.map(lambda a: a.astype(np.float32) if eqx.is_inexact_array(a) else a, wide)
    labels = np.asarray(jax.vmap(wide)(rows)).argmax(1)
    found = shrink(Model(wide, None, "cross_entropy", "a test"), data.Arrays(rows, labels), tolerance=1e-4)
    assert (found.before.shape, found.chosen.shape) == ("conv 1x5x5: 4 | 3", "conv 1x5x5: 2 | 3")
    assert found.before.accuracy == found.chosen.accuracy == 1.0
    assert [size.num_parameters for size in found.curve] == sorted(
        (s.num_parameters for s in found.curve), reverse=True
    )
    assert found.curve[0].change < 1e-6 < found.curve[-1].change
    after = jax.vmap(found.model.network)(rows)
    assert after.dtype == np.float32
    assert np.abs(np.asarray(after) - np.asarray(jax.vmap(wide)(rows))).max() < 1e-4


def test_a_foreign_module_is_shrunk_by_the_units_that_are_discovered_in_it():
    rows = np.random.default_rng(0).normal(size=(150, 3))
    module = eqx.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    twins = [
        module.layers[0].weight.at[3].set(module.layers[0].weight[0]),
        module.layers[0].bias.at[3].set(module.layers[0].bias[0]),
    ]
    module = eqx.tree_at(lambda m: [m.layers[0].weight, m.layers[0].bias], module, twins)
    found = shrink(Model(module, None, "mse", "a test"), data.Arrays(rows, None), tolerance=1e-6)
    assert (found.before.num_parameters, found.chosen.num_parameters) == (26, 20)
    small = found.model.network.params
    assert type(small) is eqx.nn.MLP
    inputs = jnp.asarray(rows)
    np.testing.assert_allclose(jax.vmap(small)(inputs), jax.vmap(module)(inputs), atol=1e-6)
    with pytest.raises(InputError, match="can be resized"):
        shrink(
            Model(eqx.nn.Linear(3, 2, key=jax.random.key(0)), None, "mse", ""), data.Arrays(rows, None), tolerance=1.0
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("shrink big.safetensors --data iris --tolerance 1 --out s.safetensors", "The model reads age, sex"),
        ("shrink big.safetensors --data diabetes --tolerance 0 --out s.safetensors", "tolerance (--tolerance) must be"),
        ("shrink big.safetensors --data diabetes --out s.safetensors", "Give a tolerance (--tolerance) or"),
        (
            "shrink big.safetensors --data diabetes --parameters 5 --out s.safetensors",
            "parameters are left, more than 5",
        ),
        ("shrink none.safetensors --data diabetes --tolerance 1 --out s.safetensors", "There is no run"),
        ("shrink big.safetensors --data diabetes --tolerance 1 --out no/s.safetensors", "There is no folder 'no'"),
        ("grow big.safetensors --widths 2 --out s.safetensors", "cannot be widened to 2"),
        ("grow big.safetensors --depth 2 --data diabetes --part 0.1 --out s.safetensors", "and needs widths; got 0.1"),
        ("grow big.safetensors --widths 9,9 --out s.safetensors", "one size for each"),
    ],
)
def test_bad_input_is_one_line(model, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    monkeypatch.chdir(tmp_path)
    save_model("big.safetensors", model)
    assert call(app, words.split()) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.safetensors"]


def test_arrays_of_other_columns_are_refused(model):
    with pytest.raises(InputError, match="reads 10 columns"):
        shrink(model, np.zeros((20, 3)), tolerance=1.0)
    with pytest.raises(InputError, match="at least 10 rows"):
        shrink(model, jnp.zeros((5, 10)), tolerance=1.0)
