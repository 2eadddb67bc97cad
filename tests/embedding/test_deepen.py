"""Depth beyond fully connected networks: what each insertion keeps, and the controls that fail."""
# pyright: reportOptionalOperand=false, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportOperatorIssue=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import counts, hessian, largest, make_inputs, make_network, outputs

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, num_parameters, ravel, replace_parameters
from lossatlas.embedding import add_null_block, deepen, lift, lift_block, lift_convolution, lift_inertia, walk_lift
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Conv, Dense, Recurrent, Residual, Transformer


KEY = jax.random.key(0)
ROWS = jax.random.normal(jax.random.key(2), (40, 3))
SEQUENCES = jax.random.normal(jax.random.key(2), (20, 4, 3))
IMAGES = jax.random.normal(jax.random.key(2), (15, 2, 5, 5))


def _filled(network, scale=0.5):
    """The network with normal parameters and buffers: no critical point."""
    arrays = named_arrays(network)
    keys = jax.random.split(jax.random.key(1), len(arrays))
    values = {n: scale * jax.random.normal(k, a.shape) for k, (n, a) in zip(keys, arrays.items(), strict=True)}
    return replace_parameters(network, {n: jnp.abs(a) + 0.3 if "variance" in n else a for n, a in values.items()})


def _landscape(inputs):
    return Landscape(inputs, jax.random.normal(jax.random.key(3), (len(inputs), 2)))


def _assert_intertwined(record):
    """Outputs kept, gradients carried at a point that is not critical, A^T B = I."""
    certificate = record.certificate
    assert certificate.gradient_before > 1e-3
    assert certificate.output_change < 1e-12
    assert certificate.intertwiner_defect < 1e-12
    u, v = jax.random.normal(jax.random.key(4), (2, num_parameters(record.start)))
    np.testing.assert_allclose(record.tangent_map.mv(u) @ record.gradient_map.mv(v), u @ v, rtol=1e-11, atol=1e-11)


PLAIN = _filled(Residual(KEY, 3, 4, 2))
NORMED = _filled(Residual(KEY, 3, 4, 2, num_hidden=3, norm="layer", num_blocks=1))
TRANSFORMER = _filled(Transformer(KEY, 3, 4, 2, num_stream=5, num_heads=2, num_hidden=4, num_blocks=1))
GATED = _filled(
    Transformer(
        KEY, 3, 4, 2, num_stream=4, num_heads=1, num_hidden=3, num_blocks=1, gated=True, norm="rms", activation="silu"
    )
)
WITHOUT_BIAS = eqx.tree_at(lambda n: n.inputs.bias, NORMED, None)
NULLS = {
    "plain, at the start": (PLAIN, 0, {"bias": 0.4}, True),
    "plain, in the middle": (PLAIN, 1, {}, True),
    "plain, a constant in the middle": (PLAIN, 1, {"bias": 0.4}, False),
    "plain, at the end": (PLAIN, 2, {"use_bias": True, "bias": 0.4}, True),
    "layer norm": (NORMED, 1, {"bias": 0.4}, True),
    "layer norm, no earlier bias": (WITHOUT_BIAS, 0, {"use_bias": True}, False),
    "layer norm, no bias at all": (WITHOUT_BIAS, 0, {}, True),
    "random incoming weights": (NORMED, 0, {"incoming": 0.5 * np.sin(np.arange(12.0).reshape(3, 4))}, False),
    "transformer": (TRANSFORMER, 1, {"key": KEY, "bias": 0.3}, True),
    "transformer, at the start": (TRANSFORMER, 0, {}, True),
    "transformer, gated": (GATED, 1, {"bias": 0.3}, True),
    "transformer, random incoming weights": (
        TRANSFORMER,
        1,
        {"incoming": 0.5 * np.sin(np.arange(20.0).reshape(4, 5))},
        False,
    ),
}


@pytest.mark.parametrize("name", NULLS)
def test_a_null_block_keeps_critical_points_exactly_where_it_says_so(name):
    network, before, options, keeps = NULLS[name]
    inputs = SEQUENCES if isinstance(network, Transformer) else ROWS
    deep, record = add_null_block(network, before, landscape=_landscape(inputs), **options)
    assert len(deep.blocks) == len(network.blocks) + 1
    assert (record.caution is None) == keeps
    if keeps:
        _assert_intertwined(record)
    else:
        assert record.certificate.output_change < 1e-12
        assert record.certificate.intertwiner_defect > 1e-4
    assert largest(ravel(record.inverse(deep))[0] - ravel(network)[0]) == 0


