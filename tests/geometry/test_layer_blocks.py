"""Blocks of layers: the approximate chain rule for the Hessian of a layer, where it is exact and where it is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, replace_parameters


hessian = eqx.filter_jit(lambda place, network, only=None: place.hessian(network, only))
gauss_newton = eqx.filter_jit(lambda place, network, only=None: place.gauss_newton(network, only))


def classes(activation, widths=(5, 6, 4, 3), *, scale=1.0):
    network = Dense(jax.random.key(0), widths, activation=activation, init="he")
    x = scale * jax.random.normal(jax.random.key(1), (12, widths[0]))
    labels = jax.random.randint(jax.random.key(2), (12,), 0, widths[-1])
    return network, Landscape(x, labels, loss="cross_entropy")


def test_softmax_regression_has_its_closed_form():
    network, landscape = classes("tanh", (5, 3))
    p = np.asarray(jax.nn.softmax(landscape.predictions(network)))
    x = np.asarray(landscape.inputs)
    expected = sum(
        np.kron(np.diag(pi) - np.outer(pi, pi), np.outer(xi, xi)) for pi, xi in zip(p, x, strict=True)
    ) / len(x)
    block = hessian(landscape, network, "layers[0].weight")
    np.testing.assert_allclose(block, expected, atol=1e-14)
    trace = np.mean((1 - np.sum(p**2, axis=1)) * np.sum(x**2, axis=1))
    np.testing.assert_allclose(jnp.trace(block), trace, rtol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_blocks_of_piecewise_linear_layers_are_gauss_newton_and_positive(activation):
    network, landscape = classes(activation)
    whole = np.asarray(hessian(landscape, network))
    outer = np.asarray(gauss_newton(landscape, network))
    start = 0
    for layer in network.layers:
        stop = start + layer.weight.size + layer.num_neurons
        block = whole[start:stop, start:stop]
        np.testing.assert_allclose(block, outer[start:stop, start:stop], atol=1e-13)
        assert np.linalg.eigvalsh(block)[0] > -1e-13
        start = stop
    # Across layers they differ, and the whole is indefinite; the traces agree.
    assert np.linalg.norm(whole - outer) > 0.1 * np.linalg.norm(whole)
    assert np.linalg.eigvalsh(whole)[0] < -1e-3
    np.testing.assert_allclose(np.trace(whole), np.trace(outer), rtol=1e-12)


def test_the_last_layer_is_gauss_newton_for_every_activation():
    network, landscape = classes("tanh")
    for only in ("layers[2].weight", "layers[2].bias"):
        block = hessian(landscape, network, only)
        np.testing.assert_allclose(block, gauss_newton(landscape, network, only), atol=1e-14)


def test_gauss_newton_of_smooth_layers_errs_in_proportion_to_the_inputs():
    errors = []
    for scale in (0.1, 0.03):
        network, landscape = classes("tanh", scale=scale)
        exact = hessian(landscape, network, "layers[0].weight")
        error = jnp.linalg.norm(exact - gauss_newton(landscape, network, "layers[0].weight"))
        errors.append(float(error / jnp.linalg.norm(exact)))
    assert 2.5 < errors[0] / errors[1] < 4


def test_blocks_before_a_layer_of_zeros_vanish():
    network, landscape = classes("relu")
    last = network.layers[-1]
    zeros = {"layers[2].weight": jnp.zeros_like(last.weight), "layers[2].bias": jnp.zeros(last.num_neurons)}
    network = replace_parameters(network, zeros)
    for only in ("layers[0].*", "layers[1].*"):
        assert float(jnp.abs(hessian(landscape, network, only)).max()) < 1e-14
    hidden = np.asarray(jax.vmap(lambda x: network.activation(network.layers[0].preactivation(x)))(landscape.inputs))
    hidden = np.maximum(hidden @ np.asarray(network.layers[1].weight).T + np.asarray(network.layers[1].bias), 0)
    moment = hidden.T @ hidden / len(hidden)
    expected = np.kron(np.eye(3) / 3 - np.ones((3, 3)) / 9, moment)
    np.testing.assert_allclose(hessian(landscape, network, "layers[2].weight"), expected, atol=1e-14)


def test_scaling_a_layer_scales_the_curvature_of_the_others():
    network = Dense(jax.random.key(0), [4, 5, 5, 2], activation="relu", init="he", use_bias=False)
    x = jax.random.normal(jax.random.key(1), (10, 4))
    landscape = Landscape(x, jnp.zeros((10, 2)))
    scaled = replace_parameters(network, {"layers[1].weight": 3.0 * network.layers[1].weight})
    ratios = [
        float(jnp.trace(hessian(landscape, scaled, only)) / jnp.trace(hessian(landscape, network, only)))
        for only in ("layers[0].weight", "layers[1].weight", "layers[2].weight")
    ]
    np.testing.assert_allclose(ratios, [9, 1, 9], rtol=1e-12)
