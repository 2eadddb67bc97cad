import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import ntk
from lossatlas.networks import Conv, Dense, activation
from lossatlas.theory import infinite_conv, infinite_dense
from lossatlas.theory._dual_activation import _quadrature, dual_activation


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(5, 4))
IMAGES = RNG.normal(size=(3, 2, 6, 6))
SIXTY = np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]])  # unit vectors at 60 degrees


def off(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


# -- closed forms ------------------------------------------------------------------------------------------------


def test_one_hidden_relu_layer_has_the_arc_cosine_value():
    # f = a . relu(W x) / sqrt(m), W, a ~ N(0, 1): inputs sqrt(2) x make W x / sqrt(d) the same W x.
    found = infinite_dense(math.sqrt(2) * SIXTY, weight_variance=1.0)
    angle = math.pi / 3
    of_weights = 0.5 * (math.pi - angle) / (2 * math.pi)
    of_readout = (math.sin(angle) + (math.pi - angle) * 0.5) / (2 * math.pi)
    assert (of_weights, of_readout) == pytest.approx((0.166667, 0.304499), abs=1e-6)
    assert float(found.ntk[0, 1]) == pytest.approx(of_weights + of_readout, abs=1e-12)
    assert float(found.nngp[0, 1]) == pytest.approx(of_readout, abs=1e-12)
    assert found.quadrature_error == 0


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "identity", "erf"])
def test_closed_forms_are_what_samples_give(name):
    act, (a, b, c) = activation(name), (1.3, 0.7, -0.4)
    draws = np.random.default_rng(1).multivariate_normal([0, 0], [[a, c], [c, b]], 200_000)
    u, v = jnp.asarray(draws.T)
    slope = jax.vmap(jax.grad(lambda t: act(t[None])[0]))
    found = dual_activation(act, (np.array([a]), np.array([b])), np.array([c]), 8)
    for value, samples in zip(found, (act(u) * act(v), slope(u) * slope(v)), strict=True):
        assert abs(float(value[0] - samples.mean())) <= 5 * float(samples.std()) / math.sqrt(200_000) + 1e-12


def test_quadrature_is_exact_for_polynomials_and_converges_for_smooth_functions():
    a, b, c = (np.asarray([x]) for x in (1.3, 0.7, -0.4))
    value, slope = _quadrature(jnp.square, a, b, c, 4)
    np.testing.assert_allclose(value, a * b + 2 * c**2, rtol=1e-12)
    np.testing.assert_allclose(slope, 4 * c, rtol=1e-12)
    wanted = dual_activation(activation("erf"), (a, b), c, 2)
    np.testing.assert_allclose(_quadrature(jax.lax.erf, a, b, c, 64), wanted, rtol=1e-6)


def test_deep_linear_network_multiplies_the_products():
    x = np.asarray(INPUTS)
    found = infinite_dense(INPUTS, num_hidden=2, activation="identity", weight_variance=3.0)
    np.testing.assert_allclose(found.nngp, 27 * x @ x.T / 4, rtol=1e-12)
    np.testing.assert_allclose(found.ntk, 3 * 27 * x @ x.T / 4, rtol=1e-12)


def test_convolution_without_places_is_a_dense_network():
    images = INPUTS[:, :, None, None]
    options = {"activation": "tanh", "bias_variance": 0.1, "weight_variance": 1.5, "num_nodes": 16}
    dense = infinite_dense(INPUTS, num_hidden=2, **options)
    for head in ("flatten", "average"):
        conv = infinite_conv(images, num_convs=1, num_hidden=1, kernel=1, head=head, **options)
        np.testing.assert_allclose(conv.nngp, dense.nngp, rtol=1e-12)
        np.testing.assert_allclose(conv.ntk, dense.ntk, rtol=1e-12)
        assert conv.quadrature_error > 0


