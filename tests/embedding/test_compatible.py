"""General compatible embeddings, at points that are not critical and at planted ones."""
# pyright: reportOptionalMemberAccess=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import counts, gradient, hessian, largest, make_inputs, make_network, outputs

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.embedding import check_compatible, compatible_dimension, compatible_embedding, reduce
from lossatlas.geometry import inertia, plant_landscape
from lossatlas.networks import Dense
from lossatlas.theory import critical_set_dimension


KEY = jax.random.key(7)
MAPS = {
    "splits": {"hidden[0]": [0, 1, 1], "hidden[1]": [1, 0, 0, 1]},
    "a null unit": {"hidden[0]": [0, -1, 1, 0], "hidden[1]": [0, 1]},
    "null units in both layers": {"hidden[0]": [-1, 0, 1, 1], "hidden[1]": [0, 1, -1, 0]},
}


@pytest.mark.parametrize("shares", ["equal", "random"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "softplus"])
@pytest.mark.parametrize("name", MAPS)
def test_outputs_stay_and_gradients_are_intertwined(name, activation, shares):
    network = make_network((2, 2, 2, 3), activation)
    landscape = Landscape(make_inputs(), jax.random.normal(KEY, (make_inputs().shape[0], 3)))
    wide, record = compatible_embedding(KEY, network, MAPS[name], shares=shares, landscape=landscape)
    assert wide.widths[1:3] == tuple(len(m) for m in MAPS[name].values())
    certificate = record.certificate
    assert certificate.gradient_before is not None
    assert certificate.output_change is not None
    assert certificate.intertwiner_defect is not None
    assert certificate.gradient_before > 1e-3
    assert certificate.output_change < 1e-12
    assert certificate.intertwiner_defect < 1e-12
    forward, backward = record.tangent_map.as_matrix(), record.gradient_map.as_matrix()
    np.testing.assert_allclose(forward.T @ backward, np.eye(forward.shape[1]), atol=1e-12)
    for found, wanted in zip(record.inverse(wide).layers, network.layers, strict=True):
        np.testing.assert_allclose(found.weight, wanted.weight, atol=1e-12)
        np.testing.assert_allclose(np.asarray(found.bias), np.asarray(wanted.bias), atol=1e-12)


@pytest.mark.parametrize(
    ("widths", "units"),
    [
        ((2, 2, 2, 1), {"hidden[0]": [0, 1, 1], "hidden[1]": [0, 0, 1, 1]}),
        ((2, 2, 2, 2), {"hidden[0]": [0, 1, 1, 0], "hidden[1]": [0, 0, 1]}),
        ((1, 2, 1), {"hidden[0]": [0, 1, -1, 0, 1]}),
    ],
)
def test_a_planted_point_gains_the_zeros_of_the_family_and_loses_no_sign(widths, units):
    network = make_network(widths)
    inputs = jax.random.normal(jax.random.key(1), (60, widths[0]))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.05)
    wide, record = compatible_embedding(KEY, network, units, shares="random", landscape=landscape)
    assert record.certificate.gradient_after is not None
    assert record.certificate.gradient_after < 1e-13
    narrow_counts, wide_counts = inertia(network, landscape).counts, inertia(wide, landscape).counts
    assert narrow_counts[1] == 0
    assert wide_counts[1] >= critical_set_dimension(widths, wide.widths)
    assert wide_counts[0] >= narrow_counts[0]
    assert wide_counts[2] >= narrow_counts[2]


def test_a_drawn_member_reduces_to_the_network():
    network = make_network((2, 3, 2, 2))
    units = {"hidden[0]": [2, 0, 1, 1, -1], "hidden[1]": [0, 1, -1, 0]}
    wide, _ = compatible_embedding(KEY, network, units, shares="random")
    reduced, record = reduce(wide, make_inputs())
    assert reduced.widths == network.widths
    assert record.certificate.output_change < 1e-10


