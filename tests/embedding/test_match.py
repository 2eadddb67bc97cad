"""Networks that are one up to the symmetries of their units are recognised; others are not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, ravel
from lossatlas.embedding import match
from lossatlas.networks import (
    Conv,
    Dense,
    Recurrent,
    Residual,
    Transformer,
    apply_reflection,
    apply_scale,
    put_units,
    replace_parameters,
    take_units,
)


KEY = jax.random.key(0)
NETWORKS = {
    "dense, tanh": (Dense(KEY, [3, 6, 5, 2]), (3,)),
    "dense, gelu": (Dense(KEY, [3, 6, 5, 2], activation="gelu"), (3,)),
    "dense, relu": (Dense(KEY, [3, 6, 5, 2], activation="relu"), (3,)),
    "dense, sigmoid": (Dense(KEY, [3, 6, 5, 2], activation="sigmoid"), (3,)),
    "conv, batch norm": (Conv(KEY, (2, 6, 6), [4, 5], [3, 2], norm="batch", pool="max"), (2, 6, 6)),
    "conv, separable": (Conv(KEY, (2, 6, 6), [4, 5], [2], separable=True, activation="relu"), (2, 6, 6)),
    "residual": (Residual(KEY, 3, 5, 2, num_blocks=3, num_hidden=6), (3,)),
    "residual, plain": (Residual(KEY, 3, 5, 2, num_blocks=2), (3,)),
    "recurrent": (Recurrent(KEY, 3, 6, 2), (4, 3)),
    "transformer": (Transformer(KEY, 3, 4, 2, num_stream=8, num_heads=3, num_hidden=6, gated=True), (4, 3)),
}


def filled(network, key=1):
    arrays = named_arrays(network)
    # By numpy: jax would compile a program for each of the many shapes.
    rng = np.random.default_rng(key)
    values = {n: jnp.asarray(rng.normal(size=a.shape)) for n, a in arrays.items()}
    return replace_parameters(network, {n: jnp.abs(a) + 0.3 if "variance" in n else a for n, a in values.items()})


def disguised(network, seed=0):
    """The same function with units permuted, reflected and scaled at random."""
    rng = np.random.default_rng(seed)
    for space in network.unit_spaces().values():
        order = rng.permutation(space.size)
        arrays = named_arrays(network)
        for axis in (*space.writers, *space.readers):
            block = take_units(arrays[axis.path], axis, space.size)
            arrays[axis.path] = put_units(arrays[axis.path], axis, space.size, block[..., order, :])
        network = replace_parameters(network, arrays)
        if not isinstance(network, Dense):
            continue
        if network.activation.reflection is not None:
            network = apply_reflection(network, space.name, jnp.asarray(rng.choice([-1.0, 1.0], space.size)))
        if network.activation.degree is not None:
            network = apply_scale(network, space.name, jnp.asarray(rng.uniform(0.2, 5, space.size)))
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_disguised_network_is_recognised(name):
    network, shape = NETWORKS[name]
    reference = filled(network)
    other = disguised(reference)
    assert float(jnp.abs(ravel(other)[0] - ravel(reference)[0]).max()) > 0.1
    inputs = jax.random.normal(jax.random.key(2), (7, *shape))
    moved, result = match(other, reference, landscape=inputs)
    assert result.is_same, result
    assert result.residual < 1e-13
    assert result.output_difference is not None
    assert result.output_difference < 1e-10
    assert str(result).startswith("the same network up to symmetry, residual ")
    np.testing.assert_allclose(jax.vmap(moved)(inputs), jax.vmap(reference)(inputs), atol=1e-10)


@pytest.mark.parametrize("pool", ["max", "average"])
def test_channels_of_other_signs_are_reflected_only_where_pooling_allows(pool):
    # The largest of some values changes with their sign, the mean turns its own.
    reference = filled(Conv(KEY, (1, 4, 4), [3], [2], pool=pool))
    conv = reference.convs[0].conv
    flipped = eqx.tree_at(
        lambda n: (n.convs[0].conv.weight, n.convs[0].conv.bias), reference, (-conv.weight, -conv.bias)
    )
    rows = jax.random.normal(jax.random.key(2), (5, 1, 4, 4))
    moved, result = match(flipped, reference)
    np.testing.assert_allclose(jax.vmap(moved)(rows), jax.vmap(flipped)(rows), atol=1e-12)
    assert bool((result.signs["channels[0]"] < 0).any()) == (pool == "average")


@pytest.mark.parametrize("name", ["dense, tanh", "dense, relu", "residual"])
def test_noise_is_seen_and_does_not_confuse_the_units(name):
    network, _ = NETWORKS[name]
    reference = filled(network)
    vector, unravel = ravel(reference)
    noisy = unravel(vector + 1e-3 * jax.random.normal(jax.random.key(3), vector.shape))
    _, result = match(disguised(noisy), reference)
    assert not result.is_same
    assert 1e-4 < result.distance < 5e-3


def test_another_network_is_another_whatever_is_permuted():
    network, _ = NETWORKS["dense, tanh"]
    moved, result = match(filled(network, 5), filled(network, 6))
    assert result.distance > 0.3
    assert "different networks" in str(result)
    x = jnp.ones((4, 3))
    np.testing.assert_allclose(jax.vmap(moved)(x), jax.vmap(filled(network, 5))(x), atol=1e-12)


def test_what_was_done_is_told():
    reference = filled(NETWORKS["dense, relu"][0])
    other = disguised(reference)
    _, result = match(other, reference)
    back = other.layers[0].weight[result.orders["hidden[0]"]] * result.scales["hidden[0]"][:, None]
    np.testing.assert_allclose(back, reference.layers[0].weight, rtol=1e-12)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (Dense(KEY, [3, 6, 2]), Dense(KEY, [3, 5, 2]), r"layers\[0\].bias is \(6,\) and \(5,\)"),
        (Dense(KEY, [3, 6, 2]), Recurrent(KEY, 3, 6, 2), "Dense and Recurrent"),
    ],
)
def test_other_shapes_are_refused(one, two, said):
    with pytest.raises(InputError, match=said):
        match(one, two)
