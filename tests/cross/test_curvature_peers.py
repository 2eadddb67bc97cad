"""Matrices, eigenpairs, traces and densities against curvlinops, hessian-eigenthings and PyHessian."""

import jax
import numpy as np
import pytest

import _problems
from lossatlas.geometry import spectral_density, spectrum, trace
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


pytestmark = pytest.mark.slow  # a process of the peer, with its own PyTorch or JAX


PEERS = ("curvlinops", "hessian-eigenthings", "pyhessian")
KINDS = ("hessian", "gauss_newton", "empirical_fisher")


@pytest.fixture(scope="module")
def ask(peer, tmp_path_factory):
    """`ask(name, task, path)`: the arrays, or the numbers, that a peer answers."""
    out = tmp_path_factory.mktemp("answers") / "answer"

    def answer(name, task, path, **options):
        running = peer(name, "_peer_matrices.py", name)
        if task == "trace":
            return running.ask(task, path=str(path), **options)
        file = out.with_suffix(".npy" if task == "matrix" else ".npz")
        running.ask(task, path=str(path), out=str(file), **options)
        if task == "matrix":
            return np.load(file)
        with np.load(file) as found:
            return dict(found)

    return answer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier of 73 parameters, its data, the Hessian, and the file that is handed over."""
    network = Dense(jax.random.key(0), [6, 7, 3], activation="tanh")
    x = jax.random.normal(jax.random.key(1), (20, 6))
    y = jax.random.randint(jax.random.key(2), (20,), 0, 3)
    landscape = Landscape(x, y, loss="cross_entropy")
    path = _problems.Problem("mlp", "tanh", network, landscape).write(tmp_path_factory.mktemp("handed"))
    return network, landscape, np.asarray(landscape.hessian(network)), path


def planted(folder, values):
    """Linear regression whose Hessian has these eigenvalues, in a basis of its own, and 1 for the bias."""
    size = len(values)
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    rows = np.sqrt(size * np.array(values))[:, None] * basis
    landscape = Landscape(np.concatenate([rows, -rows]), np.zeros((2 * size, 1)))
    network = Dense(jax.random.key(0), [size, 1])
    return network, landscape, _problems.Problem("small", "tanh", network, landscape).write(folder)


# -- agreement ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in PEERS for kind in KINDS if kind == "hessian" or name != "pyhessian"]
)
def test_every_entry_of_the_matrix_agrees(ask, trained, name, kind):
    network, landscape, _, path = trained
    theirs = ask(name, "matrix", path, kind=kind)
    products = CurvatureProducts(network, landscape, curvature=kind)
    ours = np.stack([products(row) for row in np.eye(73)])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-13)


EXACT = {
    "curvlinops": {"tol": 0.0},
    "hessian-eigenthings": {"max_iter": 73, "reorthogonalize": True},
    "pyhessian": {"maxIter": 20_000, "tol": 1e-12},
}


@pytest.mark.parametrize("name", PEERS)
def test_the_largest_eigenpairs_agree(ask, trained, name):
    network, landscape, _, path = trained
    theirs = ask(name, "top", path, num=3, **EXACT[name])
    ours = spectrum(network, landscape, num_top=3, num_bottom=0, method="lanczos", rtol=1e-10)
    # PyHessian divides vectors by their length and a millionth, so its values are two millionths too small.
    tol = 2.1e-6 if name == "pyhessian" else 1e-12
    np.testing.assert_allclose(ours.values, theirs["values"], rtol=tol)
    overlaps = np.abs(np.sum(np.asarray(ours.vectors) * theirs["vectors"], axis=1))
    np.testing.assert_allclose(overlaps, 1.0, atol=1e-5 if name == "pyhessian" else 1e-10)


@pytest.mark.parametrize("name", PEERS)
def test_the_trace_agrees_within_the_error_of_theirs(ask, trained, name):
    network, landscape, hessian, path = trained
    ours = trace(jax.random.key(0), network, landscape)
    np.testing.assert_allclose(ours.value, np.trace(hessian), rtol=1e-12)
    if name == "pyhessian":
        found = ask(name, "trace", path, maxIter=2000, tol=0.0)
        off = hessian - np.diag(np.diag(hessian))
        error = np.sqrt(2 * np.sum(off**2) / found["products"])  # of Hutchinson's mean
    else:  # sketches of half the size of the matrix leave next to nothing to chance
        found, error = ask(name, "trace", path, num_matvecs=72), 0.01 * float(ours.value)
    assert abs(found["value"] - float(ours.value)) < 4 * error


@pytest.mark.parametrize("name", ["hessian-eigenthings", "pyhessian"])
def test_the_moments_of_the_density_agree(ask, trained, name):
    network, landscape, hessian, path = trained
    theirs = ask(name, "density", path, steps=20, probes=40)
    ours = spectral_density(jax.random.key(0), network, landscape, num_probes=40, num_steps=20)
    values = np.linalg.eigvalsh(hessian)
    for order in (1, 2, 3):
        samples = np.sum(theirs["weights"] * theirs["nodes"] ** order, axis=1)
        mean, error = ours.moment(order)
        own = samples.std(ddof=1) / np.sqrt(len(samples))
        assert abs(mean - np.mean(values**order)) < 4 * error
        assert abs(samples.mean() - mean) < 4 * np.hypot(error, own)


# -- where a peer is wrong -----------------------------------------------------------------------------------------

REST = list(np.linspace(0, 0.5, 60))


def assert_ours(network, landscape, values):
    """The largest eigenvalues and as many as asked for, each with a residual that is small."""
    found = spectrum(network, landscape, num_top=len(values), num_bottom=0, method="lanczos", rtol=1e-8)
    np.testing.assert_allclose(found.values, values, rtol=1e-10)
    assert bool(found.converged.all())


def test_an_eigenvalue_between_close_neighbours_is_missed_by_lanczos_of_hessian_eigenthings(ask, tmp_path):
    network, landscape, path = planted(tmp_path, [5, 4.999, 4.998, 3, *REST])
    theirs = ask("hessian-eigenthings", "top", path, num=5)["values"]
    assert np.sum(theirs > 4.9) == 2
    assert_ours(network, landscape, [5, 4.999, 4.998, 3])


def test_the_second_eigenvalue_of_hessian_eigenthings_is_the_third(ask, tmp_path):
    network, landscape, path = planted(tmp_path, [5, 5, 4, *REST])
    theirs = ask("hessian-eigenthings", "top", path, num=5)["values"]
    np.testing.assert_allclose(theirs[:2], [5, 4], rtol=1e-6)
    assert_ours(network, landscape, [5, 5, 4])


def test_power_iteration_of_pyhessian_stops_before_the_eigenvalues(ask, tmp_path):
    values = [5, 4.9, 4.85, 3, 2.9]
    network, landscape, path = planted(tmp_path, [*values, *REST])
    theirs = [ask("pyhessian", "top", path, num=5, seed=seed)["values"] for seed in range(3)]
    assert all(np.abs(found / values - 1).max() > 5e-3 for found in theirs)  # asked for 1e-3
    assert any(np.any(np.diff(found) > 0) for found in theirs)  # and out of order
    assert_ours(network, landscape, values)


def test_the_trace_of_pyhessian_stops_early_and_ours_says_its_error(ask, tmp_path):
    values = [5, 4.9, 4.85, 3, 2.9, *REST]
    network, landscape, path = planted(tmp_path, values)
    true, runs = sum(values) + 1, range(8)
    theirs = [ask("pyhessian", "trace", path, seed=seed) for seed in runs]
    off = [abs(found["value"] / true - 1) for found in theirs]
    assert max(off) > 0.1  # asked for 1e-3
    assert min(found["products"] for found in theirs) < 15
    for seed in runs:
        ours = trace(jax.random.key(seed), network, landscape, method="xtrace", num_probes=60, rtol=0.01)
        assert 0 < ours.standard_error < 0.012 * ours.value
        assert abs(ours.value - true) < 4 * ours.standard_error
