import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossatlas import data
from lossatlas._errors import InputError
from lossatlas.data import Preprocessing


def _fitted(scales=(2.0, 0.0)) -> Preprocessing:
    return Preprocessing(
        kind="regression",
        columns=("a", "b"),
        categories={},
        means=(1.0, 7.0),
        scales=scales,
        target="y",
        target_means=(10.0,),
        target_scales=(5.0,),
    )


def test_inputs_are_standardised_and_a_constant_column_becomes_zero():
    table = np.array([[1.0, 7.0], [5.0, 8.0]])
    np.testing.assert_array_equal(_fitted().inputs(table), [[0.0, 0.0], [2.0, 0.0]])


def test_inputs_are_taken_by_name_whatever_the_order():
    frame = pd.DataFrame({"b": [7.0, 8.0], "other": ["x", "y"], "a": [1, 5]})
    np.testing.assert_array_equal(_fitted((2.0, 1.0)).inputs(frame), [[0.0, 0.0], [2.0, 1.0]])
    np.testing.assert_array_equal(_fitted((2.0, 1.0)).inputs(dict(frame)), [[0.0, 0.0], [2.0, 1.0]])


def test_text_columns_use_the_first_category_as_reference(frame):
    fitted = data.from_arrays(frame, "kind", scaling="none").preprocessing
    assert fitted.encoded_columns == ("length", "count", "colour=green", "colour=red")
    new = pd.DataFrame({"length": [0.0] * 3, "count": [0] * 3, "colour": ["blue", "green", "red"]})
    np.testing.assert_array_equal(fitted.inputs(new)[:, 2:], [[0, 0], [1, 0], [0, 1]])


def test_array_with_text_is_read_by_position(frame):
    fitted = data.from_arrays(frame, "kind").preprocessing
    by_position = fitted.inputs(frame.drop(columns="kind").to_numpy())
    np.testing.assert_array_equal(by_position, fitted.inputs(frame))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"a": [1.0], "B": [2.0]}), "The column 'b' is missing"),
        (pd.DataFrame({"c": [1.0]}), "2 columns are missing: a, b. The table has: c"),
        (pd.DataFrame({"a": [1.0, np.nan], "b": [2.0, 2.0]}), r"Column 'a' has no value \(NaN\) in row 2"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, np.inf]}), "Column 'b' is infinite or above 1e\\+150 in row 2"),
        (pd.DataFrame({"a": ["1", "?"], "b": [2.0, 2.0]}), "Column 'a' must hold numbers, got '\\?' in row 2"),
        (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"]), "b": [2.0]}), "Column 'a' holds datetime64"),
        (np.zeros((2, 3)), "reads 2 columns"),
        (np.zeros((2, 2, 2)), "reads 2 columns"),
        (np.zeros((0, 2)), "no rows"),
    ],
)
def test_inputs_refuse_what_they_cannot_read(table, message):
    with pytest.raises(InputError, match=message):
        _fitted().inputs(table)


def test_unknown_category_is_named_with_its_row(frame):
    fitted = data.from_arrays(frame, "kind").preprocessing
    with pytest.raises(InputError, match=r"Column 'colour', row 2: Unknown category 'redd'. Did you mean 'red'\?"):
        fitted.inputs(frame.assign(colour=["red", "redd", "red", "red", "red", "red"]))


def test_regression_targets_and_decode_are_inverse():
    fitted = _fitted()
    np.testing.assert_array_equal(fitted.targets([10.0, 15.0]), [[0.0], [1.0]])
    np.testing.assert_array_equal(fitted.decode([[0.0], [1.0]]).values, [[10.0], [15.0]])
    assert fitted.decode([[0.0]]).labels is None


def test_classification_targets_by_loss(frame):
    fitted = data.from_arrays(frame, "kind").preprocessing
    np.testing.assert_array_equal(fitted.targets(["b", "a"], "mse"), [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(fitted.targets(["b", "a"], "cross_entropy"), [1, 0])
    np.testing.assert_array_equal(fitted.targets(["b", "a"], "logistic"), [[1.0], [0.0]])
    assert [fitted.num_outputs(loss) for loss in ("mse", "cross_entropy", "logistic")] == [2, 2, 1]


def test_number_labels_match_however_they_are_written():
    fitted = data.from_arrays(np.arange(8.0), [0, 1] * 4).preprocessing
    for labels in ([1, 0], [1.0, 0.0], ["1", "0"]):
        np.testing.assert_array_equal(fitted.targets(labels, "cross_entropy"), [1, 0])


def test_decode_gives_labels_and_probabilities(frame):
    fitted = data.from_arrays(frame, "kind").preprocessing
    scores = fitted.decode([[0.2, 0.9], [0.6, 0.1]])
    assert scores.labels is not None and scores.labels.tolist() == ["b", "a"]
    assert scores.probabilities is None

    logits = fitted.decode([[0.0, np.log(3.0)], [1e4, -1e4]], "cross_entropy")
    assert logits.probabilities is not None
    np.testing.assert_allclose(logits.probabilities, [[0.25, 0.75], [1.0, 0.0]], rtol=1e-15)

    binary = fitted.decode([[np.log(3.0)], [-1e4]], "logistic")
    assert binary.probabilities is not None
    np.testing.assert_allclose(binary.probabilities, [[0.25, 0.75], [1.0, 0.0]], rtol=1e-15)
    assert binary.labels is not None and binary.labels.tolist() == ["b", "a"]


def test_losses_that_do_not_fit_are_refused(frame):
    with pytest.raises(InputError, match="needs classes"):
        _fitted().targets([1.0], "cross_entropy")
    with pytest.raises(InputError, match="needs two classes, got 3"):
        data.from_arrays(np.arange(9.0), ["a", "b", "c"] * 3).preprocessing.num_outputs("logistic")
    fitted = data.from_arrays(frame, "kind").preprocessing
    with pytest.raises(InputError, match=r"shape \(n, 2\), got \(1, 3\)"):
        fitted.decode(np.zeros((1, 3)))
    with pytest.raises(InputError, match="'kind', row 2: Unknown class 'q'"):
        fitted.targets(["a", "q"])
    with pytest.raises(InputError, match="Column 'kind' has no value"):
        fitted.targets(["a", None])


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    st.lists(st.text(), min_size=3, max_size=3, unique=True),
)
def test_dictionary_survives_json_exactly(means, names):
    fitted = Preprocessing(
        kind="classification",
        columns=tuple(names[:2]),
        categories={names[0]: ("x", "y", "z")},
        means=tuple(means),
        scales=(1.0, 2.0, 3.0),
        classes=("no", "yes"),
    )
    assert Preprocessing.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted


def test_truth_values_survive_json():
    fitted = data.from_arrays(np.arange(6.0), [True, False] * 3).preprocessing
    read = Preprocessing.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert read.classes == (False, True)
    np.testing.assert_array_equal(read.targets([True, False], "cross_entropy"), [1, 0])


def test_foreign_dictionary_is_refused():
    with pytest.raises(InputError, match="no saved preprocessing: missing or unknown entries .*means"):
        Preprocessing.from_dict({"kind": "regression"})
