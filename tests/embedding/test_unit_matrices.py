"""Selections against the dense matrices that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossatlas._parameters import named_arrays
from lossatlas.embedding import add_null_unit, replicate, split
from lossatlas.embedding._selection import Selection, on_units, product
from lossatlas.networks import Conv, Dense


@st.composite
def selections(draw):
    """A selection, its columns in place first or not, or its transpose."""
    size, more = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    is_in_place = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    added = rng.integers(size, size=more)
    units = np.concatenate([np.arange(size), added]) if is_in_place else rng.integers(size, size=more + 1)
    made = Selection(units, rng.normal(size=len(units)), size, is_in_place=is_in_place)
    return made.T if draw(st.booleans()) else made


def _blocks(columns, axis):
    shape = [2, 3, 2]
    shape[axis] = columns
    return np.random.default_rng(0).normal(size=shape)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(selection=selections(), axis=st.integers(0, 2))
def test_selection_maps_units_as_its_dense_matrix(selection, axis):
    dense = np.asarray(selection)
    assert dense.shape == selection.shape
    assert np.array_equal(np.asarray(selection.T), dense.T)
    block = _blocks(selection.shape[1], axis)
    wanted = np.moveaxis(np.tensordot(dense, block, (1, axis)), 0, axis)
    found = on_units(selection, jnp.asarray(block), axis)
    assert found.dtype == block.dtype
    assert np.abs(np.asarray(found) - wanted).max(initial=0.0) < 1e-14
    if axis == 0:
        by_numpy = on_units(selection, block)
        assert isinstance(by_numpy, np.ndarray)
        assert np.abs(by_numpy - wanted).max(initial=0.0) < 1e-14


@settings(max_examples=20, deadline=None, derandomize=True)
@given(outer=selections(), seed=st.integers(0, 100), is_transposed=st.booleans())
def test_product_is_that_of_the_dense_matrices(outer, seed, is_transposed):
    rng = np.random.default_rng(seed)
    rows, others = outer.shape[1], int(rng.integers(1, 5))
    if is_transposed:
        inner = Selection(rng.integers(rows, size=others), rng.normal(size=others), rows).T
    else:
        inner = Selection(rng.integers(others, size=rows), rng.normal(size=rows), others)
    found = np.asarray(product(outer, inner))
    assert np.abs(found - np.asarray(outer) @ np.asarray(inner)).max(initial=0.0) < 1e-14


def test_product_of_selections_in_place_is_in_place():
    first = Selection(np.array([0, 1, 1]), np.array([1.0, 0.4, 0.6]), 2, is_in_place=True)
    second = Selection(np.array([0, 1, 2, 0]), np.array([0.5, 1.0, 1.0, 0.5]), 3, is_in_place=True)
    both = product(second, first)
    assert isinstance(both, Selection)
    assert both.is_in_place
    dense = np.asarray(second) @ np.asarray(first)
    block = np.arange(8.0).reshape(4, 2)
    assert np.array_equal(on_units(both.T, jnp.asarray(block)), dense.T @ block)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_empty_space_gives_zeros(is_transposed):
    selection = Selection(np.zeros(3, int), np.ones(3), 0)
    selection = selection.T if is_transposed else selection
    found = on_units(selection, jnp.ones((selection.shape[1], 2)))
    assert found.shape == (selection.shape[0], 2)
    assert not found.any()


def test_compiled_selection_gives_the_same_and_keeps_float32():
    selection = Selection(jnp.array([0, 1, 1]), jnp.array([1.0, 0.4, 0.6]), 2, is_in_place=True)
    for matrix in (selection, selection.T):
        block = jnp.ones((matrix.shape[1], 2), jnp.float32)
        found = jax.jit(on_units)(matrix, block)
        assert found.dtype == jnp.float32
        assert np.allclose(found, np.asarray(matrix) @ np.ones(block.shape), rtol=1e-6)


def test_homogeneous_split_holds_square_roots_on_both_sides():
    wide, record = split(Dense(jax.random.key(0), [2, 3, 2], activation="relu"), "hidden[0]", 1, 0.3, homogeneous=True)
    (step,) = record.plan
    root = np.sqrt([0.7, 0.3])
    wanted = np.array([[1.0, 0, 0], [0, root[0], 0], [0, 0, 1], [0, root[1], 0]])
    assert np.allclose(np.asarray(step.writers), wanted, atol=1e-15)
    assert np.allclose(np.asarray(step.readers), wanted, atol=1e-15)
    assert np.allclose(np.asarray(step.dual_readers).T @ np.asarray(step.readers), np.eye(3), atol=1e-15)
    assert np.allclose(record.inverse(wide).layers[0].weight, record.start.layers[0].weight, atol=1e-15)


@pytest.mark.parametrize("made", ["split", "null", "replicate"])
def test_maps_marked_in_place_are(made):
    network = Dense(jax.random.key(0), [2, 3, 2])
    if made == "split":
        record = split(network, "hidden[0]", 1, [0.2, 0.5, 0.3])[1]
    elif made == "null":
        record = add_null_unit(network, "hidden[0]")[1]
    else:
        record = replicate(network, "hidden[0]", 2)[1]
    for matrix in (record.plan[0].writers, record.plan[0].readers):
        assert matrix.is_in_place
        assert np.array_equal(matrix.units[: matrix.size], np.arange(matrix.size))


def test_blocked_axis_keeps_positions_of_a_channel_together():
    """A dense layer reads the positions of each channel one after the other: the units are blocks of one axis."""
    network = Conv(jax.random.key(0), (2, 3, 3), [3], [2])
    space = network.unit_spaces()["channels[0]"]
    assert any(axis.outer > 1 or axis.inner > 1 for axis in (*space.writers, *space.readers))
    wide, record = split(network, space.name, 1, 0.3)
    x = jnp.linspace(-1.0, 1.0, 18).reshape(2, 3, 3)
    assert jnp.abs(wide(x) - network(x)).max() < 1e-14
    back = record.inverse(wide)
    for old, new in zip(named_arrays(network).values(), named_arrays(back).values(), strict=True):
        assert np.allclose(old, new, atol=1e-14)


def test_first_unit_of_an_empty_space_selects_nothing():
    _, record = add_null_unit(Dense(jax.random.key(0), [2, 0, 1]), "hidden[0]")
    assert np.asarray(record.plan[0].writers).shape == (1, 0)
