"""DATA as a model reads it: inputs, targets, and what is refused before any long work."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from lossatlas import data
from lossatlas._errors import InputError
from lossatlas.networks import Conv, Dense, Transformer
from lossatlas.workbench import Model, read_examples


KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(6, 1, 4, 4))


def plain(network, loss=None) -> Model:
    return Model(network, None, loss, "")


@pytest.fixture(scope="module")
def conv() -> Model:
    return plain(Conv(KEY, (1, 4, 4), [2], [3]))


def test_a_model_with_preprocessing_gets_the_landscape_that_it_was_trained_on(table):
    known = data.from_arrays(table, "kind")
    for loss in ("mse", "cross_entropy"):
        model = Model(Dense(KEY, [4, 2, 2]), known.preprocessing, loss, "")
        inputs, targets = known.arrays(loss)
        for given in (known, table, {name: table[name] for name in table}):
            found = read_examples(model, given)
            np.testing.assert_allclose(found.inputs, inputs, atol=1e-15)
            np.testing.assert_array_equal(found.targets, targets)
            assert found.loss == loss
    assert read_examples(model, table.drop(columns="kind")).targets is None
    landscape = read_examples(model, known).landscape()
    assert landscape is not None
    assert float(landscape(model.network)) == float(known.landscape("cross_entropy")(model.network))


def test_columns_without_names_go_by_their_order(table):
    numbers = table[["x", "y"]].to_numpy()
    prepared = data.from_arrays(numbers, numbers[:, 0]).preprocessing
    model = Model(Dense(KEY, [2, 1]), prepared, "mse", "")
    frame = pd.DataFrame({"x": numbers[:, 0], "y": numbers[:, 1], "price": 3 * numbers[:, 0]})
    found = read_examples(model, frame, target="price")
    np.testing.assert_allclose(found.inputs, prepared.inputs(numbers))
    assert found.targets is not None
    np.testing.assert_allclose(found.targets.ravel() * numbers[:, 0].std() + numbers[:, 0].mean(), 3 * numbers[:, 0])


@pytest.mark.parametrize(
    ("loss", "expected"), [(None, "cross_entropy"), ("cross_entropy", "cross_entropy"), ("mse", "mse")]
)
def test_class_numbers_without_preprocessing(conv, tmp_path, loss, expected):
    labels = np.array([0, 1, 2, 1, 0, 0])
    np.savez(tmp_path / "d.npz", inputs=IMAGES, targets=labels)
    found = read_examples(dataclasses.replace(conv, loss=loss), tmp_path / "d.npz")
    assert found.loss == expected
    np.testing.assert_array_equal(found.inputs, IMAGES)
    np.testing.assert_array_equal(found.targets, np.eye(3)[labels] if expected == "mse" else labels)


def test_values_and_truth_values_without_preprocessing():
    one = plain(Dense(KEY, [2, 1]))
    rows = np.ones((3, 2), np.float32)
    found = read_examples(one, data.Arrays(rows, np.array([1, 2, 7])))
    assert (found.loss, found.inputs.dtype) == ("mse", np.float64)
    np.testing.assert_array_equal(found.targets, [[1.0], [2.0], [7.0]])
    logistic = read_examples(
        dataclasses.replace(one, loss="logistic"), data.Arrays(rows, np.array([True, False, True]))
    )
    np.testing.assert_array_equal(logistic.targets, [[1.0], [0.0], [1.0]])


def test_rows_of_a_table_become_images_and_its_classes_keep_their_numbers(conv):
    rows = IMAGES.reshape(6, 16)
    frame = pd.DataFrame(rows).assign(label=[0, 2, 2, 0, 2, 0])
    frame.columns = [str(name) for name in frame.columns]
    found = read_examples(conv, frame)
    np.testing.assert_array_equal(found.inputs, IMAGES)
    np.testing.assert_array_equal(found.targets, [0, 2, 2, 0, 2, 0])
    assert read_examples(conv, frame.drop(columns="label")).targets is None


def test_tokens_are_rows_of_numbers_that_the_transformer_reads_as_the_same():
    network = Transformer(KEY, 5, 3, 2, num_stream=2, num_heads=1, num_hidden=2, num_blocks=1)
    tokens = np.array([[0, 4, 2], [1, 1, 3]])
    found = read_examples(plain(network), tokens)
    np.testing.assert_allclose(
        jax.vmap(network)(jnp.asarray(found.inputs)), jax.vmap(network)(jnp.asarray(tokens)), atol=1e-15
    )
    with pytest.raises(InputError, match="tokens must lie in 0 to 4"):
        read_examples(plain(network), tokens + 1)


class Noisy(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x + np.random.default_rng().normal()


class Counting(eqx.Module):
    weight: jax.Array
    calls: list = eqx.field(static=True)

    def __call__(self, x):
        self.calls.append(1)
        return self.weight @ x + len(self.calls)


@pytest.mark.parametrize("network", [Noisy(jnp.ones((1, 3))), Counting(jnp.ones((1, 3)), [])])
def test_random_and_stateful_networks_are_refused_with_the_remedy(network):
    with pytest.raises(InputError, match=r"random or keeps a state.*inference_mode.*\.eval\(\)"):
        read_examples(plain(network), np.ones((5, 3)))


def test_dropout_without_a_key_is_refused_with_the_remedy():
    network = eqx.nn.Sequential([eqx.nn.Linear(3, 2, key=KEY), eqx.nn.Dropout(0.5)])
    with pytest.raises(InputError, match=r"forward pass is random.*inference_mode"):
        read_examples(plain(network), np.ones((5, 3)))
    calm = plain(eqx.nn.inference_mode(network))
    assert read_examples(calm, np.ones((5, 3))).targets is None


@pytest.mark.parametrize(
    ("inputs", "targets", "said"),
    [
        (IMAGES[:, :, :3], None, r"reads one example of shape \(1, 4, 4\), got \(1, 3, 4\)"),
        (IMAGES.reshape(6, 16)[:, :15], None, r"reads one example of shape \(1, 4, 4\), got \(15,\)"),
        (np.where(IMAGES > 2, np.nan, IMAGES), None, "inputs holds NaN or infinity"),
        (IMAGES, np.array([0, 1, 2, 3, 0, 0]), r"must lie in 0 to 2 \(3 classes\), got 0 to 3"),
        (IMAGES, np.array([0, -1, 2, 1, 0, 0]), "got -1 to 2"),
        (IMAGES, np.array([0, 1]), "as many examples, got 6 and 2"),
        (IMAGES, np.ones((6, 2)), r"puts out shape \(3,\) for one example, but one target has shape \(2,\)"),
        (IMAGES, np.array(list("abcabc")), "The targets are text"),
    ],
)
def test_examples_that_do_not_fit_are_refused(conv, inputs, targets, said):
    with pytest.raises(InputError, match=said):
        read_examples(conv, data.Arrays(inputs, targets))


def test_what_a_foreign_network_cannot_read_is_said_with_its_shape():
    with pytest.raises(InputError, match=r"cannot read one example of shape \(4,\) and type float64"):
        read_examples(plain(eqx.nn.Linear(3, 2, key=KEY)), np.ones((5, 4)))
    table = {name: np.ones(5) for name in "abcde"}
    with pytest.raises(InputError, match=r"shape \(5,\) .* All 5 columns were read; .* \(target, --target\)"):
        read_examples(plain(eqx.nn.Linear(3, 2, key=KEY)), table)
    two = eqx.nn.Lambda(lambda x: (x, x))
    with pytest.raises(InputError, match="must put out one array for one example, got a tuple"):
        read_examples(plain(two), np.ones((5, 4)))


def test_an_unknown_target_column_is_named(table):
    model = Model(Dense(KEY, [4, 2, 2]), data.from_arrays(table, "kind").preprocessing, "mse", "")
    with pytest.raises(InputError, match="Unknown target column 'kinds'. Did you mean 'kind'"):
        read_examples(model, table, target="kinds")
