import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import effective_linear_units, find_taps, linearization
from lossatlas.geometry._linearization import _of_stages, _output_changes, _unit_forward
from lossatlas.geometry._unit_activations import find_stages
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, DenseLayer, Recurrent, Transformer


def chain(act, *layers):
    """A network from (weight, bias) pairs."""
    made = [DenseLayer(jnp.asarray(w, float), None if b is None else jnp.asarray(b, float)) for w, b in layers]
    return Dense.from_layers(made, act)


def on(inputs):
    inputs = jnp.asarray(inputs, float)
    inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    return Landscape(inputs, jnp.zeros((len(inputs), 1)))


ONE = ([[1.0]], [0.0])


# -- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "bias", "data", "expected"),
    [
        ("tanh", 0.0, [-2.0, -1.0, 1.0, 2.0], 0.979066305809),
        ("relu", -1.0, [0.0, 1.0, 2.0, 3.0], 0.943879807449),
        ("tanh", 0.0, [-1.7, 0.0, 1.7], 1.0),
        ("sigmoid", 0.0, [-0.3, 0.0, 0.3], 1.0),
    ],
)
def test_mpc_has_its_exact_values(act, bias, data, expected):
    layer = linearization(chain(act, ([[1.0]], [bias]), ONE), on(data)).layers[0]
    assert layer.mpc == pytest.approx(expected, abs=1e-12)
    assert abs(float(layer.correlation[0])) == pytest.approx(expected, abs=1e-12)


def test_slope_and_offset_agree_with_polynomial_regression():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3))
    network = Dense(jax.random.key(0), [3, 6, 1], activation="softplus", init="he")
    layer = linearization(network, on(x)).layers[0]
    z = x @ np.asarray(network.layers[0].weight).T
    for j in range(6):
        f = np.log1p(np.exp(z[:, j]))
        slope, offset = np.polyfit(z[:, j], f, 1)
        assert float(layer.slope[j]) == pytest.approx(slope, rel=1e-10)
        assert float(layer.offset[j]) == pytest.approx(offset, rel=1e-10)
        assert float(layer.residual[j]) == pytest.approx(np.std(f - slope * z[:, j] - offset), rel=1e-10)
        assert float(layer.correlation[j]) == pytest.approx(np.corrcoef(z[:, j], f)[0, 1], rel=1e-10)


def test_score_and_block_score_agree_with_their_definitions():
    x = np.asarray(jax.random.normal(jax.random.key(1), (60, 3)))
    network = Dense(jax.random.key(0), [3, 8, 5, 2], init="he")
    layer = linearization(network, on(x))["hidden[1]"]
    features = [np.asarray(f) for f in jax.vmap(network.features)(jnp.asarray(x))]
    reader, f = np.asarray(network.layers[2].weight), features[2]
    z = np.asarray(jax.vmap(network.layers[1].preactivation)(jnp.asarray(features[1])))
    residual = f - np.asarray(layer.slope) * z - np.asarray(layer.offset)
    score = np.linalg.norm(residual @ reader.T) / np.linalg.norm((f - f.mean(0)) @ reader.T)
    assert layer.score == pytest.approx(score, rel=1e-10)
    design = np.concatenate([features[1], np.ones((60, 1))], axis=1)
    solution = np.linalg.lstsq(design, features[3])[0]
    assert layer.block_weight is not None
    assert layer.block_bias is not None
    np.testing.assert_allclose(layer.block_weight, solution[:-1].T, atol=1e-10)
    np.testing.assert_allclose(layer.block_bias, solution[-1], atol=1e-10)
    r2 = 1 - ((features[3] - design @ solution) ** 2).sum() / ((features[3] - features[3].mean(0)) ** 2).sum()
    assert layer.block_r2 == pytest.approx(r2, abs=1e-12)
    # The best block is never worse than the affine maps of the single neurons.
    assert 1 - layer.block_r2 <= layer.score**2


