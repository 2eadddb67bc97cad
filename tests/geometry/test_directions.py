from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import geometry, networks
from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel, replace_parameters
from lossatlas.geometry import as_directions, directions_to, moved_along, random_directions
from lossatlas.geometry._filters import filter_axes, selected_names
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, Recurrent, Transformer


def pieces(network, directions, row=0):
    """A direction as arrays by path."""
    like = ravel(network, directions.only)[1]
    return named_parameters(like.tangent(jnp.asarray(directions.vectors[row])))


def rows_of(array, axis=0):
    return np.linalg.norm(np.moveaxis(np.asarray(array), axis, 0).reshape(array.shape[axis], -1), axis=1)


def foreign(key):
    """An Equinox module with a convolution whose bias has three axes, and a norm whose scale has three."""
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 3, 2, key=key),
            eqx.nn.LayerNorm((3, 3, 3)),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(27, 4, key=key),
        ]
    )


NETWORKS = {
    "dense": lambda key: Dense(key, [3, 5, 2], num_linear=2, init="ntk"),
    "conv": lambda key: Conv(key, (2, 5, 5), (3, 4), [3, 2], norm="batch", separable=True, init="ntk"),
    "equinox": foreign,
}


def with_ones(network):
    """No array is zero, so that norms say something."""
    return replace_parameters(network, {name: a + 0.5 for name, a in named_parameters(network).items()})


@pytest.mark.parametrize("name", NETWORKS)
def test_filter_normalised_directions_have_the_norm_of_every_filter_and_still_biases(key, name):
    network = with_ones(NETWORKS[name](key))
    directions = random_directions(key, network)
    own = named_parameters(network)
    for path, piece in pieces(network, directions).items():
        is_filter = own[path].ndim > 1 and "bias" not in path and own[path].shape != (3, 3, 3)
        if is_filter:
            np.testing.assert_allclose(rows_of(piece), rows_of(own[path]), rtol=1e-12, err_msg=path)
        else:
            assert not piece.any(), path  # exactly zero
    assert not any("mean" in path or "variance" in path for path in directions.parameters)  # buffers never move


@pytest.mark.parametrize("name", NETWORKS)
def test_biases_that_move_have_the_norm_of_the_array_and_are_not_its_absolute_values(key, name):
    # loss-landscapes 3.0.6 turns the direction of a bias into abs(b_i), entry by entry.
    network = with_ones(NETWORKS[name](key))
    directions = random_directions(key, network, include_biases=True)
    own = named_parameters(network)
    biases = [path for path in own if own[path].ndim < 2 or "bias" in path]
    assert biases
    for path in biases:
        piece = pieces(network, directions)[path]
        np.testing.assert_allclose(jnp.linalg.norm(piece), jnp.linalg.norm(own[path]), rtol=1e-12)
        assert piece.size == 1 or not np.allclose(np.abs(piece), np.abs(own[path]))


def test_model_and_layer_normalised_directions_have_the_norm_of_the_network(key):
    # loss-landscapes 3.0.6 recomputes the norm while it rescales: 56.3 in place of 74.1.
    network = with_ones(Dense(key, [3, 7, 5, 2]))
    vector = ravel(network)[0]
    whole = random_directions(key, network, normalise="model", include_biases=True)
    np.testing.assert_allclose(np.linalg.norm(whole.vectors, axis=1), jnp.linalg.norm(vector), rtol=1e-12)
    weights = random_directions(key, network, normalise="model")
    moving = np.concatenate([np.ravel(a) for a in named_parameters(network).values() if a.ndim == 2])
    np.testing.assert_allclose(np.linalg.norm(weights.vectors, axis=1), np.linalg.norm(moving), rtol=1e-12)
    for path, piece in pieces(network, random_directions(key, network, normalise="layer")).items():
        wanted = jnp.linalg.norm(named_parameters(network)[path]) if piece.ndim == 2 else 0.0
        np.testing.assert_allclose(jnp.linalg.norm(piece), wanted, rtol=1e-12)


