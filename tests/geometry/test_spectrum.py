import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse.linalg import aslinearoperator, eigsh

from lossatlas._errors import InputError
from lossatlas._status import Certificate, Status
from lossatlas.geometry import spectrum
from lossatlas.geometry._krylov import KrylovBasis
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


def quadratic(diagonal, dtype=jnp.float64):
    """A point and a landscape whose Hessian is diagonal."""
    diagonal = jnp.asarray(diagonal, dtype)
    fn = lambda params, batch: 0.5 * jnp.sum(batch * params[None] ** 2, axis=1)  # noqa: E731
    return jnp.zeros_like(diagonal), Landscape.from_function(fn, diagonal[None])


def assert_ends(found, diagonal, rtol=1e-6):
    descending = np.sort(diagonal)[::-1]
    scale = np.abs(diagonal).max()
    np.testing.assert_allclose(found.top, descending[: found.num_top], atol=rtol * scale)
    np.testing.assert_allclose(found.bottom, descending[::-1][: found.num_bottom], atol=rtol * scale)
    assert found.complete is Certificate.YES
    assert found.status is Status.CONVERGED
    assert bool(found.converged.all())
    gram = np.asarray(found.vectors @ found.vectors.T)
    np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-10)


def test_spectrum_of_a_saddle_reports_both_ends_with_sign():
    point, landscape = quadratic([1.0, -1.0])
    found = spectrum(point, landscape)
    np.testing.assert_allclose(found.values, [1.0, -1.0], atol=1e-10)
    np.testing.assert_allclose(np.abs(found.vectors), np.eye(2), atol=1e-10)
    assert found.complete is Certificate.YES


@pytest.mark.parametrize("seed", range(4))
def test_lanczos_misses_no_eigenvalue_between_close_neighbours(seed):
    rng = np.random.default_rng(seed)
    close = [5.0, 5.0 - 1e-10, 4.9, 4.9 - 1e-7, 4.9 - 2e-7, 4.0, 3.999, -2.0, -2.0 - 1e-9, -2.5]
    diagonal = np.concatenate([close, rng.uniform(-1, 3, 400)])
    found = spectrum(*quadratic(rng.permutation(diagonal)), num_top=9, num_bottom=5, method="lanczos")
    assert_ends(found, diagonal)


@pytest.mark.parametrize("copies", [2, 5, 11])
def test_lanczos_counts_multiple_eigenvalues_so_the_second_is_never_the_third(copies):
    diagonal = np.concatenate([[7.0] * copies, [6.0], np.linspace(-1, 1, 300), [-3.0] * copies])
    found = spectrum(*quadratic(diagonal), num_top=copies + 1, num_bottom=copies, method="lanczos")
    assert_ends(found, diagonal)
    assert found.stats["verifications"] >= 1


def test_lanczos_finds_all_copies_in_a_large_null_space():
    diagonal = np.concatenate([np.zeros(500), np.geomspace(1e-3, 10, 60)])
    assert_ends(spectrum(*quadratic(diagonal), num_top=5, num_bottom=8, method="lanczos"), diagonal)


def test_lanczos_of_a_multiple_of_the_identity_goes_on_after_the_krylov_space_ends():
    assert_ends(spectrum(*quadratic(np.full(50, 2.5)), num_top=4, num_bottom=3, method="lanczos"), np.full(50, 2.5))


@pytest.fixture(scope="module")
def trained_like():
    """A network of 993 parameters with an indefinite Hessian, and its dense Hessian."""
    network = Dense(jax.random.key(1), [8, 24, 24, 7], activation="gelu", init="he")
    x = jax.random.normal(jax.random.key(2), (40, 8))
    y = jax.random.randint(jax.random.key(3), (40,), 0, 7)
    landscape = Landscape(x, y, loss="cross_entropy")
    return network, landscape, np.asarray(eqx.filter_jit(landscape.hessian)(network))


def test_lanczos_agrees_with_the_dense_hessian(trained_like):
    network, landscape, dense = trained_like
    found = spectrum(network, landscape, num_top=8, num_bottom=8, method="lanczos")
    assert_ends(found, np.linalg.eigvalsh(dense))
    residual = np.linalg.norm(found.vectors @ dense - found.values[:, None] * found.vectors, axis=1)
    np.testing.assert_allclose(found.residuals, residual, atol=1e-12)
    assert found.stats["products"] < dense.shape[0] // 2


