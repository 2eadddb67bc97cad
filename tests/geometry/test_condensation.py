import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import condensation, effective_neurons
from lossatlas.geometry._clusters import COVER_ANGLE, cover_bracket, widest_gap
from lossatlas.geometry._diversity import similarity_number
from lossatlas.geometry._neurons import pair_angles, parity
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Conv, Dense, DenseLayer, Recurrent, Transformer, activation


def two_layer(weight, outgoing, bias=None, act="relu"):
    """A network of one hidden layer from its rows and its readers (o, m)."""
    weight, outgoing = jnp.asarray(weight, float), jnp.asarray(outgoing, float)
    bias = None if bias is None else jnp.asarray(bias, float)
    return Dense.from_layers([DenseLayer(weight, bias), DenseLayer(outgoing, None)], act)


def clustered(seed, masses, copies=50, dimension=10, act="relu"):
    """Exact clusters on orthonormal directions, random norms, given masses."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    norms = rng.uniform(0.1, 3, (len(masses), copies))
    shares = rng.uniform(0.5, 1, (len(masses), copies))
    amplitudes = shares / shares.sum(1, keepdims=True) * np.asarray(masses)[:, None]
    weight = (norms[:, :, None] * q[: len(masses), None]).reshape(-1, dimension)
    order = rng.permutation(len(weight))
    return two_layer(weight[order], (amplitudes / norms).reshape(1, -1)[:, order], act=act)


def report(network, landscape=None, **options):
    return condensation(network, landscape, **{"keep": 1.0, **options}).layers[0]


def numbers(layer):
    g = layer.by_direction
    return np.array([g.effective_number, *g.curve, *g.hill, *g.cover, *g.counts.values(), g.cut, g.index])


# -- closed forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 5])
def test_exact_clusters_are_counted_exactly(k):
    layer = report(clustered(0, np.full(k, 1 / k)))
    assert float(layer.effective_number) == pytest.approx(k, abs=1e-6)
    np.testing.assert_allclose(layer.by_direction.hill, k, atol=1e-6)
    assert layer.by_direction.cover == (k, k)
    assert layer.by_direction.num_clusters == k
    assert not layer.by_direction.is_ambiguous
    assert set(layer.by_direction.counts.values()) == {k}
    assert sorted(j for c in layer.clusters for j in c.members) == list(range(50 * k))


def test_unequal_masses_have_their_hill_numbers():
    layer = report(clustered(1, (0.5, 0.3, 0.2)))
    hill = layer.by_direction.hill
    np.testing.assert_allclose(hill, [3, np.exp(1.029653), 1 / 0.38], atol=1e-4)
    assert float(layer.effective_number) == pytest.approx(2.80009, abs=1e-4)
    np.testing.assert_allclose([c.mass for c in layer.clusters], [0.5, 0.3, 0.2], atol=1e-12)


def test_similarity_number_of_two_neurons_has_its_closed_form():
    phi, theta = 0.3, 0.4
    z = np.exp(-((phi / theta) ** 2))
    angles = np.array([[0.0, phi], [phi, 0.0]])
    expected = np.exp(-0.25 * np.log(0.25 + 0.75 * z) - 0.75 * np.log(0.75 + 0.25 * z))
    assert float(similarity_number(angles, np.array([0.25, 0.75]), theta)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-12])
def test_small_angles_keep_their_digits(gap):
    units = np.array([[1.0, 0.0], [np.cos(gap), np.sin(gap)], [-np.cos(gap), -np.sin(gap)]])
    angles = pair_angles(units, lines=False)
    assert float(angles[0, 1]) == pytest.approx(gap, rel=1e-6)
    assert float(angles[0, 2]) == pytest.approx(np.pi - gap, rel=1e-12)
    assert float(pair_angles(units, lines=True)[0, 2]) == pytest.approx(gap, rel=1e-3, abs=1e-15)


def test_angles_row_by_row_equal_those_at_once(monkeypatch):
    units = jax.random.normal(jax.random.key(0), (12, 5))
    units = units / jnp.linalg.norm(units, axis=1, keepdims=True)
    at_once = pair_angles(units, lines=False)
    monkeypatch.setattr("lossatlas.geometry._neurons._BROADCAST", 10)
    np.testing.assert_allclose(pair_angles(units, lines=False), at_once, atol=1e-15)
    np.testing.assert_allclose(pair_angles(np.asarray(units), lines=False), at_once, atol=1e-15)


def test_the_cut_lies_in_the_widest_gap_of_the_merge_heights():
    tree = np.array([[0, 1, 1.5, 2], [2, 3, 2.0, 2], [4, 5, 20.0, 4]])
    assert widest_gap(tree) == pytest.approx(np.sqrt(2.0 * 20.0))
    assert widest_gap(None) == pytest.approx(np.sqrt(30.0))


def test_cover_bracket_of_a_fan():
    """Directions 15 degrees apart on a quarter circle: one centre covers three of them."""
    positions = np.arange(0, 91, 15.0)
    lower, upper = cover_bracket(np.abs(positions[:, None] - positions))
    assert (lower, upper) == (3, 3)
    assert pytest.approx(18.19, abs=0.01) == COVER_ANGLE


def test_cluster_has_its_direction_radius_outgoing_and_kink():
    weight = np.array([[2.0], [1.0], [-3.0]])
    layer = report(two_layer(weight, [[1.0, -0.5, 1.0]], bias=[-1.0, -0.5, 0.0], act="relu"))
    heavy, light = sorted(layer.clusters, key=lambda c: -len(c.members))
    assert sorted(heavy.members) == [0, 1]
    assert heavy.kink == pytest.approx(0.5)
    assert heavy.radius == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(heavy.direction, np.array([2, -1]) / np.sqrt(5), atol=1e-12)
    np.testing.assert_allclose(heavy.outgoing, [np.sqrt(5) - 0.5 * np.sqrt(1.25)], atol=1e-12)
    assert light.kink == pytest.approx(0.0)


def test_folded_cluster_cancels_what_opposite_odd_neurons_cancel():
    layer = report(two_layer([[1.0, 2.0], [-1.0, -2.0]], [[0.7, 0.7]], act="tanh"))
    assert len(layer.clusters) == 1
    np.testing.assert_allclose(layer.clusters[0].outgoing, 0.0, atol=1e-12)
    even = report(two_layer([[1.0, 2.0], [-1.0, -2.0]], [[0.7, 0.7]], act="xtanh"))
    np.testing.assert_allclose(np.abs(even.clusters[0].outgoing), 1.4 * np.sqrt(5), rtol=1e-12)


# -- statistics ------------------------------------------------------------------------------------------------------


def test_isotropic_directions_show_no_condensation():
    rng = np.random.default_rng(0)
    layer = report(two_layer(rng.standard_normal((200, 20)), np.ones((1, 200))))
    assert float(layer.by_direction.index) == pytest.approx(0.0, abs=0.05)
    assert layer.by_direction.cover == (200, 200)
    assert float(layer.by_direction.null_error) < 1.0


def test_isotropic_directions_in_the_plane_match_their_null_model():
    """In two dimensions a random layer already looks condensed; only the null model tells."""
    rng = np.random.default_rng(1)
    layer = report(two_layer(rng.standard_normal((100, 2)), np.ones((1, 100))))
    assert float(layer.effective_number) < 15
    assert abs(float(layer.by_direction.index)) < 0.05


def test_noisy_clusters_are_seen_at_their_scale():
    rng = np.random.default_rng(0)
    directions = np.repeat(np.eye(10)[:4], 50, axis=0)
    weight = directions + 0.01 * rng.standard_normal(directions.shape)
    weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    layer = report(two_layer(weight, np.ones((1, 200))))
    assert float(layer.effective_number) == pytest.approx(4.09, abs=0.05)
    assert layer.by_direction.cover == (4, 4)
    assert layer.by_direction.num_clusters == 4
    assert float(layer.by_direction.index) > 0.6
    curve = np.asarray(layer.by_direction.curve)
    assert (np.diff(curve) <= 1e-12).all()
    assert curve[0] > 8 > 5 > curve[10]


def test_a_spread_of_angles_is_called_ambiguous():
    positions = np.deg2rad(np.linspace(0, 40, 30))
    weight = np.stack([np.cos(positions), np.sin(positions)], axis=1)
    assert report(two_layer(weight, np.ones((1, 30)))).by_direction.is_ambiguous


# -- invariance ------------------------------------------------------------------------------------------------------


def test_report_is_invariant_under_rotation_of_the_inputs():
    network = Dense(jax.random.key(0), [6, 30, 2], activation="relu", use_bias=False)
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    turned = eqx.tree_at(lambda n: n.layers[0].weight, network, network.layers[0].weight @ jnp.asarray(q))
    np.testing.assert_allclose(numbers(report(turned)), numbers(report(network)), atol=1e-10)


def test_report_is_invariant_under_permutation_and_positive_rescaling():
    network = Dense(jax.random.key(1), [5, 30, 3], activation="relu")
    rng = np.random.default_rng(0)
    order, scale = rng.permutation(30), jnp.asarray(rng.uniform(0.1, 10, 30))
    first, last = network.layers
    assert first.bias is not None
    moved = Dense.from_layers(
        [
            DenseLayer((scale[:, None] * first.weight)[order], (scale * first.bias)[order]),
            DenseLayer((last.weight / scale[None])[:, order], last.bias),
        ],
        "relu",
    )
    original, other = report(network, keep=0.99), report(moved, keep=0.99)
    np.testing.assert_allclose(numbers(other), numbers(original), atol=1e-10)
    names = {frozenset(c.members) for c in original.clusters}
    assert {frozenset(int(order[j]) for j in c.members) for c in other.clusters} == names


def test_parity_folds_sign_flips_of_odd_neurons():
    network = clustered(3, (0.5, 0.3, 0.2), act="tanh")
    signs = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], 150))
    first, last = network.layers
    flipped = two_layer(signs[:, None] * first.weight, last.weight * signs[None], act="tanh")
    folded, kept = report(flipped), report(network)
    assert folded.are_lines
    np.testing.assert_allclose(numbers(folded), numbers(kept), atol=1e-10)
    np.testing.assert_allclose(
        [float(jnp.linalg.norm(c.outgoing)) for c in folded.clusters],
        [float(jnp.linalg.norm(c.outgoing)) for c in kept.clusters],
        rtol=1e-10,
    )
    forced = report(flipped, fold="directions")
    assert float(forced.effective_number) > float(folded.effective_number) + 1


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        ("tanh", "odd"),
        ("xtanh", "even"),
        ("relu", "none"),
        ("sigmoid", "none"),
        ("softplus", "none"),
        ("x2tanh", "odd"),
    ],
)
def test_parity_is_tested_numerically(act, expected):
    assert parity(activation(act)) == expected
    assert parity(Activation("mislabelled", activation(act).fn, parity="even")) == expected


def test_angles_in_the_metric_of_the_data_ignore_affine_changes_of_the_inputs():
    network = Dense(jax.random.key(2), [3, 20, 2], init="he")
    network = eqx.tree_at(lambda n: n.layers[0].bias, network, jax.random.normal(jax.random.key(5), (20,)))
    x = np.asarray(jax.random.normal(jax.random.key(3), (60, 3)))
    scale, shift = np.array([10.0, 0.2, 1.0]), np.array([3.0, -1.0, 0.5])
    first, last = network.layers
    weight = first.weight / jnp.asarray(scale)[None]
    moved = Dense.from_layers([DenseLayer(weight, first.bias - weight @ jnp.asarray(shift)), last], "tanh")
    before = Landscape(jnp.asarray(x), jnp.zeros((60, 2)))
    after = Landscape(jnp.asarray(x * scale + shift), jnp.zeros((60, 2)))
    same = [report(n, d, metric="data") for n, d in ((network, before), (moved, after))]
    np.testing.assert_allclose(numbers(same[0]), numbers(same[1]), atol=1e-9)
    plain = [float(report(n, d).effective_number) for n, d in ((network, before), (moved, after))]
    assert abs(plain[0] - plain[1]) > 0.1
    # The angle is that between the vectors of pre-activations over the data.
    z = jax.vmap(first.preactivation)(before.inputs).T
    z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    cosines = np.asarray(z @ z.T)
    active = np.asarray(same[0].by_direction.active)
    np.testing.assert_allclose(same[0].by_direction.similarity, cosines[np.ix_(active, active)], atol=1e-12)


# -- function space, selection, several layers -------------------------------------------------------------------------


def test_functional_condensation_sees_what_weights_hide():
    """Saturated or off neurons differ in weights and agree in function; dead ones are listed."""
    x = jnp.linspace(0.1, 1.0, 20)[:, None]
    weight, bias = [[1.0], [2.0], [3.0], [-1.0], [5.0]], [0.0, 0.0, 0.0, 0.0, -0.05]
    layer = report(two_layer(weight, np.ones((1, 5)), bias=bias), Landscape(x, jnp.zeros((20, 1))))
    assert layer.dead == (3,)
    assert layer.by_function is not None
    assert float(layer.by_function.effective_number) == pytest.approx(1.0, abs=0.01)
    assert layer.by_function.num_clusters == 1
    assert np.isnan(float(layer.by_function.index))


def test_functional_condensation_in_batches_is_the_same():
    network = Dense(jax.random.key(4), [3, 12, 9, 2], init="he")
    landscape = Landscape(jax.random.normal(jax.random.key(3), (50, 3)), jnp.zeros((50, 2)))
    for whole, parts in zip(
        condensation(network, landscape).layers, condensation(network, landscape.with_batch_size(7)).layers, strict=True
    ):
        assert whole.by_function is not None
        assert parts.by_function is not None
        np.testing.assert_allclose(parts.by_function.curve, whole.by_function.curve, atol=1e-9)


def test_the_smallest_neurons_are_dropped():
    layer = report(two_layer(np.eye(4), [[1.0, 1.0, 0.005, 0.0]]), keep=0.99)
    np.testing.assert_array_equal(np.sort(layer.by_direction.active), [0, 1])
    assert float(layer.effective_number) == pytest.approx(2.0)


def test_effective_neurons_equal_the_report_and_map_over_snapshots():
    keys = jax.random.split(jax.random.key(0), 5)
    snapshots = jax.vmap(lambda key: Dense(key, [4, 20, 10, 3]))(keys)
    mapped = eqx.filter_jit(lambda s: jax.lax.map(effective_neurons, s))(snapshots)
    assert mapped.shape == (5, 2)
    for i in (0, 4):
        one = jax.tree.map(lambda a, i=i: a[i] if eqx.is_array(a) else a, snapshots)
        np.testing.assert_allclose(mapped[i], condensation(one).effective_neurons, rtol=1e-12)


def test_effective_neurons_of_empty_and_zero_layers_are_zero():
    network = Dense(jax.random.key(0), [3, 0, 4, 2], num_linear=[2, 0])
    empty = effective_neurons(eqx.tree_at(lambda n: n.layers[2].weight, network, jnp.zeros((2, 4))))
    np.testing.assert_array_equal(empty, [0.0, 0.0])


def test_neurons_beside_linear_units_are_measured_by_their_own_columns():
    network = Dense(jax.random.key(0), [3, 5, 2], num_linear=2)
    first, last = network.layers
    alone = Dense.from_layers([DenseLayer(first.weight, first.bias), DenseLayer(last.weight[:, :5], last.bias)], "tanh")
    np.testing.assert_allclose(effective_neurons(network), effective_neurons(alone), rtol=1e-14)


def test_null_model_depends_on_the_key_only():
    network = Dense(jax.random.key(0), [3, 15, 2])
    a, b, c = (report(network, key=jax.random.key(k)).by_direction.null_number for k in (1, 1, 2))
    assert float(a) == float(b) != float(c)


def test_to_xarray_and_lookup_by_name():
    result = condensation(Dense(jax.random.key(0), [3, 6, 4, 2]))
    assert list(result.to_xarray().layer.values) == ["hidden[0]", "hidden[1]"]
    assert result["hidden[1]"].amplitude.shape == (4,)
    with pytest.raises(InputError, match=r"hidden\[0\]"):
        result["hidden[7]"]


# -- bad input -------------------------------------------------------------------------------------------------------


def test_a_single_neuron_counts_one():
    layer = report(two_layer([[1.0, 2.0]], [[3.0]]))
    assert float(layer.effective_number) == 1.0
    assert layer.by_direction.cover == (1, 1)
    assert layer.by_direction.num_clusters == 1
    assert np.isnan(float(layer.by_direction.index))


def test_zero_layers_and_nan_are_refused():
    with pytest.raises(InputError, match="amplitude"):
        condensation(two_layer(np.zeros((3, 2)), np.ones((1, 3))))
    with pytest.raises(InputError, match=r"layers\[0\].weight contains NaN"):
        condensation(two_layer([[np.nan, 1.0]], [[1.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 0.0}, "theta"),
        ({"theta": -3.0}, "theta"),
        ({"theta": float("nan")}, "theta"),
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.1}, "keep"),
        ({"num_draws": 1}, "num_draws"),
        ({"metric": "data"}, "give the landscape"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        condensation(Dense(jax.random.key(0), [2, 3, 1]), **options)


def test_inputs_that_do_not_fit_and_foreign_networks_are_refused():
    with pytest.raises(InputError, match=r"takes inputs of shape \(2,\)"):
        condensation(Dense(jax.random.key(0), [2, 3, 1]), Landscape(jnp.ones((4, 3)), jnp.zeros((4, 1))))
    with pytest.raises(InputError, match="unit spaces"):
        condensation(eqx.nn.Linear(2, 3, key=jax.random.key(0)))


# -- other architectures ---------------------------------------------------------------------------------------------


def test_channels_are_compared_by_what_they_receive_after_normalisation():
    """A kernel of another size, whose normalisation makes up for it, is the same channel."""
    images = jax.random.normal(jax.random.key(1), (5, 1, 3, 3))
    network = Conv(jax.random.key(0), (1, 3, 3), [2], [1], kernel=2, padding="VALID", norm="batch")
    kernels = network.convs[0].conv.weight
    doubled = eqx.tree_at(lambda n: n.convs[0].conv.weight, network, jnp.stack([kernels[0], 3 * kernels[0]]))
    doubled = doubled.with_statistics(images)
    (layer,) = condensation(doubled, Landscape(images, jnp.zeros((5, 1)))).layers
    assert layer.name == "channels[0]"
    assert layer.by_direction.counts[5.0] == 1
    assert layer.by_function is not None
    norm = doubled.convs[0].norm
    assert norm is not None
    factor = norm.scale / jnp.sqrt(norm.variance.value + norm.eps)
    rows = jnp.concatenate([factor[:, None] * doubled.convs[0].conv.weight.reshape(2, -1),
                            (norm.shift - norm.mean.value * factor)[:, None]], axis=1)  # fmt: skip
    expected = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(layer.orientation, expected, atol=1e-12)


def test_recurrent_neurons_have_inputs_states_and_bias_as_their_direction():
    network = Recurrent(jax.random.key(0), 2, 3, 1)
    network = eqx.tree_at(lambda n: n.inputs.bias, network, jnp.asarray([0.1, 0.2, 0.3]))
    rows = jax.random.normal(jax.random.key(1), (4, 3, 2))
    (layer,) = condensation(network, Landscape(rows, jnp.zeros((4, 1)))).layers
    written = np.concatenate([network.inputs.weight, network.recurrent, network.inputs.bias[:, None]], axis=1)
    np.testing.assert_allclose(layer.orientation, written / np.linalg.norm(written, axis=1)[:, None], atol=1e-12)


def test_units_that_may_be_mixed_freely_are_left_out_with_the_reason():
    network = Transformer(jax.random.key(0), 2, 3, 1, num_stream=2, num_heads=1, num_hidden=2, num_blocks=1)
    result = condensation(network, Landscape(jnp.ones((2, 3, 2)), jnp.zeros((2, 1))))
    assert [layer.name for layer in result.layers] == ["hidden[0]"]
    assert "mixed freely" in result.unmeasured["values[0]"]
    assert "shared by all blocks" in result.unmeasured["stream"]


# -- a training run --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clusters_along_the_textbook_run_appear_one_by_one():
    """Four ReLU kinks from tiny weights by gradient descent: 1, 3, 4, 5, 6 directions, kinks where they belong."""
    x = jnp.linspace(-1, 1, 50)[:, None]
    s = jax.nn.relu
    landscape = Landscape(x, -s(x) + s(2 * (x + 0.3)) - s(1.5 * (x - 0.4)) + s(0.5 * (x - 0.8)))

    @eqx.filter_jit
    def descend(network, landscape, steps):
        params, static = eqx.partition(network, eqx.is_array)

        def step(_, params):
            gradient = eqx.filter_grad(lambda p: landscape(eqx.combine(p, static)))(params)
            return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient)  # 0.1 for the loss without its half

        return eqx.combine(jax.lax.fori_loop(0, steps, step, params), static)

    network = Dense(jax.random.key(0), [1, 100, 1], activation="relu", init=2.0, use_output_bias=False)
    bias = 1e-4 * jax.random.normal(jax.random.key(100), (100,))
    network = eqx.tree_at(lambda n: n.layers[0].bias, network, bias)
    counts, done = [], 0
    for epoch in (100, 500, 1000, 5000, 10_000, 30_000, 100_000):
        network = descend(network, landscape, jnp.asarray(epoch - done))
        done = epoch
        layer = report(network, keep=0.999, theta=5.0)
        counts.append(layer.by_direction.counts[5.0])
        if epoch == 1000:
            assert float(layer.effective_number) == pytest.approx(1.0, abs=1e-3)
        if epoch == 5000:
            assert float(layer.effective_number) == pytest.approx(2.87, abs=0.1)
    assert counts == [1, 1, 1, 3, 4, 5, 6]
    kinks = np.array([c.kink for c in layer.clusters], float)
    for truth in (-0.3, 0.4):
        assert np.abs(kinks - truth).min() < 0.02
    assert 45 <= len(layer.by_direction.active) <= 65