def test_without_normalisation_directions_are_standard_gaussian_on_what_moves(key):
    network = Dense(key, [30, 40, 2])
    vectors = random_directions(key, network, 3, normalise="none").vectors
    count = 30 * 40 + 40 * 2
    assert (vectors != 0).sum(axis=1).tolist() == [count] * 3
    np.testing.assert_allclose(np.sum(vectors**2, axis=1) / count, 1, atol=5 * np.sqrt(2 / count))
    gram = vectors @ vectors.T / count
    assert np.abs(gram[np.triu_indices(3, 1)]).max() < 5 / np.sqrt(count)


def test_a_filter_normalised_slice_does_not_change_when_filters_are_rescaled(key):
    network = Dense(key, [3, 6, 2], activation="relu")
    scale = np.arange(1.0, 7.0)
    first, last = network.layers
    other = replace_parameters(
        network,
        {
            "layers[0].weight": first.weight * scale[:, None],
            "layers[0].bias": jnp.asarray(first.bias) * scale,
            "layers[1].weight": last.weight / scale[None],
        },
    )
    axes = {"layers[0].weight": 0, "layers[1].weight": 1}  # by the unit on both sides
    one, two = (random_directions(key, each, axes=axes) for each in (network, other))
    x = jax.random.normal(key, (3,))
    for a in ([0.3, -0.2], [-1.0, 0.7]):
        np.testing.assert_allclose(moved_along(network, one, a)(x), moved_along(other, two, a)(x), rtol=1e-10)


def test_filters_of_architectures_lie_along_the_axis_that_their_units_write(key):
    sizes: dict[str, Any] = {"num_stream": 8, "num_heads": 2, "num_hidden": 4, "num_blocks": 1}
    for network in (Recurrent(key, 2, 3, 1), Transformer(key, 4, 3, 2, **sizes)):
        found = filter_axes(network)
        writers = {axis.path: axis.axis for space in network.unit_spaces().values() for axis in space.writers}
        for path, (axis, shape) in found.items():
            assert axis == (None if len(shape) < 2 else writers.get(path, 0)), path


def test_axes_for_weights_that_are_stored_otherwise(key):
    weight = jax.random.normal(key, (3, 5))
    network = {"kernel": weight, "other": weight.T}
    directions = random_directions(key, network, axes={"*kernel*": 1})
    found = pieces(network, directions)
    np.testing.assert_allclose(rows_of(found["['kernel']"], 1), rows_of(weight, 1))
    np.testing.assert_allclose(rows_of(found["['other']"], 0), rows_of(weight.T, 0))
    with pytest.raises(InputError, match="Unknown parameter 'kernle'"):
        random_directions(key, network, axes={"kernle": 1})
    with pytest.raises(InputError, match="no axis 2"):
        random_directions(key, network, axes={"*kernel*": 2})


def test_only_the_selected_parameters_move_and_the_network_stays_bitwise(key):
    network = Dense(key, [3, 5, 2])
    before = jax.tree.map(np.array, eqx.filter(network, eqx.is_array))
    directions = random_directions(key, network, only="layers[1].*")
    there = moved_along(network, directions, [1.0, -0.5])
    assert eqx.tree_equal(before, jax.tree.map(np.array, eqx.filter(network, eqx.is_array)))
    assert directions.parameters == ("layers[1].weight", "layers[1].bias")
    changed = [name for name, a in named_parameters(network).items() if (a != named_parameters(there)[name]).any()]
    assert changed == ["layers[1].weight"]
    again = random_directions(key, network, only="layers[1].*")
    assert np.array_equal(again.vectors, directions.vectors)
    assert eqx.tree_equal(moved_along(network, directions, [0.0, 0.0]), network)


def test_hessian_directions_are_eigenvectors_of_both_ends():
    diagonal = jnp.array([3.0, -2.0, 1.0, 0.5])
    landscape = Landscape.from_function(lambda p, batch: 0.5 * jnp.sum(batch * p[None] ** 2, axis=1), diagonal[None])
    found = geometry.hessian_directions(jnp.zeros(4), landscape, num_top=2, num_bottom=1)
    np.testing.assert_allclose(found.facts["eigenvalue"], [3, 1, -2], atol=1e-12)
    np.testing.assert_allclose(np.abs(found.vectors), np.eye(4)[[0, 2, 1]], atol=1e-10)
    assert "curvature -2" in found.names[2]
    with pytest.raises(InputError, match="num_top"):
        geometry.hessian_directions(jnp.zeros(4), landscape, num_top=9)