def test_a_null_block_at_a_planted_point_is_critical_and_a_saddle():
    network = _filled(Residual(KEY, 3, 3, 2, num_hidden=2, norm="layer", num_blocks=1))
    landscape = plant_landscape(KEY, network, ROWS, amplitude=0.1)
    deep, record = add_null_block(network, 0, landscape=landscape)
    assert record.certificate.gradient_after < 1e-13
    narrow, wide = counts(hessian(landscape, network)), counts(hessian(landscape, deep))
    assert wide[0] > narrow[0]  # as a null unit: what makes the neurons is coupled to what reads them
    assert wide[2] >= narrow[2]
    broken = eqx.tree_at(lambda n: n.inputs.bias, network, None)
    planted = plant_landscape(KEY, broken, ROWS, amplitude=0.1)
    _, record = add_null_block(broken, 0, use_bias=True, landscape=planted)
    assert record.certificate.gradient_before < 1e-13
    assert record.certificate.gradient_after > 1e-4


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
def test_a_plain_block_is_lifted_before_the_output(activation):
    network = _filled(Residual(KEY, 3, 3, 2, activation=activation, num_blocks=1))
    deep, record = lift_block(network, _landscape(ROWS), key=KEY)
    _assert_intertwined(record)
    assert float(record.plan[0].margin) > 0
    assert largest(ravel(record.inverse(deep))[0] - ravel(network)[0]) < 1e-12
    with pytest.raises(InputError, match="skip of the next block"):
        lift_block(network, ROWS, 0, key=KEY)


def test_a_lifted_block_at_a_planted_point_adds_zeros_only():
    network = _filled(Residual(KEY, 3, 3, 2, activation="elu", num_blocks=1))
    landscape = plant_landscape(KEY, network, ROWS, amplitude=0.5)
    deep, record = lift_block(network, landscape, key=KEY)
    assert record.certificate.gradient_after < 1e-13
    shallow, full = counts(hessian(landscape, network), 1e-9), counts(hessian(landscape, deep), 1e-9)
    predicted = lift_inertia(record, shallow)
    assert full == (predicted.negative, predicted.zero, predicted.positive) == (shallow[0], shallow[1] + 12, shallow[2])


def test_a_lifted_convolution_at_a_planted_point_adds_zeros_only():
    network = _filled(Conv(KEY, (1, 4, 4), [2], [2], kernel=2, padding="VALID", activation="leaky_relu"))
    images = jax.random.normal(jax.random.key(5), (60, 1, 4, 4))
    landscape = plant_landscape(KEY, network, images, amplitude=0.5)
    deep, record = lift_convolution(network, landscape, 1, 3, key=KEY)
    assert record.certificate.gradient_after < 1e-13
    shallow, full = counts(hessian(landscape, network), 1e-9), counts(hessian(landscape, deep), 1e-9)
    predicted = lift_inertia(record, shallow)
    assert full == (predicted.negative, predicted.zero, predicted.positive)
    assert predicted.added == num_parameters(deep) - num_parameters(network) > 0


def test_inertia_is_not_predicted_for_other_maps_nor_for_nearly_affine_lifts():
    _, record = add_null_block(PLAIN, 1)
    with pytest.raises(InputError, match="record of one lift"):
        lift_inertia(record, (0, 1, 2))
    _, record = lift_block(_filled(Residual(KEY, 3, 3, 2, activation="tanh")), ROWS, key=KEY, exact=False)
    with pytest.raises(InputError, match="only nearly affine"):
        lift_inertia(record, (0, 1, 2))


# A convolution with padding takes a lift through the origin only; others hold its constants in their bias.
CONVS = {
    "VALID": (Conv(KEY, (2, 5, 5), [2, 3], [2], padding="VALID", activation="leaky_relu"), 1, {"width": 3}),
    "padded, pooled": (Conv(KEY, (2, 5, 5), [2, 3], [2], activation="hard_tanh", pool="max"), 1, {}),
    "flattened": (Conv(KEY, (2, 5, 5), [3], [2], activation="relu", pool="average"), None, {}),
    "averaged, norm": (Conv(KEY, (2, 5, 5), [3], [2], activation="elu", head="average"), None, {"norm": True}),
    "batch statistics": (
        Conv(KEY, (2, 5, 5), [2, 2], [2], padding="VALID", norm="batch", batch_statistics=True, activation="relu"),
        1,
        {"norm": True},
    ),
}