def test_replacement_agrees_with_the_network_without_the_layer():
    x = np.asarray(jax.random.normal(jax.random.key(1), (50, 3)))
    network = Dense(jax.random.key(0), [3, 6, 4, 2], init="he")
    result = linearization(network, on(x), tolerance=0.05)
    layer = result["hidden[0]"]
    first, second, last = network.layers
    assert first.bias is not None
    assert second.bias is not None
    weight = second.weight @ (layer.slope[:, None] * first.weight)
    bias = second.weight @ (layer.slope * first.bias + layer.offset) + second.bias
    merged = chain("tanh", (weight, bias), (last.weight, last.bias))
    inputs = jnp.asarray(x)
    moved = jax.vmap(merged)(inputs) - jax.vmap(network)(inputs)
    assert layer.max_change == pytest.approx(float(jnp.abs(moved).max()), rel=1e-9)
    assert layer.rms_change == pytest.approx(float(jnp.sqrt((moved**2).mean())), rel=1e-9)
    outputs = np.asarray(jax.vmap(network)(inputs))
    assert result.output_scale == pytest.approx(np.sqrt(((outputs - outputs.mean(0)) ** 2).mean()), rel=1e-12)
    assert result.tolerance == pytest.approx(0.05 * result.output_scale)
    assert layer.is_linear == (layer.max_change <= result.tolerance)


# -- exact linearity, constants, margins -----------------------------------------------------------------------------


def test_a_lifted_relu_layer_is_linear_with_its_margin():
    """Biases that keep all data on one side make the layer affine, and nothing of the outputs changes."""
    x = np.random.default_rng(0).uniform(-1, 1, (30, 2))
    v = np.array([[1.0, 0.5], [-0.3, 1.0], [2.0, -1.0]])
    shift = -(x @ v.T).min(0) + np.array([0.25, 0.5, 0.75])
    middle = np.median((x @ v.T + shift).sum(1))
    network = chain("relu", (v, shift), (np.ones((4, 3)), np.full(4, -middle)), (np.ones((1, 4)), [0.0]))
    result = linearization(network, on(x))
    layer = result["hidden[0]"]
    assert result.linear_layers == ("hidden[0]",)
    np.testing.assert_allclose(np.asarray(layer.margin), [0.25, 0.5, 0.75], atol=1e-12)
    assert layer.kink_distance == pytest.approx(0.25)
    np.testing.assert_allclose(layer.slope, 1.0, atol=1e-12)
    np.testing.assert_allclose(layer.offset, 0.0, atol=1e-12)
    assert layer.score < 1e-12
    assert layer.block_r2 == pytest.approx(1.0, abs=1e-12)
    assert layer.max_change < 1e-12
    straddling = result["hidden[1]"]
    assert not straddling.is_linear
    assert (np.asarray(straddling.margin) < 0).all()


def test_constant_neurons_are_linear_with_slope_zero():
    """Dead, saturated and unconnected neurons give 0/0."""
    weight, bias = [[1.0], [1.0], [0.0]], [0.0, -9.0, 2.0]
    layer = linearization(chain("relu", (weight, bias), (np.ones((1, 3)), [0.0])), on([-1.0, 0.5, 2.0, 3.0])).layers[0]
    np.testing.assert_array_equal(layer.is_constant, [False, True, True])
    assert layer.num_constant == 2
    np.testing.assert_allclose(layer.slope[1:], 0.0, atol=0)
    np.testing.assert_allclose(layer.offset[1:], [0.0, 2.0], atol=0)
    np.testing.assert_array_equal(layer.is_linear_neuron[1:], [True, True])
    assert layer.mpc == pytest.approx(abs(float(layer.correlation[0])))
    assert np.isfinite(np.asarray(layer.correlation)).all()


def test_a_layer_of_constants_passes_nothing_on_and_is_linear():
    layer = linearization(chain("relu", ([[0.0]], [1.0]), ONE), on([1.0, 2.0])).layers[0]
    assert layer.mpc == 1.0
    assert np.isnan(layer.score)
    assert layer.block_r2 == 1.0
    assert layer.is_linear


