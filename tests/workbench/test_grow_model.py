"""Models made wider and deeper, with what that is worth on data."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import data
from lossatlas._errors import InputError
from lossatlas.embedding import lift
from lossatlas.networks import Conv, Dense, Recurrent, Residual
from lossatlas.workbench import Model, grow


KEY = jax.random.key(0)
DIABETES = data.load("diabetes")


@pytest.fixture(scope="module")
def relu() -> Model:
    return Model(Dense(KEY, [10, 2, 1], activation="relu"), DIABETES.preprocessing, "mse", "a test")


def test_a_deeper_network_says_the_same_on_the_rows_and_its_gradient_follows(relu):
    grown = grow(relu, [3, 3], depth=2, data=DIABETES)
    assert (grown.model.shape, grown.on_all_inputs, grown.rows, grown.loss) == ("10-3-3-1", False, 442, "mse")
    rows = DIABETES.features
    before, after = (model.predict(rows).to_numpy() for model in (relu, grown.model))
    difference = np.abs(before - after).max()
    assert difference < 1e-9
    assert grown.change is not None
    np.testing.assert_allclose(grown.change, difference, atol=1e-10)
    for record in grown.records:
        defect = record.certificate.intertwiner_defect
        assert defect is not None
        assert defect < 1e-8
    assert grown.gradient_before is not None
    assert grown.gradient_before > 0.01
    assert grown.caution is None
    # Far from the rows a new layer is not linear.
    far = 100 * np.random.default_rng(0).normal(size=(50, 10))
    assert np.abs(relu.predict(far) - grown.model.predict(far)).to_numpy().max() > 1e-3
    assert "10-2-1 -> 10-3-3-1" in grown.model.summary


def test_new_layers_stand_where_they_were_asked_for_and_depend_on_the_seed(relu):
    grown = grow(relu, depth=2, before=[0], data=DIABETES, seed=7)
    assert grown.model.shape == "10-10-2-1"
    inputs = jnp.asarray(DIABETES.arrays("mse")[0])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), 0), 0)  # of the place, then of the layer
    expected, _ = lift(relu.network, inputs, 0, 10, key=key)
    assert eqx.tree_equal(grown.model.network, expected)
    other = grow(relu, depth=2, before=[0], data=DIABETES, seed=8).model.network
    assert not eqx.tree_equal(other, expected)


def test_tanh_is_nearly_kept_and_the_change_is_said(relu):
    model = dataclasses.replace(relu, network=Dense(KEY, [10, 2, 1]))
    grown = grow(model, depth=3, data=DIABETES.features)
    assert grown.model.shape == "10-2-2-2-1"
    assert grown.change is not None
    assert 1e-6 < grown.change < 0.01 * relu.output_unit
    assert grown.caution is not None
    assert "nearly affine" in grown.caution
    assert (grown.loss, grown.gradient_after) == (None, None)


def test_units_by_name_in_any_architecture():
    images = np.random.default_rng(0).normal(size=(6, 1, 4, 4))
    model = Model(Conv(KEY, (1, 4, 4), [2], [3]), None, "cross_entropy", "")
    arrays = data.Arrays(images, np.array([0, 1, 2, 0, 1, 2]))
    grown = grow(model, {"channels[0]": 3}, data=arrays)
    assert grown.model.shape == "conv 1x4x4: 3 | 3"
    assert grown.on_all_inputs
    assert grown.change is not None
    assert grown.change < 1e-14
    np.testing.assert_allclose(grown.model.predict(images), model.predict(images), atol=1e-14)


def test_a_normalised_stream_is_copied_as_a_whole():
    model = Model(Residual(KEY, 3, 4, 2, num_blocks=1, num_hidden=2, norm="layer"), None, "mse", "")
    rows = np.random.default_rng(0).normal(size=(5, 3))
    grown = grow(model, {"stream": 8, "hidden[0]": 3})
    assert grown.model.shape == "residual 3-8-2 | 1 block of 3"
    np.testing.assert_allclose(grown.model.predict(rows), model.predict(rows), atol=1e-13)
    for size in (6, 2):
        with pytest.raises(InputError, match=f"give a multiple of 4, got {size}"):
            grow(model, {"stream": size})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Say how to grow"),
        ({"depth": 2}, r"needs data \(--data\)"),
        ({"widths": [9], "before": [0]}, r"needs depth \(--depth\)"),
        ({"depth": 0, "data": DIABETES}, "has depth 1 and cannot be grown to 0"),
        ({"depth": 3, "data": DIABETES, "before": [0]}, "a place for each of the 2 new layers"),
        ({"depth": 2, "data": DIABETES, "before": [5]}, "before must be 0 to 1"),
        ({"widths": {"hiden[0]": 9}}, "Did you mean 'hidden"),
        ({"widths": [9], "depth": 2, "data": DIABETES}, "one size for each"),
    ],
)
def test_what_cannot_be_grown_is_refused(relu, arguments, said):
    with pytest.raises(InputError, match=said):
        grow(relu, **arguments)


def test_other_architectures_get_convolutions_and_blocks():
    rows = np.random.default_rng(0).normal(size=(6, 1, 4, 4))
    deep = grow(Model(Conv(KEY, (1, 4, 4), [2], [3], activation="relu"), None, "mse", ""), depth=2, data=rows)
    assert deep.model.shape == "conv 1x4x4: 2-2 | 3"
    assert deep.change is not None
    assert deep.change < 1e-12
    blocks = grow(
        Model(Residual(KEY, 3, 4, 2, num_hidden=2, num_blocks=1), None, "mse", ""), depth=3, data=rows[:, 0, 0, :3]
    )
    assert blocks.model.shape.startswith("residual 3-4-2 | 3 blocks")
    assert blocks.change == 0


def test_what_has_no_layers_to_add_is_not_made_deeper():
    model = Model(Recurrent(KEY, 3, 4, 2), None, "mse", "")
    with pytest.raises(InputError, match="got a Recurrent"):
        grow(model, depth=3, data=np.ones((4, 5, 3)))
