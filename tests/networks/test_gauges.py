"""Gauge tangents change no prediction to first order; gauge actions change none at all."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.networks import (
    Dense,
    apply_mixing,
    apply_permutation,
    apply_reflection,
    apply_scale,
    gauge_tangents,
    union_rank,
)
from lossatlas.networks._gauges import _null_space


INPUTS = jax.random.normal(jax.random.key(7), (30, 3))


@eqx.filter_jit
def pushed(network, inputs, tangents):
    """The change of all predictions along each tangent."""
    vector, unravel = ravel(network)
    predict = lambda v: jax.vmap(unravel(v))(inputs)  # noqa: E731
    return jax.vmap(lambda t: jax.jvp(predict, (vector,), (t,))[1])(tangents)


def network(widths=(3, 3, 2), **options):
    drawn = Dense(jax.random.key(1), widths, **options)
    keys = iter(jax.random.split(jax.random.key(2), 50))
    return jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(keys), a.shape), drawn)


def with_duplicate(net, sign=1.0):
    first, *rest = net.layers
    first = eqx.tree_at(
        lambda la: (la.weight, la.bias),
        first,
        (first.weight.at[1].set(sign * first.weight[0]), first.bias.at[1].set(sign * first.bias[0])),
    )
    return Dense.from_layers([first, *rest], net.activation)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (network(), {}),
        (network(num_linear=2), {"linear mixing": 4}),
        (network((3, 2, 2, 2), num_linear=[1, 2]), {"linear mixing": 5}),
        (network(activation="relu"), {"scale": 3}),
        (network(activation="square", num_linear=1), {"scale": 3, "linear mixing": 1}),
        (with_duplicate(network()), {"duplicate units": 2}),
        (with_duplicate(network(), -1.0), {"duplicate units": 2}),
        (with_duplicate(network(activation="sigmoid"), -1.0), {"duplicate units": 2}),
        (with_duplicate(network(activation="gelu"), -1.0), {}),
        (eqx.tree_at(lambda n: n.layers[1].weight, network(), jnp.zeros((2, 3))), {"zero outgoing": 12}),
        (
            eqx.tree_at(lambda n: n.layers[1].weight, network((3, 1, 2), num_linear=1), jnp.zeros((2, 2))),
            {"linear mixing": 1, "zero outgoing": 7},
        ),
    ],
)
def test_tangents_without_data_change_nothing_anywhere(net, expected):
    tangents = gauge_tangents(net)
    assert {name: len(rows) for name, rows in tangents.items()} == expected
    for rows in tangents.values():
        np.testing.assert_allclose(pushed(net, INPUTS, rows), 0.0, atol=1e-13)


def test_shared_logits_move_all_outputs_alike():
    net = network((3, 2, 3), num_linear=1)
    rows = gauge_tangents(net, shared_logit=True)["shared logit"]
    assert rows.shape[0] == 3 + 1
    change = np.asarray(pushed(net, INPUTS, rows))
    np.testing.assert_allclose(change, change[..., :1] * np.ones(3), atol=1e-13)
    assert np.abs(change).max() > 0.1


def test_collinear_and_constant_inputs():
    inputs = jnp.concatenate([INPUTS, INPUTS @ jnp.asarray([[1.0], [2.0], [0.0]]), jnp.full((30, 1), 3.0)], axis=1)
    net = network((5, 2, 2), num_linear=1)
    rows = gauge_tangents(net, inputs)["collinear inputs"]
    assert rows.shape[0] == 2 * 3  # two null directions of [X, 1], two neurons and a linear unit
    assert np.linalg.matrix_rank(rows) == 6
    np.testing.assert_allclose(pushed(net, inputs, rows), 0.0, atol=1e-12)
    # They hold on these inputs only.
    assert float(jnp.abs(pushed(net, jax.random.normal(jax.random.key(3), (9, 5)), rows)).max()) > 0.1


def test_duplicates_and_dead_units_are_collinear_features():
    net = with_duplicate(network())
    tangents = gauge_tangents(net, INPUTS)
    assert {name: len(rows) for name, rows in tangents.items()} == {"duplicate units": 2, "collinear features": 2}
    assert union_rank(tangents) == 2
    dead = eqx.tree_at(lambda n: n.layers[0].bias, network(activation="relu"), jnp.asarray([0.1, -50.0, 0.2]))
    tangents = gauge_tangents(dead, INPUTS)
    assert len(tangents["collinear features"]) == 2  # the unit gives 0: each output's weight is free
    np.testing.assert_allclose(pushed(dead, INPUTS, tangents["collinear features"]), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "bias", "num_linear", "rank"),
    [
        ("relu", 50.0, 0, 4 + 2),  # two units on: GL(2) and two shifts
        ("leaky_relu", -50.0, 0, 4 + 2),
        ("hard_tanh", 0.0, 0, 4 + 2),
        ("relu", 50.0, 1, 9 + 2),  # with the linear unit: GL(3); the linear unit has no bias to shift
        ("elu", 50.0, 0, 4 + 2),
    ],
)
def test_units_inside_one_segment_mix_and_shift(activation, bias, num_linear, rank):
    net = network((3, 2, 2), activation=activation, num_linear=num_linear)
    weight = 0.05 * net.layers[0].weight if activation == "hard_tanh" else net.layers[0].weight
    net = eqx.tree_at(lambda n: (n.layers[0].weight, n.layers[0].bias), net, (weight, jnp.full((2,), bias)))
    rows = gauge_tangents(net, INPUTS)["affine units"]
    assert np.linalg.matrix_rank(np.asarray(rows), tol=1e-9) == rank
    np.testing.assert_allclose(pushed(net, INPUTS, rows), 0.0, atol=1e-10)


def test_a_segment_needs_a_next_bias_for_its_constants():
    net = network((3, 2, 2), activation="relu", use_output_bias=False)
    net = eqx.tree_at(lambda n: n.layers[0].bias, net, jnp.asarray([50.0, 60.0]))
    rows = gauge_tangents(net, INPUTS)["affine units"]
    np.testing.assert_allclose(pushed(net, INPUTS, rows), 0.0, atol=1e-10)


def test_actions_keep_the_function():
    x = jax.random.normal(jax.random.key(5), (20, 3))
    evaluate = eqx.filter_jit(lambda net: jax.vmap(net)(x))
    deep = network((3, 3, 4, 2), num_linear=[2, 1])
    order, signs = jnp.asarray([2, 0, 1]), jnp.asarray([-1.0, 1.0, -1.0])
    mixing = jnp.asarray([[1.0, 0.5], [-0.2, 0.7]])
    sigmoid = network((3, 3, 2), activation="sigmoid")
    even = network((3, 3, 2), activation="xtanh")
    relu = network((3, 3, 2), activation="relu")
    square = network((3, 3, 2), activation="square")
    factors = jnp.asarray([0.5, 2.0, 3.0])
    for before, after in [
        (deep, apply_permutation(deep, "hidden[0]", order)),
        (deep, apply_mixing(deep, "linear[0]", mixing)),
        (deep, apply_scale(deep, "linear[1]", jnp.asarray([4.0]))),
        (deep, apply_reflection(deep, "hidden[0]", signs)),
        (sigmoid, apply_reflection(sigmoid, "hidden[0]", signs)),
        (even, apply_reflection(even, "hidden[0]", signs)),
        (relu, apply_scale(relu, "hidden[0]", factors)),
        (square, apply_scale(square, "hidden[0]", factors)),
    ]:
        np.testing.assert_allclose(evaluate(after), evaluate(before), atol=1e-12)


def test_actions_change_the_parameters():
    net = network(activation="relu")
    for other in (
        apply_permutation(net, "hidden[0]", jnp.asarray([1, 0, 2])),
        apply_scale(net, "hidden[0]", jnp.asarray([2.0, 1.0, 1.0])),
    ):
        assert not np.allclose(ravel(other)[0], ravel(net)[0])


def test_bad_input_is_named():
    net = network(num_linear=1)
    with pytest.raises(InputError, match="knows lossatlas.networks.Dense, got DenseLayer"):
        gauge_tangents(net.layers[0])
    with pytest.raises(InputError, match="Unknown unit space"):
        apply_permutation(net, "hidden[3]", jnp.asarray([0]))
    with pytest.raises(InputError, match="permutation of 0..2"):
        apply_permutation(net, "hidden[0]", jnp.asarray([0, 0, 1]))
    with pytest.raises(InputError, match="not homogeneous"):
        apply_scale(net, "hidden[0]", jnp.ones(3))
    with pytest.raises(InputError, match="positive"):
        apply_scale(net, "linear[0]", jnp.asarray([-1.0]))
    with pytest.raises(InputError, match="no symmetry"):
        apply_reflection(network(activation="gelu"), "hidden[0]", jnp.ones(3))
    with pytest.raises(InputError, match="signs must be"):
        apply_reflection(net, "hidden[0]", jnp.asarray([1.0, 2.0, 1.0]))
    signs = jnp.asarray([-1.0, 1.0, 1.0])
    with pytest.raises(InputError, match=r"linear units of layers\[1\] have no bias"):
        apply_reflection(network((3, 3, 2, 2), activation="sigmoid", num_linear=[0, 1]), "hidden[0]", signs)
    with pytest.raises(InputError, match=r"needs layers\[1\].bias"):
        apply_reflection(network(activation="sigmoid", use_output_bias=False), "hidden[0]", signs)
    with pytest.raises(InputError, match="Only linear units mix"):
        apply_mixing(net, "hidden[0]", jnp.eye(3))
    with pytest.raises(InputError, match="invertible"):
        apply_mixing(net, "linear[0]", jnp.zeros((1, 1)))


@pytest.mark.parametrize("rows", [1_000_000, 2])
def test_null_space_of_tall_and_of_wide_data(rows):
    """Tall: left singular vectors of a million examples would need 8 TB."""
    data = np.random.default_rng(0).normal(size=(rows, 3))
    data = np.concatenate([data, data[:, :1] - 2 * data[:, 1:2]], axis=1)
    basis = _null_space(data)
    assert len(basis) == (1 if rows > 4 else 2)
    np.testing.assert_allclose(data @ basis.T, 0.0, atol=1e-12)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)
