"""Counts of eigenvalues, their certificate, and the account of the zeros."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._status import Certificate
from lossatlas.geometry import find_critical_point, inertia, plant_landscape
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer, apply_mixing, apply_permutation, apply_scale


def function(fn):
    return Landscape.from_function(lambda theta, batch: fn(theta) + 0 * batch[:, 0], jnp.zeros((1, 1)))


def split(network, alpha):
    """Unit 0 of a one-hidden-layer network in two, with shares 1 - alpha and alpha."""
    first, last = network.layers
    weight = jnp.concatenate([first.weight, first.weight[:1]])
    bias = jnp.concatenate([first.bias, first.bias[:1]])
    column = last.weight[:, :1]
    out = jnp.concatenate([(1 - alpha) * column, last.weight[:, 1:], alpha * column], axis=1)
    return Dense.from_layers([DenseLayer(weight, bias), DenseLayer(out, last.bias)], network.activation)


def planted(activation="tanh", amplitude=0.02, loss="mse", widths=(3, 3, 2), num_linear=0, n=60):
    network = Dense(jax.random.key(3), widths, activation=activation, num_linear=num_linear)
    inputs = jax.random.normal(jax.random.key(4), (n, widths[0]))
    return network, plant_landscape(jax.random.key(5), network, inputs, amplitude=amplitude, loss=loss)


def moved(network, size):
    vector, unravel = ravel(network)
    return unravel(vector + size * jax.random.normal(jax.random.key(6), vector.shape))


def test_counts_of_a_quadratic_form():
    # Eigenvalues -2, 0, 1, 3 in a random basis.
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
    matrix = jnp.asarray(q @ np.diag([-2.0, 0.0, 1.0, 3.0]) @ q.T)
    found = inertia(jnp.zeros(4), function(lambda t: 0.5 * t @ matrix @ t))
    assert found.counts == (1, 1, 2)
    assert found.certificate is Certificate.YES
    assert found.is_strict_saddle is Certificate.YES
    assert (found.explained, found.unexplained) == (0, 1)
    np.testing.assert_allclose(found.eigenvalues, [-2, 0, 1, 3], atol=1e-14)


def test_a_minimum_with_an_unexplained_zero_is_not_certified_as_one():
    found = inertia(jnp.zeros(2), function(lambda t: t[0] ** 2 - t[1] ** 4))
    assert found.counts == (0, 1, 1)
    assert found.is_strict_saddle is Certificate.NO
    assert found.is_minimum is Certificate.NOT_CERTIFIED


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_planted_points_are_certified_and_their_zeros_explained(activation, loss):
    network, landscape = planted(activation, loss=loss)
    found = inertia(network, landscape)
    expected = (3 if activation == "relu" else 0) + (4 if loss == "cross_entropy" else 0)
    assert found.certificate is Certificate.YES
    assert found.unexplained == 0
    assert found.zero == expected
    assert sum(found.counts) == found.eigenvalues.size
    if activation == "relu":
        assert found.gauges["scale"] == 3
    if loss == "cross_entropy":
        assert found.gauges["shared logit"] == 4


def test_a_saddle_planted_with_large_residuals_is_a_strict_saddle():
    network, landscape = planted(amplitude=1.0)
    found = inertia(network, landscape)
    assert found.negative > 0
    assert found.is_strict_saddle is Certificate.YES
    assert found.is_minimum is Certificate.NO


def test_zeros_of_linear_units_are_their_mixing():
    network, landscape = planted(widths=(4, 2, 3), num_linear=2)
    found = inertia(network, landscape)
    assert found.gauges == {"linear mixing": 4}
    assert (found.zero, found.unexplained) == (4, 0)


def test_a_split_adds_what_the_split_theorem_says():
    # Scalar output: C = 0, so a split adds the inertia of alpha (1 - alpha) Q and one zero, the share.
    network, landscape = planted(widths=(3, 2, 1), amplitude=0.3)
    narrow, wide = inertia(network, landscape), inertia(split(network, 0.3), landscape)
    outside = inertia(split(network, 2.0), landscape)
    assert wide.certificate is Certificate.YES
    assert wide.zero == narrow.zero + 1
    assert wide.gauges["duplicate units"] == 1
    assert wide.unexplained == 0
    # alpha (1 - alpha) changes sign: the block's negative and positive eigenvalues change places.
    added = wide.negative - narrow.negative, wide.positive - narrow.positive
    assert (outside.negative - narrow.negative, outside.positive - narrow.positive) == added[::-1]
    assert sum(added) == 4


def test_collinear_inputs_cost_one_zero_a_unit():
    inputs = jax.random.normal(jax.random.key(4), (60, 3))
    inputs = jnp.concatenate([inputs, inputs[:, :1] - 2 * inputs[:, 1:2], jnp.full((60, 1), 0.7)], axis=1)
    network = Dense(jax.random.key(3), [5, 2, 2], num_linear=1)
    landscape = plant_landscape(jax.random.key(5), network, inputs)
    found = inertia(network, landscape)
    # Two null directions of [X, 1] for 2 neurons and 1 linear unit, and the scale of the linear unit.
    assert found.gauges == {"linear mixing": 1, "collinear inputs": 6}
    assert (found.zero, found.unexplained) == (7, 0)


def test_a_dead_unit_explains_its_zeros():
    network, landscape = planted(widths=(3, 2, 2))
    first, last = network.layers
    assert first.bias is not None
    wide = Dense.from_layers(
        [
            DenseLayer(jnp.concatenate([first.weight, jnp.zeros((1, 3))]), jnp.append(first.bias, 0.4)),
            DenseLayer(jnp.concatenate([last.weight, jnp.zeros((2, 1))], axis=1), last.bias),
        ]
    )
    narrow, found = inertia(network, landscape), inertia(wide, landscape)
    # A null unit adds rank(C) pairs of signs and zeros for the rest; its 6 new directions are all accounted for.
    added = np.subtract(found.counts, narrow.counts)
    assert added[0] == added[2]
    assert found.unexplained == 0
    assert found.certificate is Certificate.YES


def test_zeros_that_lead_downhill_are_no_minimum():
    # y = x^2 by one neuron that nothing reads: no negative eigenvalue, yet the loss falls at third order.
    x = jnp.linspace(-1, 1, 21)[:, None]
    zero = Dense(jax.random.key(0), [1, 1, 1]).with_sizes({})
    null = eqx.tree_at(lambda n: n.layers[1].bias, zero, jnp.mean(x**2, axis=0))
    landscape = Landscape(x, x**2)
    found = inertia(null, landscape)
    assert (found.counts, found.unexplained, found.certificate) == ((0, 3, 1), 0, Certificate.YES)
    assert not found.is_flat
    assert found.is_minimum is Certificate.NOT_CERTIFIED
    lower = Dense.from_layers(
        [DenseLayer(jnp.array([[0.1]]), jnp.array([0.1])), DenseLayer(jnp.array([[-0.001]]), null.layers[1].bias)]
    )
    assert float(landscape(lower)) < float(landscape(null))


def test_zeros_of_a_unit_that_can_do_nothing_are_a_valley():
    # The targets do not depend on the inputs: whatever the unread neuron becomes, reading it gains nothing.
    x = jnp.linspace(-1, 1, 21)[:, None]
    unread = Dense.from_layers(
        [DenseLayer(jnp.array([[0.5]]), jnp.array([0.3])), DenseLayer(jnp.zeros((1, 1)), jnp.zeros(1))]
    )
    found = inertia(unread, Landscape(x, jnp.zeros((21, 1))))
    assert (found.counts, found.gauges, found.is_flat) == ((0, 2, 2), {"zero outgoing": 2}, True)
    assert found.is_minimum is Certificate.YES


def test_units_inside_one_segment_mix_freely():
    # All pre-activations of the ReLU units are positive: a linear layer of two units with biases.
    network = Dense(jax.random.key(3), [3, 2, 2], activation="relu")
    inputs = jax.random.normal(jax.random.key(4), (60, 3))
    network = eqx.tree_at(lambda n: n.layers[0].bias, network, jnp.asarray([30.0, 40.0]))
    landscape = plant_landscape(jax.random.key(5), network, inputs)
    found = inertia(network, landscape)
    assert found.gauges["affine units"] == 6  # GL(2) and two shifts
    assert (found.zero, found.unexplained) == (6, 0)


@pytest.mark.parametrize("size", [1e-4, 1e-6])
def test_a_point_beside_a_critical_point_is_not_certified(size):
    # The trap: near an exact minimum with zeros, spurious negatives of the size of the gradient appear.
    network, landscape = planted("relu", widths=(2, 2, 2))
    wide = split(network, 0.4)
    exact, near = inertia(wide, landscape), inertia(moved(wide, size), landscape)
    assert exact.certificate is Certificate.YES
    assert np.sum(np.asarray(near.eigenvalues) < -1e-10) > exact.negative  # what naive counting sees
    assert near.certificate is Certificate.NOT_CERTIFIED
    assert near.is_strict_saddle is Certificate.NOT_CERTIFIED
    assert near.negative <= exact.negative


def test_a_gradient_of_1e_4_is_not_certified():
    network, landscape = planted()
    near = moved(network, 1e-4)
    assert 1e-6 < float(inertia(near, landscape).gradient_norm) < 1e-3
    assert inertia(near, landscape).certificate is Certificate.NOT_CERTIFIED


def test_a_point_far_from_critical_ones_is_none():
    assert inertia(jnp.asarray([0.3]), function(lambda t: t[0] + 0.1 * t[0] ** 2 * 0)).certificate is Certificate.NO


def test_gauge_actions_keep_the_inertia():
    network, landscape = planted("relu", widths=(3, 3, 2), num_linear=2)
    before = inertia(network, landscape)
    other = apply_permutation(network, "hidden[0]", jnp.asarray([2, 0, 1]))
    other = apply_scale(other, "hidden[0]", jnp.asarray([0.5, 2.0, 3.0]))
    other = apply_mixing(other, "linear[0]", jnp.asarray([[1.0, 0.4], [-0.3, 0.8]]))
    after = inertia(other, landscape)
    assert after.counts == before.counts
    assert after.gauges == before.gauges
    assert after.certificate is before.certificate is Certificate.YES


def test_gauges_within_a_filter():
    network, landscape = planted(widths=(4, 2, 3), num_linear=2)
    # The first layer alone has no mixing gauge; its Hessian is definite.
    found = inertia(network, landscape, only="layers[0].*")
    assert found.gauges == {}
    assert found.zero == 0
    network, landscape = planted(loss="cross_entropy")
    found = inertia(network, landscape, only="layers[1].*")
    assert found.gauges == {"shared logit": 4}
    assert found.unexplained == 0


def test_polishing_certifies_what_was_not():
    network, landscape = planted(widths=(4, 2, 3), num_linear=1)
    near = moved(network, 1e-3)
    assert inertia(near, landscape).certificate is not Certificate.YES
    polished = find_critical_point(near, landscape).network
    assert inertia(polished, landscape).certificate is Certificate.YES
    assert inertia(polished, landscape).counts == inertia(network, landscape).counts


def test_bad_input_is_named():
    network, landscape = planted()
    with pytest.raises(InputError, match="float64"):
        inertia(jax.tree.map(lambda a: a.astype(jnp.float32), network), landscape)
    with pytest.raises(InputError, match="more than max_size=5"):
        inertia(network, landscape, max_size=5)
    with pytest.raises(InputError, match="not finite"):
        inertia(jnp.asarray([-1.0]), function(lambda t: jnp.log(t[0])))
