import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, Expansion, named_parameters
from lossatlas.training import train


RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))
NETWORK = Dense(jax.random.key(1), [3, 4, 2], activation="tanh")
LANDSCAPE = Landscape(INPUTS, TARGETS)


def moved(module, step):
    vector, unravel = ravel(module)
    return unravel(vector + step * jnp.asarray(np.random.default_rng(1).normal(size=vector.shape)))


@eqx.filter_jit
def gap(expansion, step):
    """How far the predictions of network and expansion are apart after the same step."""
    expanded = moved(expansion, step)
    return jnp.abs(LANDSCAPE.predictions(expanded) - LANDSCAPE.predictions(expanded.network)).max()


@pytest.mark.parametrize("order", [1, 2])
def test_error_is_of_the_order_after_the_last_term(order):
    expansion = Expansion(NETWORK, order)
    gaps = [float(gap(expansion, jnp.asarray(step))) for step in (1e-2, 5e-3)]
    assert np.log2(gaps[0] / gaps[1]) == pytest.approx(order + 1, abs=0.1)
    assert float(gap(expansion, jnp.asarray(0.0))) <= 1e-15


@pytest.mark.parametrize("order", [1, 2])
def test_at_the_centre_loss_gradient_and_hessian_are_those_of_the_network(order):
    expansion = Expansion(NETWORK, order)
    assert named_parameters(expansion).keys() == {f"network.{name}" for name in named_parameters(NETWORK)}
    measure = eqx.filter_jit(lambda at: (LANDSCAPE(at), LANDSCAPE.gradient(at), LANDSCAPE.hessian(at)))
    value, gradient, hessian = measure(expansion)
    wanted = measure(NETWORK)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-13)
    np.testing.assert_allclose(gradient, wanted[1], atol=1e-13)
    curved = wanted[2] if order == 2 else eqx.filter_jit(LANDSCAPE.gauss_newton)(NETWORK)
    np.testing.assert_allclose(hessian, curved, atol=1e-12)


def test_linearised_training_follows_the_kernel():
    # Under squared error gradient descent moves the outputs by (1 - eta K / n) towards the targets, K the full kernel.
    run = train(jax.random.key(0), Expansion(NETWORK), LANDSCAPE, num_steps=7, learning_rate=0.1, snapshots=[0, 7])
    jacobian = np.asarray(LANDSCAPE.jacobian(NETWORK)).reshape(12, -1)
    kernel = jacobian @ jacobian.T
    start = np.asarray(LANDSCAPE.predictions(NETWORK)) - TARGETS
    step = np.eye(12) - 0.1 * kernel / 6
    wanted = TARGETS + (np.linalg.matrix_power(step, 7) @ start.reshape(-1)).reshape(6, 2)
    np.testing.assert_allclose(LANDSCAPE.predictions(run.network), wanted, rtol=1e-10)
    unmoved = run.network.centre[0].value
    np.testing.assert_array_equal(unmoved, NETWORK.layers[0].weight)


def test_networks_with_batch_statistics_and_functions_of_a_batch_are_expanded():
    images = RNG.normal(size=(4, 1, 3, 3))
    network = Conv(jax.random.key(0), (1, 3, 3), [2], [1], norm="batch", batch_statistics=True)
    data = Landscape(images, np.zeros((4, 1)))
    expansion = Expansion(network)
    np.testing.assert_allclose(data.predictions(expansion), data.predictions(network), atol=1e-14)
    predict = lambda params, batch: jnp.tanh(batch[0] @ params["w"])  # noqa: E731
    params = Expansion({"w": jnp.asarray([0.3, -0.2, 0.5])}, 2)
    expanded = params.apply(lambda at: predict(at, (INPUTS,)))
    np.testing.assert_allclose(expanded, predict(params.network, (INPUTS,)), atol=1e-15)


def test_other_orders_are_refused():
    with pytest.raises(InputError, match="order of an expansion is 1"):
        Expansion(NETWORK, 3)
