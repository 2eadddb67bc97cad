"""Rows of the width table that no other test holds: gauged copies, silent units, tied weights, kinks, levels."""
# pyright: reportOptionalOperand=false, reportOptionalMemberAccess=false, reportOperatorIssue=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import counts, gradient, hessian, largest, make_inputs, make_network, outputs

from lossatlas import Landscape, data
from lossatlas._errors import InputError
from lossatlas.embedding import add_null_unit, split
from lossatlas.geometry import find_critical_point, plant_landscape
from lossatlas.networks import Affine, Axis, BatchNorm, Conv, Dense, DenseLayer, Transformer, UnitSpace
from lossatlas.theory import null_unit_inertia, split_inertia


KEY = jax.random.key(0)
SEQUENCES = jax.random.normal(jax.random.key(5), (90, 3, 2))
TRANSFORMER = Transformer(
    jax.random.key(3), 2, 3, 2, num_stream=3, num_heads=2, num_hidden=2, num_blocks=1, head_size=2, gated=True
)


@pytest.fixture(scope="module")
def planted():
    """A transformer at a critical point."""
    return plant_landscape(jax.random.key(4), TRANSFORMER, SEQUENCES, amplitude=0.1)


def _assert_critical(wide, landscape):
    assert largest(landscape.predictions(wide) - landscape.predictions(TRANSFORMER)) < 1e-12
    assert largest(gradient(landscape, wide)) < 1e-13


def test_a_copied_head_may_be_moved_along_its_gauges(planted):
    """(M^-T W_Q, M W_K) leaves the logits, (c W_V, W_O / c) what is written."""
    wide, _ = split(TRANSFORMER, "heads[0]", 1, 0.3)
    mixing, scale = jnp.array([[2.0, 1.0], [0.5, -1.0]]), 1.7
    attention = wide.blocks[0].attention
    inverse = jnp.linalg.inv(mixing).T
    moved = eqx.tree_at(
        lambda a: (a.query, a.query_bias, a.key, a.key_bias, a.value, a.value_bias, a.out),
        attention,
        (
            attention.query.at[2].set(inverse @ attention.query[2]),
            attention.query_bias.at[2].set(inverse @ attention.query_bias[2]),
            attention.key.at[2].set(mixing @ attention.key[2]),
            attention.key_bias.at[2].set(mixing @ attention.key_bias[2]),
            attention.value.at[2].multiply(scale),
            attention.value_bias.at[2].multiply(scale),
            attention.out.at[:, 2].divide(scale),
        ),
    )
    _assert_critical(eqx.tree_at(lambda n: n.blocks[0].attention, wide, moved), planted)


def test_a_copied_gated_unit_may_be_scaled_in_its_value(planted):
    wide, _ = split(TRANSFORMER, "hidden[0]", 0, 0.3)
    feed = wide.blocks[0].feed_forward
    up = Affine(feed.up.weight.at[2].multiply(-2.5), feed.up.bias.at[2].multiply(-2.5))
    moved = eqx.tree_at(lambda f: (f.up, f.down.weight), feed, (up, feed.down.weight.at[:, 2].divide(-2.5)))
    _assert_critical(eqx.tree_at(lambda n: n.blocks[0].feed_forward, wide, moved), planted)


def test_silent_heads_are_critical_when_their_values_are_zero_too(planted):
    wide, record = add_null_unit(TRANSFORMER, "heads[0]", landscape=planted)
    assert record.caution is None
    assert record.certificate.gradient_after < 1e-13
    query = wide.blocks[0].attention.query
    asking = eqx.tree_at(lambda n: n.blocks[0].attention.query, wide, query.at[2].set(1.3))
    _assert_critical(asking, planted)
    # The control: values that nothing reads keep outputs, not the critical point.
    value = wide.blocks[0].attention.value
    valued = eqx.tree_at(lambda n: n.blocks[0].attention.value, wide, value.at[2].set(jnp.eye(2, 3)))
    assert largest(planted.predictions(valued) - planted.predictions(TRANSFORMER)) < 1e-12
    assert largest(gradient(planted, valued)) > 1e-5


def test_a_silent_gated_unit_may_have_any_gate(planted):
    wide, record = add_null_unit(TRANSFORMER, "hidden[0]", landscape=planted)
    assert record.certificate.gradient_after < 1e-13
    gate = wide.blocks[0].feed_forward.gate.weight
    _assert_critical(eqx.tree_at(lambda n: n.blocks[0].feed_forward.gate.weight, wide, gate.at[2].set(0.9)), planted)