@pytest.mark.parametrize("name", CONVS)
def test_a_linear_convolution_keeps_outputs_and_carries_gradients(name):
    empty, before, options = CONVS[name]
    network = _filled(empty, 0.4)
    deep, record = lift_convolution(network, _landscape(IMAGES), before, key=KEY, **options)
    assert len(deep.convs) == len(network.convs) + 1
    assert record.caution is None
    _assert_intertwined(record)
    assert largest(ravel(record.inverse(deep))[0] - ravel(network)[0]) < 1e-11


def test_constants_before_padding_would_break_what_is_refused():
    """The control: a bias in the inserted layer changes outputs at the border, whatever the next bias is."""
    network = _filled(Conv(KEY, (2, 5, 5), [2], [2], activation="hard_tanh"), 0.3)
    deep, record = lift_convolution(network, IMAGES, 0, key=KEY)
    assert deep.convs[0].conv.bias is None
    assert record.certificate.output_change < 1e-13
    shift = jnp.array([0.01, -0.01])
    kernels = deep.convs[1].conv.weight
    constant = jnp.sum(kernels, axis=(2, 3)) @ shift
    moved = eqx.tree_at(lambda n: n.convs[0].conv.bias, deep, shift, is_leaf=lambda a: a is None)
    moved = eqx.tree_at(lambda n: n.convs[1].conv.bias, moved, deep.convs[1].conv.bias - constant)
    assert np.abs(outputs(moved, IMAGES) - outputs(network, IMAGES)).max() > 1e-4


def test_a_deeper_convolutional_network_at_a_planted_point_is_critical():
    network = _filled(Conv(KEY, (1, 4, 4), [2], [2], activation="relu", head="average"))
    images = jax.random.normal(KEY, (40, 1, 4, 4))
    landscape = plant_landscape(KEY, network, images, amplitude=0.3)
    deep, record = deepen(network, landscape, key=KEY)
    assert record.certificate.gradient_before < 1e-14
    assert record.certificate.gradient_after < 1e-13
    shallow, full = counts(hessian(landscape, network), 1e-10), counts(hessian(landscape, deep), 1e-10)
    added = num_parameters(deep) - num_parameters(network)
    assert full == (shallow[0], shallow[1] + added, shallow[2])


def test_deepen_picks_what_fits_the_architecture():
    dense = make_network((3, 4, 3, 2), "relu")
    deep, record = deepen(dense, ROWS, 2, key=KEY)
    assert deep.widths == (3, 4, 3, 3, 3, 2)
    assert record.certificate.output_change < 1e-12
    residual = Residual(KEY, 3, 4, 2, activation="relu", num_blocks=1)
    deep, record = deepen(residual, ROWS, key=KEY)
    assert deep.blocks[-1].outer is None
    deep, record = deepen(PLAIN, ROWS, key=KEY)  # tanh has no affine piece
    assert deep.blocks[-1].outer is not None
    assert record.certificate.output_change == 0
    with pytest.raises(InputError, match="tanh has no affine piece"):
        deepen(make_network((3, 4, 2)), ROWS, key=KEY)
    _, record = deepen(make_network((3, 4, 2)), ROWS, key=KEY, exact=False, extent=0.01)
    assert "nearly affine" in record.caution


def test_a_walk_stays_on_the_lifted_manifold():
    network = make_network((2, 3, 2), "leaky_relu")
    landscape = plant_landscape(KEY, network, make_inputs(60), amplitude=0.3)
    deep, record = lift(network, landscape, 1, 4, key=KEY)
    inertia = counts(hessian(landscape, deep), 1e-9)
    point, walked = deep, record
    for i in range(3):
        before = point
        point, walked = walk_lift(jax.random.fold_in(KEY, i), walked, landscape)
        assert largest(ravel(point)[0] - ravel(before)[0]) > 0.1
        assert walked.certificate.output_change < 1e-12
        assert walked.certificate.gradient_after < 1e-12
        assert walked.plan[0].margin > 0
        assert largest(ravel(walked.inverse(point))[0] - ravel(network)[0]) < 1e-12
    assert counts(hessian(landscape, point), 1e-9) == inertia


