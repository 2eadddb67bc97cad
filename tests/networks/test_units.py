"""The generic self-test of unit spaces: every architecture that states them is put through it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import Landscape
from lossatlas._parameters import named_parameters, ravel
from lossatlas.embedding import add_null_unit, split
from lossatlas.networks import Axis, Dense, HasUnitSpaces, UnitSpace, put_units, replace_parameters, take_units


def _filled(network):
    """The network with normal parameters: no critical point."""
    leaves, treedef = jax.tree.flatten(network)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(treedef, [0.7 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])


KEY = jax.random.key(0)
ARCHITECTURES = {
    "dense": Dense(KEY, [3, 4, 3, 2]),
    "linear units": Dense(KEY, [3, 4, 3, 2], num_linear=[1, 2], activation="sigmoid"),
    "only linear units": Dense(KEY, [3, 0, 2], num_linear=2),
    "no bias": Dense(KEY, [3, 4, 3, 2], use_bias=False, activation="gelu"),
    "no output bias": Dense(KEY, [3, 4, 2], use_output_bias=False, num_linear=1),
    "no biases": Dense(KEY, [3, 4, 2], use_bias=False, use_output_bias=False, activation="relu"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_units_can_be_split_permuted_and_dropped(name):
    network = _filled(ARCHITECTURES[name])
    assert isinstance(network, HasUnitSpaces)
    inputs = jax.random.normal(jax.random.key(2), (12, 3))
    landscape = Landscape(inputs, jax.random.normal(jax.random.key(3), (12, 2)))
    before = np.asarray(landscape.predictions(network))
    for space in network.unit_spaces().values():
        if space.size == 0:
            continue
        wide, record = split(network, space.name, space.size - 1, 0.3, landscape=landscape)
        certificate = record.certificate
        assert certificate.gradient_before is not None
        assert certificate.output_change is not None
        assert certificate.intertwiner_defect is not None
        assert certificate.gradient_before > 1e-3
        assert certificate.output_change < 1e-13
        assert certificate.intertwiner_defect < 1e-13
        forward, backward = record.tangent_map.as_matrix(), record.gradient_map.as_matrix()
        np.testing.assert_allclose(forward.T @ backward, np.eye(forward.shape[1]), atol=1e-13)
        _assert_permutation_keeps_outputs(wide, space.name, landscape)
        nulled, _ = add_null_unit(network, space.name)
        np.testing.assert_allclose(landscape.predictions(nulled), before, atol=1e-14)


def _assert_permutation_keeps_outputs(network, name, landscape):
    space = network.unit_spaces()[name]
    order = np.roll(np.arange(space.size), 1)
    values = dict(named_parameters(network))
    for axis in (*space.writers, *space.readers):
        block = take_units(values[axis.path], axis, space.size)
        values[axis.path] = put_units(values[axis.path], axis, space.size, block[..., order, :])
    moved = replace_parameters(network, values)
    assert float(jnp.max(jnp.abs(ravel(moved)[0] - ravel(network)[0]))) > 1e-3
    np.testing.assert_allclose(landscape.predictions(moved), landscape.predictions(network), atol=1e-13)


def test_spaces_touch_every_hidden_parameter_and_no_more():
    network = ARCHITECTURES["linear units"]
    spaces = network.unit_spaces()
    assert list(spaces) == ["hidden[0]", "linear[0]", "hidden[1]", "linear[1]"]
    written = [axis.path for space in spaces.values() for axis in space.writers]
    read = [axis.path for space in spaces.values() for axis in space.readers]
    assert set(written) == {n for n in named_parameters(network) if not n.startswith("layers[2]")}
    assert set(read) == {
        n for n in named_parameters(network) if not n.startswith("layers[0]") and not n.endswith("bias")
    }
    assert spaces["linear[0]"].activation is None


@pytest.mark.parametrize("outer", [1, 2])
@pytest.mark.parametrize("inner", [1, 3])
def test_blocked_axes_are_taken_and_put_back(outer, inner):
    """Unit i owns offset + (a * units + i) * inner + b: heads and flattened maps."""
    size, offset = 4, 2
    axis = Axis("p", 1, outer=outer, inner=inner, offset=offset)
    array = jnp.arange(2.0 * (offset + outer * size * inner + 1)).reshape(2, -1)
    block = take_units(array, axis, size)
    assert block.shape == (2, outer, size, inner)
    for a in range(outer):
        for i in range(size):
            for b in range(inner):
                expected = array[:, offset + (a * size + i) * inner + b]
                np.testing.assert_array_equal(block[:, a, i, b], expected)
    np.testing.assert_array_equal(put_units(array, axis, size, block), array)
    fewer = put_units(array, axis, size, block[:, :, 1:])
    assert fewer.shape == (2, array.shape[1] - outer * inner)
    np.testing.assert_array_equal(take_units(fewer, axis, size - 1), block[:, :, 1:])
    np.testing.assert_array_equal(fewer[:, :offset], array[:, :offset])
    np.testing.assert_array_equal(fewer[:, -1], array[:, -1])


def test_unit_space_is_plain_data():
    space = UnitSpace("hidden[0]", 2, "neuron", (Axis("w", 0),), (Axis("v", 1),), None)
    assert space == UnitSpace("hidden[0]", 2, "neuron", (Axis("w", 0),), (Axis("v", 1),), None)
    assert (space.shares, space.closed) == ("any", None)
