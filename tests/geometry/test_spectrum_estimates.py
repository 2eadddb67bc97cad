from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import spectral_density, trace
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


def of_matrix(matrix):
    """A point and a landscape with a given Hessian."""
    matrix = jnp.asarray(matrix)
    fn = lambda params, batch: 0.5 * jnp.einsum("i,nij,j->n", params, batch, params)  # noqa: E731
    return jnp.zeros(matrix.shape[0]), Landscape.from_function(fn, matrix[None])


def symmetric(seed, size, spectrum=None):
    rng = np.random.default_rng(seed)
    if spectrum is None:
        matrix = rng.standard_normal((size, size))
        return matrix + matrix.T
    q, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return (q * spectrum) @ q.T


# -- trace ---------------------------------------------------------------------------------------------------------


def test_exact_trace_is_the_sum_of_the_diagonal():
    matrix = symmetric(0, 30)
    found = trace(jax.random.key(0), *of_matrix(matrix), method="exact")
    np.testing.assert_allclose(found.value, np.trace(matrix), rtol=1e-12)
    assert float(found.standard_error) == 0
    assert found.num_products == 30
    assert found.interval() == (float(found.value), float(found.value))


def test_trace_of_a_relu_network_is_the_sum_over_its_layers():
    network = Dense(jax.random.key(1), [6, 9, 8, 4], activation="relu", init="he")
    x = jax.random.normal(jax.random.key(2), (25, 6))
    landscape = Landscape(x, jax.random.randint(jax.random.key(3), (25,), 0, 4), loss="cross_entropy")
    key = jax.random.key(0)
    parts = [trace(key, network, landscape, only=f"layers[{i}].*", method="exact").value for i in range(3)]
    whole = trace(key, network, landscape, method="exact")
    np.testing.assert_allclose(whole.value, sum(parts), rtol=1e-10)
    # Piecewise linear activations: the trace is that of the Gauss-Newton matrix.
    gauss_newton = eqx.filter_jit(landscape.gauss_newton)(network)
    np.testing.assert_allclose(whole.value, jnp.trace(gauss_newton), rtol=1e-10)


def test_hutchinson_samples_have_the_closed_form_variance():
    matrix = symmetric(3, 12)
    found = trace(jax.random.key(0), *of_matrix(matrix), num_probes=5_000, method="hutchinson")
    expected = 2 * (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2))
    samples = np.asarray(found.samples)
    # The error of a sample variance follows from the fourth moment.
    error = np.sqrt(((samples - samples.mean()) ** 2).var() / len(samples))
    assert abs(samples.var(ddof=1) - expected) < 5 * error
    np.testing.assert_allclose(found.standard_error, samples.std(ddof=1) / np.sqrt(5_000), rtol=1e-12)
    assert abs(float(found.value) - np.trace(matrix)) < 5 * float(found.standard_error)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_trace_intervals_cover_the_truth(method):
    matrix = symmetric(4, 60, np.concatenate([[20, 10, 5, -3], np.linspace(-0.2, 0.5, 56)]))
    point, landscape = of_matrix(matrix)
    covered = 0
    for seed in range(100):
        found = trace(jax.random.key(seed), point, landscape, num_probes=30, method=method)
        low, high = found.interval(0.99)
        covered += low <= np.trace(matrix) <= high
        assert found.num_products == 30
    assert covered >= 95


def test_hutch_plus_plus_is_exact_when_the_sketch_holds_the_range():
    matrix = symmetric(5, 80, np.concatenate([[9, 7, -4], np.zeros(77)]))
    found = trace(jax.random.key(0), *of_matrix(matrix), num_probes=12, method="hutch++")
    np.testing.assert_allclose(found.value, 12.0, rtol=1e-10)
    assert float(found.standard_error) < 1e-10


def test_hutch_plus_plus_beats_hutchinson_where_few_eigenvalues_dominate():
    matrix = symmetric(6, 100, np.concatenate([np.geomspace(100, 1, 10), np.full(90, 0.01)]))
    errors = {
        m: float(trace(jax.random.key(0), *of_matrix(matrix), num_probes=60, method=m).standard_error)
        for m in ("hutchinson", "hutch++")
    }
    assert errors["hutch++"] < 0.05 * errors["hutchinson"]


