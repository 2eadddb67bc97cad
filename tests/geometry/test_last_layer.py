import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._status import Certificate
from lossatlas.geometry import last_layer_certificate
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer, Transformer


KEY = jax.random.key(0)


def test_the_residuals_never_exceed_the_bound_in_a_thousand_draws():
    # The same numbers as the function reads, in one program.
    x, y = jax.random.normal(jax.random.key(1), (4, 2)), jax.random.normal(jax.random.key(2), (4, 1))

    def both(key):
        first, second = jax.random.normal(key, (2, 6, 2))
        features = jnp.tanh(x @ first.T)
        residuals = features @ second[:, :1] - y
        gradient = features.T @ residuals
        smallest = jnp.linalg.svd(features, compute_uv=False)[3]
        return jnp.linalg.norm(residuals), jnp.linalg.norm(gradient) / smallest

    norms, bounds = jax.jit(jax.vmap(both))(jax.random.split(KEY, 1000))
    assert bool((norms <= bounds * (1 + 1e-12)).all())
    network = Dense(KEY, [2, 6, 1], use_bias=False, use_output_bias=False)
    found = last_layer_certificate(network, Landscape(x, y))
    features = np.tanh(np.asarray(x) @ np.asarray(network.layers[0].weight).T)
    residuals = features @ np.asarray(network.layers[1].weight).T - np.asarray(y)
    expected = np.linalg.norm(features.T @ residuals) / np.linalg.svd(features, compute_uv=False)[3]
    np.testing.assert_allclose(found.bound, expected, rtol=1e-9)
    np.testing.assert_allclose(found.residual_norm, np.linalg.norm(residuals), rtol=1e-12)
    assert found.residual_norm <= found.bound
    assert found.is_global is Certificate.NOT_CERTIFIED


def test_orthonormal_features_make_it_an_equality():
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    layers = (DenseLayer(jnp.eye(5), None), DenseLayer(jnp.asarray(np.random.default_rng(1).normal(size=(2, 5))), None))
    network = Dense.from_layers(layers, "identity")
    landscape = Landscape(jnp.asarray(q), jax.random.normal(KEY, (5, 2)))
    found = last_layer_certificate(network, landscape)
    np.testing.assert_allclose(found.bound, found.residual_norm, rtol=1e-12)


def test_a_fit_of_independent_features_is_certified_and_one_of_dependent_features_is_not():
    x, y = jax.random.normal(jax.random.key(1), (4, 2)), jax.random.normal(jax.random.key(2), (4, 1))
    network = Dense(KEY, [2, 6, 1], use_output_bias=False)
    features = np.asarray(jax.vmap(lambda row: network.features(row)[1])(x))
    solved = jnp.asarray(np.linalg.lstsq(features, np.asarray(y))[0].T)
    fitted = Dense.from_layers((network.layers[0], DenseLayer(solved, None)))
    found = last_layer_certificate(fitted, Landscape(x, y))
    assert found.is_global is Certificate.YES
    assert found.rank == 4
    narrow = last_layer_certificate(Dense(KEY, [2, 3, 1]), Landscape(x, y))
    assert narrow.bound == np.inf
    assert narrow.is_global is Certificate.NOT_CERTIFIED


@pytest.mark.parametrize(
    ("network", "shape", "weight"),
    [
        (Transformer(KEY, 3, 4, 2, num_stream=8, num_heads=2, num_hidden=6, num_blocks=1), (4, 3), "output.weight"),
    ],
)
def test_the_last_layer_of_any_architecture_is_found(network, shape, weight):
    inputs = jax.random.normal(KEY, (3, *shape))
    landscape = Landscape(inputs, jnp.asarray([0, 1, 1]), loss="cross_entropy")
    found = last_layer_certificate(network, landscape)
    assert found.weight == weight
    assert found.residual_norm <= found.bound


def test_what_is_no_last_layer_is_refused():
    network, landscape = Dense(KEY, [2, 2, 2]), Landscape(jnp.ones((3, 2)), jnp.ones((3, 2)))
    with pytest.raises(InputError, match=r"layers\[0\].weight is a last layer"):
        last_layer_certificate(network, landscape, weight="layers[0].weight")
    with pytest.raises(InputError, match="Unknown parameter 'head'"):
        last_layer_certificate(network, landscape, weight="head")
