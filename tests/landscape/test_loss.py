import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from lossatlas._errors import InputError
from lossatlas.landscape import Landscape, as_loss, loss_names


def test_squared_error_is_half_the_squared_distance():
    f, y = jnp.array([1.0, -2.0]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(as_loss("mse")(f, y), 5.0)
    np.testing.assert_allclose(jax.grad(as_loss("mse").fn)(f, y), f - y)


@pytest.mark.parametrize("target", [2, [0.0, 0.0, 1.0], [0.2, 0.3, 0.5]])
def test_cross_entropy_is_that_of_the_softmax_in_nats(target):
    logits, y = jnp.array([0.3, -1.0, 2.0]), jnp.asarray(target)
    rows = np.eye(3)[2] if np.ndim(target) == 0 else np.asarray(target)
    np.testing.assert_allclose(as_loss("cross_entropy")(logits, y), -rows @ log_softmax(logits), rtol=1e-14)
    np.testing.assert_allclose(jax.grad(as_loss("cross_entropy").fn)(logits, y), softmax(logits) - rows, rtol=1e-14)
    np.testing.assert_allclose(as_loss("cross_entropy").link(logits), softmax(logits), rtol=1e-14)


@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_logistic_is_the_binary_cross_entropy(target):
    logit, y = jnp.array([0.7]), jnp.asarray(target)
    p = expit(0.7)
    expected = -target * np.log(p) - (1 - target) * np.log(1 - p)
    np.testing.assert_allclose(as_loss("logistic")(logit, y), expected, rtol=1e-14)
    np.testing.assert_allclose(jax.grad(as_loss("logistic").fn)(logit, y), [p - target], rtol=1e-13)


def test_losses_of_huge_logits_stay_finite():
    assert float(as_loss("cross_entropy")(jnp.array([1e4, -1e4]), jnp.asarray(1))) == 2e4
    assert float(as_loss("logistic")(jnp.array([-1e4]), jnp.asarray(1.0))) == 1e4


def test_callables_and_names():
    def quartic(f, y):
        return jnp.sum((f - y) ** 4)

    assert as_loss(quartic).name == "quartic"
    assert as_loss(as_loss("mse")) is as_loss("mse")
    landscape = Landscape(jnp.ones((2, 1)), jnp.zeros((2, 1)), loss=quartic)
    np.testing.assert_allclose(landscape(lambda x: 2 * x), 16.0)
    assert loss_names() == ["cross_entropy", "logistic", "mse"]
    with pytest.raises(InputError, match="Unknown loss 'cross-entropy'. Did you mean 'cross_entropy'"):
        as_loss("cross-entropy")