@pytest.mark.parametrize(("method", "num_probes"), [("hutchinson", 1), ("hutch++", 5), ("xtrace", 19)])
def test_trace_refuses_too_few_probes_for_an_error_bar(method, num_probes):
    with pytest.raises(InputError, match="to have an error bar"):
        trace(jax.random.key(0), *of_matrix(np.eye(40)), num_probes=num_probes, method=method)


def test_xtrace_beats_hutch_plus_plus_and_its_error_is_what_it_says():
    matrix = symmetric(6, 100, np.concatenate([np.geomspace(100, 1, 10), np.full(90, 0.01)]))
    point, landscape = of_matrix(matrix)
    off, stated = [], []
    for seed in range(100):
        found = trace(jax.random.key(seed), point, landscape, num_probes=24, method="xtrace")
        off.append(float(found.value) - np.trace(matrix))
        stated.append(float(found.standard_error))
    assert abs(np.mean(off)) < 4 * np.std(off) / 10  # unbiased
    assert 0.8 < np.sqrt(np.mean(np.square(stated))) / np.std(off) < 1.6
    others = [
        float(trace(jax.random.key(seed), point, landscape, num_probes=24, method="hutch++").value) - np.trace(matrix)
        for seed in range(100)
    ]
    assert np.std(off) < 0.5 * np.std(others)


def test_xtrace_of_a_matrix_of_low_rank_is_exact():
    matrix = symmetric(5, 80, np.concatenate([[9, 7, -4], np.zeros(77)]))
    found = trace(jax.random.key(0), *of_matrix(matrix), num_probes=40, method="xtrace")
    np.testing.assert_allclose(found.value, 12.0, rtol=1e-10)
    assert found.num_products == 7  # three pairs, and the probe that finds nothing new
    assert abs(float(found.value) - 12) <= float(found.standard_error) < 1e-9  # what rounding may hide


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_a_trace_to_a_stated_error_ends_there_and_not_by_luck(method):
    matrix = symmetric(4, 60, np.concatenate([[20, 10, 5, 3], np.linspace(0.0, 0.5, 56)]))
    point, landscape = of_matrix(matrix)
    off = []
    for seed in range(30):
        # A sketch of a third of many probes would span everything.
        most = 60 if method == "hutch++" else 100 if method == "xtrace" else 5_000
        found = trace(jax.random.key(seed), point, landscape, num_probes=most, rtol=0.05, method=method)
        assert found.has_reached_rtol
        off.append(abs(float(found.value) / np.trace(matrix) - 1))
    assert np.mean(np.array(off) < 0.1) > 0.89  # two standard errors
    short = trace(jax.random.key(0), point, landscape, num_probes=24, rtol=1e-9, method=method)
    assert short.has_reached_rtol is False


@pytest.mark.parametrize(
    ("activation", "loss"), [("relu", "cross_entropy"), ("tanh", "mse"), ("hard_tanh", "logistic")]
)
def test_structured_trace_is_that_of_the_dense_hessian(activation, loss):
    network = Dense(jax.random.key(1), [3, 5, 4, 2], activation=activation, init="he")
    x = jax.random.normal(jax.random.key(2), (9, 3))
    y = jax.random.randint(jax.random.key(3), (9,), 0, 2) if loss == "cross_entropy" else jnp.ones((9, 2)) * 0.3
    landscape = Landscape(x, y, loss=loss)
    kinds: dict[Any, Any] = {"hessian": landscape.hessian, "gauss_newton": landscape.gauss_newton}
    for curvature, matrix in kinds.items():
        found = trace(jax.random.key(0), network, landscape, method="structured", curvature=curvature)
        np.testing.assert_allclose(found.value, jnp.trace(eqx.filter_jit(matrix)(network)), rtol=1e-11)
        assert found.num_products == 0
    batched = trace(jax.random.key(0), network, landscape.with_batch_size(4), method="structured")
    np.testing.assert_allclose(
        batched.value, trace(jax.random.key(0), network, landscape, method="structured").value, rtol=1e-12
    )