def test_lanczos_agrees_with_arpack(trained_like):
    network, landscape, dense = trained_like
    top = eigsh(dense, 10, which="LA", return_eigenvectors=False)
    found = spectrum(network, landscape, num_top=10, num_bottom=0, method="lanczos")
    np.testing.assert_allclose(found.top, np.sort(top)[::-1], rtol=1e-5)


def test_exact_method_gives_the_whole_spectrum_and_the_same_ends(trained_like):
    network, landscape, dense = trained_like
    found = spectrum(network, landscape, num_top=3, num_bottom=2)
    assert found.settings["method"] == "exact"
    np.testing.assert_allclose(np.asarray(found.all_values), np.linalg.eigvalsh(dense)[::-1], atol=1e-12)
    assert_ends(found, np.linalg.eigvalsh(dense), 1e-12)


def test_spectrum_of_a_filtered_block(trained_like):
    network, landscape, _ = trained_like
    found = spectrum(network, landscape, only="layers[2].*")
    block = np.asarray(eqx.filter_jit(landscape.hessian)(network, "layers[2].*"))
    np.testing.assert_allclose(found.top, np.linalg.eigvalsh(block)[::-1][:10], atol=1e-12)


def test_spectrum_in_batches_is_the_same(trained_like):
    network, landscape, dense = trained_like
    found = spectrum(network, landscape.with_batch_size(17), num_top=3, num_bottom=3, method="lanczos")
    assert_ends(found, np.linalg.eigvalsh(dense))


def test_spectrum_with_the_same_key_is_identical():
    point, landscape = quadratic(np.linspace(-1, 3, 200))
    key = jax.random.key(5)
    first, second = (spectrum(point, landscape, num_top=3, num_bottom=1, method="lanczos", key=key) for _ in range(2))
    np.testing.assert_array_equal(first.vectors, second.vectors)


def test_spectrum_that_runs_out_of_products_says_so():
    diagonal = np.linspace(0, 1, 2000)
    found = spectrum(*quadratic(diagonal), num_top=5, num_bottom=5, max_products=25)
    assert found.status is Status.MAX_STEPS
    assert found.complete is Certificate.NOT_CERTIFIED
    assert not bool(found.converged.all())
    # Unconverged values are Ritz values all the same: an eigenvalue lies within the residual of each.
    nearest = np.abs(np.asarray(found.values)[:, None] - diagonal).min(1)
    assert (nearest <= found.residuals + 1e-12).all()


def test_krylov_basis_stays_orthonormal_and_keeps_its_relation_through_restarts():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((300, 300))
    matrix = matrix + matrix.T
    basis = KrylovBasis(lambda v: matrix @ v, 300, 40, rng.standard_normal((2, 300)), np.zeros((0, 300)), rng)
    for _ in range(60):
        basis.expand()
        if basis.is_full:
            values, columns, _ = basis.ritz()
            basis.restart(values[-15:], columns[:, -15:])
    rows = basis.rows[: basis.known]
    ahead = basis.rows[basis.known : basis.known + basis.ahead]
    everything = np.concatenate([rows, ahead])
    np.testing.assert_allclose(everything @ everything.T, np.eye(len(everything)), atol=1e-13)
    right = basis.projected[: basis.known, : basis.known] @ rows + basis.coupling.T @ ahead
    np.testing.assert_allclose(rows @ matrix, right, atol=1e-11)


def test_lanczos_rows_in_float32_are_orthogonal_to_1e_5():
    rng = np.random.default_rng(0)
    diagonal = np.geomspace(1e-4, 10, 3000).astype(np.float32)
    start = rng.standard_normal((1, 3000)).astype(np.float32)
    basis = KrylovBasis(lambda v: diagonal * v, 3000, 100, start, np.zeros((0, 3000), np.float32), rng)
    while basis.known < 100:
        basis.expand()
    rows = basis.rows[:100]
    assert rows.dtype == np.float32
    assert np.abs(rows @ rows.T - np.eye(100)).max() < 1e-5


