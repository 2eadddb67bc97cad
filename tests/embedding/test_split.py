# pyright: reportOptionalOperand=false, reportOperatorIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import counts, gradient, hessian, largest, make_inputs, make_network, outputs, random_landscape

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel
from lossatlas.embedding import add_null_unit, split, widen
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Dense, DenseLayer
from lossatlas.theory import null_unit_inertia, split_inertia


ALPHAS = (-0.7, 0.3, 0.5, 2.0)
ACTIVATIONS = ("tanh", "sigmoid", "softplus", "gelu")
# Widths, the space that is split and the unit.
SHAPES = (
    ((1, 2, 1), "hidden[0]", 1),
    ((2, 3, 2), "hidden[0]", 0),
    ((2, 3, 2, 2), "hidden[0]", 2),
    ((2, 2, 3, 3), "hidden[1]", 1),
)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "relu"])
def test_split_keeps_the_function_and_maps_gradients_at_any_point(activation):
    network, landscape = make_network((2, 3, 2, 2), activation), random_landscape()
    fresh = make_inputs(30, seed=77)
    for space in ("hidden[0]", "hidden[1]"):
        for alpha in ALPHAS:
            wide, record = split(network, space, 1, alpha, landscape=landscape)
            assert largest(outputs(wide, fresh) - outputs(network, fresh)) < 1e-13
            certificate = record.certificate
            assert certificate.gradient_before > 1e-3  # no critical point
            assert certificate.intertwiner_defect < 1e-12


def test_k_way_split_of_linear_units_keeps_function_and_gradients():
    network, landscape = make_network((2, 3, 2, 2), num_linear=2), random_landscape()
    for space in ("hidden[0]", "linear[0]", "linear[1]"):
        wide, record = split(network, space, 0, [0.5, -0.7, 1.2], landscape=landscape)
        assert wide.unit_spaces()[space].size == network.unit_spaces()[space].size + 2
        assert record.certificate.output_change < 1e-13
        assert record.certificate.intertwiner_defect < 1e-12


def test_operators_of_a_plan_are_dual_and_agree_with_the_replay():
    network, landscape = make_network((2, 3, 2, 2), num_linear=1), random_landscape()
    wide, record = widen(network, [5, 4], "random", key=jax.random.key(3), landscape=landscape)
    forward, backward = record.tangent_map.as_matrix(), record.gradient_map.as_matrix()
    assert largest(forward.T @ backward - np.eye(forward.shape[1])) < 1e-12
    vector, unravel = ravel(network)
    tangent = jax.random.normal(jax.random.key(1), vector.shape)
    moved = ravel(record.replay(unravel(vector + tangent)))[0] - ravel(wide)[0]
    assert largest(moved - forward @ tangent) < 1e-12
    assert largest(ravel(record.inverse(wide))[0] - vector) < 1e-13


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_split_of_a_planted_critical_point_is_critical(loss):
    network = make_network((2, 3, 3))
    landscape = plant_landscape(jax.random.key(2), network, make_inputs(), amplitude=0.1, loss=loss)
    wide, record = split(network, "hidden[0]", 1, [0.4, 0.9, -0.3], landscape=landscape)
    assert record.certificate.gradient_before < 1e-14
    assert record.certificate.gradient_after < 1e-14
    # The control: one coefficient for each reader keeps the output, not the critical point.
    first, last = wide.layers
    readers = network.layers[1].weight[:, 1]
    share = jnp.array([0.2, 0.5, -0.4])
    weight = last.weight.at[:, 1].set((1 - share) * readers).at[:, 3].set(share * readers).at[:, 4].set(0.0)
    mixed = Dense.from_layers([first, DenseLayer(weight, last.bias)], "tanh")
    assert largest(outputs(mixed, landscape.inputs) - outputs(network, landscape.inputs)) < 1e-13
    assert largest(gradient(landscape, mixed)) > 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inertia_of_a_split_is_the_sum_at_a_planted_point(activation, shape):
    widths, space, unit = shape
    network = make_network(widths, activation)
    landscape = plant_landscape(jax.random.key(4), network, make_inputs(40, widths[0]), amplitude=0.3)
    narrow = counts(hessian(landscape, network))
    for alpha in ALPHAS:
        wide, _ = split(network, space, unit, alpha)
        added = split_inertia(network, landscape, space, unit, alpha)
        expected = tuple(np.add(narrow, (added.negative, added.zero, added.positive)))
        assert counts(hessian(landscape, wide)) == expected, alpha


