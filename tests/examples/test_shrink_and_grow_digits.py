"""The example on digits, end to end."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.networks import Dense, named_parameters, replace_parameters


_FILE = pathlib.Path(__file__).parents[2] / "examples" / "shrink_and_grow_digits.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("shrink_and_grow_digits", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # optax mixes counts with decay rates, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield module


def _tiny(example, architecture):
    sizes = (3, 4, 5) if architecture.endswith("cnn") else (6, 2, 5)
    return example.Settings(architecture, sizes, (2, 2, 3), epochs=2, share=0.7, rows=100)


def _check(result, share):
    trained, shrunk, control = result["shrunk"]
    assert trained["change"] == trained["new"] == 0.0
    assert shrunk["parameters"] == control["parameters"] <= share * trained["parameters"]
    assert 0 < shrunk["change"] < control["change"]
    grown = result["grown"]
    narrow, wide = grown["parameters"]
    assert wide > 1.5 * narrow
    assert grown["change"] < 1e-5  # float32
    assert grown["defect"] < 1e-5
    assert all(np.isfinite(value) for value in grown["losses"].values())


@pytest.mark.slow
def test_digits_networks_are_shrunk_and_grown(example):
    given = _tiny(example, "cnn")
    _check(example.run(given, 0, lambda _: None), given.share)


def test_digits_are_split_without_overlap(example):
    seen, fresh = example.digits(example.settings("cnn", quick=False), 0)
    assert (len(seen.inputs), len(fresh.inputs)) == (1200, 597)
    assert seen.inputs.shape[1:] == (1, 8, 8)
    rows = {row.tobytes() for row in fresh.inputs}
    assert sum(row.tobytes() in rows for row in seen.inputs) == 0


def test_magnitude_control_keeps_the_largest_units(example):
    network = Dense(jax.random.key(0), [1, 3, 1])
    arrays = named_parameters(network)
    arrays["layers[0].weight"] = jnp.array([[1.0], [2.0], [3.0]])
    arrays["layers[1].weight"] = jnp.array([[5.0, 0.1, 1.0]])  # products 5, 0.2, 3
    network = replace_parameters(network, arrays)
    kept = named_parameters(example.by_magnitude(network, network.with_sizes({"hidden[0]": 2})))
    assert kept["layers[0].weight"].tolist() == [[1.0], [3.0]]
    assert kept["layers[1].weight"].tolist() == [[5.0, 1.0]]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["cnn", "transformer", "torch-cnn"])
def test_digits_at_full_size(example, architecture):
    if architecture.startswith("torch"):
        pytest.importorskip("torch")
    given = example.settings(architecture, quick=False)
    result = example.run(given, 0, lambda _: None)
    _check(result, given.share)
    trained, shrunk, control = result["shrunk"]
    assert trained["accuracy"] > (0.97 if given.kind == "cnn" else 0.94)
    assert shrunk["accuracy"] > control["accuracy"]
    assert shrunk["covered"] > 0.9
    losses = result["grown"]["losses"]
    assert losses["wide_noisy"] < losses["narrow"] < result["grown"]["loss"]
    if architecture.startswith("torch"):
        assert result["alone"] < 1e-4