def test_kernel_between_sets_is_the_block_of_the_kernel_of_both():
    whole = infinite_conv(IMAGES, num_convs=1, head="average")
    part = infinite_conv(IMAGES[:1], IMAGES[1:], num_convs=1, head="average")
    np.testing.assert_allclose(part.ntk, whole.ntk[:1, 1:], rtol=1e-12)
    assert part.to_xarray()["nngp"].shape == (1, 2)


# -- against wide finite networks -----------------------------------------------------------------------------------


def test_wide_dense_networks_approach_the_kernel():
    errors = []
    for width in (64, 1024):
        wanted = infinite_dense(
            INPUTS, num_hidden=2, activation="erf", weight_variance=1.0, parametrisation="standard", widths=[width] * 2
        ).ntk
        networks = [Dense(jax.random.key(i), [4, width, width, 1], activation="erf", init="lecun") for i in range(4)]
        errors.append(np.mean([off(ntk(network, INPUTS).matrix, wanted) for network in networks]))
    assert errors[1] < 0.06
    assert 2 < errors[0] / errors[1] < 8  # the square root of 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "average"},
        {"pool": "average"},
        {"padding": "VALID", "stride": 2, "num_convs": 1},
        {"stride": 2},
        {"num_hidden": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_wide_convolutional_networks_approach_the_kernel(options, name):
    convs, hidden = options.get("num_convs", 2), options.get("num_hidden", 0)
    same = {key: value for key, value in options.items() if not key.startswith("num_")}
    errors = []
    for width in (32, 256):
        sizes = {"channels": [width] * convs, "widths": [width] * hidden}
        wanted = infinite_conv(
            IMAGES, **({"num_convs": 2} | options), **sizes, activation=name, parametrisation="standard"
        ).ntk
        found = []
        for i in range(4):
            shape = ((2, 6, 6), [width] * convs, [*[width] * hidden, 10])  # the mean over outputs scatters less
            network = Conv(jax.random.key(i), *shape, activation=name, init="he", **same)
            found.append(off(ntk(network, IMAGES).matrix, wanted))
        errors.append(np.mean(found))
    assert errors[1] < 0.12
    assert 1.3 < errors[0] / errors[1] < 7  # the square root of 8, with the scatter of four networks


def test_ntk_parametrisation_weighs_the_layers_of_the_standard_one():
    # The same function: gradients in W / sqrt(n) are those in W, scaled, layer by layer.
    width, network = 512, Dense(jax.random.key(0), [4, 512, 1], activation="relu", init="he")
    split = ntk(network, INPUTS, only="*.weight", per_layer=True).layers
    wanted = infinite_dense(INPUTS, num_hidden=1, activation="relu").ntk
    assert off(2 / 4 * split["layers[0]"] + 2 / width * split["layers[1]"], wanted) < 0.1


# -- what cannot be used -------------------------------------------------------------------------------------------


def test_bad_input_says_what_is_allowed():
    dense, conv = (inspect.unwrap(fn) for fn in (infinite_dense, infinite_conv))
    for call, words in [
        (lambda: dense(INPUTS, parametrisation="mean-field"), "Unknown parametrisation"),
        (lambda: dense(INPUTS, parametrisation="standard"), "needs widths"),
        (lambda: dense(INPUTS, weight_variance=0.0), "weight_variance must be positive"),
        (lambda: dense(INPUTS, INPUTS[:, :2]), "the same beyond n"),
        (lambda: dense(INPUTS, num_nodes=1), "num_nodes"),
        (lambda: dense(INPUTS, num_hidden=-1), "must not be negative"),
        (lambda: conv(IMAGES, pool="max"), "no function of covariances"),
        (lambda: conv(IMAGES, padding="same"), "Unknown padding"),
        (lambda: conv(IMAGES, head="mean"), "Unknown head"),
        (lambda: conv(IMAGES, padding="VALID", kernel=7), "shrink to nothing"),
        (lambda: conv(IMAGES, num_convs=4, pool="average"), "too small to be pooled"),
        (lambda: conv(IMAGES, kernel=0), "at least 1"),
    ]:
        with pytest.raises(InputError, match=words):
            call()