def test_inertia_of_null_units_is_the_sum_at_a_planted_point():
    network = make_network((2, 3, 2, 2), num_linear=1)
    landscape = plant_landscape(jax.random.key(4), network, make_inputs(), amplitude=0.3)
    narrow = counts(hessian(landscape, network))
    for space, bias in (("hidden[0]", 0.0), ("hidden[0]", 0.7), ("hidden[1]", -0.4), ("linear[0]", 0.0)):
        wide, record = add_null_unit(network, space, bias=bias, landscape=landscape)
        assert record.caution is None
        assert record.certificate.gradient_after < 1e-13
        added = null_unit_inertia(network, landscape, space, bias=bias)
        assert added.negative == added.positive
        expected = tuple(np.add(narrow, (added.negative, added.zero, added.positive)))
        assert counts(hessian(landscape, wide)) == expected
    assert null_unit_inertia(network, landscape, "hidden[0]").negative > 0  # a strict saddle


def test_null_unit_maps_gradients_at_any_point():
    network, landscape = make_network((2, 3, 2, 2), num_linear=1), random_landscape()
    for space, bias in (("hidden[0]", 0.7), ("hidden[1]", -0.4), ("linear[0]", 0.0)):
        _, record = add_null_unit(network, space, bias=bias, landscape=landscape)
        assert record.certificate.output_change < 1e-14
        assert record.certificate.intertwiner_defect < 1e-13


def test_null_unit_that_breaks_criticality_says_so():
    network = make_network((2, 3, 2), use_output_bias=False)
    landscape = plant_landscape(jax.random.key(4), network, make_inputs(), amplitude=0.3)
    _, record = add_null_unit(network, "hidden[0]", bias=0.7, landscape=landscape)
    assert "no bias" in record.caution
    assert record.certificate.gradient_after > 1e-4
    _, record = add_null_unit(network, "hidden[0]", bias=0.0, landscape=landscape)
    assert record.caution is None
    assert record.certificate.gradient_after < 1e-14
    _, record = add_null_unit(network, "hidden[0]", incoming=[1.0, -2.0], landscape=landscape)
    assert "incoming" in record.caution
    assert record.certificate.output_change == 0
    assert record.certificate.gradient_after > 1e-4


def test_null_unit_opens_a_space_that_had_none():
    network, landscape = make_network((2, 3, 2, 2)), random_landscape()
    wide, record = add_null_unit(network, "linear[0]", landscape=landscape)
    assert wide.num_linear == (1, 0)
    assert record.certificate.output_change == 0
    assert record.certificate.intertwiner_defect < 1e-14


def test_balanced_split_of_relu_is_critical_with_weight_decay():
    network = make_network((2, 3, 2), "relu")
    first, last = network.layers
    made = jnp.sqrt(jnp.sum(first.weight**2, axis=1) + first.bias**2)
    ratio = jnp.sqrt(jnp.linalg.norm(last.weight, axis=0) / made)  # the penalty balances each unit
    first = DenseLayer(ratio[:, None] * first.weight, ratio * first.bias)
    network = Dense.from_layers([first, DenseLayer(last.weight / ratio[None], last.bias)], "relu")
    inputs, decay = make_inputs(), 0.3
    # Targets that make the penalised risk critical: J^T e / n = -decay * theta.
    plain = Landscape(inputs, jnp.zeros((40, 2)))
    vector, _ = ravel(network)
    jacobian = plain.jacobian(network).reshape(80, -1)
    residual = jnp.linalg.lstsq(jacobian.T, -40 * decay * vector)[0].reshape(40, 2)
    landscape = Landscape(inputs, plain.predictions(network) - residual)

    def penalised(point):
        return gradient(landscape, point) + decay * ravel(point)[0]

    assert largest(penalised(network)) < 1e-13
    balanced, record = split(network, "hidden[0]", 0, [0.3, 0.7], landscape=landscape, homogeneous=True)
    simple, _ = split(network, "hidden[0]", 0, [0.3, 0.7])
    assert record.certificate.output_change < 1e-13
    assert record.certificate.intertwiner_defect < 1e-13
    assert largest(penalised(balanced)) < 1e-13
    assert largest(penalised(simple)) > 1e-3
    squares = [float(jnp.sum(ravel(point)[0] ** 2)) for point in (network, balanced, simple)]
    assert squares[1] == pytest.approx(squares[0], abs=1e-13)
    assert squares[2] != pytest.approx(squares[0], abs=1e-2)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_share_of_zero_leaves_one_copy_unread(alpha):
    network, landscape = make_network((2, 3, 2)), random_landscape()
    wide, _ = split(network, "hidden[0]", 1, alpha)
    assert not wide.layers[1].weight[:, 1 if alpha else 3].any()
    added = split_inertia(network, landscape, "hidden[0]", 1, alpha)
    assert not added.block[:3, :3].any()


