"""Two expansions of one teacher, in any pieces of its expansion manifold, are joined at constant function."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import disguised, filled

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.embedding import add_null_unit, expansion_path, split
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, Recurrent, Residual, replace_parameters


KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (12, 2))


def teacher(widths, activation="tanh"):
    return filled(Dense(KEY, widths, activation=activation))


def expanded(network, sizes, seed):
    """A random point of a random piece: slots are shared out over units and over groups that cancel."""
    rng = np.random.default_rng(seed)
    wide = Dense(KEY, [network.widths[0], *sizes, network.widths[-1]], activation=network.activation)
    values, before, real = {}, np.arange(network.widths[0]), network.widths[0]
    for i, (layer, size) in enumerate(zip(network.layers, [*sizes, network.widths[-1]], strict=True)):
        count, num_groups = layer.weight.shape[0], before.max() + 1
        extra = 0 if i == len(sizes) else int(rng.integers(0, size - count + 1))
        groups = rng.permutation(
            np.concatenate([np.arange(count + extra), rng.integers(0, count + extra, size)])[:size]
        )
        rows = np.zeros((count + extra, num_groups))
        rows[:count, :real] = np.asarray(layer.weight)
        rows[count:] = rng.normal(size=(extra, num_groups))  # free; what cancels below may be read here
        bias = np.concatenate([np.asarray(layer.bias), rng.normal(size=extra)])
        weight = np.zeros((size, len(before)))
        for slot, group in enumerate(groups):
            for other in range(num_groups):
                members = np.flatnonzero(before == other)
                noise = rng.normal(size=len(members))
                weight[slot, members] = noise + (rows[group, other] - noise.sum()) / len(members)
        if i == len(sizes):  # outputs stay in their places
            weight, groups = weight[np.argsort(groups)], np.sort(groups)
        values |= {f"layers[{i}].weight": weight, f"layers[{i}].bias": bias[groups]}
        before, real = groups, count
    return replace_parameters(wide, {name: jnp.asarray(value) for name, value in values.items()})


def checked(first, last, landscape, **options):
    path = expansion_path(first, last, landscape, num_points=7, **options)
    found: Any = path.verification
    for vertex, end in ((path.vertices[0], first), (path.vertices[-1], last)):
        np.testing.assert_array_equal(ravel(vertex)[0], ravel(end)[0])
    assert found.function_change < 1e-11 * found.function_scale
    assert found.control_function_change > 1e-2 * found.function_scale
    return path


@pytest.mark.parametrize(
    ("widths", "sizes", "activation", "num_pairs"),
    [
        ([2, 3, 1], [6], "relu", 1),
        pytest.param([2, 3, 1], [6], "tanh", 9, marks=pytest.mark.slow),
        pytest.param([2, 2, 3, 2], [5, 6], "sigmoid", 9, marks=pytest.mark.slow),
        pytest.param([2, 3, 1], [4], "gelu", 5, marks=pytest.mark.slow),
        pytest.param([2, 3, 2], [7], "xtanh", 5, marks=pytest.mark.slow),
        ([2, 2, 3, 2], [5, 6], "sigmoid", 1),
        pytest.param([2, 2, 3, 2], [5, 6], "relu", 5, marks=pytest.mark.slow),
        pytest.param([2, 3, 2, 2, 1], [5, 6, 4], "tanh", 5, marks=pytest.mark.slow),
    ],
)
def test_students_of_one_teacher_are_joined(widths, sizes, activation, num_pairs):
    small = teacher(widths, activation)
    landscape = Landscape(INPUTS, jax.vmap(small)(INPUTS))
    for seed in range(num_pairs):
        students = [expanded(small, sizes, 2 * seed + i) for i in (0, 1)]
        students[1] = disguised(students[1], seed)
        assert all(float(landscape(student)) < 1e-24 for student in students)
        checked(students[0], students[1], landscape)


@pytest.mark.slow
def test_channels_with_running_statistics_are_joined():
    inputs = jax.random.normal(jax.random.key(1), (7, 1, 4, 4))
    small = filled(Conv(KEY, (1, 4, 4), [2, 2], [4, 2], norm="batch", pool="max"))
    students = []
    for seed in (0, 1):
        wide = small
        for name in ("channels[0]", "channels[1]", "hidden[0]"):
            wide, _ = add_null_unit(wide, name)
            wide, _ = split(wide, name, seed, [0.3 + seed, 0.7 - seed])
        students.append(disguised(wide, seed))
    checked(students[0], students[1], Landscape(inputs, jax.vmap(small)(inputs)))


def test_students_trained_to_a_small_loss_are_joined_as_far_as_they_are_one_network():
    small = teacher([2, 3, 1])
    landscape = Landscape(INPUTS, jax.vmap(small)(INPUTS))
    students = [expanded(small, [6], seed) for seed in (0, 1)]
    vector, unravel = ravel(students[0])
    near = unravel(vector + 1e-9 * jax.random.normal(KEY, vector.shape))
    found: Any = expansion_path(near, students[1], landscape, num_points=7).verification
    assert 1e-11 < found.function_change < 1e-6
    assert found.control_function_change > 1e-2


def test_networks_that_are_not_one_in_disguise_are_refused():
    small = teacher([2, 3, 1])
    landscape = Landscape(INPUTS, jax.vmap(small)(INPUTS))
    wide = expanded(small, [6], 0)
    other = Dense(jax.random.key(1), [2, 6, 1])
    off = replace_parameters(wide, {"layers[1].bias": wide.layers[1].bias + 1})
    fits = Dense(KEY, [2, 14, 1], init=-1.0)  # another fit of the same data
    hidden = np.tanh(np.asarray(INPUTS) @ np.asarray(fits.layers[0].weight).T)
    readers = jnp.asarray(np.linalg.lstsq(hidden, np.asarray(landscape.targets))[0].T)
    fits = replace_parameters(fits, {"layers[1].weight": readers})
    recurrent = Recurrent(KEY, 3, 4, 2)
    normed = Residual(KEY, 3, 5, 2, num_hidden=4, norm="layer")
    sequences = Landscape(jnp.ones((2, 4, 3)), jnp.ones((2, 2)))
    rows = Landscape(jnp.ones((2, 3)), jnp.ones((2, 2)))
    same = Landscape.from_function(lambda _, batch: jnp.zeros(len(batch)), INPUTS)
    cases: Any = (
        (wide, off, landscape, {}, "do not compute the same on the data: outputs differ by up to 1 "),
        (wide, other, landscape, {}, "losses are .*e-.* Train both to zero loss"),
        (small, disguised(small, 3), landscape, {}, r"hidden\[0\] has no unit to spare: all 3 .*Widen both"),
        (expanded(small, [14], 0), fits, landscape, {}, "not one smaller network in disguise: .* reduce to 3 and 1"),
        (recurrent, recurrent, sequences, {}, r"cannot move the units of hidden.0.: they are written by what"),
        (normed, normed, rows, {}, "cannot move the units of stream: they are normalised together"),
        (wide, wide, landscape, {"tolerance": 0.0}, "tolerance must lie between 0 and 1, got 0"),
        (wide, wide, same, {}, "this landscape has none"),
        (wide, small, landscape, {}, "Only networks of one architecture and shape"),
    )
    for first, last, data, options, said in cases:
        with pytest.raises(InputError, match=said):
            expansion_path(first, last, data, **options)
