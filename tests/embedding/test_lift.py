# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import counts, gradient, hessian, largest, make_inputs, make_network, outputs

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._status import Certificate
from lossatlas.embedding import lift, lift_inertia, reduce
from lossatlas.geometry import inertia, linearization, plant_landscape
from lossatlas.networks import Dense, DenseLayer


KEY = jax.random.key(11)


@eqx.filter_jit
def _phi_jacobian(record, deep):
    """D Phi by automatic differentiation: shallow parameters of deep ones."""
    vector, unravel = ravel(deep)
    return jax.jacrev(lambda v: ravel(record.inverse(unravel(v)))[0])(vector)


def _residual_landscape(network, inputs, size=0.3):
    return Landscape(inputs, jnp.asarray(outputs(network, inputs)) + size * jax.random.normal(KEY, (len(inputs), 2)))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "hard_tanh"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_lift_keeps_outputs_on_the_data_in_every_mode(activation, before):
    network, inputs = make_network((2, 3, 2, 2), activation), make_inputs(60)
    far = 50 * make_inputs(20, seed=99)
    differs = []
    for mode in ("right", "left", "lemma"):
        deep, record = lift(network, inputs, before, 4, key=KEY, mode=mode)
        assert deep.widths == (*network.widths[: before + 1], 4, *network.widths[before + 1 :])
        assert record.certificate.output_change < 1e-12
        assert record.plan[0].margin > 0
        assert largest(ravel(record.inverse(deep))[0] - ravel(network)[0]) < 1e-12
        differs.append(np.abs(outputs(deep, far) - outputs(network, far)).max() > 1e-6)
    if before == 0:  # deeper features of hard_tanh are bounded, so that far inputs stay in the segment
        assert any(differs)  # the lift depends on the data


def test_outputs_agree_on_the_neighbourhood_that_the_margin_allows():
    network, inputs = make_network((2, 3, 2), "relu"), make_inputs(60)
    deep, record = lift(network, inputs, 0, 4, key=KEY)
    step = record.plan[0]
    radius = step.margin / float(jnp.max(jnp.linalg.norm(step.weight, axis=1)))
    noise = jax.random.normal(KEY, inputs.shape)
    noise = 0.99 * radius * noise / jnp.linalg.norm(noise, axis=1, keepdims=True)
    assert np.abs(outputs(deep, inputs + noise) - outputs(network, inputs + noise)).max() < 1e-12


@pytest.mark.parametrize("before", [0, 1, 2])
def test_lift_of_a_critical_point_has_the_predicted_hessian(before):
    network, inputs = make_network((2, 3, 2, 2), "leaky_relu"), make_inputs(60)
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    shallow = hessian(landscape, network)
    deep, record = lift(network, landscape, before, 4, key=KEY)
    assert record.certificate.gradient_after < 1e-12
    full = hessian(landscape, deep)
    jacobian = _phi_jacobian(record, deep)
    assert largest(full - jacobian.T @ shallow @ jacobian) < 1e-10
    predicted = lift_inertia(record, counts(shallow, 1e-9))
    assert predicted.is_exact
    assert counts(full, 1e-9) == (predicted.negative, predicted.zero, predicted.positive)
    assert predicted.negative > 0


@pytest.mark.parametrize(("before", "mode"), [(0, "right"), (1, "left"), (1, "lemma")])
def test_dead_neurons_in_the_inserted_layer_keep_outputs_and_criticality(before, mode):
    network, inputs = make_network((2, 3, 2), "relu"), make_inputs(60)
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    deep, record = lift(network, landscape, before, 6, key=KEY, mode=mode, dead=2)
    entering = np.asarray(jax.vmap(lambda x: deep.features(x)[before])(inputs))
    pre = entering @ np.asarray(deep.layers[before].weight).T + np.asarray(deep.layers[before].bias)
    assert (pre <= 0).all(0).tolist() == [False] * 4 + [True] * 2
    assert largest(deep.layers[before + 1].weight[:, 4:]) > 0.1
    assert record.certificate.output_change < 1e-12
    assert record.certificate.gradient_after < 1e-12
    predicted = lift_inertia(record, counts(hessian(landscape, network), 1e-9))
    assert counts(hessian(landscape, deep), 1e-9) == (predicted.negative, predicted.zero, predicted.positive)
    vector, unravel = ravel(network)
    moved = unravel(vector + 1e-3 * jax.random.normal(KEY, vector.shape))
    assert np.abs(outputs(record.replay(moved), inputs) - outputs(moved, inputs)).max() < 1e-12
    small, _ = reduce(deep, inputs)  # the dead are folded first, else nothing is said of the line they are on
    assert small.widths == network.widths


