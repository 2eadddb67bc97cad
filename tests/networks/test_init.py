import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.networks import Dense, balanced_std, weight_std


def test_balanced_variances_are_glorot_for_tanh_and_he_for_relu_of_equal_widths():
    assert balanced_std("tanh")(30, 50, False) == pytest.approx(weight_std("glorot", 30, 50, is_output=False))
    assert balanced_std("relu")(50, 50, False) == pytest.approx(weight_std("he", 50, 50, is_output=False))
    relu = balanced_std(lambda x: jnp.maximum(x, 0.0))
    assert relu(30, 50, True) == pytest.approx(2**0.5 * weight_std("glorot", 30, 50, is_output=True))


def test_dropout_changes_the_variance_by_the_keep_rate():
    plain = balanced_std("relu")(30, 50, False) ** 2
    assert balanced_std("relu", keep_rate=0.8)(30, 50, False) ** 2 == pytest.approx(0.8 * plain)
    assert balanced_std("relu", keep_rate=0.8, inverted=False)(30, 50, False) ** 2 == pytest.approx(plain / 0.8)


def test_architectures_take_balanced_variances():
    network = Dense(jax.random.key(0), [300, 200, 3], activation="relu", init=balanced_std("relu"))
    np.testing.assert_allclose(jnp.var(network.layers[0].weight), 4 / 500, rtol=0.05)


def test_flat_activations_and_impossible_rates_are_refused():
    with pytest.raises(InputError, match="'square' is flat at 0"):
        balanced_std("square")
    with pytest.raises(InputError, match="keep_rate"):
        balanced_std("relu", keep_rate=1.5)
