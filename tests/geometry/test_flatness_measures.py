"""Local energy, sharpness, PAC-Bayes, relative coordinates: closed forms and invariances."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from geometry.flatness_points import bowl, classifier
from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel
from lossatlas.geometry import (
    adaptive_sharpness,
    local_energy,
    pac_bayes_bound,
    pac_bayes_sigma,
    relative_point,
    sharpness,
    spectrum,
    trace,
)
from lossatlas.geometry._classes import class_kind
from lossatlas.geometry._filters import filter_axes
from lossatlas.geometry._noise import NoisyPoint, filter_normalised
from lossatlas.geometry._pac_bayes import gaussian_divergence, inverse_kl
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Transformer, apply_scale


KEY = jax.random.key(0)


# -- local energy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["additive", pytest.param("multiplicative", marks=pytest.mark.slow)])
def test_local_energy_of_a_quadratic_is_the_closed_form(noise):
    """Mean sigma^2 / 2 tr(D A D), and for additive noise the variance sigma^4 / 2 tr(A^2) of a draw."""
    w = np.linspace(0.5, 2.0, 12)
    matrix, point, landscape = bowl(at=w)
    found = local_energy(KEY, point, landscape, noise=noise, sigmas=[0.0, 0.1, 0.4], num_draws=600)
    moved = matrix if noise == "additive" else matrix * np.outer(w, w)
    exact = 0.5 * found.sigmas**2 * np.trace(moved)
    assert (np.abs(found.mean() - exact) <= 4 * found.standard_error()).all()
    assert (found.loss_rise[:, 0] == 0).all()
    second = found.sigmas[2] ** 2 / 2 * np.trace(moved @ moved) ** 0.5  # spread of the second order alone
    first = found.sigmas[2] * np.linalg.norm(matrix @ w * (1 if noise == "additive" else w))  # of the first order
    spread = math.sqrt(first**2 + 2 * second**2)
    assert found.standard_error()[2] * math.sqrt(600) == pytest.approx(spread, rel=0.12)
    assert found.loss == pytest.approx(0.5 * w @ matrix @ w)
    assert found.error_rise is None
    assert found.to_xarray()["loss_rise"].dims == ("draw", "sigma")
    np.testing.assert_array_equal(found.quantile(0.5), np.median(found.loss_rise, axis=0))
    with pytest.raises(InputError, match="classes"):
        found.mean("error")


def test_multiplicative_energy_keeps_every_draw_under_scale_and_additive_does_not():
    network, landscape = classifier()
    found = {}
    for c in (1.0, 3.0, 10.0):
        written = apply_scale(network, "hidden[0]", jnp.full(6, c))
        for noise in ("multiplicative", "additive"):
            result = local_energy(KEY, written, landscape, noise=noise, sigmas=[0.3], num_draws=3)
            found[noise, c] = np.concatenate([result.loss_rise, result.rise("error")], axis=1)
    np.testing.assert_allclose(found["multiplicative", 3.0], found["multiplicative", 1.0], rtol=1e-10)
    np.testing.assert_allclose(found["multiplicative", 10.0], found["multiplicative", 1.0], rtol=1e-10)
    assert np.abs(found["additive", 10.0][:, 0] / found["additive", 1.0][:, 0] - 1).max() > 0.3


def test_huge_noise_makes_a_classifier_guess():
    network, landscape = classifier()
    found = local_energy(KEY, network, landscape, sigmas=[1e4], num_draws=60)
    counts = np.bincount(np.asarray(landscape.targets), minlength=3) / 30
    # Random weights, so every class is as likely as another.
    chance = 1 - np.mean(counts)
    assert abs(found.error + found.mean("error")[0] - chance) < 5 * found.standard_error("error")[0]


def test_filters_of_noise_have_the_norms_of_the_network_and_biases_none():
    network = Conv(jax.random.key(0), (2, 5, 5), [3], [4, 2], norm="batch")
    vector, unravel = ravel(network)
    axes = tuple(None if leaf.ndim == 1 else 0 for leaf in jax.tree.leaves(unravel.like))
    noise = unravel.tangent(filter_normalised(jax.random.normal(KEY, vector.shape), vector, unravel, axes))
    for got, own in zip(jax.tree.leaves(noise), jax.tree.leaves(unravel.like), strict=True):
        if own.ndim == 1:
            assert not got.any()
            continue
        norms = [np.linalg.norm(np.asarray(a).reshape(len(a), -1), axis=1) for a in (got, own)]
        np.testing.assert_allclose(*norms, rtol=1e-6)


def test_filter_noise_leaves_biases_of_convolutions_and_scales_of_norms_alone():
    """Biases of Equinox's convolutions have shape (out, 1, 1), and scales of its layer norms that of their input."""
    network = [eqx.nn.Conv2d(2, 3, 2, key=KEY), eqx.nn.LayerNorm((3, 2, 2))]
    forward = lambda net, x: jax.vmap(lambda a: net[1](net[0](a)).sum((1, 2)))(x)  # noqa: E731
    x = jax.random.normal(KEY, (4, 2, 3, 3))
    losses = lambda net, batch: jnp.sum(jnp.square(forward(net, batch)), axis=1)  # noqa: E731
    point = NoisyPoint(network, Landscape.from_function(losses, x), None)
    _, unravel = ravel(network)
    conv, norm = unravel.tangent(point.direction(KEY, 0, "filter"))
    assert network[0].bias.shape == (3, 1, 1)
    for still in (conv.bias, norm.weight, norm.bias):
        assert not np.any(still)
    norms = [np.linalg.norm(np.reshape(a, (3, -1)), axis=1) for a in (conv.weight, network[0].weight)]
    np.testing.assert_allclose(*norms, rtol=1e-12)