def test_one_irrelevant_neuron_does_not_decide():
    weight = [[0.01], [5.0]]
    data = np.linspace(-1, 1, 21)
    for reader, decides in ((1e-6, False), (1.0, True)):
        layer = linearization(chain("tanh", (weight, [0.0, 0.0]), ([[100.0, reader]], [0.0])), on(data)).layers[0]
        assert bool(layer.is_negligible[1]) is not decides
        assert (layer.mpc < 0.95) is decides


def test_margin_of_hard_tanh_is_that_of_the_piece_that_holds_the_data():
    network = chain("hard_tanh", ([[1.0], [1.0], [1.0]], [0.0, 5.0, 1.0]), (np.ones((1, 3)), [0.0]))
    layer = linearization(network, on([-0.5, 0.2])).layers[0]
    np.testing.assert_allclose(np.asarray(layer.margin), [0.5, 3.5, -0.2], atol=1e-12)
    assert linearization(chain("tanh", ONE, ONE), on([0.0, 1.0])).layers[0].margin is None


# -- invariance, batches, limits -------------------------------------------------------------------------------------


def test_batches_with_a_ragged_last_one_give_the_same():
    network = Dense(jax.random.key(0), [3, 7, 5, 2], activation="relu", num_linear=[1, 2], init="he")
    landscape = on(jax.random.normal(jax.random.key(1), (37, 3)) + 10.0)
    whole, parts = linearization(network, landscape), linearization(network, landscape.with_batch_size(8))
    for a, b in zip(jax.tree.leaves(eqx.filter(whole.layers, eqx.is_array)),
                    jax.tree.leaves(eqx.filter(parts.layers, eqx.is_array)), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, atol=1e-9)
    for name in ("mpc", "score", "block_r2", "max_change", "rms_change"):
        expected = [getattr(layer, name) for layer in whole.layers]
        np.testing.assert_allclose([getattr(layer, name) for layer in parts.layers], expected, rtol=1e-9)


def test_linearization_grows_as_the_scale_of_the_weights_shrinks():
    """The residual of tanh is of third order, so the score falls as the square of the scale."""
    x = np.asarray(jax.random.normal(jax.random.key(1), (50, 3)))
    network = Dense(jax.random.key(0), [3, 6, 2], init="he")
    scaled = [eqx.tree_at(lambda n: n.layers[0].weight, network, s * network.layers[0].weight) for s in (0.01, 0.001)]
    scores = [linearization(n, on(x)).layers[0].score for n in scaled]
    assert scores[0] / scores[1] == pytest.approx(100, rel=0.05)
    assert linearization(scaled[1], on(x)).linear_layers == ("hidden[0]",)


# -- any architecture ------------------------------------------------------------------------------------------------


def test_units_of_any_architecture_agree_with_the_fully_connected_measure():
    network = Dense(jax.random.key(0), [3, 6, 4, 2], activation="gelu", init="he")
    landscape = on(jax.random.normal(jax.random.key(1), (40, 3)))
    stages = find_stages(find_taps(network, landscape.inputs[0]), network)
    _, gathered, maps, effects = _of_stages(network, stages, landscape)
    expected = linearization(network, landscape)
    scale, changes = _output_changes(_unit_forward(network, stages, maps), 2, landscape)
    assert scale == pytest.approx(expected.output_scale, rel=1e-12)
    for layer, facts, affine, effect, change in zip(expected.layers, gathered, maps, effects, changes, strict=True):
        np.testing.assert_allclose(facts.correlation(affine), layer.correlation, rtol=1e-12)
        np.testing.assert_allclose(affine.slope, layer.slope, rtol=1e-10)
        np.testing.assert_allclose(affine.offset, layer.offset, atol=1e-12)
        np.testing.assert_allclose(facts.residual(), layer.residual, rtol=1e-9)
        np.testing.assert_allclose(effect, np.linalg.norm(_readers_of(network, layer.name), axis=0))
        assert change == pytest.approx((layer.max_change, layer.rms_change), rel=1e-9)


