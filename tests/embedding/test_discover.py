"""Discovery: the unit spaces of any function, against those that our networks state and against what must be closed."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures import ARCHITECTURES
from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas.embedding import add_null_unit, discover_units, match, replicate, split, widen
from lossatlas.embedding._record import outputs
from lossatlas.embedding._unit_map import ShiftReaders
from lossatlas.networks import HasUnitSpaces, put_units, take_units


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def _layer(seed, fan_in, fan_out):
    return {"w": _normal(seed, fan_out, fan_in), "b": _normal(seed + 100, fan_out)}


def _affine(layer, x):
    return layer["w"] @ x + layer["b"]


def _between(hidden):
    """Two affine layers with something between them."""
    return lambda p, x: _affine(p[1], hidden(_affine(p[0], x)))


TWO, X = [_layer(0, 3, 6), _layer(1, 6, 2)], _normal(2, 3)


def _places(axes):
    return {
        (axis.path.removeprefix("params").lstrip("."), axis.axis, axis.outer, axis.inner, axis.offset) for axis in axes
    }


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stated_unit_spaces_are_rediscovered(name):
    network, shape = ARCHITECTURES[name]
    found = discover_units(lambda net, x: net(x), network, _normal(5, *shape)).spaces
    stated = [space for space in network.unit_spaces().values() if space.size]
    assert len(found) == len(stated)
    left = list(found.values())
    for space in stated:
        (same,) = [other for other in left if _places(other.writers) == _places(space.writers)]
        left.remove(same)
        assert _places(same.readers) == _places(space.readers)
        facts = ("size", "kind", "shares", "closed", "is_normalised")
        assert [getattr(same, fact) for fact in facts] == [getattr(space, fact) for fact in facts]
        assert (same.bias or "").removeprefix("params.") == (space.bias or "")
        # What a plain residual stream applies to itself is no function of a coordinate alone.
        assert same.activation == space.activation or space.kind == "stream"


def _certified(record):
    certificate = record.certificate
    assert certificate.gradient_before > 1e-3
    assert certificate.output_change < 1e-12
    assert certificate.intertwiner_defect < 1e-12


def test_all_maps_work_on_a_discovered_function():
    discovery = discover_units(_between(jax.nn.sigmoid), TWO, X)
    network = discovery.network
    assert isinstance(network, HasUnitSpaces)
    np.testing.assert_array_equal(network(X), _between(jax.nn.sigmoid)(TWO, X))
    (name,) = discovery.spaces
    act = discovery.spaces[name].activation
    assert act is not None
    assert act.name == "sigmoid"
    landscape = Landscape(_normal(3, 9, 3), _normal(4, 9, 2))
    wide, record = split(network, name, 2, 0.3, landscape=landscape)
    _certified(record)
    np.testing.assert_allclose(record.inverse(wide)(X), network(X), atol=1e-12)
    _certified(replicate(network, name, 2, landscape=landscape)[1])
    _certified(widen(network, {name: 9}, landscape=landscape)[1])
    # The constant of a null unit is held by the bias that its readers feed.
    _, record = add_null_unit(network, name, bias=0.7, landscape=landscape)
    assert record.caution is None
    _certified(record)
    order = np.array([3, 1, 5, 0, 2, 4])
    moved = [{"w": TWO[0]["w"][order], "b": TWO[0]["b"][order]}, {**TWO[1], "w": TWO[1]["w"][:, order]}]
    assert match(network, discover_units(network.fn, moved, X).network)[1].is_same


def _attention(p, x):
    """One matrix for queries, keys and values, as PyTorch has it."""
    heads, size = 2, p["in"].shape[0] // 6
    q, k, v = (part.reshape(-1, heads, size) for part in jnp.split(x @ p["in"].T + p["b"][None], 3, axis=1))
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / math.sqrt(3), axis=-1)
    return jnp.einsum("hts,shd->thd", weights, v).reshape(x.shape[0], -1) @ p["out"].T


def test_blocks_of_one_matrix_are_told_apart():
    params = {"in": _normal(0, 18, 4), "b": _normal(1, 18), "out": _normal(2, 2, 6)}
    spaces = list(discover_units(_attention, params, _normal(3, 5, 4)).spaces.values())
    (heads,) = [space for space in spaces if space.kind == "head"]
    queries, values = [space for space in spaces if space.kind == "dimension"]
    blocks = {"query": 0, "key": 6, "value": 12}
    assert _places(queries.writers) == {("['in']", 0, 2, 1, blocks["query"]), ("['b']", 0, 2, 1, blocks["query"])}
    assert _places(queries.readers) == {("['in']", 0, 2, 1, blocks["key"]), ("['b']", 0, 2, 1, blocks["key"])}
    assert _places(values.writers) == {("['in']", 0, 2, 1, blocks["value"]), ("['b']", 0, 2, 1, blocks["value"])}
    assert _places(values.readers) == {("['out']", 1, 2, 1, 0)}
    assert _places(heads.writers) == {("['in']", 0, 3, 3, 0), ("['b']", 0, 3, 3, 0)}
    assert {space.closed for space in spaces} == {"width fixed in code"}


def _gated(p, x):
    up, gate = jnp.split(_affine(p[0], x), 2)
    return _affine(p[1], up * jax.nn.silu(gate))


def test_chunks_of_one_matrix_are_split_together():
    network = discover_units(_gated, [_layer(0, 3, 10), _layer(1, 5, 2)], X).network
    (space,) = network.unit_spaces().values()
    assert (space.kind, space.size, space.closed) == ("gated", 5, None)
    assert {(axis.outer, axis.offset) for axis in space.writers} == {(2, 0)}
    _certified(split(network, space.name, 4, 0.3, landscape=Landscape(_normal(3, 9, 3), _normal(4, 9, 2)))[1])


def _two_blocks(p, x):
    """Queries and keys are blocks of one matrix, as wide as another parameter says."""
    q, k = jnp.split(x @ p["in"].T, [p["bias"].shape[0]], axis=1)
    return jnp.tanh((q + p["bias"][None]) @ k.T) @ p["out"]


def test_two_blocks_of_one_matrix_are_resized_together():
    params = {"in": _normal(0, 6, 4), "bias": _normal(1, 3), "out": _normal(2, 5)}
    network = discover_units(_two_blocks, params, _normal(3, 5, 4)).network
    (space,) = network.unit_spaces().values()
    assert {(axis.path, axis.offset) for axis in space.writers} == {("params['bias']", 0), ("params['in']", 0)}
    assert {(axis.path, axis.offset) for axis in space.readers} == {("params['in']", 3)}
    _certified(split(network, space.name, 1, 0.3, landscape=Landscape(_normal(3, 9, 5, 4), _normal(4, 9, 5)))[1])


def _dense_blocks(p, x):
    first = jnp.tanh(_affine(p[0], x))
    second = jnp.tanh(_affine(p[1], jnp.concatenate([x, first])))
    return {"a": _affine(p[2], jnp.concatenate([x, first, second])), "b": (second @ p[3],)}


def test_concatenated_skips_and_several_outputs_are_followed():
    params = [_layer(0, 3, 4), _layer(1, 7, 5), _layer(2, 12, 2), _normal(3, 5, 2)]
    first, second = discover_units(_dense_blocks, params, X).spaces.values()
    assert _places(first.readers) == {("[1]['w']", 1, 1, 1, 3), ("[2]['w']", 1, 1, 1, 3)}
    assert _places(second.readers) == {("[2]['w']", 1, 1, 1, 7), ("[3]", 0, 1, 1, 0)}
    assert first.closed is second.closed is None


def _columns(p, x):
    """Weights stored (in, out), as Flax and Keras have them."""
    return jax.nn.sigmoid(x @ p["in"] + p["b"]) @ p["out"] + p["c"]


def _columns_of_images(p, x):
    """A convolution of Flax, kernels stored (height, width, in, out), and a map flattened channels last."""
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(x[None], p["in"], (1, 1), "VALID", dimension_numbers=numbers) + p["b"]
    h = jax.lax.conv_general_dilated(jnp.cos(h), p["mid"], (1, 1), "VALID", dimension_numbers=numbers) + p["d"]
    return jnp.tanh(h).reshape(-1) @ p["out"] + p["c"]


COLUMNS = [
    (_columns, {"in": (3, 6), "b": (6,), "out": (6, 2), "c": (2,)}, (3,), ["c"]),
    pytest.param(
        _columns_of_images,
        {"in": (2, 2, 1, 3), "b": (3,), "mid": (2, 2, 3, 4), "d": (4,), "out": (16, 2), "c": (2,)},
        (4, 4, 1),
        ["d", "c"],
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("fn", "shapes", "shape", "biases"), COLUMNS)
def test_constants_go_into_the_biases_that_columns_feed(fn, shapes, shape, biases):
    """Adding c times what reads a unit to the bias is the same as a unit that puts out c more."""
    params = {name: _normal(i, *size) for i, (name, size) in enumerate(shapes.items())}
    with jax.numpy_rank_promotion("allow"):
        network = discover_units(fn, params, _normal(9, *shape)).network
        x = _normal(8, 5, *shape)
        landscape = Landscape(x, _normal(7, 5, 2))
        for space, bias in zip(network.unit_spaces().values(), biases, strict=True):
            (reader,) = space.readers
            assert space.activation is not None
            assert (reader.bias, reader.feeds) == (f"params['{bias}']", len(shapes[reader.path[8:-2]]) - 1)
            wide, record = add_null_unit(network, space.name, bias=0.7, landscape=landscape)
            _certified(record)
            # Give the null unit readers, and take out of the bias what it puts out at all times.
            (made,) = wide.unit_spaces()[space.name].readers
            arrays = named_arrays(wide)
            block = take_units(arrays[made.path], made, space.size + 1)
            arrays[made.path] = put_units(arrays[made.path], made, space.size + 1, block.at[..., -1, :].set(1.5))
            read = replace_parameters(wide, arrays)
            shift = jnp.zeros(space.size + 1).at[-1].set(-space.activation(jnp.asarray(0.7)))
            np.testing.assert_allclose(
                jax.vmap(ShiftReaders(space.name, shift).apply(read))(x), jax.vmap(network)(x), atol=1e-12
            )
            assert float(jnp.abs(jax.vmap(read)(x) - jax.vmap(network)(x)).max()) > 0.1


def test_an_activation_is_known_before_a_mean_over_windows_whose_size_is_computed():
    def fn(params, x):
        maps = jax.lax.conv_general_dilated(x[None], params["w"], (1, 1), "VALID") + params["b"][None, :, None, None]
        sums = jax.lax.reduce_window(jnp.tanh(maps), 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return params["v"] @ (sums / (jnp.ones(sums.shape) * 4.0)).ravel()

    params = {"w": jnp.ones((3, 1, 2, 2)), "b": jnp.ones(3), "v": jnp.ones((2, 12))}
    (space,) = discover_units(fn, params, jnp.ones((1, 5, 5))).network.spaces
    assert space.activation is not None and space.activation.name == "tanh"
    assert space.bias == "params['b']"


def test_units_of_an_embedding_table_are_found_and_its_rows_are_not():
    params = {"table": _normal(0, 7, 4), "out": _layer(1, 4, 2)}
    found = discover_units(lambda p, x: _affine(p["out"], p["table"][x].mean(0)), params, jnp.array([1, 2, 5]))
    (space,) = found.spaces.values()
    assert _places(space.writers) == {("['table']", 1, 1, 1, 0)}
    assert space.closed is None


CLOSED = {
    "sort": (jnp.sort, "sort runs over its units"),
    "fft": (lambda h: jnp.abs(jnp.fft.fft(h)), "fft tells its units apart"),
    "while": (lambda h: jax.lax.while_loop(lambda s: jnp.sum(s) < 9, lambda s: s + 1.0, h), "the operation while"),
    "cumulative sum": (jnp.cumsum, "cumsum runs over its units"),
    "softmax": (jax.nn.softmax, "reduce_max is taken over its units"),
    "norm without a mean": (lambda h: h / jnp.sqrt(jnp.sum(h**2)), "which enter a sum"),
    "threshold of a sum": (lambda h: jnp.where(jnp.sum(h) > 1e3, jnp.tanh(h), h), "gt sees a sum over its units"),
    "counted units": (lambda h: h * (jnp.sum(h > 0) > 40).astype(h.dtype) + h, "gt sees a sum over its units"),
    "picked entries": (lambda h: h[jnp.array([0, 2, 1, 3, 5, 4])], "gather tells its units apart"),
    "constant array": (lambda h: h * np.arange(1.0, 7.0), "a constant array of the function"),
    "counted": (lambda h: h * jnp.arange(h.size, dtype=h.dtype), "the function counts along it"),
    "added constant": (lambda h: jnp.tanh(h) + jnp.zeros(6), "width fixed in code"),
    "written-out reshape": (lambda h: jnp.tanh(h).reshape(3, 2).reshape(-1), "width fixed in code"),
    "fixed dropout": (
        lambda h: h * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape).astype(h.dtype),
        "the operation .* is unknown",
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_space_is_closed_with_the_reason(name):
    hidden, said = CLOSED[name]
    discovery = discover_units(_between(lambda h: hidden(h).astype(h.dtype)), TWO, X)
    assert discovery.spaces
    assert all(space.closed for space in discovery.spaces.values())
    with pytest.raises(InputError, match=f"cannot be resized: .*{said}"):
        split(discovery.network, next(iter(discovery.spaces)), 0)


@pytest.mark.parametrize("act", [jnp.tanh, lambda h: h])
def test_tied_weights_are_closed(act):
    (space,) = discover_units(lambda p, x: p["w"].T @ act(p["w"] @ x), {"w": _normal(0, 4, 3)}, X).spaces.values()
    assert space.closed is not None
    assert "tied weights" in space.closed


def test_units_that_are_only_summed_are_closed():
    (space,) = discover_units(lambda p, x: jnp.sum(jnp.tanh(_affine(p, x))), TWO[0], X).spaces.values()
    assert space.closed is not None
    assert "reduce_sum sums its units" in space.closed


def test_groups_are_fixed_in_code_and_their_channels_are_not():
    def fn(p, x):
        h = jnp.tanh(jax.lax.conv_general_dilated(x[None], p[0], (1, 1), "SAME"))
        h = jax.lax.conv_general_dilated(h, p[1], (1, 1), "SAME", feature_group_count=2)
        return p[2] @ jnp.tanh(h)[0].mean((1, 2))

    params = [_normal(0, 4, 2, 3, 3), _normal(1, 6, 2, 3, 3), _normal(2, 2, 6)]
    spaces = discover_units(fn, params, _normal(3, 2, 5, 5)).spaces.values()
    assert [(space.size, space.closed) for space in spaces] == [(2, "width fixed in code"), (2, None), (3, None)]


def test_a_constant_that_is_not_known_is_said_to_be():
    """A sigmoid that is added to a stream: null units put out one constant here and another there."""

    def fn(p, x):
        stream = _affine(p[0], x)
        return _affine(p[2], stream + jax.nn.sigmoid(_affine(p[1], stream)))

    network = discover_units(fn, [_layer(0, 3, 4), _layer(1, 4, 4), _layer(2, 4, 2)], X).network
    (space,) = network.unit_spaces().values()
    landscape = Landscape(_normal(3, 9, 3), _normal(4, 9, 2))
    _certified(split(network, space.name, 0, 0.3, landscape=landscape)[1])
    _, record = add_null_unit(network, space.name, landscape=landscape)
    assert record.caution is not None
    assert "no bias follows" in record.caution


def test_the_precision_and_the_rest_of_parameters_stay():
    network = eqx.nn.MLP(3, 2, 5, 1, dtype=jnp.float32, key=jax.random.key(0))
    discovery = discover_units(lambda net, x: net(x), network, jnp.zeros(3, jnp.float32))
    assert {array.dtype for array in named_arrays(discovery.network).values()} == {jnp.dtype("float32")}
    wide, _ = split(discovery.network, "layers[0]", 1, 0.3)
    assert wide.params.layers[0].out_features == wide.params.layers[1].in_features == 6
    x = _normal(1, 3).astype(jnp.float32)
    np.testing.assert_allclose(wide(x), network(x), atol=1e-6)
    assert isinstance(outputs(wide, x[None]), jax.Array)


def test_a_table_shows_what_was_found():
    lines = str(discover_units(_between(jnp.sort), TWO, X)).splitlines()
    assert lines[0].split() == ["space", "kind", "units", "shares", "written", "by", "read", "by", "closed"]
    assert "sort runs over its units" in lines[1]
    assert "[0].b, [0].w" in lines[1]


def test_functions_that_are_not_pure_are_refused():
    with pytest.raises(InputError, match="inference mode"):
        discover_units(_between(lambda h: h * np.random.default_rng().random()), TWO, X)
    with pytest.raises(InputError, match="inference mode"):
        discover_units(lambda net, x: net(x), eqx.nn.MLP(3, 2, 5, 1, key=jax.random.key(0)), jnp.zeros(4))

    def drawn(h):
        shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
        return jax.pure_callback(lambda a: a * np.random.default_rng().random(), shape, h)

    with pytest.raises(InputError, match="Two evaluations"):
        discover_units(_between(drawn), TWO, X)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="no floating-point array"):
        discover_units(lambda p, x: p @ x, jnp.arange(4).reshape(2, 2), jnp.ones(2))
    with pytest.raises(InputError, match="not finite"):
        discover_units(_between(lambda h: jnp.log(-jnp.abs(h))), TWO, X)
    network = discover_units(_between(jnp.tanh), TWO, X).network
    with pytest.raises(InputError, match="unit space"):
        network.with_sizes({"hidden": 3})
    with pytest.raises(InputError, match="at least 1"):
        network.with_sizes({"[0]": 0})