def test_constants_of_dead_neurons_are_held_by_the_next_bias():
    network, inputs = make_network((2, 3, 2), "hard_tanh"), make_inputs(60)
    deep, record = lift(network, inputs, 1, 4, key=KEY, dead=1)
    assert abs(record.plan[0].offset[-1]) == 1
    assert np.abs(outputs(deep, inputs) - outputs(network, inputs)).max() < 1e-12


def test_gradients_go_through_phi_at_any_point_and_operators_are_dual():
    network, inputs = make_network((2, 3, 2, 2), "elu", num_linear=1), make_inputs(60)
    landscape = _residual_landscape(network, inputs)
    for width in (5, 3):  # modes right and left: 4 units enter and 3 read
        _, record = lift(network, landscape, 1, width, key=KEY)
        assert record.certificate.gradient_before > 1e-3
        assert record.certificate.output_change < 1e-12
        assert record.certificate.intertwiner_defect < 1e-12
        forward, backward = record.tangent_map.as_matrix(), record.gradient_map.as_matrix()
        assert largest(forward.T @ backward - np.eye(forward.shape[1])) < 1e-12


def test_replay_on_a_moved_network_is_a_lift_of_it():
    network, inputs = make_network((2, 3, 2), "elu"), make_inputs(60)
    vector, unravel = ravel(network)
    moved = unravel(vector + 1e-3 * jax.random.normal(KEY, vector.shape))
    for mode in ("right", "left", "lemma"):
        _, record = lift(network, inputs, 1, 4, key=KEY, mode=mode)
        assert np.abs(outputs(record.replay(moved), inputs) - outputs(moved, inputs)).max() < 1e-12


def test_rank_deficient_factors_lose_negative_directions_never_win_any():
    """(U, V) of rank 1 for a rank-1 W: D Phi is not onto, counts can only fall."""
    base = make_network((2, 3, 2), "leaky_relu")
    first, last = base.layers
    rank_one = jnp.outer(jnp.array([1.0, -0.5]), jnp.array([0.7, 0.4, -1.0]))
    network = Dense.from_layers([first, DenseLayer(rank_one, last.bias)], "leaky_relu")
    landscape = plant_landscape(jax.random.key(2), network, make_inputs(60), amplitude=3.0)
    shallow = counts(hessian(landscape, network), 1e-9)
    deep, record = lift(network, landscape, 1, 2, key=KEY, mode="lemma")
    assert record.plan[0].defect == 0  # the identity on one side
    # The same point with the factors u (v) of rank one in both.
    inserted, readers = deep.layers[1], deep.layers[2]
    v, u = jnp.array([[0.7, 0.4, -1.0]]), jnp.array([[1.0], [-0.5]])
    features = jax.vmap(lambda x: network.features(x)[1])(landscape.inputs)
    shift = 1.0 - jnp.min(features @ v.T)
    low = Dense.from_layers(
        [
            first,
            DenseLayer(jnp.concatenate([v, jnp.zeros((1, 3))]), jnp.array([shift, 1.0])),
            DenseLayer(jnp.concatenate([u, jnp.zeros((2, 1))], axis=1), last.bias - shift * u[:, 0]),
        ],
        "leaky_relu",
    )
    assert inserted.weight.shape == low.layers[1].weight.shape
    assert readers.weight.shape == low.layers[2].weight.shape
    assert largest(gradient(landscape, low)) < 1e-12
    full, deficient = counts(hessian(landscape, deep), 1e-9), counts(hessian(landscape, low), 1e-9)
    assert full[0] == shallow[0]
    assert deficient[0] < shallow[0]
    assert deficient[2] <= shallow[2]


