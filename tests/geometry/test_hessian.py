"""The structured Hessian of dense networks equals the one by Hessian-vector products."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.geometry import _hessian
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


structured = eqx.filter_jit(_hessian.dense_hessian)
products = eqx.filter_jit(lambda network, landscape: landscape.hessian(network))


@pytest.mark.parametrize(
    ("widths", "num_linear", "options", "loss", "batch_size"),
    [
        ([3, 2, 2], 0, {}, "mse", None),
        ([3, 2, 3, 2], [1, 2], {"activation": "sigmoid"}, "cross_entropy", None),
        ([2, 0, 2], 1, {}, "mse", 7),
        ([2, 3, 2], 1, {"use_bias": False, "activation": "gelu"}, "mse", None),
        ([2, 3, 1], 0, {"use_output_bias": False}, "logistic", 6),
        ([4, 2], [], {}, "cross_entropy", None),
    ],
)
def test_structured_equals_products(key, widths, num_linear, options, loss, batch_size):
    network = Dense(key, widths, num_linear=num_linear, **options)
    inputs = jax.random.normal(jax.random.key(1), (20, widths[0]))
    targets = jax.nn.softmax(jax.random.normal(jax.random.key(2), (20, widths[-1])))
    landscape = Landscape(inputs, targets, loss=loss, batch_size=batch_size)
    found = structured(network, landscape)
    np.testing.assert_allclose(found, products(network, landscape), atol=1e-14)
    np.testing.assert_allclose(found, found.T, atol=1e-15)


def test_rows_one_by_one_give_the_same(key, monkeypatch):
    network = Dense(key, [3, 4, 2], num_linear=1)
    landscape = Landscape(jax.random.normal(key, (20, 3)), jnp.zeros((20, 2)))
    together = eqx.filter_jit(_hessian.dense_hessian)(network, landscape)
    monkeypatch.setattr(_hessian, "_MAX_TOGETHER", 1)
    np.testing.assert_allclose(
        eqx.filter_jit(lambda n, data: _hessian.dense_hessian(n, data))(network, landscape), together, atol=1e-15
    )


def test_a_filter_and_other_modules_use_products(key):
    network = Dense(key, [3, 4, 2])
    landscape = Landscape(jax.random.normal(key, (20, 3)), jnp.zeros((20, 2)))
    whole = products(network, landscape)
    np.testing.assert_allclose(structured(network, landscape, "layers[1].*"), whole[16:, 16:], atol=1e-14)