def test_inputs_of_low_rank_leave_the_first_weights_free_and_no_other():
    """Card 2.3: after the input always critical, with W_eff far from W; deeper the layers below feel it."""
    inputs = make_inputs(60, 3)
    flat = inputs.at[:, 2].set(inputs[:, 0] - inputs[:, 1])
    network = make_network((3, 3, 2), "leaky_relu")
    landscape = plant_landscape(KEY, network, flat, amplitude=0.3)
    deep, record = lift(network, landscape, 0, 4, key=KEY, off_data=1.0)
    change = record.inverse(deep).layers[0].weight - network.layers[0].weight
    assert largest(change) > 0.3
    assert record.caution is None
    assert record.certificate.output_change < 1e-12
    assert record.certificate.gradient_after < 1e-12
    assert outputs(deep, inputs) != pytest.approx(outputs(network, inputs), abs=1e-3)
    with pytest.raises(InputError, match="full rank 4"):
        lift(network, inputs, 0, 4, key=KEY, off_data=1.0)
    # Features in a plane, hidden unit 2 a copy of unit 0; three outputs, of which the two readers see two.
    network = make_network((3, 3, 3), "leaky_relu")
    first = network.layers[0]
    copied = eqx.tree_at(
        lambda n: (n.layers[0].weight, n.layers[0].bias),
        network,
        (first.weight.at[2].set(first.weight[0]), first.bias.at[2].set(first.bias[0])),
    )
    landscape = plant_landscape(KEY, copied, inputs, amplitude=0.3)
    _, record = lift(copied, landscape, 1, 4, key=KEY, off_data=1.0)
    assert record.certificate.output_change < 1e-12
    assert "layers below" in record.caution
    assert record.certificate.gradient_before < 1e-13
    assert record.certificate.gradient_after > 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deepen(Recurrent(KEY, 2, 2, 2), ROWS, key=KEY), "knows Dense, Conv, Residual and Transformer"),
        (lambda: deepen(PLAIN, ROWS, 0, key=KEY), "num_layers must be at least 1"),
        (lambda: lift(PLAIN, ROWS, 0, 4, key=KEY), "lift needs a lossatlas.networks.Dense, got Residual"),
        (lambda: add_null_block(make_network((2, 3, 2))), "a Residual or a Transformer, got Dense"),
        (lambda: add_null_block(PLAIN, 3), "before must be 0 to 2"),
        (lambda: add_null_block(PLAIN, incoming=[[1.0]]), r"shape \(width, 4\)"),
        (lambda: add_null_block(PLAIN, width=0), "width must be at least 1"),
        (lambda: add_null_block(PLAIN, bias=float("inf")), "bias must be finite"),
        (lambda: lift_block(PLAIN, ROWS, key=KEY), "tanh has no affine piece"),
        (lambda: lift_convolution(CONVS["VALID"][0], IMAGES, 3, key=KEY), "before must be 0 to 2"),
        (lambda: lift_convolution(CONVS["VALID"][0], IMAGES, 1, 1, key=KEY), "width must be at least 2"),
        (lambda: lift_convolution(CONVS["VALID"][0], None, key=KEY), "needs the data"),
        (lambda: lift_convolution(CONVS["padded, pooled"][0], IMAGES, 1, key=KEY, norm=True), "pads with zeros"),
        (
            lambda: lift_convolution(
                Conv(KEY, (2, 5, 5), [2, 2], [2], separable=True, activation="relu"), IMAGES, 1, key=KEY
            ),
            "cannot take up a layer that mixes channels",
        ),
        (
            lambda: lift_convolution(
                Conv(KEY, (2, 5, 5), [2, 2], [2], activation="relu"), -jnp.abs(IMAGES), 0, key=KEY
            ),
            "through the origin",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_walk_needs_a_lift_with_biases():
    network = make_network((2, 3, 2), "hard_tanh", use_bias=False, use_output_bias=False)
    _, record = lift(network, make_inputs(), 1, 4, key=KEY)
    with pytest.raises(InputError, match="without biases"):
        walk_lift(KEY, record, make_inputs())
    _, record = add_null_block(PLAIN)
    with pytest.raises(InputError, match="the record of one lossatlas.embedding.lift"):
        walk_lift(KEY, record, ROWS)
    _, record = lift(Dense(KEY, [2, 3, 2], activation="relu"), make_inputs(), 1, 4, key=KEY)
    with pytest.raises(InputError, match="size must be positive"):
        walk_lift(KEY, record, make_inputs(), size=0.0)
