import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer
from lossatlas.theory import linear_levels


def _network(weights):
    writers, readers, bias = (jnp.asarray(a) for a in weights)
    hidden = DenseLayer(jnp.zeros((0, writers.shape[1])), jnp.zeros(0), writers if len(writers) else None)
    return Dense.from_layers([hidden, DenseLayer(readers, bias)])


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5)) + 1.0
    inputs = np.hstack([inputs, np.full((40, 1), 2.0), inputs[:, :1] - inputs[:, 1:2]])  # constant and collinear
    targets = np.tanh(inputs[:, :3]) @ rng.normal(size=(3, 3)) + 0.1 * rng.normal(size=(40, 3))
    return inputs, targets, linear_levels(inputs, targets)


@pytest.mark.parametrize("subset", [0, 1, 2, 3, (1,), (2,), (0, 2), (1, 2)])
def test_every_subset_is_a_critical_point_of_its_value(problem, subset):
    inputs, targets, levels = problem
    network, landscape = _network(levels.weights(subset)), Landscape(inputs, targets)
    assert float(landscape(network)) == pytest.approx(levels.loss(subset), abs=1e-13)
    assert float(jnp.abs(landscape.gradient(network)).max()) < 1e-12


def test_largest_eigenvalues_are_a_minimum_and_other_subsets_saddles(problem):
    inputs, targets, levels = problem
    landscape = Landscape(inputs, targets)
    negatives = {}
    for subset in [(0,), (1,), (2,)]:
        eigenvalues = np.linalg.eigvalsh(landscape.hessian(_network(levels.weights(subset))))
        negatives[subset] = int((eigenvalues < -1e-10).sum())
    assert negatives == {(0,): 0, (1,): 1, (2,): 2}


def test_full_rank_is_ordinary_least_squares(problem):
    inputs, targets, levels = problem
    design = np.hstack([inputs, np.ones((len(inputs), 1))])
    residual = targets - design @ np.linalg.lstsq(design, targets, rcond=None)[0]
    assert levels.loss(levels.rank) == pytest.approx(0.5 * (residual**2).sum(1).mean(), abs=1e-12)


def test_iris_and_digits_levels_have_the_known_values():
    from lossatlas import data

    iris = linear_levels(*data.load("iris").arrays("mse"))
    assert [iris.loss(r) for r in range(3)] == pytest.approx([1 / 3, 0.1716879676, 0.1346835292], abs=1e-9)
    digits = linear_levels(*data.load("digits").arrays("mse"))
    known = [0.4056, 0.3643, 0.3236, 0.2857, 0.2517, 0.2200, 0.1933, 0.1715, 0.1540]
    assert [digits.loss(r) for r in range(1, 10)] == pytest.approx(known, abs=6e-5)


def test_indices_out_of_range_or_repeated_are_refused(problem):
    levels = problem[2]
    with pytest.raises(InputError, match="different indices"):
        levels.loss((0, 7))
    with pytest.raises(InputError, match="different indices"):
        levels.weights((1, 1))


def test_number_of_units_is_any_whole_number_up_to_the_rank(problem):
    levels = problem[2]
    assert levels.loss(np.int64(1)) == levels.loss(1) == levels.loss((0,))
    for r in (-1, levels.rank + 1, np.int64(-2)):
        with pytest.raises(InputError, match=f"r must be 0 to 3, the rank of the data, got {r}"):
            levels.loss(r)


def test_targets_of_one_axis_are_a_single_output(problem):
    inputs, targets, _ = problem
    flat, column = linear_levels(inputs, targets[:, 0]), linear_levels(inputs, targets[:, :1])
    assert flat.loss(1) == column.loss(1)
    assert flat.readers.shape == (1, 1)
    with pytest.raises(InputError, match=r"at least 1, got shapes \(0, 7\) and \(0, 3\)"):
        linear_levels(inputs[:0], targets[:0])
