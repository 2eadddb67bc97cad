"""Solving with curvature matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._status import Status
from lossatlas.geometry import curvature_solve
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


@pytest.fixture(scope="module")
def point():
    network = Dense(jax.random.key(1), [3, 4, 2])
    x = jax.random.normal(jax.random.key(2), (30, 3))
    landscape = Landscape(x, jax.random.normal(jax.random.key(3), (30, 2)))
    return network, landscape, landscape.gradient(network)


def test_cg_solves_with_a_damped_gauss_newton_matrix(point):
    network, landscape, gradient = point
    found = curvature_solve(network, landscape, gradient, damping=0.1, curvature="gauss_newton", rtol=1e-10)
    exact = np.linalg.solve(np.asarray(landscape.gauss_newton(network)) + 0.1 * np.eye(26), gradient)
    np.testing.assert_allclose(found.value, exact, atol=1e-8)
    assert found.status is Status.CONVERGED
    assert float(found.residual) < 1e-8
    assert found.num_steps <= 26 + 4


def test_lsmr_gives_the_newton_step_of_an_indefinite_hessian_and_cg_says_why_not(point):
    network, landscape, gradient = point
    matrix = np.asarray(landscape.hessian(network))
    assert np.linalg.eigvalsh(matrix)[0] < -1e-3
    found = curvature_solve(network, landscape, gradient, method="lsmr", rtol=1e-12, max_steps=2000)
    np.testing.assert_allclose(found.value, np.linalg.solve(matrix, gradient), rtol=1e-5)
    block = curvature_solve(
        network, landscape, gradient[:12], only="layers[0].weight", method="lsmr", rtol=1e-12, max_steps=2000
    )
    np.testing.assert_allclose(matrix[:12, :12] @ block.value, gradient[:12], atol=1e-8)


def test_what_is_not_solved_is_said(point):
    network, landscape, gradient = point
    nothing = curvature_solve(network, landscape, 0.0 * gradient, damping=0.1, curvature="gauss_newton")
    assert float(nothing.residual) == 0
    assert not np.any(nothing.value)
    with pytest.raises(InputError, match=r"cg stopped after 2 steps .* may be indefinite"):
        curvature_solve(network, landscape, gradient, max_steps=2)
    found = curvature_solve(network, landscape, gradient, max_steps=2, throw=False)
    assert found.status is Status.MAX_STEPS
    with pytest.raises(InputError, match="each of the 26 selected parameters"):
        curvature_solve(network, landscape, jnp.ones(3))
    with pytest.raises(InputError, match="damping must be at least 0"):
        curvature_solve(network, landscape, gradient, damping=-1.0)
