import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._status import Certificate, Status
from lossatlas.geometry import spectrum
from lossatlas.geometry._device_krylov import DeviceBasis
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


TRACES = []


def energy(params, batch):
    """A loss with a diagonal Hessian in each of two blocks, which couple; it counts how often it is traced."""
    TRACES.append(params["free"].shape)
    return 0.5 * jnp.sum(batch * params["free"][None] ** 2, axis=1) + jnp.sum(params["free"]) * params["fixed"]


def quadratic(diagonal, dtype=jnp.float64):
    """Three examples in batches of two, so that the product is traced inside the program of the basis."""
    diagonal = jnp.asarray(diagonal, dtype)
    point = {"free": jnp.zeros_like(diagonal), "fixed": jnp.ones((), dtype)}
    weights = jnp.asarray([0.5, 1.5, 1.0], dtype)
    return point, Landscape.from_function(energy, weights[:, None] * diagonal[None], batch_size=2)


def lanczos(point, landscape, loop, **options):
    """Of the block of the free parameters; on the host without batches, which is one program less."""
    landscape = landscape if loop == "device" else landscape.with_batch_size(None)
    return spectrum(point, landscape, method="lanczos", loop=loop, only="['free']", **options)


def assert_same(found, host, exact, tolerance=1e-6):
    """Of the device: the wanted ends of the exact spectrum, and what the host says of them."""
    descending, scale = np.sort(exact)[::-1], np.abs(exact).max()
    np.testing.assert_allclose(found.top, descending[: found.num_top], atol=tolerance * scale)
    np.testing.assert_allclose(found.bottom, descending[::-1][: found.num_bottom], atol=tolerance * scale)
    assert (found.complete, found.status) == (host.complete, host.status) == (Certificate.YES, Status.CONVERGED)
    assert (found.settings["loop"], host.settings["loop"]) == ("device", "host")
    np.testing.assert_array_equal(found.converged, host.converged)
    assert float(found.residuals.max()) <= tolerance * scale
    assert found.vectors.dtype == host.vectors.dtype
    # Each check comes at most seven blocks later than on the host.
    assert found.stats["products"] <= host.stats["products"] + 150


_RNG = np.random.default_rng(0)
CLOSE = [5.0, 5.0 - 1e-10, 4.9, 4.9 - 1e-7, 4.9 - 2e-7, 4.0, 3.999, -2.0, -2.0 - 1e-9, -2.5]
SPECTRA = {
    "neighbours": _RNG.permutation(np.concatenate([CLOSE, _RNG.uniform(-1, 3, 200)])),
    "copies": np.concatenate([[7.0] * 5, [6.0], np.linspace(-1, 1, 199), [-3.0] * 5]),
    "identity": np.full(210, 2.5),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_the_device_misses_nothing_that_the_host_finds(name):
    diagonal = SPECTRA[name]
    options = {"num_top": 6, "num_bottom": 5}
    found, host = (lanczos(*quadratic(diagonal), loop, **options) for loop in ("device", "host"))
    assert_same(found, host, diagonal)
    assert found.stats["verifications"] == host.stats["verifications"] >= 1
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(11), atol=1e-10)
    residuals = np.linalg.norm((diagonal - np.asarray(found.values)[:, None]) * found.vectors, axis=1)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-12)


def test_a_second_spectrum_on_the_device_compiles_nothing():
    options = {"num_top": 6, "num_bottom": 5}
    lanczos(*quadratic(SPECTRA["copies"]), "device", **options)
    before = len(TRACES)
    lanczos(*quadratic(SPECTRA["neighbours"]), "device", key=jax.random.key(1), **options)
    assert len(TRACES) == before > 0


def test_the_device_stops_at_the_products_allowed_and_says_so():
    point, landscape = quadratic(np.linspace(0, 1, 210))
    options = {"num_top": 6, "num_bottom": 5, "max_products": 25}
    found, host = (lanczos(point, landscape, loop, **options) for loop in ("device", "host"))
    assert found.stats["products"] == host.stats["products"] == 25
    assert (found.complete, found.status) == (Certificate.NOT_CERTIFIED, Status.MAX_STEPS)
    assert not bool(found.converged.all())
    # The same start and the same 25 steps: the same Ritz pairs, whether in one program or in 25.
    np.testing.assert_allclose(found.values, host.values, atol=1e-12)
    np.testing.assert_allclose(found.residuals, host.residuals, atol=1e-12)


def test_a_product_that_is_not_finite_on_the_device_is_refused():
    with pytest.raises(InputError, match="not finite"):
        lanczos(*quadratic(np.full(210, np.inf)), "device", num_top=6, num_bottom=5)


def test_the_device_keeps_float32_and_the_linearized_product():
    diagonal = np.concatenate([[9.0, 9.0, 7.0], np.linspace(-1, 1, 200)])
    point, landscape = quadratic(diagonal, jnp.float32)
    whole = landscape.with_batch_size(None)
    found, host = (lanczos(point, whole, loop, num_top=3, num_bottom=1) for loop in ("device", "host"))
    assert_same(found, host, diagonal, 1.2e-5)
    assert found.vectors.dtype == jnp.float32


def test_the_basis_on_the_device_keeps_its_relation_through_restarts():
    rng = np.random.default_rng(0)
    diagonal = SPECTRA["neighbours"]
    product = CurvatureProducts(*quadratic(diagonal), "['free']", loop="device").traceable()
    basis = DeviceBasis(product, 210, 102, rng.standard_normal((3, 210)), np.eye(210)[:2], rng)
    restarts = 0
    for _ in range(18):
        basis.expand(1000)
        if basis.is_full:
            values, columns, _ = basis.ritz()
            basis.restart(values[-15:], columns[:, -15:])
            restarts += 1
    everything = np.asarray(basis.rows)[: basis.known + basis.ahead]
    rows, ahead = everything[: basis.known], everything[basis.known :]
    assert (basis.ahead, restarts) == (3, 3)
    np.testing.assert_allclose(everything @ everything.T, np.eye(len(everything)), atol=1e-13)
    np.testing.assert_allclose(rows * diagonal, basis.projected @ rows + basis.coupling.T @ ahead, atol=1e-11)
    np.testing.assert_allclose(basis.vector_images(np.eye(basis.known)), rows * diagonal, atol=1e-11)


def test_the_basis_on_the_device_goes_on_with_noise_where_the_space_ends():
    rng = np.random.default_rng(0)
    product = CurvatureProducts(*quadratic(np.zeros(210)), "['free']", loop="device").traceable()
    basis = DeviceBasis(product, 210, 102, rng.standard_normal((1, 210)), np.eye(210)[:2], rng)
    basis.expand(1000)
    basis.expand(1000)
    rows = np.asarray(basis.rows)[:17]
    np.testing.assert_allclose(rows @ rows.T, np.eye(17), atol=1e-13)
    assert not basis.projected.any()
    assert not basis.coupling.any()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 17])
def test_the_device_agrees_with_the_dense_hessian_of_a_network(batch_size):
    network = Dense(jax.random.key(1), [6, 9, 4], activation="gelu", init="he")
    x, y = jax.random.normal(jax.random.key(2), (40, 6)), jax.random.randint(jax.random.key(3), (40,), 0, 4)
    landscape = Landscape(x, y, loss="cross_entropy", batch_size=batch_size)
    found, host = (
        spectrum(network, landscape, method="lanczos", loop=loop, num_top=3, num_bottom=3)
        for loop in ("device", "host")
    )
    assert_same(found, host, np.linalg.eigvalsh(eqx.filter_jit(landscape.hessian)(network)))