def test_structured_trace_is_chosen_where_it_is_cheap_and_refused_elsewhere():
    network = Dense(jax.random.key(1), [3, 50, 2], activation="relu")
    landscape = Landscape(jnp.ones((4, 3)), jnp.ones((4, 2)))
    assert trace(jax.random.key(0), network, landscape).settings["method"] == "structured"
    smooth = Dense(jax.random.key(1), [3, 50, 2], activation="tanh")
    for num_probes, method in ((10, "hutch++"), (20, "xtrace"), (90, "structured")):
        found = trace(jax.random.key(0), smooth, landscape, num_probes=num_probes)
        assert found.settings["method"] == method
    with pytest.raises(InputError, match="use 'xtrace' here"):
        trace(jax.random.key(0), *of_matrix(np.eye(4)), method="structured")
    with pytest.raises(InputError, match="rtol must be positive"):
        trace(jax.random.key(0), *of_matrix(np.eye(4)), rtol=0.0)


# -- density -------------------------------------------------------------------------------------------------------


def test_density_quadrature_has_unit_weight_and_the_moments_of_its_probes():
    matrix = symmetric(7, 50)
    found = spectral_density(jax.random.key(0), *of_matrix(matrix), num_probes=4, num_steps=12)
    np.testing.assert_allclose(found.weights.sum(1), 1.0, rtol=1e-12)
    means, _ = zip(*(found.moment(order) for order in range(3)), strict=True)
    assert found.num_products == 48
    assert means[0] == pytest.approx(1.0)


def test_density_of_a_full_krylov_space_has_the_exact_moments_of_each_probe():
    """With as many steps as dimensions the quadrature is v^T f(H) v, checked against dense eigenvectors."""
    matrix = symmetric(8, 9)
    found = spectral_density(jax.random.key(0), *of_matrix(matrix), num_probes=3, num_steps=9)
    values = np.linalg.eigvalsh(matrix)
    for row in np.asarray(found.nodes):
        np.testing.assert_allclose(np.sort(row), values, atol=1e-9)


def test_density_of_a_known_spectrum_has_its_moments():
    diagonal = np.arange(1.0, 201.0)
    matrix = symmetric(9, 200, diagonal)
    found = spectral_density(jax.random.key(1), *of_matrix(matrix), num_probes=30, num_steps=40)
    for order in range(1, 5):
        moment, error = found.moment(order)
        expected = np.mean(diagonal**order)
        assert abs(moment - expected) < 5 * error
        assert error < 0.03 * expected
    diagonal_point, diagonal_landscape = of_matrix(np.diag(diagonal))
    found = spectral_density(jax.random.key(1), diagonal_point, diagonal_landscape, num_probes=2, num_steps=40)
    for order in range(1, 5):  # sign probes see the trace of a diagonal matrix exactly
        assert found.moment(order)[0] == pytest.approx(np.mean(diagonal**order), rel=1e-10)


def test_density_integrates_to_one_and_its_band_covers_the_smoothed_spectrum():
    values = np.concatenate([np.linspace(-1, 1, 60), [4.0, 5.0]])
    matrix = symmetric(10, 62, values)
    found = spectral_density(jax.random.key(0), *of_matrix(matrix), num_probes=20, num_steps=40, width=0.2)
    grid = np.asarray(found.grid)
    assert float(jnp.trapezoid(found.density, found.grid)) == pytest.approx(1.0, abs=1e-6)
    exact = np.exp(-0.5 * ((grid[:, None] - values) / 0.2) ** 2).mean(1) / (0.2 * np.sqrt(2 * np.pi))
    inside = np.abs(found.density - exact) <= 5 * np.asarray(found.standard_error) + 1e-4
    assert inside.mean() > 0.99


def test_density_of_an_invariant_start_ends_early_with_unit_weight():
    found = spectral_density(jax.random.key(0), *of_matrix(np.diag([2.0] * 10 + [-1.0] * 10)), num_steps=15)
    np.testing.assert_allclose(found.weights.sum(1), 1.0, rtol=1e-12)
    assert found.num_products == 2 * 10
    assert found.moment(1)[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "options", [{"num_probes": 1}, {"num_steps": 0}, {"width": 0.0}, {"width": float("nan")}, {"num_grid": 1}]
)
def test_density_refuses_bad_options(options):
    with pytest.raises(InputError, match=next(iter(options))):
        spectral_density(jax.random.key(0), *of_matrix(np.eye(4)), **options)


def test_density_of_an_invariant_start_integrates_functions_that_are_infinite_at_zero():
    found = spectral_density(jax.random.key(0), *of_matrix(np.diag([2.0] * 10 + [1.0] * 10)), num_steps=15)
    assert found.integrate(np.log)[0] == pytest.approx(0.5 * np.log(2.0))