def test_spectrum_in_float32_states_its_tolerance():
    diagonal = np.concatenate([[9.0, 8.0, 7.0], np.linspace(-1, 1, 200)])
    found = spectrum(*quadratic(diagonal, jnp.float32), num_top=3, num_bottom=1, method="lanczos")
    np.testing.assert_allclose(found.top, [9.0, 8.0, 7.0], rtol=1e-5)
    assert found.settings["rtol"] > 1e-6
    assert found.vectors.dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_top": 11}, "between 0 and the number of selected parameters, 10"),
        ({"num_bottom": -1}, "num_bottom"),
        ({"num_top": 0, "num_bottom": 0}, "at least one pair"),
        ({"rtol": 0.0}, "ten times the rounding unit"),
        ({"rtol": float("nan")}, "ten times the rounding unit"),
        ({"max_products": 0}, "max_products"),
    ],
)
def test_spectrum_refuses_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        spectrum(*quadratic(np.ones(10)), **options)


@pytest.mark.parametrize("method", ["exact", "lanczos"])
def test_spectrum_refuses_a_network_with_nan(method):
    cubed = Landscape.from_function(lambda p, b: jnp.sum(p**3)[None] * b, jnp.ones(1))
    with pytest.raises(InputError, match="not finite"):
        spectrum(jnp.full(30, jnp.nan), cubed, num_top=2, num_bottom=0, method=method)


class _Counted:
    """What scipy needs of an operator."""

    def __init__(self, products):
        self.matvec = lambda v: products(v.ravel())
        self.shape, self.dtype = (products.size, products.size), np.dtype(float)


@pytest.mark.slow
def test_spectrum_of_the_digits_benchmark_reaches_the_reference():
    """50,550 parameters: the ten largest by ARPACK to 1e-5, with the verification, in few products."""
    import optax
    from sklearn.datasets import load_digits

    x, y = (np.asarray(part)[:1000] for part in load_digits(return_X_y=True))
    x = x / 16
    rng = np.random.default_rng(0)
    widths = [64, 190, 190, 10]
    network = Dense(jax.random.key(0), widths, activation="relu", dtype=jnp.float32)
    weights = [
        jnp.asarray(rng.normal(size=(o, i)) * np.sqrt(2 / i), jnp.float32)
        for i, o in zip(widths[:-1], widths[1:], strict=True)
    ]
    network = eqx.tree_at(lambda n: [layer.weight for layer in n.layers], network, weights)
    landscape = Landscape(jnp.asarray(x, jnp.float32), jnp.asarray(y), loss="cross_entropy")
    adam = optax.adam(1e-3)

    @eqx.filter_jit
    def step(network, state):
        grads = eqx.filter_grad(lambda n: landscape(n))(network)
        updates, state = adam.update(grads, state)
        return eqx.apply_updates(network, updates), state

    state = adam.init(eqx.filter(network, eqx.is_inexact_array))
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integer steps and floats
        for _ in range(60):
            network, state = step(network, state)
    double = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, network)
    exact = Landscape(jnp.asarray(x), jnp.asarray(y), loss="cross_entropy")
    np.testing.assert_allclose(float(exact(double)), 0.0953222, rtol=2e-3)
    found = spectrum(double, exact, num_top=10, num_bottom=3)
    products = CurvatureProducts(double, exact)
    operator = aslinearoperator(_Counted(products))
    top = eigsh(operator, 10, which="LA", return_eigenvectors=False)
    bottom = eigsh(operator, 3, which="SA", return_eigenvectors=False)
    np.testing.assert_allclose(found.top, np.sort(top)[::-1], rtol=1e-5)
    np.testing.assert_allclose(found.bottom, np.sort(bottom), rtol=1e-5)
    # Reference values for weights trained elsewhere from the same start; rounding in 60 steps of Adam separates them.
    reference = [10.4667817, 9.6652588, 6.3752335, 6.1204207, 4.4653518]
    reference += [3.8147690, 3.1189940, 2.7106548, 2.0717839, 0.6657220]
    np.testing.assert_allclose(found.top, reference, rtol=3e-3)
    assert found.complete is Certificate.YES
    assert found.stats["products"] < 250
