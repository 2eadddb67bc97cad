import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import Path, attribute_barrier, barrier
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


INPUTS = jax.random.normal(jax.random.key(1), (40, 5))
LABELS = jax.random.randint(jax.random.key(2), (40,), 0, 3)
CLASSES = Landscape(INPUTS, LABELS, loss="cross_entropy")


def of_function(fn):
    return Landscape.from_function(lambda p, b: fn(p[0]) * b, jnp.ones(1))


def line(a, b):
    return Path((jnp.full(1, a), jnp.full(1, b)))


def test_both_definitions_on_a_double_well_with_unequal_ends():
    # L = (x^2 - 1)^2 + 0.3 x from -1 to 1: above the line between the ends it is (x^2 - 1)^2, so 1 at the middle.
    found = barrier(line(-1.0, 1.0), of_function(lambda x: (x**2 - 1) ** 2 + 0.3 * x), num_points=6, num_refinements=20)
    np.testing.assert_allclose([found.barrier, found.t_barrier], [1, 0.5], atol=1e-5)
    # Of the instability the top is where 4x(x^2 - 1) + 0.3 = 0.
    top = sorted(np.roots([4, 0, -4, 0.3]).real)[1]
    np.testing.assert_allclose(found.instability, (top**2 - 1) ** 2 + 0.3 * top, atol=1e-7)
    np.testing.assert_allclose(found.t_instability, (top + 1) / 2, atol=1e-4)
    assert found.resolution < 1e-4
    coarse = barrier(line(-1.0, 1.0), of_function(lambda x: (x**2 - 1) ** 2), num_points=6, num_refinements=0)
    np.testing.assert_allclose(coarse.barrier, (0.2**2 - 1) ** 2)  # the grid alone


def test_instability_is_above_the_mean_of_the_ends():
    # The quadratic through R(0) = .1 and R(1) = .3 whose top is .5: .3 above the mean of the ends.
    a, b = np.sqrt(0.4), np.sqrt(0.2)  # t runs over a piece of length a + b of 0.5 - u^2
    found = barrier(line(-a, b), of_function(lambda u: 0.5 - u**2), num_refinements=40)
    np.testing.assert_allclose(found.loss[[0, -1]], [0.1, 0.3], atol=1e-14)
    np.testing.assert_allclose(found.instability, 0.3, atol=1e-12)


def test_instability_of_the_error_is_above_the_mean_of_its_ends():
    ends = tuple(Dense(jax.random.key(i), [5, 6, 3], init=0.0) for i in range(2))
    found = barrier(Path(ends), CLASSES, num_points=5, num_refinements=0)
    labels = np.asarray(LABELS)
    wrong = [1 - np.mean(np.asarray(CLASSES.predictions(Path(ends)(t))).argmax(1) == labels) for t in found.t]
    assert found.error_instability == pytest.approx(max(wrong) - (wrong[0] + wrong[-1]) / 2, abs=1e-14)
    assert barrier(line(0.0, 1.0), of_function(lambda x: x)).error_instability is None


def test_no_barrier_between_equal_networks_and_in_convex_models():
    network = Dense(jax.random.key(0), [5, 6, 3])
    assert abs(barrier(Path((network, network)), CLASSES).barrier) < 1e-12
    regressions = [Dense(jax.random.key(i), [5, 3], init=0.0) for i in range(2)]
    assert barrier(Path(tuple(regressions)), CLASSES).barrier == 0


def test_a_loss_that_is_not_finite_is_a_wall():
    found = barrier(line(-1.0, 1.0), of_function(lambda x: jnp.where(jnp.abs(x) < 0.2, jnp.inf, x**2)))
    assert found.barrier == np.inf


def test_accuracy_of_logits_of_two_classes_and_of_rows_of_probabilities():
    network = [Dense(jax.random.key(i), [5, 6, 1], init=0.0) for i in range(2)]
    two = Landscape(INPUTS, (LABELS > 0).astype(float), loss="logistic")
    found = barrier(Path(tuple(network)), two, num_points=3)
    logits = np.asarray(two.predictions(network[0]))[:, 0]
    assert found.accuracy is not None
    np.testing.assert_allclose(found.accuracy[0], np.mean((logits > 0) == np.asarray(LABELS > 0)))
    ends = tuple(Dense(jax.random.key(i), [5, 6, 3], init=0.0) for i in range(2))
    rows = Landscape(INPUTS, jax.nn.one_hot(LABELS, 3), loss="cross_entropy")
    np.testing.assert_array_equal(barrier(Path(ends), rows).accuracy, barrier(Path(ends), CLASSES).accuracy)
    assert barrier(line(0.0, 1.0), of_function(lambda x: x)).accuracy_drop is None


def test_the_parts_of_every_example_add_up_to_its_rise():
    ends = [Dense(jax.random.key(i), [5, 6, 3], init=0.0) for i in range(2)]
    path = Path(tuple(ends))
    found = attribute_barrier(path, CLASSES, t=0.3)
    assert found.defect < 1e-12
    assert (found.jensen >= -1e-14).all()
    losses = [np.asarray(CLASSES.losses(path(t))) for t in (0.0, 0.3, 1.0)]
    np.testing.assert_allclose(found.excess, losses[1] - (0.7 * losses[0] + 0.3 * losses[2]), atol=1e-12)
    rise = float(CLASSES(path(0.3))) - (0.7 * losses[0].mean() + 0.3 * losses[2].mean())
    np.testing.assert_allclose(found.excess.mean(), rise, atol=1e-13)
    rows = Landscape(INPUTS, jax.nn.one_hot(LABELS, 3), loss="cross_entropy")
    np.testing.assert_allclose(attribute_barrier(path, rows, t=0.3).error, found.error, atol=1e-14)
    # Where logits go straight there is nothing but Jensen's gain.
    straight = attribute_barrier(Path(tuple(Dense(jax.random.key(i), [5, 3]) for i in range(2))), CLASSES)
    assert straight.logit_error.max() < 1e-14
    np.testing.assert_allclose(straight.excess, -straight.jensen, atol=1e-14)
    assert found.to_xarray()["excess"].dims == ("example",)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="num_points must be at least 3"):
        barrier(line(0.0, 1.0), of_function(lambda x: x), num_points=2)
    with pytest.raises(InputError, match="loss='cross_entropy'.*'mse'"):
        attribute_barrier(Path((jnp.zeros(1), jnp.ones(1))), Landscape(jnp.ones((2, 1)), jnp.ones((2, 1))))