def _readers_of(network, name):
    return np.asarray(network.layers[int(name[7]) + 1].weight)


def test_pooled_channels_are_measured_before_the_pooling():
    """Statistics of BatchNorm belong to the pre-activation; every place of a map is an example."""
    images = jax.random.normal(jax.random.key(1), (6, 1, 4, 4))
    network = Conv(jax.random.key(0), (1, 4, 4), [2, 3], [1], pool="max", norm="batch").with_statistics(images)
    result = linearization(network, Landscape(images, jnp.zeros((6, 1))))
    assert [layer.name for layer in result.layers] == ["channels[0]", "channels[1]"]
    z = np.asarray(jax.vmap(lambda x: network.convs[0].preactivation(x, in_batch=False))(images))
    for j in range(2):
        flat = z[:, j].ravel()
        expected = np.corrcoef(flat, np.tanh(flat))[0, 1]
        assert float(result.layers[0].correlation[j]) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(result.layers[0].block_r2)
    assert np.isnan(result.to_xarray()["score"]).all()


def test_planted_linear_channels_change_nothing_when_replaced():
    """Biases that keep all places on one side of the kink make a ReLU layer affine; the other one bends."""
    images = jax.random.uniform(jax.random.key(1), (8, 1, 4, 4))
    network = Conv(jax.random.key(0), (1, 4, 4), [3, 2], [1], activation="relu", padding="VALID", kernel=2)
    where = lambda n: (n.convs[0].conv.bias, n.convs[1].conv.bias)  # noqa: E731
    planted = eqx.tree_at(where, network, (jnp.full(3, 10.0), jnp.zeros(2)))
    result = linearization(planted, Landscape(images, jnp.zeros((8, 1))))
    first = result["channels[0]"]
    assert first.mpc == pytest.approx(1.0, abs=1e-12)
    assert first.max_change < 1e-12
    assert first.margin is not None
    assert (np.asarray(first.margin) > 5).all()


def test_states_of_a_recurrence_are_replaced_step_by_step():
    rows = jax.random.normal(jax.random.key(1), (7, 3, 2))
    network = Recurrent(jax.random.key(0), 2, 3, 1)
    layer = linearization(network, Landscape(rows, jnp.zeros((7, 1))))["hidden[0]"]

    def linear(x):
        state = jnp.zeros(3)
        for row in x:
            z = network.inputs(row) + network.recurrent @ state
            state = layer.slope * z + layer.offset
        return network.output(state)

    moved = jax.vmap(linear)(rows) - jax.vmap(network)(rows)
    assert layer.max_change == pytest.approx(float(jnp.abs(moved).max()), rel=1e-9)


def test_spaces_without_an_activation_say_why():
    network = Transformer(jax.random.key(0), 2, 3, 1, num_stream=2, num_heads=1, num_hidden=2, num_blocks=1, gated=True)
    result = linearization(network, Landscape(jnp.ones((2, 3, 2)), jnp.zeros((2, 1))))
    assert result.layers == ()
    assert set(result.unmeasured) == {"stream", "heads[0]", "queries[0]", "values[0]", "hidden[0]"}
    assert "product of two" in result.unmeasured["hidden[0]"]


# -- counting linear units -------------------------------------------------------------------------------------------


def test_linear_units_beside_saturating_neurons_are_counted():
    """(k, r) networks: r linear units stand out from k strongly nonlinear neurons."""
    x = np.asarray(jax.random.normal(jax.random.key(1), (80, 4)))
    for r in (0, 1, 2):
        weight = 20 * np.random.default_rng(0).standard_normal((2, 4))
        linear = jnp.eye(4)[:r] if r else None
        readers = jnp.concatenate([jnp.ones((3, 2)), jnp.eye(3)[:, :r]], axis=1)
        network = Dense.from_layers([DenseLayer(jnp.asarray(weight), None, linear), DenseLayer(readers, None)], "tanh")
        assert float(effective_linear_units(network, on(x))[0]) == pytest.approx(r, abs=0.15)