def test_without_noise_and_nulls_it_is_a_chain_of_splits():
    network = make_network((2, 2, 1))
    wide, _ = compatible_embedding(KEY, network, {"hidden[0]": [0, 1, 1]}, spread=0.0)
    np.testing.assert_array_equal(wide.layers[0].weight, network.layers[0].weight[jnp.array([0, 1, 1])])
    np.testing.assert_allclose(wide.layers[1].weight[0, 1:], network.layers[1].weight[0, 1] / 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1)), {"hidden[0]": [0, 0]}), "each of 0..1 at least"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1)), {"hidden[0]": [0, 1, 2]}), "each of 0..1"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1)), {"hidden[1]": [0]}), "may name hidden"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1), num_linear=1), {}), "without linear units"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1), use_bias=False), {}), "biases"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize(
    ("widths", "units", "excess"),
    [
        ((2, 2, 2, 1), {"hidden[0]": [0, 1, 1], "hidden[1]": [0, 0, 1, 1]}, 0),
        ((1, 2, 1), {"hidden[0]": [0, 1, -1, 0, 1]}, 0),
        ((2, 2, 2, 1), {"hidden[0]": [0, 1, -1], "hidden[1]": [0, -1, 1]}, 0),
    ],
)
def test_rank_of_the_family_is_the_count_and_the_hessian_has_its_zeros(widths, units, excess):
    network = make_network(widths)
    inputs = jax.random.normal(jax.random.key(1), (60, widths[0]))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.05)
    wide, _ = compatible_embedding(KEY, network, units, shares="random")
    measured = compatible_dimension(KEY, network, units)
    assert measured.predicted == critical_set_dimension(widths, wide.widths)
    assert measured.rank == measured.predicted + excess
    assert measured.gap > 1e5
    assert counts(hessian(landscape, network), 1e-12)[1] == 0
    assert counts(hessian(landscape, wide), 1e-11)[1] >= measured.rank


def test_counts_never_fall_and_add_up_over_a_hundred_members():
    """H_wide A = B H_narrow: the parts along A and along ker B^T are conjugate, at any point."""
    network, units = make_network((1, 2, 2, 1)), {"hidden[0]": [0, 1, 1], "hidden[1]": [0, 1, -1]}
    inputs = jax.random.normal(jax.random.key(1), (30, 1))
    _, record = compatible_embedding(KEY, network, units)
    vector, unravel = ravel(network)
    for seed in range(100):
        point = unravel(vector + jax.random.normal(jax.random.key(seed), vector.shape))
        targets = jnp.asarray(outputs(point, inputs)) + 0.3 * jax.random.normal(jax.random.key(-seed), (30, 1))
        landscape = Landscape(inputs, targets)
        wide, record = compatible_embedding(jax.random.key(seed), point, units, shares="random")
        small, large = np.asarray(hessian(landscape, point)), np.asarray(hessian(landscape, wide))
        narrow, full = counts(small, 1e-10), counts(large, 1e-10)
        assert full[0] >= narrow[0]
        assert full[2] >= narrow[2]
        if seed < 5:
            back = np.asarray(record.gradient_map.as_matrix())
            kernel = np.linalg.svd(back.T)[2][back.shape[1] :].T
            rest = counts(kernel.T @ large @ kernel, 1e-10)
            assert full == tuple(np.add(narrow, rest))
            forward = np.asarray(record.tangent_map.as_matrix())
            np.testing.assert_allclose(large @ forward, back @ small, atol=1e-11)


def test_compression_alone_does_not_keep_zeros():
    """The trap: H_narrow = A^T H_wide A keeps signs but no zeros; what keeps them is H_wide A = B H_narrow."""
    wide, forward = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0], [0.0]])
    assert counts(forward.T @ wide @ forward) == (0, 1, 0)
    assert counts(wide) == (1, 0, 1)


def test_shares_of_the_copies_of_a_unit_sum_to_one():
    network = make_network((2, 3, 2, 1))
    maps = {"hidden[0]": [2, 0, 1, 1, -1], "hidden[1]": [0, 1, -1, 0]}
    _, record = compatible_embedding(KEY, network, maps, shares="random")
    for name, shares in zip(maps, record.plan[0].shares[1:-1], strict=True):
        units = np.array(maps[name])
        for unit in range(units.max() + 1):
            assert float(shares[units == unit].sum()) == pytest.approx(1, abs=1e-14)
        assert not shares[units == -1].any()


