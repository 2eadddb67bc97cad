"""Paths that theorems make flat, or never rising: they are, and the straight line is not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import filled

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, ravel
from lossatlas.embedding import descending_path, permutation_path, sublevel_path
from lossatlas.embedding._lowest_outputs import lowest_outputs
from lossatlas.embedding._permutation_path import num_segments
from lossatlas.embedding._unit_arrays import permuted, to_arrays, with_arrays
from lossatlas.geometry import verify_path
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, Recurrent, Residual, Transformer, put_units, replace_parameters, take_units


KEY = jax.random.key(0)
NO_BIAS: dict[str, Any] = {"use_bias": False, "use_output_bias": False}


def with_spares(network):
    """The last unit of every space that may have a spare is read by nobody, and orders that leave it in place."""
    rng, orders = np.random.default_rng(0), {}
    for name, space in network.unit_spaces().items():
        if space.shares != "any":
            continue
        arrays = named_arrays(network)
        for axis in space.readers:
            block = take_units(arrays[axis.path], axis, space.size).at[..., -1, :].set(0)
            arrays[axis.path] = put_units(arrays[axis.path], axis, space.size, block)
        network = replace_parameters(network, arrays)
        orders[name] = np.append(rng.permutation(space.size - 1), space.size - 1)
    return network, orders


def exchanged(network, orders):
    arrays = to_arrays(network)
    for name, order in orders.items():
        arrays = permuted(arrays, network.unit_spaces()[name], order)
    return with_arrays(network, arrays)


NETWORKS = {
    "dense": (Dense(KEY, [3, 6, 7, 5, 2]), (3,)),
    "recurrent": (Recurrent(KEY, 3, 5, 2), (4, 3)),
}
SLOW = {
    "conv, batch norm": (Conv(KEY, (1, 4, 4), [4, 3], [4, 2], norm="batch", pool="max"), (1, 4, 4)),
    "residual": (Residual(KEY, 3, 5, 2, num_blocks=3, num_hidden=6), (3,)),
    "residual, plain": (Residual(KEY, 3, 5, 2, num_blocks=2), (3,)),
    "conv, separable": (Conv(KEY, (2, 6, 6), [4, 5], [2], separable=True, activation="relu"), (2, 6, 6)),
    "transformer": (Transformer(KEY, 3, 4, 2, num_stream=8, num_heads=3, num_hidden=6, gated=True), (4, 3)),
}


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_permuted_copies_are_joined_by_a_path_of_constant_function(name):
    network, shape = (NETWORKS | SLOW)[name]
    network, orders = with_spares(filled(network))
    inputs = jax.random.normal(jax.random.key(1), (11, *shape))
    landscape = Landscape(inputs, jax.random.normal(jax.random.key(2), (11, 2)))
    path = permutation_path(network, orders, landscape, num_points=5)
    wanted = exchanged(network, orders)
    for array, other in zip(named_arrays(path.vertices[-1]).values(), named_arrays(wanted).values(), strict=True):
        np.testing.assert_array_equal(array, other)
    assert path.num_segments == sum(num_segments(order) for order in orders.values())
    found: Any = path.verification
    assert found.function_change < 1e-12 * max(found.function_scale, 1.0)
    assert found.control_function_change > 1e-2
    np.testing.assert_array_equal(ravel(path.vertices[0])[0], ravel(network)[0])


def test_segments_are_counted_by_cycles():
    assert num_segments([0, 1, 2]) == 1
    assert num_segments([1, 0, 2]) == 7  # a transposition
    assert num_segments([1, 2, 0, 4, 3]) == 8 + 6 + 1


def test_paths_of_permutations_that_do_not_exist_are_refused():
    network, orders = with_spares(filled(Dense(KEY, [3, 5, 2])))
    landscape = Landscape(jnp.ones((2, 3)), jnp.ones((2, 2)))
    plain = filled(Dense(KEY, [3, 5, 2]))
    normed = filled(Residual(KEY, 3, 5, 2, num_hidden=4, norm="layer"))
    cases: Any = (
        (network, {"hidden[0]": [0, 0, 1, 2, 4]}, {}, "must be a permutation of 0..4"),
        (network, {"hidden[0]": [4, 1, 2, 3, 0]}, {}, "unit 4, must stay in its place"),
        (network, orders, {"spares": {"hidden[0]": 2}}, r"Unit 2 of hidden\[0\] is no spare"),
        (network, orders, {"spares": {"hidden[0]": 9}}, "one of its units, 0 to 4, got 9"),
        (network, {"hidden[1]": [0]}, {}, "Unknown unit space 'hidden"),
        (plain, orders, {}, r"hidden\[0\] has no spare unit.*add_null_unit"),
        (normed, {"stream": np.arange(5)}, {}, "units of stream are normalised together"),
    )
    for net, wanted, kwargs, said in cases:
        with pytest.raises(InputError, match=said):
            permutation_path(net, wanted, landscape, **kwargs)


def bad_minimum(num_units, d=2, n=20):
    """A local minimum of loss 1/2 |e|^2 = 1/2 (a sum) at any width: card global-landscape, C1."""
    rng = np.random.default_rng(0)
    x, w = 2.5 * rng.normal(size=(n, d)), 0.7 * rng.normal(size=d)
    s = np.tanh(x @ w)
    slope, bend = 1 - s**2, -2 * s * (1 - s**2)
    pairs = np.triu_indices(d)
    second = [bend * x[:, i] * x[:, j] for i, j in zip(*pairs, strict=True)]
    rows = np.concatenate([s[None], (slope[:, None] * x).T, np.stack(second)])
    wanted = np.concatenate([np.zeros(1 + d), np.eye(d)[pairs]])
    scale = np.linalg.norm(rows, axis=1)
    e = np.linalg.lstsq(rows / scale[:, None], wanted / scale)[0]
    e /= np.linalg.norm(e)
    v = rng.uniform(0.5, 1.5, num_units)
    network = Dense(KEY, [d, num_units, 1], **NO_BIAS)
    values = {"layers[0].weight": np.tile(w, (num_units, 1)), "layers[1].weight": v[None]}
    network = replace_parameters(network, {name: jnp.asarray(value) for name, value in values.items()})
    return network, Landscape(jnp.asarray(x), jnp.asarray((v.sum() * s - e)[:, None]))


def test_one_walks_out_of_a_bad_minimum_without_rising():
    network, landscape = bad_minimum(25)
    np.testing.assert_allclose(20 * float(landscape(network)), 0.5, rtol=1e-12)
    assert float(jnp.abs(landscape.gradient(network)).max()) < 1e-12
    path = descending_path(KEY, network, landscape)
    found: Any = path.verification
    assert path.num_segments == 3
    assert found.max_increase < 1e-10
    assert found.end_loss < 1e-18
    assert found.control_increase > 1e-3  # the straight line to the same end
    assert [segment.is_convex for segment in found.segments] == [True, False, True]
    assert max(segment.function_change for segment in found.segments[:2]) < 1e-12
    np.testing.assert_array_equal(ravel(path.vertices[0])[0], ravel(network)[0])


@pytest.mark.parametrize("options", [{}, NO_BIAS])
def test_random_points_go_down_to_zero_too(options):
    _, landscape = bad_minimum(25)
    found: Any = descending_path(KEY, Dense(KEY, [2, 25, 1], **options), landscape).verification
    assert found.max_increase < 1e-10
    assert found.end_loss < 1e-18


LOSSES = {
    "logistic": (lambda f, y: np.logaddexp(0, f) - y * f, [0.0, 1.0, 0.3]),
    "cross_entropy": (
        lambda f, p: np.logaddexp.reduce(f, axis=-1, keepdims=True) - np.sum(p * f, axis=-1, keepdims=True),
        [[1.0, 0.0, 0.0], [0.2, 0.8, 0.0], [0.2, 0.5, 0.3]],
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_every_example_falls_on_the_line_to_its_lowest_outputs(name):
    loss, targets = LOSSES[name]
    rng = np.random.default_rng(0)
    targets = np.asarray(targets)[rng.integers(0, 3, 40)].reshape(40, -1)
    landscape = Landscape(jnp.ones((40, 1)), jnp.asarray(targets), loss=name)
    start = 8 * rng.normal(size=targets.shape)
    end = lowest_outputs(landscape, start, 1e-4)
    line = np.stack([loss(start + t * (end - start), targets) for t in np.linspace(0, 1, 201)])
    assert np.diff(line, axis=0).max() < 1e-12
    entropy = -np.where(targets > 0, targets * np.log(np.maximum(targets, 1e-9)), 0.0)
    rest = 1 - targets if name == "logistic" else np.zeros_like(targets)
    entropy -= np.where(rest > 0, rest * np.log(np.maximum(rest, 1e-9)), 0.0)
    excess = line[-1] - entropy.sum(1, keepdims=True)
    assert excess.min() > -1e-12
    assert excess.max() < 1e-4


def test_classes_are_fitted_without_rising_though_their_loss_has_no_minimum():
    inputs, labels = jax.random.normal(KEY, (10, 2)), jax.random.randint(KEY, (10,), 0, 3)
    landscape = Landscape(inputs, labels, loss="cross_entropy")
    path = descending_path(KEY, Dense(KEY, [2, 14, 3]), landscape, gap=1e-8, num_points=11)
    found: Any = path.verification
    assert found.max_increase < 1e-10
    assert 0 < found.end_loss < 1e-8
    assert [segment.is_convex for segment in found.segments] == [True, True]  # random features have rank 10


def test_fewer_units_than_examples_reach_the_least_squares_or_are_refused():
    network, landscape = bad_minimum(8)
    with pytest.raises(InputError, match="8 units cannot reach any outputs on 20 examples; at least 20"):
        descending_path(KEY, network, landscape)
    path = descending_path(KEY, network, landscape, partial=True)
    found: Any = path.verification
    end = path.vertices[-1]
    features = np.tanh(np.asarray(landscape.inputs) @ np.asarray(end.layers[0].weight).T)
    left = np.linalg.lstsq(features, np.asarray(landscape.targets))[1]
    np.testing.assert_allclose(40 * found.end_loss, left, rtol=1e-8)
    assert found.max_increase < 1e-10


@pytest.mark.parametrize(("loss", "num_units", "options"), [("mse", 20, NO_BIAS), ("logistic", 24, {})])
def test_two_networks_are_joined_below_the_larger_loss(loss, num_units, options):
    inputs, noise = jax.random.normal(jax.random.key(1), (10, 2)), jax.random.normal(jax.random.key(2), (10, 1))
    landscape = Landscape(inputs, noise if loss == "mse" else (noise > 0).astype(float), loss=loss)
    first, last = (Dense(jax.random.key(seed), [2, num_units, 1], **options) for seed in (0, 1))
    path = sublevel_path(first, last, landscape)
    assert path.num_segments == 7
    found: Any = path.verification
    assert found.max_excess < 1e-10
    for vertex, end in ((path.vertices[0], first), (path.vertices[-1], last)):
        np.testing.assert_array_equal(ravel(vertex)[0], ravel(end)[0])


def test_between_two_fits_the_straight_line_is_a_mountain():
    inputs = jax.random.normal(jax.random.key(1), (10, 2))
    landscape = Landscape(inputs, jax.random.normal(jax.random.key(2), (10, 1)))
    fits = [
        descending_path(KEY, Dense(jax.random.key(seed), [2, 20, 1], **NO_BIAS), landscape).vertices[-1]
        for seed in (0, 1)
    ]
    found = verify_path(sublevel_path(fits[0], fits[1], landscape), landscape)
    assert found.max_loss < 1e-20
    assert found.control_max_loss > 1


def test_networks_that_are_not_wide_or_not_shallow_are_refused():
    landscape = Landscape(jax.random.normal(KEY, (10, 2)), jnp.ones((10, 1)))
    small = Dense(KEY, [2, 12, 1], **NO_BIAS)
    with pytest.raises(InputError, match=r"12 units, but \d+ \+ \d+ of them are independent"):
        sublevel_path(small, Dense(jax.random.key(1), [2, 12, 1], **NO_BIAS), landscape)
    with pytest.raises(InputError, match=r"one hidden layer .* got widths \[2, 3, 3, 1\]"):
        descending_path(KEY, Dense(KEY, [2, 3, 3, 1]), landscape)
    robust = Landscape(landscape.inputs, landscape.targets, loss=lambda f, y: jnp.abs(f - y).sum())
    with pytest.raises(InputError, match="'mse', 'cross_entropy' or 'logistic', got .* of other losses neither"):
        descending_path(KEY, small, robust)
    classes = Landscape(landscape.inputs, jnp.zeros(10), loss="logistic")
    refused: Any = (({"partial": True}, "least-squares fit, so it needs squared"), ({"gap": 0.0}, "gap must lie"))
    for options, said in refused:
        with pytest.raises(InputError, match=said):
            descending_path(KEY, small, classes, **options)
