"""Planted plateaus with known answers, and a real one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import atlas, data, embedding, geometry, networks, training
from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._status import Certificate, Status
from lossatlas.atlas._layer_facts import kink_caution, measure_layers, with_widths
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, DenseLayer, Recurrent, Residual, Transformer


X = np.linspace(-15, 15, 50)[:, None]
Y = 1.2 * np.tanh(0.8 * (X + 7)) - 1.5 * np.tanh(0.6 * X) + np.tanh(0.9 * (X - 6))
# Near the minimum of width 2 of card embedding-width 5A, whose loss is 0.1547960483.
MINIMUM = ([[-1.344332], [-0.860996]], [-1.121143, -6.076392], [[0.793406, -1.156048]], [-0.333006])
SHARES = (0.3, 0.2, 0.4, 0.1)


def dense(w, b, a, c, act="tanh") -> Dense:
    as_array = lambda value: jnp.asarray(value, float)  # noqa: E731
    return Dense.from_layers(
        [DenseLayer(as_array(w), as_array(b), None), DenseLayer(as_array(a), as_array(c), None)], act
    )


def known(value):
    """A part of a diagnosis that is there."""
    assert value is not None
    return value


def landscape(targets=Y) -> Landscape:
    return Landscape(jnp.asarray(X), jnp.asarray(targets))


@pytest.fixture(scope="module")
def minimum() -> Dense:
    point = geometry.find_critical_point(dense(*MINIMUM), landscape(), method="newton")
    assert point.status is Status.CONVERGED
    assert float(point.loss) == pytest.approx(0.1547960483, abs=1e-9)
    return point.network


@pytest.fixture(scope="module")
def planted(minimum):
    wide, _ = embedding.split(minimum, "hidden[0]", 1, SHARES)
    return wide, atlas.diagnose(wide, landscape(), num_steps=300)


def test_planted_plateau_is_named(planted, minimum):
    _, found = planted
    assert found.state == "stuck"
    assert known(found.small).words == "2 neurons"
    assert known(found.small).distance < 1e-12
    assert known(found.standing.inertia).counts == (0, 0, 7)
    assert known(found.standing.inertia).is_minimum is Certificate.YES
    ours, theirs = (jnp.sort(jnp.abs(n.layers[0].weight[:, 0])) for n in (known(found.standing.point).network, minimum))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    assert found.verdict.startswith("Training is stuck at a network of 2 neurons (7 parameters of 16): a minimum of")
    assert "of the big one a strict saddle with 3 negative eigenvalues" in found.verdict


def test_planted_inertia_is_predicted_and_measured(planted):
    # Each copy of this unit adds one negative and one zero eigenvalue: 0 -> 3.
    standing = planted[1].standing
    assert standing.predicted == (3, 3, 10)
    assert known(standing.measured).counts == (3, 3, 10)
    assert known(standing.here).counts == (3, 3, 10)


def test_planted_layer_facts(planted):
    (layer,) = planted[1].layers
    assert (layer.size, layer.exact, layer.effective) == (5, (2, 0), (2, 0))
    assert layer.copies == ((1, 2, 3, 4),)
    assert layer.num_copies == 3
    assert (layer.constant, layer.dead, layer.unread, layer.near_kinks) == ((), (), (), 0)
    assert not layer.is_linear
    assert planted[1].effective_depth == 1


def test_way_out_with_an_outer_share_beats_the_control(planted):
    wide, found = planted
    best = next(way for way in found.ways if way.kind == "split")
    assert best.space == "hidden[0]"
    assert best.share in (2.0, -1.0)
    assert best.how == "the big network's own copies moved apart"
    # What is said of the step is true of the network that is handed over.
    assert float(landscape()(best.network)) == pytest.approx(best.loss, abs=1e-12)
    assert best.realised == pytest.approx(found.standing.loss - best.loss, abs=1e-12)
    assert [leaf.shape for leaf in jax.tree.leaves(best.network)] == [leaf.shape for leaf in jax.tree.leaves(wide)]
    assert known(best.loss_after) < 0.1 < known(found.control)
    assert found.control == pytest.approx(0.1547960483, abs=1e-6)
    # Each run has the rate of its own start.
    start = geometry.spectrum(best.network, landscape(), num_top=1, num_bottom=0, rtol=1e-3)
    assert best.learning_rate == pytest.approx(1 / float(start.sharpness), rel=1e-2)
    after = [way.loss_after for way in found.ways if way.loss_after is not None]
    assert after == sorted(after)


def test_steps_follow_the_quadratic_model_where_they_are_short(planted):
    own = next(way for way in planted[1].ways if way.kind == "curvature")
    assert own.curvature == pytest.approx(planted[1].standing.lowest)
    assert own.realised == pytest.approx(own.predicted, rel=0.5)


def test_symmetric_split_alone_does_not_leave_far(minimum):
    plan = embedding.plan_growth(minimum, landscape(), shares=(0.5,))
    assert max(growth.decrease for growth in plan if growth.unit is not None) < 1e-3


def test_remaining_gradient_certifies_no_saddle(planted):
    wide, _ = planted
    vector, unravel = ravel(wide)
    noise = np.random.default_rng(0).normal(size=vector.size)
    found = atlas.diagnose(unravel(vector + 1e-5 * jnp.asarray(noise)), landscape(), num_steps=0, max_steps=1)
    assert 1e-6 < found.standing.gradient_norm < 1e-3
    assert known(found.standing.here).negative > 0 or found.standing.lowest < 0
    assert known(found.standing.here).is_strict_saddle is Certificate.NOT_CERTIFIED
    assert "strict saddle" not in found.verdict
    assert known(found.small).words == "2 neurons"


def test_interpolating_network_is_no_plateau(planted, minimum):
    wide, _ = planted
    fitted = landscape(np.asarray(jax.vmap(minimum)(jnp.asarray(X))))
    found = atlas.diagnose(wide, fitted, num_steps=0)
    assert found.state == "interpolating"
    assert found.verdict.startswith("An interpolating minimum")
    assert not any(way.realised > 1e-12 for way in found.ways)


def test_untrained_network_is_not_stuck(key):
    found = atlas.diagnose(Dense(key, [1, 5, 1]), landscape(), num_steps=0)
    assert found.state == "not stuck"
    assert found.standing.gradient_ratio > 1
    assert found.verdict.startswith("Not stuck: the gradient is ")


def test_level_at_infinity_is_no_critical_point():
    # One neuron fits the sign of x by an ever steeper step; the ripple is out of its reach.
    targets = np.sign(X) + 0.3 * np.where(np.arange(50) % 2 == 0, 1.0, -1.0)[:, None]
    height = float(np.abs((targets * np.sign(X)).mean()))
    step = dense([[10.0]] * 5, [0.0] * 5, [[height / 5] * 5], [0.0])
    found = atlas.diagnose(step, landscape(targets), num_steps=0)
    assert found.state == "at infinity"
    assert known(found.standing.point).status is Status.AT_INFINITY
    assert float(known(found.standing.point).loss) == pytest.approx(0.5 * (np.mean(targets**2) - height**2), rel=1e-6)
    assert "becomes a step" in found.standing.runaway
    assert found.verdict.startswith("A level at infinity, no critical point: a network of 1 neuron")
    assert found.standing.inertia is None


@pytest.mark.slow
def test_constant_network_is_found_behind_a_wide_one():
    rng = np.random.default_rng(1)
    small = dense(1e-5 * rng.normal(size=(5, 1)), np.zeros(5), 1e-5 * rng.normal(size=(1, 5)), [float(Y.mean())])
    found = atlas.diagnose(small, landscape(), num_steps=0)
    assert known(found.small).words == "a constant"
    assert found.state == "stuck"
    assert found.ways[0].realised > 0.01
    assert found.effective_depth == 0


def test_other_architectures_say_what_was_not_measured(key):
    network = eqx.nn.MLP(1, 1, 3, 1, activation=jnp.tanh, key=key)
    found = atlas.diagnose(network, landscape(), num_steps=0)
    assert found.small is None
    assert found.layers == ()
    assert found.unmeasured[0].startswith("layers: a MLP states no unit spaces")
    assert found.ways[0].kind == "curvature"
    assert found.ways[0].realised > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"landscape": Landscape.from_function(lambda _, batch: batch, X[:, 0])}, "the training data with targets"),
        ({"landscape": Landscape(jnp.ones((3, 2)), jnp.ones((3, 1)))}, "The network reads inputs of shape (1,)"),
        ({"landscape": Landscape(jnp.ones((3, 1), jnp.float32), jnp.ones((3, 1), jnp.float32))}, "float64 only"),
        ({"tolerance": 1.5}, "tolerance is a share"),
        ({"num_ways": 0}, "num_ways must be at least 1"),
        ({"num_steps": -1}, "num_steps must be at least 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"landscape": landscape()} | change
    with pytest.raises(InputError) as error:
        atlas.diagnose(dense(*MINIMUM), arguments.pop("landscape"), **arguments)
    assert message in str(error.value)


def test_dead_constant_and_unread_units_are_listed():
    # Of five ReLU units: one dead, one a constant 2, two copies up to scale, one that nothing reads.
    network = dense(
        [[0.0], [0.0], [1.0], [3.0], [-1.0]], [-1.0, 2.0, 0.5, 1.5, 0.0], [[1.0, 1.0, 1.0, 0.1, 0.0]], [0.0], "relu"
    )
    (layer,), unmeasured = measure_layers(network, landscape(), 1.0, 0.1)
    assert layer.dead == (0,)
    assert layer.constant == (0, 1)
    assert layer.unread == (4,)
    assert layer.copies == ((2, 3),)
    assert not unmeasured


def test_examples_on_a_kink_are_counted():
    # The second unit meets its kink at the fourth input, the others at none.
    network = dense([[1.0], [2.0], [1.0]], [40.0, float(-2.0 * X[3, 0]), 0.013], [[1.0, 1.0, 1.0]], [0.0], "relu")
    layers, _ = measure_layers(network, landscape(), 1.0, 0.1)
    assert layers[0].near_kinks == 1
    assert known(kink_caution(layers)).startswith("1 pair of a neuron and an example lies at a kink")
    assert kink_caution(()) is None


def test_inserted_linear_layers_do_not_count_as_depth(key):
    narrow = dense(*MINIMUM, "leaky_relu")
    deep, _ = embedding.lift(narrow, jnp.asarray(X), 1, 3, key=key)
    exact = embedding.reduce(deep, landscape())
    layers, _ = measure_layers(deep, landscape(), 1.0, 0.1)
    assert [layer.is_linear for layer in layers] == [False, True]
    assert [layer.effective for layer in with_widths(layers, exact, exact)] == [(2, 0), (0, 0)]


def test_copied_channels_are_found_in_other_architectures(key):
    network = Conv(key, (1, 6, 6), [2], [3, 2])
    wide, _ = embedding.split(network, "channels[0]", 1, 0.3)
    images = Landscape(jax.random.normal(key, (4, 1, 6, 6)), jnp.zeros((4, 2)))
    layers, unmeasured = measure_layers(wide, images, 1.0, 0.1)
    assert layers[0].copies == ((1, 2),)
    assert known(layers[0].condensation).by_direction.counts[5.0] == 2
    assert [layer.is_linear for layer in layers] == [known(layer.linear_change) <= 0.1 for layer in layers]
    assert not unmeasured


def test_what_has_no_activation_or_direction_is_said_once_for_each_reason(key):
    network = Transformer(key, 2, 2, 2, num_stream=2, num_heads=2, num_hidden=3, num_blocks=2)
    layers, unmeasured = measure_layers(network, Landscape(jnp.eye(2)[None], jnp.zeros((1, 2))), 1.0, 0.1)
    by_name = {layer.name: layer for layer in layers}
    assert by_name["hidden[1]"].linearization is not None
    assert by_name["heads[0]"].linearization is None
    assert "linearization of heads[0], heads[1]: a head mixes positions" in " ".join(unmeasured)
    assert sum("condensation of stream" in line for line in unmeasured) == 1


@pytest.fixture(scope="module")
def widened_conv():
    """A critical point of a convolution of two channels, one of them split in three."""
    key = jax.random.key(0)
    narrow = Conv(key, (1, 3, 3), [2], [1], kernel=2, padding="VALID", norm="batch")
    images = jax.random.normal(jax.random.key(1), (60, 1, 3, 3))
    planted = geometry.plant_landscape(key, narrow.with_statistics(images), images, amplitude=0.3)
    wide, _ = embedding.split(narrow.with_statistics(images), "channels[0]", 1, (0.3, 0.5, 0.2))
    return wide, planted, atlas.diagnose(wide, planted, num_steps=30)


def test_small_network_behind_copied_channels_is_found_and_certified(widened_conv):
    wide, planted, found = widened_conv
    small, point = known(found.small), known(found.standing.point)
    assert found.state == "stuck"
    assert small.words == "a smaller network, conv 1x3x3: 2 | 1"
    assert small.distance < 1e-12
    assert point.status is Status.CONVERGED
    assert known(found.standing.distance) < 1e-10
    # By hand: the Hessian of the narrow network there.
    values = np.linalg.eigvalsh(np.asarray(eqx.filter_jit(planted.hessian)(point.network)))
    assert known(found.standing.inertia).negative == int(np.sum(values < -1e-10 * values.max()))
    assert known(found.standing.measured).counts == known(found.standing.here).counts
    (layer,) = found.layers
    assert (layer.exact, layer.effective, layer.copies) == ((2, 0), (2, 0), ((1, 2, 3),))
    assert found.effective_depth == 1


def test_ways_out_of_a_convolution_are_taken_in_its_own_shape(widened_conv):
    wide, planted, found = widened_conv
    shapes = [leaf.shape for leaf in jax.tree.leaves(wide)]
    for way in found.ways:
        assert [leaf.shape for leaf in jax.tree.leaves(way.network)] == shapes
        assert float(planted(way.network)) == pytest.approx(way.loss, abs=1e-12)
    best = found.ways[0]
    assert best.realised > 0
    assert known(best.loss_after) < known(found.control)
    assert "own copies" in next(way.how for way in found.ways if way.kind == "split")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("narrow", "space", "shape"),
    [
        (Transformer(jax.random.key(0), 2, 2, 1, num_stream=2, num_heads=1, num_hidden=2, num_blocks=1, norm=None),
         "hidden[0]", (2, 2)),
        (Transformer(jax.random.key(0), 2, 2, 1, num_stream=4, num_heads=2, num_hidden=2, num_blocks=1),
         "heads[0]", (2, 2)),
        (Residual(jax.random.key(0), 2, 2, 1, num_hidden=2), "hidden[1]", (2,)),
        (Recurrent(jax.random.key(0), 2, 2, 1), "hidden[0]", (3, 2)),
    ],
)  # fmt: skip
def test_small_network_behind_a_widened_one_is_found_in_every_architecture(narrow, space, shape):
    rows = jax.random.normal(jax.random.key(1), (80, *shape))
    planted = geometry.plant_landscape(jax.random.key(2), narrow, rows, amplitude=0.3)
    wide, _ = embedding.widen(narrow, {space: narrow.unit_spaces()[space].size + 2})
    found = atlas.diagnose(wide, planted, num_steps=0)
    assert found.state == "stuck"
    assert known(found.small).words == f"a smaller network, {networks.size_words(narrow)}"
    assert known(found.standing.distance) < 1e-9
    assert known(found.standing.point).status is Status.CONVERGED
    assert found.ways


def test_parameters_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        atlas.diagnose(dense([[np.nan], [1.0]], *MINIMUM[1:]), landscape())


@pytest.mark.slow
@pytest.mark.parametrize(("num", "expected"), [(2, (1, 1, 8)), (3, (2, 2, 9))])
def test_equal_copies_add_what_the_card_says(minimum, num, expected):
    wide, _ = embedding.split(minimum, "hidden[0]", 1, [1 / num] * num)
    found = atlas.diagnose(wide, landscape(), num_steps=0)
    assert found.standing.predicted == expected
    assert known(found.standing.measured).counts == expected


@pytest.mark.slow
def test_lifted_minimum_with_a_remaining_gradient_is_no_saddle(key):
    """The spurious-negative trap of card embedding-depth 2.6."""
    narrow = dense([[1.0], [-0.7]], [0.3, 0.2], [[0.8, 1.1]], [0.1], "leaky_relu")
    planted = geometry.plant_landscape(key, narrow, jnp.asarray(X), amplitude=0.01)
    assert geometry.inertia(narrow, planted).negative == 0
    deep, _ = embedding.lift(narrow, planted, 1, 2, key=key)
    vector, unravel = ravel(deep)
    moved = unravel(vector + 1e-4 * jnp.asarray(np.random.default_rng(2).normal(size=vector.size)))
    found = atlas.diagnose(moved, planted, num_steps=0, max_steps=1)
    assert found.standing.lowest < 0
    assert known(found.standing.here).is_strict_saddle is Certificate.NOT_CERTIFIED
    assert "strict saddle" not in found.verdict


@pytest.mark.slow
def test_first_stall_of_iris_is_a_linear_network_of_rank_one(key):
    plain = data.load("iris").landscape()
    start = Dense(key, [4, 50, 50, 3], init=1.5)
    run = training.train(key, start, plain, learning_rate=0.05, num_steps=2400, snapshots=[2400])
    found = atlas.diagnose(run.network, plain)
    assert found.state == "stuck"
    assert known(found.small).words == "a linear network of rank 1"
    assert float(known(found.standing.point).loss) == pytest.approx(0.1716879676, abs=1e-9)
    assert known(found.standing.inertia).is_minimum is Certificate.YES
    assert found.effective_depth == 0
    assert found.ways[0].realised > 0.02
    # With one over the sharpness, eleven times the rate of the training, gradient descent leaves by itself too.
    assert known(found.ways[0].loss_after) < known(found.control) < 0.12


@pytest.mark.slow
def test_end_of_iris_is_the_level_of_two_neurons_at_infinity(key):
    plain = data.load("iris").landscape()
    start = Dense(key, [4, 50, 50, 3], init=1.5)
    run = training.train(key, start, plain, learning_rate=0.05, num_steps=60_000, snapshots=[60_000])
    found = atlas.diagnose(run.network, plain, num_steps=0)
    assert found.state == "at infinity"
    assert known(found.small).num_parameters <= 36
    assert float(known(found.standing.point).loss) == pytest.approx(0.0065, abs=5e-4)
    assert known(found.standing.distance) < 0.15