def test_many_neurons_on_one_line_count_as_one_linear_unit():
    direction = np.array([1.0, -2.0, 0.5])
    rng = np.random.default_rng(0)
    weight = 1e-3 * rng.standard_normal(30)[:, None] * direction
    network = chain("tanh", (weight, np.zeros(30)), (rng.standard_normal((4, 30)), np.zeros(4)))
    assert float(effective_linear_units(network, on(rng.standard_normal((50, 3))))[0]) == pytest.approx(0.99, abs=0.01)


def test_a_linear_network_counts_the_rank_of_its_map():
    rng = np.random.default_rng(0)
    network = chain("identity", (rng.standard_normal((20, 5)), None), (np.eye(3, 20), None))
    x, _ = np.linalg.qr(rng.standard_normal((60, 5)))
    count = float(effective_linear_units(network, on(x), floor=1e-3)[0])
    assert count == pytest.approx(3.0, abs=1e-3)


def test_linear_count_ignores_permutation_and_leftovers():
    x = np.asarray(jax.random.normal(jax.random.key(1), (80, 4)))
    network = Dense(jax.random.key(2), [4, 3, 3], num_linear=1, init="he")
    first, last = network.layers
    assert first.bias is not None
    assert first.linear is not None
    tiny = Dense.from_layers(
        [
            DenseLayer(
                jnp.concatenate([1e-4 * jnp.ones((5, 4)), first.weight]),
                jnp.concatenate([jnp.zeros(5), first.bias]),
                first.linear,
            ),
            DenseLayer(jnp.concatenate([1e-2 * jnp.ones((3, 5)), last.weight], axis=1), last.bias),
        ],
        "tanh",
    )
    np.testing.assert_allclose(effective_linear_units(tiny, on(x)), effective_linear_units(network, on(x)), atol=1e-3)


def test_linear_units_map_over_snapshots():
    landscape = on(jax.random.normal(jax.random.key(1), (20, 3)))
    snapshots = jax.vmap(lambda key: Dense(key, [3, 6, 5, 2]))(jax.random.split(jax.random.key(0), 4))
    mapped = eqx.filter_jit(lambda s, d: jax.lax.map(lambda n: effective_linear_units(n, d), s))(snapshots, landscape)
    third = jax.tree.map(lambda a: a[3] if eqx.is_array(a) else a, snapshots)
    np.testing.assert_allclose(mapped[3], effective_linear_units(third, landscape), rtol=1e-10)
    assert mapped.shape == (4, 2)


def test_linear_units_of_constant_layers_are_zero():
    network = chain("tanh", (np.zeros((3, 2)), np.ones(3)), (np.ones((2, 3)), np.zeros(2)))
    np.testing.assert_array_equal(effective_linear_units(network, on(np.eye(2))), [0.0])


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 1.01}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"keep": 0.0}, "keep"),
        ({"tolerance": -1.0}, "tolerance"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        linearization(chain("tanh", ONE, ONE), on([0.0, 1.0]), **options)


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"floor": 0.0}])
def test_bad_options_of_the_count_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        effective_linear_units(chain("tanh", ONE, ONE), on([0.0, 1.0]), **options)


def test_nan_parameters_wrong_inputs_and_foreign_networks_are_refused():
    with pytest.raises(InputError, match="hidden layer 0 are not finite"):
        linearization(chain("tanh", ([[np.nan]], [0.0]), ONE), on([0.0, 1.0]))
    with pytest.raises(InputError, match="takes inputs of shape"):
        linearization(chain("tanh", ONE, ONE), on(np.ones((3, 2))))
    with pytest.raises(InputError, match="states no unit spaces"):
        linearization(eqx.nn.Linear(1, 1, key=jax.random.key(0)), on([0.0, 1.0]))