def test_gradient_left_over_adds_pairs_of_singular_values():
    """Off-critical part of the Hessian on (U, V, b'): +-sigma_i([G_W, g_b]), each m' times, for slope 1."""
    network, inputs = make_network((2, 3, 2), "relu"), make_inputs(60)
    landscape = _residual_landscape(network, inputs)
    deep, record = lift(network, landscape, 1, 4, key=KEY)
    jacobian = _phi_jacobian(record, deep)
    extra = np.asarray(hessian(landscape, deep) - jacobian.T @ hessian(landscape, network) @ jacobian)
    pulled = ravel(network)[1].tangent(gradient(landscape, network))
    both = np.concatenate([pulled.layers[1].weight, pulled.layers[1].bias[:, None]], axis=1)
    sigma = np.linalg.svd(both, compute_uv=False)
    values = np.sort(np.linalg.eigvalsh(extra))
    expected = np.sort(np.concatenate([np.tile(-sigma, 4), np.zeros(len(values) - 16), np.tile(sigma, 4)]))
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_negatives_beside_a_lifted_minimum_are_those_of_the_gradient_left_over():
    """Card 5B: an exact minimum gains zeros only; 1e-4 beside it one sees 2, then 4 negatives, and certifies none."""
    network, inputs = make_network((1, 2, 1), "leaky_relu"), make_inputs(60, 1)
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.02)
    vector, unravel = ravel(network)
    moved = unravel(vector + 1e-4 * jax.random.normal(KEY, vector.shape))
    exact, beside = [], []
    for point, found in ((network, exact), (moved, beside)):
        for _ in range(3):
            found.append(counts(hessian(landscape, point), 1e-10))
            point, _ = lift(point, landscape, len(point.layers) - 1, 2, key=KEY)  # noqa: PLW2901
    assert exact == [(0, 2, 5), (0, 8, 5), (0, 14, 5)]
    assert beside[1][0] - beside[0][0] == 2
    assert beside[2][0] - beside[0][0] == 4
    deep, _ = lift(moved, landscape, 1, 2, key=KEY)
    assert inertia(deep, landscape).is_strict_saddle is Certificate.NOT_CERTIFIED


def test_lift_for_more_data_is_one_for_less_not_conversely():
    network, inputs = make_network((2, 3, 2), "relu"), make_inputs(60)
    part = inputs[:8]
    deep, _ = lift(network, inputs, 0, 4, key=KEY)
    assert np.abs(outputs(deep, part) - outputs(network, part)).max() < 1e-12
    deep, _ = lift(network, part, 0, 4, key=KEY, margin=0.01)
    assert np.abs(outputs(deep, inputs) - outputs(network, inputs)).max() > 1e-6


def test_network_without_biases_lifts_only_through_the_origin():
    positive = make_network((2, 3, 2, 2), "relu", use_bias=False, use_output_bias=False)
    inputs = make_inputs(60)
    with pytest.raises(InputError, match="no bias that could hold"):
        lift(positive, inputs, 0, 4, key=KEY)
    first = positive.layers[0]
    rows = jnp.concatenate([first.weight[:1], -first.weight[:1], first.weight[2:]])  # some unit is always active
    network = Dense.from_layers([DenseLayer(rows, None), *positive.layers[1:]], "relu")
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.3)
    deep, record = lift(network, landscape, 1, 4, key=KEY)
    assert deep.layers[1].bias is None
    assert record.certificate.output_change < 1e-12
    assert record.certificate.gradient_after < 1e-12
    bounded = make_network((2, 3, 2), "hard_tanh", use_bias=False, use_output_bias=False)
    assert lift(bounded, inputs, 1, 4, key=KEY)[1].certificate.output_change < 1e-12