CHECKED = {"hidden[0]": [0, 1, 1, -1], "hidden[1]": [1, 0, 0]}


def _changed(wide, layer, rows, columns, change):
    weight = wide.layers[layer].weight
    return eqx.tree_at(lambda n: n.layers[layer].weight, wide, weight.at[jnp.ix_(rows, columns)].add(change))


def test_foreign_expansions_are_judged_condition_by_condition():
    network = make_network((2, 2, 2, 3))
    wide, record = compatible_embedding(KEY, network, CHECKED, shares="random")
    verdict = check_compatible(network, wide, CHECKED)
    assert verdict.is_compatible, verdict
    for found, made in zip(verdict.shares, record.plan[0].shares, strict=True):
        np.testing.assert_allclose(found, made, atol=1e-12)
    copies, columns = jnp.array([1, 2]), jnp.array([1, 2])
    # Row sums stay, shares do not fit: outputs are kept, critical points are not.
    backward = _changed(wide, 1, copies, columns, jnp.array([[0.3, -0.3], [0.1, -0.1]]))
    landscape = plant_landscape(KEY, network, make_inputs(), amplitude=0.1)
    assert np.abs(outputs(backward, make_inputs()) - outputs(network, make_inputs())).max() < 1e-12
    assert largest(gradient(landscape, wide)) < 1e-13
    assert largest(gradient(landscape, backward)) > 1e-6
    verdict = check_compatible(network, backward, CHECKED)
    assert not verdict.is_compatible
    assert "backward condition of layers[1], wide unit" in str(verdict)
    forward = _changed(wide, 1, copies, columns, 0.01 * wide.layers[1].weight[jnp.ix_(copies, columns)])
    assert "forward condition of layers[1], wide unit 1 (a copy of unit 0)" in str(
        check_compatible(network, forward, CHECKED)
    )
    moved = eqx.tree_at(lambda n: n.layers[1].bias, wide, wide.layers[1].bias.at[0].add(0.1))
    assert "bias condition of layers[1], wide unit 0 (a copy of unit 1)" in str(
        check_compatible(network, moved, CHECKED)
    )
    with pytest.raises(InputError, match="must have the widths"):
        check_compatible(network, network, CHECKED)
    with pytest.raises(InputError, match="share their activation"):
        check_compatible(network, Dense.from_layers(wide.layers, "sigmoid"), CHECKED)


def test_units_that_are_read_by_nothing_are_critical_for_special_data_only():
    """Card 5E: a1 tanh(w1 x) + a2 tanh(w2 x); the split line is critical for every eps, (1, w, 0, w') is not."""
    w, x = 1.0258, np.array([0.25, 1.0, 4.0, 16.0])
    rows = np.stack([np.tanh(w * x), x / np.cosh(w * x) ** 2])
    kernel = np.linalg.svd(rows)[2][2:]

    def slopes(a, ws, eps):
        """Gradient of half the squared residuals, up to sign; the residual at the narrow point is eps."""
        residual = np.tanh(np.outer(x, ws)) @ a - (np.tanh(w * x) - eps)
        return np.concatenate(
            [residual @ np.tanh(np.outer(x, ws)), residual @ (x[:, None] / np.cosh(np.outer(x, ws)) ** 2 * a)]
        )

    for eps in kernel:
        for delta in (-0.5, 0.3, 2.0):
            assert np.abs(slopes(np.array([delta, 1 - delta]), np.array([w, w]), eps)).max() < 1e-12
        assert np.abs(slopes(np.array([1.0, 0.0]), np.array([w, 2 * w]), eps)).max() > 0.05
    # One combination of the kernel is orthogonal to tanh(w' x): the special data.
    other = kernel @ np.tanh(2 * w * x)
    special = np.array([-other[1], other[0]]) @ kernel / np.linalg.norm(other)
    assert np.abs(slopes(np.array([1.0, 0.0]), np.array([w, 2 * w]), special)).max() < 1e-12
