import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lossatlas._errors import InputError
from lossatlas.geometry import kernel_distance, kernel_evolution, kernel_regression, ntk, relu_patterns
from lossatlas.geometry._kernel_bootstrap import resample_counts, resampled_distances
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, apply_permutation, apply_scale
from lossatlas.training import train


RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(12, 3))
LABELS = (INPUTS[:, 0] > 0).astype(int) + (INPUTS[:, 1] > 0)
DATA = Landscape(INPUTS, LABELS, loss="cross_entropy")
TEST = Landscape(RNG.normal(size=(7, 3)), RNG.integers(0, 3, 7), loss="cross_entropy")


@pytest.fixture(scope="module")
def run():
    network = Dense(jax.random.key(1), [3, 5, 3], activation="relu", init="he")
    return train(jax.random.key(0), network, DATA, num_steps=60, learning_rate=0.3, snapshots=[0, 20, 60])


# -- ReLUs ---------------------------------------------------------------------------------------------------------


def test_patterns_are_the_signs_of_the_pre_activations():
    network = Dense(jax.random.key(1), [3, 5, 4, 2], activation="relu", init="he")
    first = INPUTS @ np.asarray(network.layers[0].weight).T
    second = np.maximum(first, 0) @ np.asarray(network.layers[1].weight).T
    np.testing.assert_array_equal(relu_patterns(network, INPUTS), np.concatenate([first > 0, second > 0], axis=1))
    scaled = apply_scale(network, "hidden[0]", jnp.array([2.0, 0.5, 3.0, 1.0, 0.1]))
    np.testing.assert_array_equal(relu_patterns(scaled, INPUTS), relu_patterns(network, INPUTS))
    permuted = apply_permutation(network, "hidden[0]", jnp.array([4, 3, 2, 1, 0]))
    back = [4, 3, 2, 1, 0, 5, 6, 7, 8]
    np.testing.assert_array_equal(relu_patterns(permuted, INPUTS)[:, back], relu_patterns(network, INPUTS))


def test_patterns_of_convolutions_and_foreign_modules():
    images = RNG.normal(size=(3, 1, 4, 4))
    network = Conv(jax.random.key(0), (1, 4, 4), [2], [2], activation="relu", pool="max")
    assert relu_patterns(network, images).shape == (3, 2 * 4 * 4)
    foreign = eqx.nn.MLP(3, 2, 4, 2, key=jax.random.key(0))
    assert relu_patterns(foreign, INPUTS).shape == (12, 8)
    with pytest.raises(InputError, match="no ReLU"):
        relu_patterns(Dense(jax.random.key(1), [3, 5, 2]), INPUTS)


# -- evolution -----------------------------------------------------------------------------------------------------


def test_evolution_holds_the_measures_of_every_checkpoint(run):
    found = kernel_evolution(run, DATA, test=TEST)
    networks = [run.network_at(i) for i in range(3)]
    kernels = [ntk(network, DATA, convention="full") for network in networks]
    np.testing.assert_array_equal(found.times, [0, 20, 60])
    assert np.isnan(found["velocity"][0])
    for i, dt in ((1, 20), (2, 40)):
        assert found["velocity"][i] == pytest.approx(kernel_distance(kernels[i - 1], kernels[i]).distance / dt)
    assert found["distance_to_last"][0] == pytest.approx(kernel_distance(kernels[0], kernels[2]).distance)
    s, d = found["scale"], found["distance_from_first"]
    np.testing.assert_allclose(found["change"] ** 2, s**2 + 1 - 2 * s * (1 - d), atol=1e-10)
    patterns = [relu_patterns(network, DATA) for network in networks]
    assert found["hamming_from_first"][2] == pytest.approx(np.mean(patterns[0] != patterns[2]))
    choices = [np.asarray(DATA.predictions(network)).argmax(1) for network in networks]
    assert found["disagreement"][2] == pytest.approx(np.mean(choices[1] != choices[2]))
    assert found["weight_distance_from_first"][1] == pytest.approx(
        np.linalg.norm(run.parameters[1] - run.parameters[0])
    )
    assert found["direction"][2] == pytest.approx(1)
    regression = kernel_regression(networks[1], DATA, TEST, convention="full")
    assert found["frozen_accuracy"][1] == regression.accuracy
    assert found["network_accuracy"][1] == regression.network_accuracy
    assert found.to_xarray()["velocity"].sizes == {"time": 3}
    counts = resample_counts(jax.random.key(0), 12, 200)
    again = resampled_distances(counts, kernels[1].matrix, kernels[2].matrix)["distance"]
    assert found.errors["velocity"][2] == pytest.approx(again.std(ddof=1) / 40)
    share = (choices[1] != choices[2]).astype(float)
    assert found.errors["disagreement"][2] == pytest.approx((counts @ share / 12).std(ddof=1))
    accuracy = found["frozen_accuracy"][1]
    assert found.errors["frozen_accuracy"][1] == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 7))
    assert found.to_xarray()["velocity_error"][1] == found.errors["velocity"][1] > 0
    assert f"{found['velocity'][1]:.3g} ± {found.errors['velocity'][1]:.1g}" in found._repr_html_()
    bars = found._figure().data[0].error_y.array
    np.testing.assert_array_equal(bars, found.errors["distance_from_first"])