def test_convolutions_share_one_coefficient_over_taps_and_positions():
    network = Conv(KEY, (1, 4, 4), [2, 2], [2], kernel=2, padding="VALID")
    images = jax.random.normal(KEY, (60, 1, 4, 4))
    landscape = plant_landscape(jax.random.key(4), network, images, amplitude=0.3)
    for space, reader in (
        ("channels[0]", lambda n: n.convs[1].conv.weight),
        ("channels[1]", lambda n: n.layers[0].weight),
    ):
        wide, record = split(network, space, 0, 0.3, landscape=landscape)
        assert record.certificate.gradient_after < 1e-14
        weight = reader(wide).reshape(2, 3, -1)
        whole = weight[:, 0] + weight[:, 2]
        shares = jnp.linspace(0.1, 0.9, whole.shape[1])[None]  # another for each tap or position
        mixed = weight.at[:, 0].set((1 - shares) * whole).at[:, 2].set(shares * whole)
        mixed = eqx.tree_at(reader, wide, mixed.reshape(reader(wide).shape))
        assert largest(landscape.predictions(mixed) - landscape.predictions(network)) < 1e-13
        assert largest(gradient(landscape, mixed)) > 1e-5


def test_a_silent_channel_before_padding_must_put_out_zero():
    network = Conv(KEY, (1, 4, 4), [2, 2], [2], head="average")
    landscape = plant_landscape(jax.random.key(4), network, jax.random.normal(KEY, (60, 1, 4, 4)), amplitude=0.3)
    _, record = add_null_unit(network, "channels[0]", bias=0.0, landscape=landscape)
    assert record.caution is None
    assert record.certificate.gradient_after < 1e-14
    _, record = add_null_unit(network, "channels[0]", bias=0.7, landscape=landscape)
    assert "no bias" in record.caution
    assert record.certificate.gradient_after > 1e-5


def test_normalised_copies_may_be_scaled_shifted_and_turned():
    """BatchNorm without eps: a copy (c w, any b, sign(c) gamma) says the same."""
    network = Conv(KEY, (1, 4, 4), [2], [2], kernel=2, norm="batch", batch_statistics=True, head="average")
    norm = network.convs[0].norm
    bare = BatchNorm(jnp.array([0.8, 1.2]), jnp.array([0.1, -0.3]), norm.mean, norm.variance, 0.0)
    network = eqx.tree_at(lambda n: n.convs[0].norm, network, bare)
    images = jax.random.normal(KEY, (40, 1, 4, 4))
    landscape = plant_landscape(jax.random.key(4), network, images, amplitude=0.1)
    wide, _ = split(network, "channels[0]", 1, 0.3)
    moved = eqx.tree_at(
        lambda n: (n.convs[0].conv.weight, n.convs[0].conv.bias, n.convs[0].norm.scale),
        wide,
        (
            wide.convs[0].conv.weight.at[2].multiply(-2.0),
            wide.convs[0].conv.bias.at[2].add(0.7),
            wide.convs[0].norm.scale.at[2].multiply(-1.0),
        ),
    )
    assert largest(landscape.predictions(moved) - landscape.predictions(network)) < 1e-12
    assert largest(gradient(landscape, moved)) < 1e-13


class Tied(eqx.Module):
    """Words in and out by one table."""

    table: jax.Array

    def __call__(self, x):
        return self.table @ jnp.tanh(self.table.T @ x)

    def unit_spaces(self):
        axis = Axis("table", 1)
        size = self.table.shape[1]
        return {"hidden[0]": UnitSpace("hidden[0]", size, "neuron", (axis,), (axis,), None)}

    def with_sizes(self, sizes):
        return Tied(jnp.zeros((self.table.shape[0], sizes["hidden[0]"])))


def test_tied_weights_are_refused():
    with pytest.raises(InputError, match=r"written and read by the same weights \(axis 1 of table\).*Untie"):
        split(Tied(jnp.ones((4, 3))), "hidden[0]", 0)


def test_parameters_that_are_whole_numbers_are_refused():
    network = jax.tree.map(lambda a: a.astype(int), make_network((2, 3, 2)))
    with pytest.raises(InputError, match="floating-point"):
        split(network, "hidden[0]", 0)