def test_filter_noise_goes_along_the_axis_that_unit_spaces_state():
    network = Transformer(KEY, 3, 4, 2, num_stream=4, num_heads=2, num_hidden=3, num_blocks=1)
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))
    point = NoisyPoint(network, Landscape(x, jnp.zeros((2, 2))), None)
    _, unravel = ravel(network)
    got = named_parameters(unravel.tangent(point.direction(KEY, 0, "filter")))
    own = named_parameters(network)
    axes = {name: axis for name, (axis, _) in filter_axes(network).items()}
    assert {axis for axis in axes.values() if axis} != set()  # some are not stored along the first
    for name, axis in axes.items():
        if axis is None:
            assert not np.any(got[name])
            continue
        across = tuple(i for i in range(own[name].ndim) if i != axis)
        norms = [np.sqrt(np.sum(np.square(a[name]), axis=across)) for a in (got, own)]
        np.testing.assert_allclose(*norms, rtol=1e-12)


def test_batches_the_same_key_and_a_filter_of_parameters():
    network, landscape = classifier()
    before = [np.array(leaf) for leaf in jax.tree.leaves(ravel(network)[0])]
    one = local_energy(KEY, network, landscape, noise="filter", sigmas=[0.2], num_draws=3)
    two = local_energy(KEY, network, landscape, noise="filter", sigmas=[0.2], num_draws=3)
    whole = local_energy(KEY, network, landscape.with_batch_size(None), noise="filter", sigmas=[0.2], num_draws=3)
    np.testing.assert_array_equal(one.loss_rise, two.loss_rise)
    np.testing.assert_allclose(one.loss_rise, whole.loss_rise, rtol=1e-10)
    for leaf, old in zip(jax.tree.leaves(ravel(network)[0]), before, strict=True):
        np.testing.assert_array_equal(leaf, old)
    biases = local_energy(KEY, network, landscape, noise="filter", sigmas=[0.2], num_draws=2, only="layers[*].bias")
    np.testing.assert_array_equal(biases.loss_rise, 0.0)