@pytest.mark.parametrize("policy", ["largest", "random", "null", "curvature"])
def test_widen_reaches_the_widths_and_keeps_a_critical_point(policy):
    network = make_network((2, 2, 2, 2))
    landscape = plant_landscape(jax.random.key(4), network, make_inputs(), amplitude=0.3)
    wide, record = widen(network, {"hidden[0]": 4, "hidden[1]": 3}, policy, key=jax.random.key(1), landscape=landscape)
    assert wide.widths == (2, 4, 3, 2)
    assert record.certificate.output_change < 1e-13
    assert record.certificate.gradient_after < 1e-13


def test_widen_says_of_every_space_what_breaks_criticality():
    network = Dense(jax.random.key(0), [2, 3, 3, 2], activation="sigmoid", use_bias=False)
    landscape = Landscape(make_inputs(), jnp.zeros((make_inputs().shape[0], 2)))
    _, record = widen(network, [4, 4], "null", landscape=landscape)
    assert record.certificate.intertwiner_defect > 1e-3
    # The second null unit is held by the output bias; the first, without a bias after it, is not.
    assert record.caution is not None


def test_inputs_alone_certify_outputs_and_nothing_else():
    _, record = split(make_network((2, 3, 2)), "hidden[0]", 0, landscape=make_inputs())
    assert record.certificate.output_change < 1e-14
    assert record.certificate.gradient_after is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n: split(n, "hidden[1]", 0), r"hidden\[1\].*hidden\[0\]"),
        (lambda n: split(n, "hidden[0]", 3), "unit must be 0 to 2"),
        (lambda n: split(n, "hidden[0]", -1), "unit must be 0 to 2"),
        (lambda n: split(n, "hidden[0]", 0, float("nan")), "shares must be"),
        (lambda n: split(n, "hidden[0]", 0, float("inf")), "shares must be"),
        (lambda n: split(n, "hidden[0]", 0, [0.3, 0.3]), "sum to one"),
        (lambda n: split(n, "hidden[0]", 0, homogeneous=True), "degree 1"),
        (lambda n: widen(n, [2]), "cannot be widened"),
        (lambda n: widen(n, [4, 4]), "one size for each"),
        (lambda n: widen(n, [4], "random"), "key"),
        (lambda n: widen(n, [4], "curvature"), "landscape"),
        (lambda n: add_null_unit(n, "hidden[0]", incoming=[1.0]), "incoming must be 2"),
        (lambda n: add_null_unit(n, "hidden[0]", bias=float("nan")), "bias must be finite"),
        (lambda n: add_null_unit(n, "linear[0]", bias=1.0), "no bias"),
        (lambda n: split(n.layers[0], "hidden[0]", 0), "no unit spaces"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(make_network((2, 3, 2)))


def test_many_units_at_once_are_the_splits_one_after_the_other():
    network = Dense(jax.random.key(3), [2, 3, 2])
    at_once, _ = widen(network, [8])
    one_by_one = network
    for size in range(4, 9):
        one_by_one, _ = widen(one_by_one, [size])
    for name, value in named_parameters(at_once).items():
        np.testing.assert_array_equal(value, named_parameters(one_by_one)[name])
