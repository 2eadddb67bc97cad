import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import data
from lossatlas._errors import InputError
from lossatlas.networks import Dense, DenseLayer


def _two_layers(inner, bias, outer, activation):
    layers = [
        DenseLayer(jnp.asarray(inner), None if bias is None else jnp.asarray(bias)),
        DenseLayer(jnp.asarray(outer), None),
    ]
    return Dense.from_layers(layers, activation)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_hierarchy_is_fitted_exactly_by_its_three_neurons(scale):
    made = data.load("hierarchy-1d", input_scale=scale)
    inner = scale * np.array([[0.8], [0.6], [0.9]])
    network = _two_layers(inner, [5.6, 0.0, -5.4], [[1.2, -1.5, 1.0]], "tanh")
    np.testing.assert_allclose(made.landscape()(network), 0.0, atol=1e-29)
    np.testing.assert_array_equal(made.features[[0, -1], 0], [-15, 15])
    assert made.num_rows == 50
    # What the best straight line leaves: the first plateau of a wide network (.374).
    correlation = np.corrcoef(made.features[:, 0], made.target[:, 0])[0, 1]
    np.testing.assert_allclose(0.5 * made.target.var() * (1 - correlation**2), 0.374, atol=5e-4)


def test_sigmoid_grid_is_fitted_exactly_by_its_teacher():
    made = data.load("sigmoid-grid")
    inner = [[0.6, 0.5], [-0.5, 0.5], [-0.2, -0.6], [0.1, -0.6]]
    network = _two_layers(inner, None, [[1.0, 1.0, 1.0, 1.0]], "sigmoid")
    np.testing.assert_allclose(made.landscape()(network), 0.0, atol=1e-29)
    assert made.features.shape == (1681, 2)
    np.testing.assert_array_equal(np.unique(made.features), np.arange(-5, 5.01, 0.25))


def test_teacher_says_what_the_network_says(key):
    network = Dense(jax.random.key(7), [3, 5, 2])
    made = data.load("teacher", network=network, num=40, key=key)
    assert made.features.shape == (40, 3)
    np.testing.assert_allclose(made.landscape()(network), 0.0, atol=1e-29)
    assert made.fingerprint() == data.teacher(key, network, num=40).fingerprint()
    assert made.fingerprint() != data.teacher(jax.random.key(1), network, num=40).fingerprint()


def test_teacher_noise_has_the_asked_deviation(key):
    network = Dense(jax.random.key(7), [1, 2, 1])
    clean, noisy = (data.teacher(key, network, num=4000, noise=noise) for noise in (0.0, 0.3))
    np.testing.assert_array_equal(clean.features, noisy.features)
    deviation = (noisy.target - clean.target).std()
    np.testing.assert_allclose(deviation, 0.3, atol=5 * 0.3 / np.sqrt(2 * 4000))


def test_default_teacher_depends_on_the_seed():
    assert data.load("teacher").fingerprint() == data.load("teacher", seed=0).fingerprint()
    assert data.load("teacher").fingerprint() != data.load("teacher", seed=1).fingerprint()


def test_teacher_takes_any_callable_and_given_inputs(key):
    linear = eqx.nn.Linear(4, 2, key=key, dtype=jnp.float32)
    made = data.teacher(key, linear, num=10, num_inputs=4)
    assert made.target.dtype == np.float64 and made.target.shape == (10, 2)
    inputs = np.arange(6.0)[:, None]
    np.testing.assert_array_equal(data.teacher(key, lambda x: x[0] ** 2, inputs=inputs).target, inputs**2)


def test_generators_refuse_bad_options(key):
    network = Dense(key, [3, 5, 2])
    with pytest.raises(InputError, match="num must be at least 2"):
        data.load("hierarchy-1d", num=1)
    with pytest.raises(InputError, match="positive divisor, got 0"):
        data.load("hierarchy-1d", input_scale=0.0)
    with pytest.raises(InputError, match="Give num_inputs= or inputs=: the input size of function"):
        data.teacher(key, lambda x: x)
    with pytest.raises(InputError, match=r"Dense does not take inputs of shape \(2,\)"):
        data.teacher(key, network, inputs=np.ones((4, 2)))
    with pytest.raises(InputError, match="at least 0, got -1"):
        data.teacher(key, network, noise=-1.0)