@pytest.mark.parametrize(
    ("targets", "loss", "kind"),
    [
        (jnp.asarray([0, 1]), "cross_entropy", "labels"),
        (jnp.eye(2), "cross_entropy", "rows"),
        (jnp.eye(2), "mse", "rows"),
        (2 * jnp.eye(2), "mse", None),
        (jnp.ones((2, 1)), "mse", None),
        (jnp.asarray([[0.0], [1.0]]), "logistic", "signs"),
    ],
)
def test_what_counts_as_an_error(targets, loss, kind):
    landscape = Landscape(jnp.asarray([[1.0, -1.0], [-1.0, 3.0]]), targets, loss=loss)
    assert class_kind(landscape) == kind
    if kind is not None:
        network = (lambda x: x[:1]) if kind == "signs" else lambda x: x
        found = local_energy(KEY, _Plain(jnp.ones(1), network), landscape, sigmas=[0.0], num_draws=2)
        assert found.error == (1.0 if kind == "signs" else 0.0)


class _Plain:
    """A function with one parameter that it does not use."""

    def __init__(self, weight, fn):
        self.weight, self.fn = weight, fn

    def __call__(self, x):
        return self.fn(x)


jax.tree_util.register_pytree_node(_Plain, lambda p: ((p.weight,), p.fn), lambda fn, leaves: _Plain(leaves[0], fn))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigmas": [-0.1]}, "sigmas must be finite numbers of at least 0"),
        ({"sigmas": []}, "at least one"),
        ({"num_draws": 1}, "num_draws must be at least 2"),
        ({"noise": "laplace"}, "Unknown noise 'laplace'"),
        ({"only": "nothing"}, "selects no parameter"),
    ],
)
def test_local_energy_refuses(options, words):
    network, landscape = classifier()
    with pytest.raises(InputError, match=words):
        local_energy(KEY, network, landscape, **options)
    with pytest.raises(InputError, match="not finite at this network"):
        local_energy(KEY, jax.tree.map(lambda a: a * jnp.nan, network), landscape)


# -- relative coordinates ------------------------------------------------------------------------------------------


def test_relative_coordinates_give_the_scaled_hessian_and_do_not_see_the_scale():
    network, landscape = classifier()
    w = np.asarray(ravel(network)[0])
    dense = np.asarray(eqx.filter_jit(landscape.hessian)(network)) * np.outer(w, w)
    written = apply_scale(network, "hidden[0]", jnp.linspace(0.2, 5.0, 6))
    for net in (network, written):
        point, moved = relative_point(net, landscape)
        found = spectrum(point, moved)
        np.testing.assert_allclose(np.asarray(found.all_values), np.linalg.eigvalsh(dense)[::-1], atol=1e-12)
    np.testing.assert_allclose(trace(KEY, point, moved, method="exact").value, np.trace(dense), rtol=1e-10)
    value, slope = eqx.filter_jit(moved.value_and_gradient)(point)
    loss, gradient = eqx.filter_jit(landscape.value_and_gradient)(network)
    assert float(value) == pytest.approx(float(loss), rel=1e-12)
    own = np.asarray(ravel(written)[0])
    exact = own * np.asarray(eqx.filter_jit(landscape.value_and_gradient)(written)[1])
    np.testing.assert_allclose(slope, exact, atol=1e-14)
    np.testing.assert_allclose(slope, w * gradient, atol=1e-14)
    part, moved = relative_point(network, landscape, only="layers[1].*")
    np.testing.assert_allclose(eqx.filter_jit(moved.hessian)(part), dense[30:, 30:], atol=1e-13)


# -- sharpness -----------------------------------------------------------------------------------------------------


