"""Initialisations balanced on data: exact in one step where it should be, honest elsewhere."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from lossatlas._errors import InputError
from lossatlas._status import Status
from lossatlas.geometry import balance_layers
from lossatlas.geometry._layer_moments import exact_moments, moments_recipe, output_curvatures
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, replace_parameters
from lossatlas.theory import expected_layer_traces


INPUTS = jax.random.normal(jax.random.key(1), (12, 5))
VALUES = Landscape(INPUTS, jnp.zeros((12, 3)))
LABELS = Landscape(INPUTS, jax.random.randint(jax.random.key(2), (12,), 0, 3), loss="cross_entropy")


def relu(widths: Sequence[int] = (5, 16, 8, 3), *, seed: int = 0, init: Any = "he"):
    return Dense(jax.random.key(seed), widths, activation="relu", init=init, use_bias=False, use_output_bias=False)


def test_one_step_is_exact_for_homogeneous_networks():
    found = balance_layers(relu(), VALUES, target=7.0)
    assert found.stats["steps"] == 1
    assert found.status is Status.CONVERGED
    np.testing.assert_allclose(found.traces, 7.0, rtol=1e-12)
    whole = np.asarray(jax.jit(lambda at: VALUES.gauss_newton(at))(found.network))
    np.testing.assert_allclose(np.trace(whole), 3 * 7.0, rtol=1e-12)
    np.testing.assert_allclose(found.network.layers[1].weight, found.scales[1] * relu().layers[1].weight)
    # Already there: nothing moves.
    again = balance_layers(found.network, VALUES, target=7.0)
    assert again.stats["steps"] == 0
    assert again.scales.tolist() == [1, 1, 1]


def test_dropout_lowers_what_each_layer_aims_at():
    full, kept = (balance_layers(relu(), VALUES, keep_rate=rate) for rate in (1.0, 0.5))
    np.testing.assert_allclose(kept.traces, full.traces / 4, rtol=1e-12)
    np.testing.assert_allclose(full.target, np.exp(np.log(full.traces_before).mean()), rtol=1e-12)


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_vanishing_and_exploding_starts_get_the_gain_one(scale):
    found = balance_layers(jax.tree.map(lambda a: scale * a, relu()), VALUES)
    # The mean square of the inputs, 3 outputs, and the geometric mean of the 5, 16 and 8 inputs of units.
    np.testing.assert_allclose(found.traces, 3 * float(jnp.mean(INPUTS**2)) * 640 ** (1 / 3), rtol=1e-12)


def test_softmax_smooth_activations_and_biases_take_some_steps():
    network = Dense(jax.random.key(0), [5, 16, 8, 3], activation="tanh")
    found = balance_layers(network, LABELS)
    assert found.status is Status.CONVERGED
    assert 1 < found.stats["steps"] < 10
    np.testing.assert_allclose(found.traces, found.target, rtol=0.06)
    np.testing.assert_array_equal(found.to_xarray().trace, found.traces)
    assert [bar.name for bar in found._figure().data] == ["before", "after"]


def test_without_enough_steps_the_status_says_so():
    found = balance_layers(Dense(jax.random.key(0), [5, 16, 8, 3]), LABELS, rtol=1e-9, max_steps=1)
    assert found.status is Status.MAX_STEPS
    assert found.stats["steps"] == 1


def test_a_layer_without_curvature_and_numbers_out_of_range_are_refused():
    network = relu()
    dead = replace_parameters(network, {"layers[2].weight": jnp.zeros((3, 8))})
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (dead, {}, r"no positive curvature in layers\[0\], layers\[1\]"),
        (network, {"only": "layers[0].*"}, "at least two layers"),
        (network, {"target": -1.0}, "target must be positive"),
        (network, {"keep_rate": 0.0}, "keep_rate must lie above 0"),
        (network, {"max_steps": 0}, "max_steps must be at least 1"),
    ]
    for at, options, said in cases:
        with pytest.raises(InputError, match=said):
            balance_layers(at, VALUES, **options)


@pytest.mark.slow
def test_expected_traces_are_the_means_over_draws():
    # Section 2.3 of the card of the paper: 93.8(1.2), 146.9(2.2), 118.0(2.5), 355.8(8.5) over 200 draws.
    widths, variances = [64, 200, 50, 120, 10], [2 / 64, 2 / 100, 2 / 80, 1 / 120]
    inputs = jnp.asarray(load_digits(return_X_y=True)[0][:40] / 16)
    landscape = Landscape(inputs, jnp.zeros((40, 10)))
    by_fans = dict(zip(zip(widths[:-1], widths[1:], strict=True), variances, strict=True))
    std = lambda fan_in, fan_out, _: by_fans[fan_in, fan_out] ** 0.5  # noqa: E731
    curvatures = np.asarray(output_curvatures(relu(widths), landscape))
    found = []
    for seed in range(200):
        recipe, leaves = moments_recipe(relu(widths, seed=seed, init=std), landscape, diagonal_alone=True)
        names = [f"layers[{k}]" for k in range(4)]
        found.append(exact_moments(recipe, leaves, landscape, curvatures, names, diagonal_alone=True).traces)
    square = float(jnp.mean(jnp.sum(inputs**2, axis=1)))
    expected = expected_layer_traces(widths, variances, input_square=square, loss_trace=10.0)
    mean, error = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / 200**0.5
    print(f"measured {mean.round(1)} +- {error.round(1)}, expected {expected.round(1)}")
    assert np.all(np.abs(mean - expected) < 3 * error)
    assert np.all(error < 0.03 * expected)