def test_trajectory_directions_explain_the_variance_and_cover_the_trajectory(key):
    network = Dense(key, [2, 3, 1])
    vector = np.asarray(ravel(network)[0])
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(len(vector), 2)))[0].T
    t = np.linspace(0, 1, 30)
    rows = vector + np.stack([4 * (1 - t), np.sin(3 * t * (1 - t))], axis=1) @ basis
    found = geometry.trajectory_directions(network, rows)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(found.facts["explained_variance"].sum(), 1)
    covariance = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    np.testing.assert_allclose(found.facts["explained_variance"], covariance[:2] / covariance.sum(), rtol=1e-10)
    seen = (rows - vector) @ found.vectors.T
    for column, (low, high) in zip(seen.T, found.extents, strict=True):
        assert low < column.min() < column.max() < high
    with pytest.raises(InputError, match="does not span 3"):
        geometry.trajectory_directions(network, rows, 3)
    with pytest.raises(InputError, match="at most 29"):
        geometry.trajectory_directions(network, rows, 30)
    with pytest.raises(InputError, match="Snapshot 3 .* not finite"):
        geometry.trajectory_directions(network, np.where(np.arange(30)[:, None] == 3, np.nan, rows))
    with pytest.raises(InputError, match="a row of 13 parameters"):
        geometry.trajectory_directions(network, rows[:, 1:])


def test_directions_to_other_networks_end_there(key):
    one, two, three = (Dense(k, [2, 3, 1]) for k in jax.random.split(key, 3))
    plane = directions_to(one, two, three)
    np.testing.assert_allclose(ravel(moved_along(one, plane, [1, 0]))[0], ravel(two)[0], atol=1e-15)
    np.testing.assert_allclose(ravel(moved_along(one, plane, [0, 1]))[0], ravel(three)[0], atol=1e-15)
    line = directions_to(one, two, only="*weight")
    there = named_parameters(moved_along(one, line, [1.0]))
    np.testing.assert_allclose(there["layers[0].weight"], two.layers[0].weight, atol=1e-15)
    assert np.array_equal(there["layers[0].bias"], np.asarray(one.layers[0].bias))
    with pytest.raises(InputError, match="does not fit"):
        directions_to(one, Dense(key, [2, 4, 1]))
    with pytest.raises(InputError, match="is zero"):
        directions_to(one, one)


def test_given_directions_may_be_networks_trees_or_vectors(key):
    network = Dense(key, [2, 3, 1])
    vector, unravel = ravel(network, "*weight")
    other = Dense(jax.random.fold_in(key, 1), [2, 3, 1])
    flat = ravel(other, "*weight")[0]
    tree = unravel.tangent(flat)
    found = as_directions(network, [other, tree, np.asarray(flat)], only="*weight")
    assert np.array_equal(found.vectors, np.stack([flat] * 3))
    np.testing.assert_allclose(found.cosines, 1)
    assert found.parameters == tuple(selected_names(network, "*weight"))
    unit = as_directions(network, [np.asarray(flat)], only="*weight", normalise="model", names=["mine"])
    np.testing.assert_allclose(np.linalg.norm(unit.vectors), jnp.linalg.norm(vector))


def test_directions_that_cannot_be_are_refused_with_a_clear_line(key):
    network = Dense(key, [2, 3, 1])
    for arguments, words in [
        ({"tangents": []}, "at least one"),
        ({"tangents": [np.ones(3)]}, "vector of 13 numbers"),
        ({"tangents": [np.full(13, np.nan)]}, "not finite"),
        ({"tangents": [np.zeros(13)]}, "is zero"),
        ({"tangents": [np.ones(13)], "names": ["a", "b"]}, "a name for each"),
    ]:
        with pytest.raises(InputError, match=words):
            as_directions(network, **arguments)
    with pytest.raises(InputError, match="num must be at least 1"):
        random_directions(key, network, 0)
    with pytest.raises(InputError, match="include_biases=True"):
        random_directions(key, network, only="*bias")
    directions = random_directions(key, network)
    with pytest.raises(InputError, match="from this network"):
        moved_along(networks.Dense(key, [3, 3, 1]), directions, [0, 0])
    with pytest.raises(InputError, match="2 directions, got 1"):
        moved_along(network, directions, [0])
