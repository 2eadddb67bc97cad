import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas.geometry import residual_curvature
from lossatlas.geometry._residual_curvature import residual_landscape
from lossatlas.networks import Dense


NETWORK = Dense(jax.random.key(0), [2, 3, 2], init="ntk")


def _landscape(size, loss="mse", **options):
    x = jax.random.normal(jax.random.key(1), (30, 2))
    if loss == "mse":
        noise = size * jax.random.normal(jax.random.key(2), (30, 2))
        return Landscape(x, jax.vmap(NETWORK)(x) + noise, **options)
    return Landscape(x, jnp.arange(30) % 2, loss=loss, **options)


@eqx.filter_jit
def _matrices(landscape, bends):
    return landscape.hessian(NETWORK), landscape.gauss_newton(NETWORK), bends.hessian(NETWORK)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_ratio_is_that_of_the_dense_matrices(loss):
    landscape = _landscape(0.5, loss, batch_size=7)
    full, first, bent = (np.asarray(a) for a in _matrices(landscape, residual_landscape(NETWORK, landscape)))
    second = full - first
    expected = np.linalg.norm(second) / np.linalg.norm(full)
    exact = residual_curvature(jax.random.key(3), NETWORK, landscape, num_probes=100)
    assert exact.ratio == pytest.approx(expected, rel=1e-10)
    assert exact.standard_error == 0
    probed = residual_curvature(jax.random.key(3), NETWORK, landscape, num_probes=12)
    assert 0 < probed.standard_error < expected
    assert abs(probed.ratio - expected) < 5 * probed.standard_error
    np.testing.assert_allclose(bent, second, atol=1e-13)


def test_it_shrinks_with_the_residuals_and_vanishes_without_them():
    ratios = [residual_curvature(jax.random.key(3), NETWORK, _landscape(s)).ratio for s in (1e-2, 1e-3, 1e-4)]
    assert ratios[0] / ratios[1] == pytest.approx(10, rel=0.1)
    assert ratios[1] / ratios[2] == pytest.approx(10, rel=0.1)
    assert residual_curvature(jax.random.key(3), NETWORK, _landscape(0.0)).ratio < 1e-14


def test_bad_input_is_named():
    with pytest.raises(InputError, match="at least 2, got 1"):
        residual_curvature(jax.random.key(3), NETWORK, _landscape(1.0), num_probes=1)
    with pytest.raises(InputError, match="float64"):
        small = jax.tree.map(lambda a: a.astype("float32"), NETWORK)
        residual_curvature(jax.random.key(3), small, _landscape(1.0))
    broken = jax.tree.map(lambda a: a * jnp.nan, NETWORK)
    with pytest.raises(InputError, match="not finite"):
        residual_curvature(jax.random.key(3), broken, _landscape(1.0))