def test_tanh_lift_errs_as_the_square_of_its_extent():
    network, inputs = make_network((1, 3, 1)), 2 * make_inputs(40, 1)
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.1)
    extents = np.array([0.1, 0.03, 0.01, 0.003])
    changes, gradients, stiffness = [], [], []
    for extent in extents:
        deep, record = lift(network, landscape, 1, 3, key=KEY, mode="lemma", exact=False, extent=float(extent))
        changes.append(record.certificate.output_change)
        gradients.append(record.certificate.gradient_after)
        stiffness.append(np.linalg.eigvalsh(hessian(landscape, deep))[-1])
        assert record.caution is not None
    for values, expected in ((changes, 2), (gradients, 1), (stiffness, -2)):
        slope = np.polyfit(np.log(extents), np.log(values), 1)[0]
        assert slope == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: lift(n, x, 3, 4, key=KEY), "before must be 0 to 1"),
        (lambda n, x: lift(n, x, -1, 4, key=KEY), "before must be 0 to 1"),
        (lambda n, x: lift(n, x, 1, 1, key=KEY), "width must be at least"),
        (lambda n, x: lift(n, x, 1, 2, key=KEY, mode="right"), "needs a width of at least 3"),
        (lambda n, x: lift(n, x[:0], 1, 4, key=KEY), "n at least 1"),
        (lambda n, x: lift(n, x.at[1, 0].set(jnp.nan), 1, 4, key=KEY), "NaN"),
        (lambda n, x: lift(n, x, 1, 4, key=KEY, margin=1.5), "margin must lie"),
        (lambda n, x: lift(n, x, 1, 4, key=KEY, dead=4), "dead must be 0 to width - 1 = 3"),
        (lambda n, x: lift(n, x, 1, 4, key=KEY, dead=3), "width must be at least"),
        (
            lambda n, x: lift(Dense.from_layers(n.layers, "leaky_relu"), x, 1, 4, key=KEY, dead=1),
            "leaky_relu has no flat piece",
        ),
        (lambda n, x: lift(n, x, 1, 4, key=KEY, segment=0), "piece of relu with a slope"),
        (lambda n, x: lift(n, x, 1, 4, key=KEY, segment=(-1.0, 1.0)), "not affine"),
        (lambda n, x: lift(n, x, 1, 4, key=KEY, exact=False, extent=0.0), "extent"),
        (lambda n, x: lift(Dense.from_layers(n.layers, "tanh"), x, 1, 4, key=KEY), "tanh has no affine piece"),
        (
            lambda n, x: lift(Dense.from_layers(n.layers, "square"), x, 1, 4, key=KEY, exact=False),
            "square has no slope",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(make_network((2, 3, 2), "relu"), make_inputs())


def test_an_even_activation_is_lifted_where_it_has_a_slope():
    network, inputs = make_network((2, 3, 2), "xtanh"), make_inputs(60)
    with pytest.raises(InputError, match="xtanh has no slope on"):
        lift(network, inputs, 1, 4, key=KEY, exact=False, extent=0.01)
    _, record = lift(network, inputs, 1, 4, key=KEY, exact=False, segment=(0.5, 0.51))
    assert record.certificate.output_change < 0.1


def test_a_random_relu_neuron_is_linear_on_few_inputs_by_chance():
    """Each of n inputs on its own side of a bias-free neuron: all on one side with chance 2^(1-n)."""
    neurons = 4000
    for n in (4, 6, 8):  # any function is affine on 2
        weight = jax.random.normal(jax.random.fold_in(KEY, n), (neurons, n))
        network = Dense.from_layers([DenseLayer(weight, None), DenseLayer(jnp.ones((1, neurons)), None)], "relu")
        facts = linearization(network, Landscape(jnp.eye(n), jnp.zeros((n, 1))))["hidden[0]"]
        share, chance = float(np.mean(np.asarray(facts.residual) < 1e-12)), 2.0 ** (1 - n)
        assert share == pytest.approx(chance, abs=4 * np.sqrt(chance / neurons))


def test_lifts_of_one_shape_share_their_programs(caplog):
    network = make_network((2, 3, 2))

    def programs(seed, width=4, extent=0.1):
        caplog.clear()
        inputs = make_inputs(60, seed=seed)
        with jax.log_compiles():
            lift(network, inputs, 1, width, key=jax.random.key(seed), exact=False, extent=extent)
        return [m for m in (r.getMessage() for r in caplog.records) if "Compiling jit(apply)" in m]

    assert programs(1) != []
    assert programs(2, extent=0.2) == []
    assert programs(2, width=5) != []  # the control
