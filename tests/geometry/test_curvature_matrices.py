"""Gauss-Newton and Fisher matrices, loops over batches, and what is measured of them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import diagonal, frobenius_norm, spectral_density, spectrum, trace
from lossatlas.geometry._products import CURVATURES, CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense


@pytest.fixture(scope="module")
def classes():
    """A network of 55 parameters on labels of three classes."""
    network = Dense(jax.random.key(1), [4, 5, 3, 3], activation="tanh")
    x = jax.random.normal(jax.random.key(2), (14, 4))
    return network, Landscape(x, jax.random.randint(jax.random.key(3), (14,), 0, 3), loss="cross_entropy")


def rows_of_jacobian(network, landscape):
    return np.asarray(eqx.filter_jit(landscape.jacobian)(network))  # (n, o, p)


def dense(network, landscape, kind, **options):
    return CurvatureProducts(network, landscape, curvature=kind, key=jax.random.key(0), **options).dense()


def test_fisher_of_a_softmax_is_the_mean_over_all_labels(classes):
    network, landscape = classes
    jacobian = rows_of_jacobian(network, landscape)
    p = np.asarray(jax.nn.softmax(landscape.predictions(network)))
    expected = np.zeros((55, 55))
    for i in range(14):
        for label in range(3):
            score = jacobian[i].T @ (p[i] - np.eye(3)[label])
            expected += p[i, label] * np.outer(score, score) / 14
    np.testing.assert_allclose(dense(network, landscape, "fisher"), expected, atol=1e-14)
    np.testing.assert_allclose(dense(network, landscape, "gauss_newton"), expected, atol=1e-14)


def test_empirical_fisher_is_the_second_moment_of_the_gradients(classes):
    network, landscape = classes
    jacobian, slopes = rows_of_jacobian(network, landscape), np.asarray(landscape.residuals(network))
    gradients = np.einsum("nop,no->np", jacobian, slopes)
    np.testing.assert_allclose(dense(network, landscape, "empirical_fisher"), gradients.T @ gradients / 14, atol=1e-14)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy", "logistic"])
def test_sampled_fisher_converges_to_the_exact_one(loss, classes):
    network, landscape = classes
    targets = {"mse": jnp.zeros((14, 3)), "logistic": jnp.ones((14, 3))}.get(loss, landscape.targets)
    landscape = Landscape(landscape.inputs, targets, loss=loss)
    exact = dense(network, landscape, "fisher")
    few, many = (dense(network, landscape, "sampled_fisher", num_samples=s) for s in (20, 2000))
    errors = [np.linalg.norm(m - exact) / np.linalg.norm(exact) for m in (few, many)]
    assert errors[1] < 0.05
    assert 5 < errors[0] / errors[1] < 20  # the root of 100


def test_sampled_fisher_is_one_matrix_in_every_product_and_batch(classes):
    network, landscape = classes
    vector = np.random.default_rng(0).standard_normal(55)
    whole, parts = (
        CurvatureProducts(network, part, curvature="sampled_fisher", key=jax.random.key(5))
        for part in (landscape, landscape.with_batch_size(5))
    )
    np.testing.assert_array_equal(whole(vector), whole(vector))
    np.testing.assert_allclose(parts(vector), whole(vector), atol=1e-14)


@pytest.mark.parametrize("kind", CURVATURES)
@pytest.mark.parametrize("loop", ["host", "device"])
def test_products_in_batches_are_those_of_the_dense_matrix(kind, loop, classes):
    network, landscape = classes
    vector = np.random.default_rng(0).standard_normal(55)
    products = CurvatureProducts(
        network, landscape.with_batch_size(4), curvature=kind, key=jax.random.key(0), loop=loop
    )
    np.testing.assert_allclose(products(vector), dense(network, landscape, kind) @ vector, atol=1e-13)
    assert products.count == 1


def test_the_loop_over_batches_is_the_hosts_for_convolutions_alone(classes):
    network, landscape = classes
    assert CurvatureProducts(network, landscape.with_batch_size(5)).loop == "device"
    conv = Conv(jax.random.key(0), (1, 4, 4), [2], [3])
    images = Landscape(jnp.ones((6, 1, 4, 4)), jnp.zeros((6, 3)), batch_size=2)
    assert CurvatureProducts(conv, images).loop == "host"


def test_measurements_of_gauss_newton_are_those_of_its_matrix(classes):
    network, landscape = classes
    exact = dense(network, landscape, "gauss_newton")
    values = np.linalg.eigvalsh(exact)[::-1]
    found = spectrum(network, landscape, num_top=3, num_bottom=0, curvature="gauss_newton", method="lanczos")
    np.testing.assert_allclose(found.values, values[:3], atol=1e-10)
    np.testing.assert_allclose(
        trace(jax.random.key(0), network, landscape, curvature="gauss_newton").value, values.sum(), rtol=1e-12
    )
    density = spectral_density(jax.random.key(0), network, landscape, num_steps=55, curvature="gauss_newton")
    assert float(density.nodes.min()) > -1e-12


def test_the_empirical_fisher_by_filter_is_a_block(classes):
    network, landscape = classes
    whole = dense(network, landscape, "empirical_fisher")
    block = CurvatureProducts(network, landscape, "layers[0].weight", curvature="empirical_fisher").dense()
    np.testing.assert_allclose(block, whole[:20, :20], atol=1e-14)


def test_curvatures_that_need_more_say_what(classes):
    network, landscape = classes
    other = Landscape(landscape.inputs, jnp.zeros((14, 3)), loss=lambda f, y: jnp.sum(jnp.abs(f - y)))
    with pytest.raises(InputError, match="needs the likelihood"):
        spectrum(network, other, curvature="fisher")
    with pytest.raises(InputError, match="needs a key"):
        landscape.fisher_operator(network, kind="sampled_fisher")


# -- what begins near, and what is not searched --------------------------------------------------------------------


def test_an_earlier_spectrum_saves_products_and_changes_nothing():
    rng = np.random.default_rng(0)
    diagonal_ = jnp.asarray(np.concatenate([np.linspace(5, 9, 8), rng.uniform(-1, 1, 600)]))
    fn = lambda params, batch: 0.5 * jnp.sum(batch * params[None] ** 2, axis=1)  # noqa: E731
    point, landscape = jnp.zeros(608), Landscape.from_function(fn, diagonal_[None])
    options = {"num_top": 8, "num_bottom": 0, "method": "lanczos", "rtol": 1e-4}
    cold = spectrum(point, landscape, verify=False, **options)
    warm = spectrum(point, landscape, verify=False, start=cold, **options)
    assert warm.stats["products"] < 0.7 * cold.stats["products"]
    # Started in some of the wanted directions alone, the search still finds the others.
    misled = spectrum(point, landscape, num_top=2, num_bottom=0, method="lanczos")
    found = spectrum(point, landscape, start=misled, **options)
    np.testing.assert_allclose(found.values, np.linspace(9, 5, 8), atol=1e-6)
    with pytest.raises(InputError, match="start holds vectors of 608 parameters"):
        spectrum(jnp.zeros(5), Landscape.from_function(fn, jnp.ones((1, 5))), start=cold)


# -- diagonal and norm ---------------------------------------------------------------------------------------------


def test_diagonal_and_norm_are_within_their_errors(classes):
    network, landscape = classes
    exact = dense(network, landscape, "hessian")
    found = diagonal(jax.random.key(1), network, landscape, num_probes=45)
    off = np.abs(np.asarray(found.values) - np.diag(exact)) / np.asarray(found.standard_error)
    assert np.mean(off < 2.2) > 0.9
    assert off.max() < 7
    norm = frobenius_norm(jax.random.key(1), network, landscape, num_probes=30)
    assert abs(float(norm.value) - np.linalg.norm(exact)) < 5 * float(norm.standard_error)
    assert 0 < float(norm.standard_error) < 0.05 * float(norm.value)
    assert norm.num_products == 30


def test_exact_diagonal_and_norm(classes):
    network, landscape = classes
    exact = dense(network, landscape, "hessian")
    key = jax.random.key(0)
    found = diagonal(key, network, landscape, method="exact")
    np.testing.assert_allclose(found.values, np.diag(exact), atol=1e-13)
    named = found.by_parameter(network)
    np.testing.assert_allclose(named["layers[1].bias"], np.diag(exact)[40:43], atol=1e-13)
    norm = frobenius_norm(key, network, landscape, method="exact")
    np.testing.assert_allclose(norm.value, np.linalg.norm(exact), rtol=1e-12)
    assert float(norm.standard_error) == 0
    with pytest.raises(InputError, match="at least 6"):
        diagonal(key, network, landscape, num_probes=5)
