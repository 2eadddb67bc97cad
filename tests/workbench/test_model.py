"""Networks that read raw columns and answer in the user's units."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import lossatlas
from lossatlas._errors import InputError
from lossatlas.data import from_arrays
from lossatlas.networks import Conv, Dense, DenseLayer
from lossatlas.networks import save as save_network
from lossatlas.workbench._model import Model, read_model, save_model


def linear(weight, bias) -> Dense:
    """One linear unit for every output, which computes `weight @ x + bias`."""
    weight = jnp.asarray(weight, float)
    o, d = weight.shape
    hidden = DenseLayer(jnp.zeros((0, d)), jnp.zeros(0), weight)
    return Dense.from_layers([hidden, DenseLayer(jnp.eye(o), jnp.asarray(bias, float))])


def test_regression_is_in_the_units_of_the_target_on_raw_columns():
    # y = 10 a - 3 b + 7, which standardised columns with standardised coefficients reproduce.
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [0.5, 0.0, 0.0, 2.0]}, index=[10, 20, 30, 40])
    frame["price"] = 10 * frame.a - 3 * frame.b + 7
    data = from_arrays(frame, "price")
    scale = frame.std(ddof=0)
    model = Model(
        linear([[10 * scale.a / scale.price, -3 * scale.b / scale.price]], [0]), data.preprocessing, "mse", ""
    )
    new = pd.DataFrame({"b": [1.0, -1.0], "a": [100.0, 0.0], "unused": ["p", "q"]}, index=["first", "second"])
    answer = model.predict(new)
    assert list(answer.columns) == ["price"]
    assert list(answer.index) == ["first", "second"]
    np.testing.assert_allclose(answer["price"], [1004.0, 10.0], rtol=1e-13)


def test_several_targets_have_a_column_each():
    data = from_arrays(np.arange(8.0).reshape(4, 2), np.arange(8.0).reshape(4, 2) ** 2)
    model = Model(linear(np.zeros((2, 2)), [0, 0]), data.preprocessing, "mse", "")
    answer = model.predict([[5.0, 5.0]])
    # The zero network predicts the means: (0 + 4 + 16 + 36)/4 and (1 + 9 + 25 + 49)/4.
    assert answer.to_dict("list") == {"target[0]": [14.0], "target[1]": [21.0]}


@pytest.mark.parametrize(
    ("loss", "columns", "values"),
    [
        ("mse", ["score[no]", "score[yes]"], [[0.0, 2.0], [0.0, -2.0]]),
        # 1 / (1 + e^2) = 0.11920292202211755
        (
            "cross_entropy",
            ["probability[no]", "probability[yes]"],
            [[0.11920292202211755, 0.8807970779778823], [0.8807970779778823, 0.11920292202211755]],
        ),
    ],
)
def test_classes_are_labels_with_scores_or_probabilities(loss, columns, values):
    data = from_arrays(pd.DataFrame({"x": [-1.0, 1.0], "kind": ["no", "yes"]}), "kind")
    model = Model(linear([[0.0], [2.0]], [0.0, 0.0]), data.preprocessing, loss, "")
    answer = model.predict({"x": [1.0, -1.0]})
    assert list(answer.columns) == ["kind", *columns]
    assert list(answer["kind"]) == ["yes", "no"]
    np.testing.assert_allclose(answer[columns], values, rtol=1e-14)


def test_a_file_gives_the_same_predictions_as_memory_without_global_float64(tmp_path, table):
    data = from_arrays(table, "kind")
    model = Model(Dense(jax.random.key(1), [4, 3, 2]), data.preprocessing, "mse", "a small one")
    expected = model.predict(table)
    save_model(tmp_path / "m.safetensors", model)
    with jax.enable_x64(False):
        read = read_model(tmp_path / "m.safetensors")
        pd.testing.assert_frame_equal(read.predict(table), expected, check_exact=True)
    assert (read.loss, read.summary) == ("mse", "a small one")
    in_memory = np.asarray(data.landscape("mse").predictions(model.network))
    np.testing.assert_allclose(expected[["score[no]", "score[yes]"]], in_memory, atol=1e-14)


def test_blocks_of_rows_give_what_all_rows_give(monkeypatch, table):
    data = from_arrays(table, "kind")
    model = Model(Dense(jax.random.key(1), [4, 3, 2]), data.preprocessing, "mse", "")
    expected = model.predict(table)
    monkeypatch.setattr("lossatlas.workbench._model._BLOCK", 7)
    pd.testing.assert_frame_equal(model.predict(table), expected, rtol=1e-14)


def test_a_network_of_lower_precision_predicts_in_it(table):
    data = from_arrays(table, "kind")
    network = Dense(jax.random.key(1), [4, 3, 2], dtype=jnp.float32)
    answer = Model(network, data.preprocessing, "mse", "").predict(table)
    double = Model(jax.tree.map(lambda a: a.astype(jnp.float64), network), data.preprocessing, "mse", "")
    np.testing.assert_allclose(answer["score[no]"], double.predict(table)["score[no]"], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="y"), "The column 'y' is missing"),
        (lambda t: t.assign(colour="pink"), "Column 'colour', row 1: Unknown category 'pink'"),
        (lambda t: t.assign(x=[np.nan] + [0.0] * 39), "Column 'x' has no value"),
        (lambda t: t.to_numpy()[:, :2], "reads 3 columns"),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_name(table, change, said):
    data = from_arrays(table, "kind")
    model = Model(Dense(jax.random.key(1), [4, 3, 2]), data.preprocessing, "mse", "")
    with pytest.raises(InputError, match=said):
        model.predict(change(table))


def test_a_network_without_preprocessing_reads_and_puts_out_arrays(tmp_path):
    network = Conv(jax.random.key(0), (2, 5, 5), [3], [4], pool="average", norm="batch")
    images = np.random.default_rng(0).normal(size=(6, 2, 5, 5))
    save_network(tmp_path / "bare.safetensors", network)
    model = lossatlas.load(tmp_path / "bare.safetensors")
    assert (model.preprocessing, model.loss, model.shape) == (None, None, "conv 2x5x5: 3 | 4")
    expected = np.asarray(jax.vmap(network)(jnp.asarray(images)))
    answer = model.predict(images)
    assert list(answer.columns) == ["output[0]", "output[1]", "output[2]", "output[3]"]
    np.testing.assert_allclose(answer, expected, atol=1e-14)
    np.savez(tmp_path / "images.npz", inputs=images)
    pd.testing.assert_frame_equal(model.predict(tmp_path / "images.npz"), answer)
    classes = dataclasses.replace(model, loss="cross_entropy").predict(images)
    assert list(classes["class"]) == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(classes.iloc[:, 1:], np.asarray(jax.nn.softmax(expected)), atol=1e-14)


def test_a_network_of_images_reads_the_columns_of_a_table(tmp_path):
    data = from_arrays(np.random.default_rng(0).normal(size=(9, 8)), np.arange(9) % 2)
    network = Conv(jax.random.key(0), (2, 2, 2), [3], [2])
    model = Model(network, data.preprocessing, "mse", "images in columns")
    images = jnp.asarray(data.arrays("mse")[0].reshape(9, 2, 2, 2))
    np.testing.assert_allclose(model.predict(data).iloc[:, 1:], jax.vmap(network)(images), atol=1e-14)
    save_model(tmp_path / "m.safetensors", model)
    pd.testing.assert_frame_equal(read_model(tmp_path / "m.safetensors").predict(data), model.predict(data))


def test_what_no_file_can_hold_is_not_saved(tmp_path):
    model = Model(eqx.nn.Linear(2, 1, key=jax.random.key(0)), None, "mse", "foreign")
    with pytest.raises(InputError, match=r"can be saved, got Linear; .*tree_serialise_leaves"):
        save_model(tmp_path / "m.safetensors", model)
    assert list(tmp_path.iterdir()) == []