def test_sharpness_at_a_minimum_is_half_the_square_of_the_radius_times_the_top_eigenvalue():
    matrix, point, landscape = bowl()
    found = sharpness(point, landscape, radius=0.3, num_steps=40)
    assert found.value == pytest.approx(0.3**2 * 10 / 2, rel=1e-6)
    assert found.one_step == 0
    assert found.first_order == 0
    assert found.gap == found.value
    away = jnp.linspace(0.5, 2.0, 12)
    once = sharpness(away, landscape, radius=0.3, num_steps=0)
    g = matrix @ np.asarray(away)
    step = 0.3 * g / np.linalg.norm(g)
    assert once.value == once.one_step == pytest.approx(step @ g + 0.5 * step @ matrix @ step, rel=1e-12)
    assert once.first_order == pytest.approx(0.3 * np.linalg.norm(g), rel=1e-12)
    scaled = adaptive_sharpness(away, landscape, radius=0.3, eta=0.1, num_steps=0)
    t = np.asarray(away) + 0.1
    step = 0.3 * t**2 * g / np.linalg.norm(t * g)
    assert scaled.value == pytest.approx(step @ g + 0.5 * step @ matrix @ step, rel=1e-12)
    # In the coordinates of the ball the minimum is sharpest along the top eigenvector of T A T.
    origin = adaptive_sharpness(point, landscape, radius=0.3, eta=2.0, num_steps=40)
    assert origin.value == pytest.approx(2.0**2 * 0.3**2 * 10 / 2, rel=1e-6)


def test_whatever_the_seed_the_higher_of_two_opposite_maxima_is_found():
    # w^2 + w^3 along the first coordinate rises by .25 +- .125 at +- .5, and both are local maxima of the ball.
    fn = lambda params, batch: batch * (jnp.sum(params**2 * jnp.array([1.0, 0.1, 0.1])) + params[0] ** 3)  # noqa: E731
    landscape = Landscape.from_function(fn, jnp.ones(1))
    for seed in range(4):
        found = sharpness(jnp.zeros(3), landscape, radius=0.5, key=jax.random.key(seed))
        assert found.value == pytest.approx(0.375, rel=1e-6)
        assert found.starts[0] == 0.0  # there is no gradient to begin with
        assert sorted(found.starts[1:]) == pytest.approx([0.125, 0.375], rel=1e-4)


def test_adaptive_sharpness_does_not_see_the_scale_and_plain_sharpness_does():
    network, landscape = classifier()
    written = apply_scale(network, "hidden[0]", jnp.full(6, 3.0))
    pair = [adaptive_sharpness(net, landscape, radius=0.3, eta=0.0) for net in (network, written)]
    assert pair[0].one_step == pytest.approx(pair[1].one_step, rel=1e-10)
    assert pair[0].value == pytest.approx(pair[1].value, rel=1e-9)
    assert pair[0].value >= pair[0].one_step > 0
    plain = [sharpness(net, landscape).value for net in (network, written)]
    assert plain[1] > 1.2 * plain[0]


def test_the_mean_over_shards_is_at_least_that_of_all_data():
    network, landscape = classifier()
    whole = sharpness(network, landscape, radius=0.1)
    shards = sharpness(network, landscape, radius=0.1, shard_size=7)
    assert len(shards.rises) == 4
    assert shards.standard_error > 0
    assert shards.value > whole.value
    assert whole.standard_error == 0
    single = sharpness(network, landscape, radius=0.1, shard_size=30)
    assert single.value == pytest.approx(whole.value, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radius": -1.0}, "radius must be finite and not negative"),
        ({"num_steps": -1}, "num_steps"),
        ({"shard_size": 31}, "shard_size must be between 1 and the number of examples, 30"),
        ({"eta": -1.0}, "eta must be finite"),
    ],
)
def test_sharpness_refuses(options, words):
    network, landscape = classifier()
    with pytest.raises(InputError, match=words):
        adaptive_sharpness(network, landscape, **options)


# -- PAC-Bayes -----------------------------------------------------------------------------------------------------