def test_copies_of_a_unit_on_a_kink_need_positive_shares():
    """Card relu-saddles, section 5: the stationary point of E1, its unit B on the kink of the last example."""
    x = np.array([-1.0, -0.6, -0.1, 0.3, 0.7])
    y = np.array([0.28, -0.1, 0.03, 0.23, -0.22])
    rows = np.stack([x, np.ones(5)], axis=1)
    plane = np.linalg.lstsq(rows, y, rcond=None)[0]
    along, size = np.array([-1.0, 0.7]) / np.sqrt(1.49), 0.15
    first = size * along - plane
    norms = np.sqrt(np.linalg.norm(first)), np.sqrt(size)
    weight = jnp.asarray(np.stack([first / norms[0], along * norms[1]]))
    readers = jnp.asarray([[-norms[0], norms[1]]])
    network = Dense.from_layers([DenseLayer(weight, None), DenseLayer(readers, None)], "relu")
    landscape = Landscape(jnp.asarray(rows), jnp.asarray(y[:, None]))
    assert 5 * float(landscape(network)) == pytest.approx(0.06971490280777538, abs=1e-12)

    def slopes(wide, unit):
        """One-sided derivatives along the two tangential directions of a unit's weights."""
        tangent, step = jnp.asarray([0.7, 1.0]) / np.sqrt(1.49), 1e-7
        moved = [
            eqx.tree_at(lambda n: n.layers[0].weight, wide, wide.layers[0].weight.at[unit].add(sign * step * tangent))
            for sign in (1, -1)
        ]
        return [5 * float(landscape(point) - landscape(wide)) / step for point in moved]

    assert max(slopes(network, 1)) == pytest.approx(0.0653692, abs=1e-6)
    halves, record = split(network, "hidden[0]", 1, 0.5, landscape=landscape)
    assert record.caution is None
    assert min(slopes(halves, 1) + slopes(halves, 2)) > -1e-6
    signed, record = split(network, "hidden[0]", 1, -0.5, landscape=landscape)
    assert "1 examples lie on a kink of unit 1" in record.caution
    assert largest(gradient(landscape, signed)) < 1e-14  # automatic differentiation sees nothing
    assert min(slopes(signed, 2)) == pytest.approx(-0.0326846, abs=1e-6)
    assert "kink" in split(network, "hidden[0]", 1, 1.0, landscape=landscape)[1].caution
    assert split(network, "hidden[0]", 0, -0.5, landscape=landscape)[1].caution is None  # unit A is on no kink


def test_halves_of_the_minimum_of_width_two_turn_negative_one_by_one():
    """Card 5A: (0, 0, 7) -> (1, 1, 8) -> (2, 2, 9), from the narrow network and from the wide Hessian."""
    landscape = data.load("hierarchy-1d").landscape()
    first = DenseLayer(jnp.array([[0.9], [1.3]]), jnp.array([6.0, 1.0]))
    start = Dense.from_layers([first, DenseLayer(jnp.array([[1.2, -0.8]]), jnp.array([-0.3]))])
    network = find_critical_point(start, landscape, method="trust_region").network
    eigenvalues = []
    for unit in range(2):
        added = split_inertia(network, landscape, "hidden[0]", unit, 0.5)
        assert (added.negative, added.zero, added.positive) == (1, 1, 1)
        assert np.abs(added.coupling).max() < 1e-13
        spread = np.diag([5.0, 1.0])  # the card has x on [-15, 15], the data set a fifth of that
        eigenvalues.append(np.linalg.eigvalsh(spread @ added.curvature @ spread))
        for copies in (2, 3):
            wide, _ = split(network, "hidden[0]", unit, [1 / copies] * copies)
            k = copies - 1
            assert counts(hessian(landscape, wide), 1e-10) == (k, k, 7 + k)
            predicted = split_inertia(network, landscape, "hidden[0]", unit, [1 / copies] * copies)
            assert (predicted.negative, predicted.zero, predicted.positive) == (k, k, k)
    found = sorted(eigenvalues, key=lambda values: -values[0])
    np.testing.assert_allclose(found[0], [-6.37e-3, 2.23e-3], rtol=5e-3)
    np.testing.assert_allclose(found[1], [-3.44e-2, 8.06e-5], rtol=5e-3)


def test_a_plan_adds_up_step_by_step():
    """Each step's counts are those of the network that it starts from; no wide Hessian is needed."""
    network = make_network((2, 2, 2))
    landscape = plant_landscape(jax.random.key(4), network, make_inputs(), amplitude=0.3)
    total = np.array(counts(hessian(landscape, network)))
    point = network
    for unit, share in ((0, 0.4), (2, -0.6)):
        added = split_inertia(point, landscape, "hidden[0]", unit, share)
        total += (added.negative, added.zero, added.positive)
        point, _ = split(point, "hidden[0]", unit, share)
    added = null_unit_inertia(point, landscape, "hidden[0]", bias=0.3)
    total += (added.negative, added.zero, added.positive)
    point, _ = add_null_unit(point, "hidden[0]", bias=0.3)
    assert counts(hessian(landscape, point)) == tuple(total)


def test_a_split_of_a_perfect_fit_adds_zeros_only():
    network, inputs = make_network((2, 3, 2)), make_inputs()
    landscape = Landscape(inputs, jnp.asarray(outputs(network, inputs)))
    wide, _ = split(network, "hidden[0]", 1, 0.3)
    narrow, full = counts(hessian(landscape, network), 1e-10), counts(hessian(landscape, wide), 1e-10)
    assert full == (narrow[0], narrow[1] + 2 + 1 + 2, narrow[2])
