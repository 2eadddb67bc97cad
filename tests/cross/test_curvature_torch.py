"""Eigenvalues, traces and Gauss-Newton products against curvlinops, a PyTorch library."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.geometry import spectrum, trace
from lossatlas.geometry._products import CurvatureProducts
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, named_parameters


torch = pytest.importorskip("torch")
curvlinops = pytest.importorskip("curvlinops")


@pytest.fixture(scope="module")
def both():
    """A network and its copy in PyTorch, in double precision, with their data."""
    network = Dense(jax.random.key(0), [6, 7, 3], activation="tanh")
    x = jax.random.normal(jax.random.key(1), (20, 6))
    y = jax.random.randint(jax.random.key(2), (20,), 0, 3)
    layers = [torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)]
    copy = torch.nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter, value in zip(copy.parameters(), named_parameters(network).values(), strict=True):
            parameter.copy_(torch.from_numpy(np.array(value)))
    data = [(torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y)))]
    return network, Landscape(jnp.asarray(x), y, loss="cross_entropy"), copy, data


def test_the_ends_and_the_trace_agree(both):
    network, landscape, copy, data = both
    operator = curvlinops.HessianLinearOperator(
        copy, torch.nn.CrossEntropyLoss(), list(copy.parameters()), data, check_deterministic=False
    )
    matrix = (operator @ torch.eye(73, dtype=torch.float64)).detach().numpy()
    values = np.linalg.eigvalsh(0.5 * (matrix + matrix.T))[::-1]
    found = spectrum(network, landscape, num_top=5, num_bottom=3, method="lanczos", rtol=1e-8)
    np.testing.assert_allclose(found.values, values[[0, 1, 2, 3, 4, -3, -2, -1]], atol=1e-9)
    np.testing.assert_allclose(trace(jax.random.key(0), network, landscape).value, np.trace(matrix), rtol=1e-10)


def test_products_of_gauss_newton_and_the_empirical_fisher_agree(both):
    network, landscape, copy, data = both
    vector = np.random.default_rng(0).standard_normal(73)
    kinds: dict[Any, Any] = {
        "gauss_newton": curvlinops.GGNLinearOperator,
        "empirical_fisher": curvlinops.EFLinearOperator,
    }
    for kind, make in kinds.items():
        operator = make(copy, torch.nn.CrossEntropyLoss(), list(copy.parameters()), data, check_deterministic=False)
        theirs = (operator @ torch.from_numpy(vector)).detach().numpy()
        np.testing.assert_allclose(
            CurvatureProducts(network, landscape, curvature=kind)(vector), theirs, rtol=1e-9, atol=1e-12
        )