def test_sigma_of_a_quadratic_is_the_closed_form_within_its_interval():
    matrix, point, landscape = bowl()
    found = pac_bayes_sigma(KEY, point, landscape, of="loss", threshold=0.1, num_draws=50)
    exact = math.sqrt(2 * 0.1 / np.trace(matrix))
    assert found.low < exact < found.high
    assert found.low < found.sigma < found.high
    assert (found.high - found.low) / found.sigma < 0.3
    # The same draws at every size: on a quadratic the curve is exactly quadratic.
    scale = np.interp(found.sigma, found.sizes, found.rises) / found.sigma**2
    np.testing.assert_allclose(found.rises, scale * found.sizes**2, rtol=0.01)
    assert found.flatness == pytest.approx(found.sigma**-2)


def test_sigma_of_multiplicative_noise_does_not_see_the_scale_and_may_be_infinite():
    network, landscape = classifier()
    written = apply_scale(network, "hidden[0]", jnp.full(6, 3.0))
    options = {"noise": "multiplicative", "num_draws": 3}
    pair = [pac_bayes_sigma(KEY, net, landscape, **options).sigma for net in (network, written)]
    assert pair[0] == pytest.approx(pair[1], rel=1e-9)
    assert math.isinf(pac_bayes_sigma(KEY, network, landscape, threshold=2.0, **options).sigma)
    with pytest.raises(InputError, match="threshold must be finite and positive"):
        pac_bayes_sigma(KEY, network, landscape, threshold=0.0)
    _, point, smooth = bowl()
    with pytest.raises(InputError, match="classes"):
        pac_bayes_sigma(KEY, point, smooth)


def test_the_bound_is_made_of_its_parts():
    assert gaussian_divergence(2.0, 0.5, 0.5, 7) == pytest.approx(2.0**2 / (2 * 0.5**2))
    # Against numerical integration in one dimension.
    x = np.linspace(-12, 12, 200_001)
    q = np.exp(-0.5 * ((x - 1) / 0.7) ** 2) / 0.7
    p = np.exp(-0.5 * (x / 1.3) ** 2) / 1.3
    exact = np.trapezoid(q / np.sqrt(2 * np.pi) * np.log(q / p), x)
    assert gaussian_divergence(1.0, 0.7, 1.3, 1) == pytest.approx(exact, rel=1e-8)
    assert inverse_kl(0.0, 0.1) == pytest.approx(1 - math.exp(-0.1), rel=1e-12)
    q = inverse_kl(0.2, 0.05)
    assert 0.2 * math.log(0.2 / q) + 0.8 * math.log(0.8 / (1 - q)) == pytest.approx(0.05, rel=1e-9)
    network, landscape = classifier()
    found = pac_bayes_bound(KEY, network, landscape, sigmas=[0.01, 0.1], num_draws=20, prior=network)
    assert found.error <= found.error_bound <= found.bound
    assert found.bound == found.bounds.min()
    # A prior at the network itself costs next to nothing: what remains is the confidence.
    assert found.divergence < 0.1
    penalty = found.divergence + math.log(
        2 * math.sqrt(30) * math.pi**2 * round(-20 * math.log(found.prior_sigma)) ** 2
    )
    assert found.bound == pytest.approx(inverse_kl(found.error_bound, (penalty - math.log(6 * 0.025)) / 30))
    far = pac_bayes_bound(KEY, network, landscape, sigmas=[0.01, 0.1], num_draws=20)
    assert far.bound > found.bound
    assert far.is_vacuous == (far.bound >= 1)
    with pytest.raises(InputError, match="delta between 0 and 1"):
        pac_bayes_bound(KEY, network, landscape, delta=0.0)
    with pytest.raises(InputError, match="same shape"):
        pac_bayes_bound(KEY, network, landscape, prior=classifier(widths=(4, 2, 3))[0])
    _, point, smooth = bowl()
    with pytest.raises(InputError, match="no classes"):
        pac_bayes_bound(KEY, point, smooth)
