import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from lossatlas import data
from lossatlas._errors import InputError


def test_arrays_frames_and_lists_give_the_same_data(rng):
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    sets = [
        data.from_arrays(X, y, columns=["a", "b"]),
        data.from_arrays(pd.DataFrame(X, columns=["a", "b"], index=range(5, 17)), pd.Series(y, index=range(12))),
        data.from_arrays(X.tolist(), y.tolist(), columns=["a", "b"]),
        data.from_arrays({"a": X[:, 0], "b": X[:, 1]}, y[:, None]),
        data.from_arrays(pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": y}), "y"),
    ]
    assert len({s.fingerprint() for s in sets}) == 1
    assert sets[-1].preprocessing.target == "y"


def test_default_scaling_is_mean_zero_and_population_deviation_one(rng):
    X = rng.normal(3.0, 5.0, size=(50, 3))
    X[:, 1] = 0.1  # its computed deviation is of rounding size, not 0
    inputs, targets = data.from_arrays(X, rng.normal(2.0, 3.0, 50)).arrays()
    np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(inputs.std(axis=0), [1, 0, 1], atol=1e-14)
    assert not inputs[:, 1].any()
    np.testing.assert_allclose([targets.mean(), targets.std()], [0, 1], atol=1e-14)


def test_other_scalings(rng):
    X, y = rng.normal(size=(10, 2)), rng.normal(size=10)
    inputs, targets = data.from_arrays(X, y, scaling=4.0, target_scaling="none").arrays()
    np.testing.assert_array_equal(inputs, X / 4)
    np.testing.assert_array_equal(targets[:, 0], y)
    with pytest.raises(InputError, match="Unknown scaling 'standart'. Did you mean 'standard'"):
        data.from_arrays(X, y, scaling="standart")
    with pytest.raises(InputError, match="positive divisor, got -1"):
        data.from_arrays(X, y, scaling=-1.0)


@pytest.mark.parametrize(
    ("y", "kind", "classes"),
    [
        (["no", "yes"] * 6, "classification", ("no", "yes")),
        ([True, False] * 6, "classification", (False, True)),
        ([3, 7, 10] * 4, "classification", (3, 7, 10)),
        ([3.0, 7.0, 10.0] * 4, "classification", (3, 7, 10)),
        (pd.Categorical([3, 10] * 6), "classification", (3, 10)),
        (["1", "2", "10"] * 4, "classification", (1, 2, 10)),
        (np.eye(3)[[0, 1, 2] * 4], "classification", (0, 1, 2)),
        (list(range(12)), "regression", ()),
        ([0, 1, 2, 3, 4] * 2 + [0, 1], "regression", ()),
        ([0.5, 1.5] * 6, "regression", ()),
        (np.ones((12, 2)) * np.arange(12.0)[:, None], "regression", ()),
    ],
)
def test_kind_of_a_target(y, kind, classes):
    made = data.from_arrays(np.arange(12.0), y)
    assert made.kind == kind
    assert made.classes == classes
    if kind == "classification" and not isinstance(y, np.ndarray):
        assert [str(label) for label in made.y] == [str(int(v) if isinstance(v, float) else v) for v in y]


def test_number_classes_are_said_and_the_kind_can_be_given():
    y = [0, 1, 2] * 4
    assert "3 different whole numbers: read as classes" in data.from_arrays(np.arange(12.0), y).notes[0]
    assert data.from_arrays(np.arange(12.0), y, kind="regression").kind == "regression"
    assert data.from_arrays(np.arange(12.0), list(range(6)) * 2, kind="classification").classes == (0, 1, 2, 3, 4, 5)
    with pytest.raises(InputError, match="Unknown kind 'classes'"):
        data.from_arrays(np.arange(12.0), y, kind="classes")
    with pytest.raises(InputError, match=r"holds 0.5 in row 2; class labels"):
        data.from_arrays(np.arange(3.0), [0.0, 0.5, 1.0], kind="classification")
    with pytest.raises(InputError, match="holds text, e.g. 'a'; regression needs numbers"):
        data.from_arrays(np.arange(3.0), ["a", "b", "c"], kind="regression")


def test_text_columns_are_encoded_with_a_word(frame):
    made = data.from_arrays(frame, "kind")
    assert made.columns == ("length", "count", "colour=green", "colour=red")
    assert made.notes == ("The text column 'colour' was one-hot encoded: 3 categories, 'blue' is the reference.",)
    np.testing.assert_array_equal(made.features[:, 3], [1, 0, 1, 0, 0, 1])
    assert np.linalg.matrix_rank(np.c_[made.features, np.ones(6)]) == 5


def test_numbers_written_as_text_and_truth_values_are_numbers():
    made = data.from_arrays({"a": ["1", "2.5", "-3e1"], "b": [True, False, True]}, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(made.features, [[1, 1], [2.5, 0], [-30, 1]])
    assert made.notes == ()


def test_columns_can_be_dropped_and_identifiers_are_pointed_out(rng):
    table = {"Id": np.arange(1, 11), "a": rng.normal(size=10), "c": np.ones(10)}
    y = rng.normal(size=10)
    made = data.from_arrays(table, y)
    assert made.notes[0] == "The column 'Id' only counts the rows; leave it out with drop=['Id']."
    assert made.notes[1] == "1 column(s) are constant and say nothing: c."
    assert data.from_arrays(table, y, drop=["Id", "c"]).columns == ("a",)
    with pytest.raises(InputError, match="Unknown column to drop 'aa'. Did you mean 'a'"):
        data.from_arrays(table, y, drop=["aa"])


_X = np.arange(8.0).reshape(4, 2)
_Y = [0.1, 0.2, 0.3, 0.5]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (_X, _Y[:3], "as many rows, got 4 and 3"),
        (_X, 3.0, "as many rows, got 4 and 0"),
        (np.where(_X == 5, np.nan, _X), _Y, r"Column 'x1' has no value \(NaN\) in row 3, 1 of 4 rows"),
        (np.where(_X == 5, np.inf, _X), _Y, "Column 'x1' is infinite or above 1e\\+150 in row 3"),
        (np.where(_X == 5, 1e200, _X), _Y, "Column 'x1' is infinite or above"),
        (_X, [0.1, np.nan, 0.3, 0.4], "Column 'target' has no value .* in row 2"),
        (_X, ["a"] * 4, "one class only, 'a'"),
        (_X, [2, 2, 2, 2], "one class only, 2"),
        (_X, [2.5] * 4, "is constant \\(2.5 in every row\\)"),
        (_X, np.c_[_Y, [1.5] * 4], "is constant \\(1.5"),
        (np.zeros((0, 2)), [], "no rows"),
        (_X[:1], _Y[:1], "single row"),
        (np.zeros((4, 2, 2)), _Y, r"shape \(n, columns\), got \(4, 2, 2\)"),
        ([[1.0, 2.0], [1.0]], [0, 1], "same length"),
        (sparse.csr_array(_X), _Y, "Sparse matrices"),
        ({"a": [1, 2], "b": [1]}, [0, 1], "do not fit together"),
        ({"a": ["1", "2", "?", "4"]}, _Y, "Column 'a' holds numbers, but '\\?' in row 3"),
        (_X, ["1.5", "2.5", "?", "4.5"], "Column 'target' holds numbers, but '\\?' in row 3"),
        (pd.DataFrame(_X, columns=["a", "a"]), _Y, "'a' occurs twice"),
        (pd.DataFrame(_X, columns=["a", "b"]), "C", "Unknown target column 'C'"),
        (pd.DataFrame({"y": _Y}), "y", "no input column"),
        (_X + 1j, _Y, "holds complex128; give real numbers"),
        (_X.astype("datetime64[s]"), _Y, "holds datetime64"),
    ],
)
def test_bad_input_is_refused_in_one_line(X, y, message):
    with pytest.raises(InputError, match=message) as caught:
        data.from_arrays(X, y)
    assert "\n" not in str(caught.value)


def test_column_names_must_fit():
    with pytest.raises(InputError, match="has 2 columns, but 3 column names"):
        data.from_arrays(_X, _Y, columns=["a", "b", "c"])


def test_text_with_many_values_is_refused_with_the_remedy(rng):
    names = [f"person {i}" for i in range(30)]
    table = {"name": names, "a": rng.normal(size=30)}
    with pytest.raises(InputError, match=r"'name' holds text with 30 different values; at most 20 .*drop=\['name'\]"):
        data.from_arrays(table, rng.normal(size=30))
    with pytest.raises(InputError, match="30 different labels in 30 rows; that is an identifier"):
        data.from_arrays(table["a"], names)
