"""Planted points are critical to rounding, for any network and both losses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Dense


# Compiled: operation by operation each would be a program of its own.
_gradient = eqx.filter_jit(lambda landscape, network: landscape.gradient(network))


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(
    ("widths", "options"),
    [
        ([3, 4, 2], {}),
        ([3, 3, 2, 3], {"activation": "relu"}),
        ([3, 2, 2], {"num_linear": 2, "activation": "gelu"}),
    ],
)
def test_the_gradient_is_zero(key, loss, widths, options):
    network = Dense(key, widths, **options)
    inputs = jax.random.normal(jax.random.key(1), (80, 3))
    landscape = plant_landscape(jax.random.key(2), network, inputs, loss=loss)
    assert float(jnp.abs(_gradient(landscape, network)).max()) < 1e-16
    # A control: other random targets of the same size are not critical.
    assert float(jnp.abs(_gradient(landscape, Dense(jax.random.key(9), widths, **options))).max()) > 1e-3


def test_the_residual_has_the_stated_size(key):
    network = Dense(key, [3, 4, 2])
    inputs = jax.random.normal(jax.random.key(1), (80, 3))
    landscape = plant_landscape(key, network, inputs, amplitude=0.3)
    residual = landscape.residuals(network)
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(residual**2)), 0.3, rtol=1e-12)
    np.testing.assert_allclose(landscape(network), 0.3**2 / 2 * 2, rtol=1e-12)


def test_soft_labels_are_probabilities(key):
    network = Dense(key, [3, 4, 3])
    inputs = jax.random.normal(jax.random.key(1), (80, 3))
    landscape = plant_landscape(key, network, inputs, amplitude=5.0, loss="cross_entropy")
    targets = np.asarray(landscape.targets)
    assert targets.min() > 0
    assert targets.max() < 1
    np.testing.assert_allclose(targets.sum(1), 1.0, atol=1e-13)


def test_any_equinox_module_can_be_planted(key):
    network = eqx.nn.MLP(2, 2, 3, 1, key=key)
    inputs = jax.random.normal(jax.random.key(1), (30, 2))
    landscape = plant_landscape(key, network, inputs)
    assert float(jnp.abs(_gradient(landscape, network)).max()) < 1e-16


def test_same_key_same_targets(key):
    network = Dense(key, [3, 4, 2])
    inputs = jax.random.normal(jax.random.key(1), (80, 3))
    a, b = (plant_landscape(key, network, inputs).targets for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_bad_input_is_named(key):
    network = Dense(key, [3, 4, 2])
    inputs = jax.random.normal(jax.random.key(1), (10, 3))
    with pytest.raises(InputError, match="no residual is left"):
        plant_landscape(key, network, inputs)
    inputs = jax.random.normal(jax.random.key(1), (40, 3))
    with pytest.raises(InputError, match="amplitude must be positive"):
        plant_landscape(key, network, inputs, amplitude=0.0)
    with pytest.raises(InputError, match="Unknown loss"):
        plant_landscape(key, network, inputs, loss="hinge")
    with pytest.raises(InputError, match="float64"):
        plant_landscape(key, network, inputs.astype(jnp.float32))
