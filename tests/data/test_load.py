import numpy as np
import pytest

from lossatlas import data
from lossatlas._errors import InputError


def _linear_levels(made, loss="mse") -> np.ndarray:
    """Losses of the best linear maps of rank 0, 1, ...: half of tr S_yy less the leading explained eigenvalues."""
    x, y = made.arrays(loss)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    coefficients = np.linalg.lstsq(x, y, rcond=1e-10)[0]
    explained = np.linalg.svd(x @ coefficients, compute_uv=False) ** 2 / len(x)
    return 0.5 * ((y**2).sum() / len(y) - np.concatenate([[0.0], np.cumsum(explained)]))


@pytest.mark.parametrize(
    ("name", "levels", "digits"),
    [
        ("iris", [1 / 3, 0.1716879676, 0.1346835292], 10),
        ("wine", [None, None, 0.0500], 4),
        ("diabetes", [0.5, 0.2411], 4),
        ("digits", [None, 0.4056, 0.3643, 0.3236, 0.2857, 0.2517, 0.2200, 0.1933, 0.1715, 0.1540], 4),
    ],
)
def test_embedded_sets_have_the_measured_linear_levels(name, levels, digits):
    found = _linear_levels(data.load(name))
    for rank, level in enumerate(levels):
        if level is not None:
            np.testing.assert_allclose(found[rank], level, atol=0.51 * 10.0**-digits)


@pytest.mark.parametrize(
    ("name", "shape", "num_outputs", "target"),
    [
        ("iris", (150, 4), 3, "species"),
        ("wine", (178, 13), 3, "cultivar"),
        ("breast_cancer", (569, 30), 2, "diagnosis"),
        ("digits", (1797, 64), 10, "digit"),
        ("diabetes", (442, 10), 1, "progression"),
    ],
)
def test_embedded_sets_have_their_shapes(name, shape, num_outputs, target):
    made = data.load(name)
    assert made.features.shape == shape
    assert made.num_outputs() == num_outputs
    assert (made.name, made.preprocessing.target) == (name, target)
    assert made.source.startswith("scikit-learn")


def test_digits_divided_by_their_range():
    inputs, _ = data.load("digits", scaling=16).arrays()
    assert (inputs.min(), inputs.max()) == (0.0, 1.0)


def test_another_target_of_an_embedded_set():
    made = data.load("iris", target="petal width (cm)")
    assert made.kind == "regression"
    assert made.columns[-2:] == ("species=versicolor", "species=virginica")


def test_held_out_part():
    made = data.load("iris", test_fraction=0.2, seed=4)
    assert made.held_out is not None
    assert (made.num_rows, made.held_out.num_rows) == (120, 30)
    assert data.load("iris").held_out is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("irs", {}, r"Unknown data set 'irs'. Did you mean 'iris'\? .*\.csv"),
        ("hierarchy_1d", {}, "Did you mean 'hierarchy-1d'"),
        ("iris.csv", {}, "There is no file 'iris.csv'"),
        ("data/iris", {}, "format of 'iris' is not read"),
        ("iris", {"target": "specis"}, "Unknown target column 'specis'. Did you mean 'species'"),
        ("iris", {"scalling": 2}, "Unknown option of the data set 'iris': 'scalling'. Did you mean 'scaling'"),
        ("mnist", {"target": "digit"}, "Unknown option of the data set 'mnist': 'target'"),
        ("iris", {"folder": "x"}, "Unknown option of the data set 'iris': 'folder'"),
        ("iris", {"test_fraction": 1.0}, "test_fraction must leave both parts"),
    ],
)
def test_load_refuses_what_it_does_not_know(name, options, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load(name, **options)
    assert "\n" not in str(caught.value)
