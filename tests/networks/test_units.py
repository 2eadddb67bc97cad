"""The generic self-test of unit spaces: every architecture that states them is put through it."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from architectures import ARCHITECTURES, IMAGE, KEY, NO_BIASES
from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters, ravel
from lossatlas.embedding import add_null_unit, reduce, replicate, split
from lossatlas.embedding._record import outputs
from lossatlas.networks import (
    Axis,
    Conv,
    HasUnitSpaces,
    UnitSpace,
    num_parameters,
    put_units,
    replace_parameters,
    resized,
    take_units,
)


# Numbers by numpy: jax would compile a program for each of the many shapes.
def _normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape)


@ft.cache
def _filled(name):
    """An architecture with normal parameters and buffers, at no critical point, and the shape of an example."""
    network, shape = ARCHITECTURES[name]
    values = {n: 0.7 * _normal([1, i], a.shape) for i, (n, a) in enumerate(named_arrays(network).items())}
    values = {n: jnp.asarray(np.abs(a) + 0.3 if "variance" in n else a) for n, a in values.items()}
    return replace_parameters(network, values), shape


SPACES = [(name, space) for name, (network, _) in ARCHITECTURES.items() for space in network.unit_spaces()]


@ft.cache
def _landscape(shape):
    return Landscape(jnp.asarray(_normal(2, (12, *shape))), jnp.asarray(_normal(3, (12, 2))))


@pytest.mark.parametrize(("name", "space"), SPACES)
def test_units_can_be_split_permuted_and_added(name, space):
    network, shape = _filled(name)
    landscape = _landscape(shape)
    assert isinstance(network, HasUnitSpaces)
    found = network.unit_spaces()[space]
    if found.size == 0:
        return
    if found.shares == "equal":
        _, record = replicate(network, space, 2, landscape=landscape)
        for alone in (split, add_null_unit):
            with pytest.raises(InputError, match="embedding.replicate"):
                alone(network, space, *([0] if alone is split else []))
    else:
        _, record = split(network, space, found.size - 1, 0.3, landscape=landscape)
        nulled, _ = add_null_unit(network, space)
        np.testing.assert_allclose(outputs(nulled, landscape), outputs(network, landscape), atol=1e-13)
    certificate = record.certificate
    assert certificate.gradient_before is not None
    assert certificate.output_change is not None
    assert certificate.intertwiner_defect is not None
    assert certificate.gradient_before > 1e-3
    assert certificate.output_change < 1e-12
    assert certificate.intertwiner_defect < 1e-12
    # A^T B = I
    u, v = jnp.asarray(_normal(4, (2, num_parameters(network))))
    product = record.tangent_map.mv(u) @ record.gradient_map.mv(v)
    np.testing.assert_allclose(product, u @ v, rtol=1e-12, atol=1e-12)
    if found.size > 1:
        _assert_permutation_keeps_outputs(network, space, landscape)


# A null unit that puts out a constant: critical where a bias holds it, else said to be not.
NULLS = [
    ("conv, SAME", "channels[0]", False),
    ("conv, SAME", "channels[1]", True),
    ("conv, VALID", "channels[0]", True),
    ("conv, running norm", "channels[0]", False),
    ("conv, batch norm", "channels[0]", True),
    ("residual, pre-activation", "hidden[0]", True),
    ("transformer", "hidden[0]", True),
    ("recurrent", "hidden[0]", False),
]


@pytest.mark.parametrize(("name", "space", "keeps"), NULLS)
def test_a_constant_null_unit_keeps_critical_points_where_a_bias_holds_it(name, space, keeps):
    network, shape = _filled(name)
    landscape = _landscape(shape)
    _, record = add_null_unit(network, space, bias=0.7, landscape=landscape)
    assert record.certificate.output_change is not None
    assert record.certificate.intertwiner_defect is not None
    assert record.certificate.output_change < 1e-12
    assert (record.caution is None) == keeps
    # The caution is no idle one: without it B carries gradients, with it the defect is real.
    assert (record.certificate.intertwiner_defect < 1e-12) == keeps


@pytest.mark.parametrize("name", ["conv, batch norm", "transformer", "recurrent", "residual, plain"])
def test_a_resized_network_has_new_shapes_and_zeros(name):
    network, _ = ARCHITECTURES[name]
    for space in network.unit_spaces().values():
        new = network.with_sizes({space.name: space.size + 2})
        assert new.unit_spaces()[space.name].size == space.size + 2
        others = {n: s.size for n, s in new.unit_spaces().items() if n != space.name}
        assert others == {n: s.size for n, s in network.unit_spaces().items() if n != space.name}
        assert not any(bool(array.any()) for array in named_arrays(new).values())
    with pytest.raises(InputError, match="unit space"):
        network.with_sizes({"hiden": 3})
    with pytest.raises(InputError, match="at least 1"):
        network.with_sizes({next(iter(network.unit_spaces())): 0})


def _assert_permutation_keeps_outputs(network, name, landscape):
    space = network.unit_spaces()[name]
    order = np.roll(np.arange(space.size), 1)
    values = dict(named_arrays(network))
    for axis in (*space.writers, *space.readers):
        block = take_units(values[axis.path], axis, space.size)
        values[axis.path] = put_units(values[axis.path], axis, space.size, block[..., order, :])
    moved = replace_parameters(network, values)
    assert float(jnp.max(jnp.abs(ravel(moved)[0] - ravel(network)[0]))) > 1e-3
    np.testing.assert_allclose(outputs(moved, landscape), outputs(network, landscape), atol=1e-13)


def test_spaces_touch_every_hidden_parameter_and_no_more():
    network = ARCHITECTURES["linear units"][0]
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


WRONG = {
    "dense": ((2,), r"of shape \(3\), got \(2,\)"),
    "residual, plain": ((7, 3), r"of shape \(3\), got \(7, 3\); for many of them use jax.vmap"),
    "recurrent": ((5, 2), r"of shape \(any, 3\), got \(5, 2\)"),
    "conv, SAME": ((72,), r"of shape \(2, 6, 6\), got \(72,\)"),
    "transformer": ((4, 2), r"of shape \(any, 3\), got \(4, 2\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_examples_of_another_shape_are_refused(name):
    shape, said = WRONG[name]
    with pytest.raises(InputError, match=said):
        ARCHITECTURES[name][0](jnp.zeros(shape))


def test_a_transformer_reads_numbers_of_words_too():
    network = ARCHITECTURES["transformer"][0]
    words = jnp.array([2, 0, 1])
    np.testing.assert_allclose(network(words), network(jnp.eye(3)[words]), atol=1e-14)
    with pytest.raises(InputError, match="has 5 tokens, the network positions for 4"):
        network(jnp.zeros((5, 3)))


def test_running_statistics_are_those_of_the_batch_where_they_were_taken():
    network = Conv(KEY, (2, 6, 6), [3, 4], [2], norm="batch", pool="max", batch_statistics=True)
    rows = jax.random.normal(jax.random.key(2), (9, 2, 6, 6))
    settled = network.with_statistics(rows)
    np.testing.assert_allclose(jax.vmap(settled)(rows), network.call_batch(rows), atol=1e-12)
    assert num_parameters(settled) == num_parameters(network)
    landscape = Landscape(rows, jnp.zeros((9, 2)))
    np.testing.assert_allclose(landscape.predictions(network), network.call_batch(rows), atol=1e-12)
    with pytest.raises(InputError, match="batch_size=None"):
        landscape.with_batch_size(4)(network)


def test_convolutions_agree_with_a_loop_over_positions():
    network = Conv(KEY, (2, 5, 5), [3], [2], padding="VALID", stride=2, activation="identity")
    image = jax.random.normal(jax.random.key(1), (2, 5, 5))
    kernel, bias = network.convs[0].conv.weight, network.convs[0].conv.bias
    assert bias is not None
    rows = [
        [jnp.sum(kernel * image[None, :, i : i + 3, j : j + 3], axis=(1, 2, 3)) + bias for j in (0, 2)] for i in (0, 2)
    ]
    flat = jnp.moveaxis(jnp.array(rows), -1, 0).reshape(-1)
    np.testing.assert_allclose(network(image), network.layers[0](flat), atol=1e-12)


def test_convolutional_layers_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"the last maps have shape \(4, 2, 2\), so it needs 16 columns"):
        Conv.from_layers(NO_BIASES.convs, NO_BIASES.layers[1:], image=IMAGE)


def test_unit_spaces_of_convolutions_do_not_trace_the_network():
    calls = []

    def act(x):
        calls.append(x)
        return jnp.tanh(x)

    network = Conv(KEY, (1, 7, 6), [2, 3], [4, 2], pool="average", activation=act)
    calls.clear()
    (reader,) = network.unit_spaces()["channels[1]"].readers
    assert (reader.inner, calls) == (1, [])


class Gated(eqx.Module):
    """A module of a user's own: each neuron has a gate."""

    first: Array
    gate: Array
    last: Array

    def __call__(self, x):
        return self.last @ (self.gate * jnp.tanh(self.first @ x))

    def unit_spaces(self):
        writers = (Axis("first", 0), Axis("gate", 0))
        return {"hidden": UnitSpace("hidden", len(self.gate), "neuron", writers, (Axis("last", 1),), None)}

    def with_sizes(self, sizes):
        return resized(self, sizes)


def test_a_module_of_the_user_is_resized_and_reduced():
    first, last = jax.random.normal(jax.random.key(0), (2, 2)), jax.random.normal(jax.random.key(1), (3, 2))
    own = Gated(first[jnp.array([0, 1, 0])], jnp.array([0.5, 2.0, 0.5]), last[:, jnp.array([0, 1, 1])])
    smaller = own.with_sizes({"hidden": 1})
    assert (smaller.first.shape, smaller.gate.shape, smaller.last.shape) == ((1, 2), (1,), (3, 1))
    rows = jax.random.normal(jax.random.key(2), (20, 2))
    reduced, _ = reduce(own, rows)
    assert reduced.gate.shape == (2,)
    np.testing.assert_allclose(outputs(reduced, rows), outputs(own, rows), atol=1e-12)
    with pytest.raises(InputError, match="at least 1"):
        own.with_sizes({"hidden": 0})