def test_kernel_of_a_linear_model_stands_still():
    line = Dense(jax.random.key(1), [3, 3])
    trained = train(jax.random.key(0), line, DATA, num_steps=20, learning_rate=0.5, snapshots=[0, 20])
    found = kernel_evolution(trained, DATA, convention="trace", num_resamples=0)
    assert found.errors == {}
    assert found["velocity"][1] == pytest.approx(0, abs=1e-10)
    assert found["change"][1] == pytest.approx(0, abs=1e-10)
    assert np.isnan(found["hamming"]).all()  # no ReLUs


def test_same_network_twice_is_at_no_distance(run):
    found = kernel_evolution([run.network, run.network], INPUTS, [0.0, 0.4])
    for name in ("velocity", "disagreement", "hamming", "weight_distance_from_first", "change"):
        assert found[name][1] == 0, name


def test_bad_evolutions_say_what_is_wrong(run):
    with pytest.raises(InputError, match="at least two checkpoints"):
        kernel_evolution([run.network], INPUTS)
    for times in ([0.0, 0.0], [1.0, 0.0], [0.0]):
        with pytest.raises(InputError, match="times must increase"):
            kernel_evolution([run.network, run.network], INPUTS, times)
    with pytest.raises(InputError, match="num_resamples must be at least 2"):
        kernel_evolution([run.network, run.network], INPUTS, num_resamples=1)
    with pytest.raises(InputError, match="different architectures"):
        kernel_evolution([run.network, Dense(jax.random.key(0), [3, 4, 3])], INPUTS)


# -- regression ----------------------------------------------------------------------------------------------------


def test_kernel_of_a_linear_model_regresses_as_ridge_regression():
    line = Dense(jax.random.key(1), [3, 1], use_output_bias=False)
    y = RNG.normal(size=12)
    found = kernel_regression(line, Landscape(INPUTS, y), Landscape(INPUTS[:5], y[:5]), ridge=0.3)
    weights = np.linalg.solve(INPUTS.T @ INPUTS + 0.3 * np.eye(3), INPUTS.T @ (y - y.mean()))
    np.testing.assert_allclose(found.predictions[:, 0], INPUTS[:5] @ weights + y.mean(), rtol=1e-9)
    assert found.squared_error == pytest.approx(0.5 * np.mean((found.predictions[:, 0] - y[:5]) ** 2))
    errors = 0.5 * (found.predictions[:, 0] - y[:5]) ** 2
    assert found.squared_error_error == pytest.approx(errors.std() / np.sqrt(5))
    own = np.asarray(Landscape(INPUTS[:5], y[:5]).predictions(line))[:, 0]
    assert found.network_squared_error == pytest.approx(0.5 * np.mean((own - y[:5]) ** 2))
    assert found.accuracy is None


def test_logits_are_right_by_their_sign():
    line = Dense(jax.random.key(1), [3, 1], use_output_bias=False)
    right = INPUTS[:, 0] > 0
    landscape = Landscape(INPUTS, right[:, None].astype(float), loss="logistic")
    found = kernel_regression(line, landscape, landscape, ridge=1e-6)
    assert found.accuracy == np.mean((found.predictions[:, 0] > 0.5) == right)
    assert found.network_accuracy == np.mean((np.asarray(landscape.predictions(line))[:, 0] > 0) == right)


def test_small_ridge_interpolates_the_classes(run):
    found = kernel_regression(run.network, DATA, DATA, ridge=1e-9)
    np.testing.assert_allclose(found.predictions, np.eye(3)[LABELS], atol=1e-4)
    assert found.accuracy == 1
    n = len(found.predictions)
    assert found.accuracy_error == pytest.approx(scipy.stats.beta(n + 1, 1).std())
    assert found.network_accuracy == np.mean(np.asarray(DATA.predictions(run.network)).argmax(1) == LABELS)


def test_full_kernel_regresses_all_outputs_together(run):
    found = kernel_regression(run.network, DATA, TEST, convention="full")
    kernel = ntk(run.network, DATA, convention="full").matrix
    ridge = 1e-3 * np.trace(kernel) / 36
    cross = ntk(run.network, TEST, DATA, convention="full").matrix
    wanted = cross @ np.linalg.solve(kernel + ridge * np.eye(36), (np.eye(3)[LABELS] - 1 / 3).reshape(-1))
    np.testing.assert_allclose(found.predictions.reshape(-1), wanted + 1 / 3, rtol=1e-8)


def test_bad_regressions_say_what_is_wrong(run):
    with pytest.raises(InputError, match="ridge must be positive"):
        kernel_regression(run.network, DATA, TEST, ridge=0.0)
    with pytest.raises(InputError, match="3 outputs"):
        kernel_regression(run.network, Landscape(INPUTS, INPUTS[:, :2]), TEST)
