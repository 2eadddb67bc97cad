# pyright: reportOptionalOperand=false, reportOperatorIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import gradient, largest, make_inputs, make_network, outputs, random_landscape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas.embedding import add_null_unit, lift, merge_layer, reduce, split
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Dense, DenseLayer, activation


WIDTHS = (2, 3, 2, 2)


def _gauged(network, rng):
    """The same function with random sign flips, reflections and rescalings of single neurons, as symmetry allows."""
    act = network.activation
    layers = [(np.array(a.weight), np.array(a.bias)) for a in network.layers]
    for i in range(len(layers) - 1):
        (weight, bias), (readers, after) = layers[i], layers[i + 1]
        for j in range(len(weight)):
            scale = float(np.exp(rng.normal())) if act.degree is not None else 1.0
            weight[j] *= scale
            bias[j] *= scale
            readers[:, j] /= scale ** (act.degree or 1.0)
            signed = act.parity != "none" or act.reflection is not None
            if signed and rng.random() < 0.5:
                weight[j] *= -1
                bias[j] *= -1
                if act.parity != "even":
                    after += (act.reflection or 0.0) * readers[:, j]
                    readers[:, j] *= -1
    made = [DenseLayer(jnp.asarray(w), jnp.asarray(b)) for w, b in layers]
    return Dense.from_layers(made, act)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    name=st.sampled_from(["tanh", "sigmoid", "gelu", "softplus", "relu", "square", "sin"]),
    seed=st.integers(0, 10_000),
    moves=st.lists(
        st.tuples(st.sampled_from(["hidden[0]", "hidden[1]"]), st.floats(-0.8, 1.8), st.booleans()), max_size=5
    ),
)
def test_reduce_of_an_embedded_network_gives_the_widths_back(name, seed, moves):
    rng = np.random.default_rng(seed)
    narrow, inputs = make_network(WIDTHS, name, seed=seed), make_inputs()
    wide = narrow
    for space, alpha, is_null in moves:
        if is_null:
            wide, _ = add_null_unit(wide, space, bias=alpha)
        else:
            unit = int(rng.integers(wide.unit_spaces()[space].size))
            wide, _ = split(wide, space, unit, alpha)
        wide = _gauged(wide, rng)
    plain, _ = reduce(narrow, inputs, linear=False)  # a ReLU neuron may be dead on the data
    back, record = reduce(wide, inputs, linear=False)
    assert back.widths == plain.widths
    if name not in ("relu", "square"):
        assert back.widths == WIDTHS
    scale = max(1.0, np.abs(outputs(narrow, inputs)).max())
    assert np.abs(outputs(back, inputs) - outputs(narrow, inputs)).max() < 1e-12 * scale
    assert np.abs(outputs(record.replay(wide), inputs) - outputs(back, inputs)).max() < 1e-12 * scale
    assert record.certificate.is_exact


def test_reduce_of_a_wide_critical_point_is_critical():
    narrow = make_network((2, 3, 2))
    landscape = plant_landscape(jax.random.key(2), narrow, make_inputs(), amplitude=0.2)
    wide, _ = split(narrow, "hidden[0]", 1, [0.4, 0.9, -0.3])
    wide, _ = add_null_unit(wide, "hidden[0]", bias=0.4)
    back, record = reduce(wide, landscape)
    assert back.widths == (2, 3, 2)
    assert record.certificate.gradient_before < 1e-14
    assert record.certificate.gradient_after < 1e-14
    assert record.certificate.output_change < 1e-13
    assert record.certificate.bound < 1e-12


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_antiparallel_units_without_odd_symmetry_are_not_merged(name):
    weight = jnp.array([[1.0, -0.5], [-1.0, 0.5]])
    layers = [DenseLayer(weight, jnp.array([0.3, -0.3])), DenseLayer(jnp.array([[1.0, 2.0]]), jnp.zeros(1))]
    network = Dense.from_layers(layers, name)
    assert reduce(network, make_inputs())[0].widths == (2, 2, 1)
    tanh, _ = reduce(Dense.from_layers(layers, "tanh"), make_inputs())
    assert tanh.widths == (2, 1, 1)


def test_perturbed_copies_merge_within_the_tolerance_and_the_bound():
    narrow, inputs = make_network((2, 3, 2)), make_inputs()
    for alpha, size in ((0.4, 1e-3), (0.4, 1e-5), (-0.7, 1e-3), (-0.7, 1e-6)):
        wide, _ = split(narrow, "hidden[0]", 1, alpha)
        first, last = wide.layers
        noise = size * jax.random.normal(jax.random.key(3), first.weight.shape)
        moved = Dense.from_layers([DenseLayer(first.weight + noise, first.bias), last], "tanh")
        assert reduce(moved, inputs)[0].widths == (2, 4, 2)
        small, record = reduce(moved, inputs, tolerance=10 * size, refit=False, linear=False)
        assert small.widths == (2, 3, 2)
        change = np.abs(outputs(small, inputs) - outputs(moved, inputs))
        certificate = record.certificate
        assert certificate.output_change == pytest.approx(change.max(), rel=1e-4)
        assert certificate.mean_change == pytest.approx(change.mean(), rel=1e-4)
        # The mean weighted by readers is right to first order where the shares have one sign.
        order = size**2 if alpha > 0 else size
        assert 1e-2 * order < certificate.output_change < 10 * order
        assert certificate.output_change <= certificate.bound * (1 + 1e-12)


def test_many_small_neurons_are_never_dropped_by_their_own_size():
    """The pitfall of the card: neurons each below the tolerance whose sum is far above it."""
    count = 200
    rng = np.random.default_rng(0)
    weight = np.tile([[1.0, 0.0]], (count, 1)) + 1e-3 * rng.normal(size=(count, 2))
    layers = [DenseLayer(jnp.asarray(weight), jnp.zeros(count)), DenseLayer(jnp.full((1, count), 5e-3), jnp.zeros(1))]
    network, inputs = Dense.from_layers(layers, "tanh"), make_inputs()
    small, record = reduce(network, inputs, tolerance=0.02)
    assert small.widths == (2, 1, 1)
    assert record.certificate.output_change <= 0.02


def test_neurons_that_are_affine_on_the_data_become_linear_units():
    inputs = make_inputs()
    network = make_network((2, 4, 3), "relu")
    first, last = network.layers
    high = float(jnp.max(jnp.abs(inputs @ first.weight.T))) + 1
    network = Dense.from_layers([DenseLayer(first.weight, jnp.array([high, -high, 0.1, high])), last], "relu")
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.2)
    small, record = reduce(network, landscape)
    assert small.widths == (2, 1, 3)  # one dead neuron is folded, two linear ones are linear units
    assert small.num_linear == (2,)
    assert record.certificate.output_change < 1e-12
    assert record.certificate.gradient_before < 1e-14
    assert record.certificate.gradient_after < 1e-12


def test_linear_units_are_compressed_to_their_rank():
    network = make_network((4, 1, 3), num_linear=5)
    landscape = plant_landscape(jax.random.key(2), network, make_inputs(60, 4), amplitude=0.2)
    small, record = reduce(network, landscape)
    assert (small.widths, small.num_linear) == ((4, 1, 3), (3,))
    assert record.certificate.gradient_after < 1e-13


@pytest.mark.parametrize("mode", ["right", "left", "lemma"])
def test_reduce_of_a_lift_gives_the_depth_back(mode):
    shallow, inputs = make_network((2, 3, 2), "elu"), make_inputs()
    deep, _ = lift(shallow, inputs, 1, 5, key=jax.random.key(3), mode=mode)
    back, record = reduce(deep, inputs, linear=False)  # no linear units: the layer merges as a whole or stays
    assert back.widths == (2, 3, 2)
    for old, new in zip(shallow.layers, back.layers, strict=True):
        assert largest(old.weight - new.weight) < 1e-12
        assert largest(old.bias - new.bias) < 1e-12
    assert record.certificate.criticality_defect == 0


def test_bottlenecks_are_kept_unless_asked_for():
    network = make_network((3, 1, 3), "identity")
    inputs = make_inputs(40, 3)
    kept, record = reduce(network, inputs)
    assert (kept.widths, kept.num_linear, record.certificate.criticality_defect) == ((3, 0, 3), (1,), 0)
    merged, record = reduce(network, inputs, bottlenecks="merge")
    assert (merged.widths, record.certificate.criticality_defect) == ((3, 3), 4)
    assert largest(outputs(merged, inputs) - outputs(network, inputs)) < 1e-13


def test_nothing_is_folded_where_no_bias_can_hold_it():
    network = make_network((2, 3, 2), "sigmoid", use_output_bias=False)
    first, last = network.layers
    dead = DenseLayer(first.weight.at[0].set(0.0), first.bias)
    network, inputs = Dense.from_layers([dead, last], "sigmoid"), make_inputs()
    same, record = reduce(network, inputs)
    assert same.widths == (2, 3, 2)
    assert record.plan == ()


def test_condensed_network_is_named_at_the_tolerance():
    """A wide network that is one neuron beside one linear unit up to noise, two layers deep."""
    target = make_network((4, 1, 1, 3), num_linear=1, seed=3)
    inputs = make_inputs(100, 4)
    rng = np.random.default_rng(0)
    # Linear units as pairs of neurons of small weights and large readers, neurons as split copies.
    wide, _ = split(target, "hidden[0]", 0, [0.2, 0.3, 0.5])
    wide, _ = split(wide, "hidden[1]", 0, [0.7, 0.3])
    small = 1e-2
    layers = []
    for i, layer in enumerate(wide.layers):
        weight, bias = np.array(layer.weight), np.array(layer.bias)
        if layer.linear is not None:
            weight = np.concatenate([weight, small * np.array(layer.linear)])
            bias = np.concatenate([bias, np.zeros(1)])
        if i:
            weight[:, -1] /= small
            if layer.linear is not None:
                weight[-1] = small * np.array(layer.linear)[0] / np.array([1] * (weight.shape[1] - 1) + [small])
        layers.append(DenseLayer(jnp.asarray(weight + 1e-6 * rng.normal(size=weight.shape)), jnp.asarray(bias)))
    network = Dense.from_layers(layers, "tanh")
    small_net, record = reduce(network, inputs, tolerance=0.05)
    assert (small_net.widths, small_net.num_linear) == ((4, 1, 1, 3), (1, 1))
    change = np.abs(outputs(small_net, inputs) - outputs(network, inputs)).max()
    assert change <= 0.05
    assert record.certificate.output_change == pytest.approx(change, rel=1e-6)


def test_tolerance_is_kept_over_all_steps():
    landscape = random_landscape(40)
    network = make_network((2, 6, 5, 2), seed=4)
    before = outputs(network, landscape.inputs)
    sizes = []
    for tolerance in (1e-2, 0.3, 3.0):
        small, record = reduce(network, landscape, tolerance=tolerance)
        assert np.abs(outputs(small, landscape.inputs) - before).max() <= tolerance
        assert record.certificate.output_change <= tolerance
        sizes.append(sum(small.widths[1:-1]) + sum(small.num_linear))
        assert record.certificate.gradient_after == pytest.approx(largest(gradient(landscape, small)))
    assert sizes[0] > sizes[1] > sizes[2]


def test_merged_bottleneck_is_flagged_as_not_critical():
    network = make_network((2, 3, 1, 3, 2), "elu", seed=2)
    first = network.layers[1]
    features = np.asarray(jax.vmap(lambda x: network.features(x)[1])(make_inputs(60)))
    low = float((features @ first.weight.T).min())
    layers = list(network.layers)
    layers[1] = DenseLayer(first.weight, jnp.array([0.5 - low]))
    network = Dense.from_layers(layers, "elu")
    landscape = plant_landscape(jax.random.key(2), network, make_inputs(60), amplitude=0.3)
    _, record = merge_layer(network, landscape, 1)
    assert record.gradient_before < 1e-13
    assert record.output_change < 1e-12
    assert record.criticality_defect == 4
    assert not record.keeps_critical
    assert record.gradient_after > 1e-4
    kept, reduction = reduce(network, landscape)
    assert (kept.widths[2], kept.num_linear[1]) == (0, 1)  # one linear unit, not a merged layer
    assert reduction.certificate.gradient_after < 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: reduce(n, x, tolerance=0.0), "tolerance must be"),
        (lambda n, x: reduce(n, x, tolerance=float("nan")), "tolerance must be"),
        (lambda n, x: reduce(n, x[:0]), "n at least 1"),
        (lambda n, x: reduce(n, x.at[0, 0].set(jnp.nan)), "NaN"),
        (lambda n, x: reduce(n, None), "needs the data"),  # noqa: ARG005
        (lambda n, x: reduce(n.layers[0], x), "Dense"),
        (lambda n, x: reduce(n, x, width=False, depth=False), "width=True or depth=True"),
        (lambda n, x: reduce(jax.tree.map(lambda a: a.astype("float32"), n), x), "float64"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(make_network((2, 3, 2)), make_inputs())


def test_landscape_without_targets_gives_no_gradients():
    _, record = reduce(make_network((2, 3, 2)), make_inputs())
    assert record.certificate.gradient_before is None
    landscape = Landscape(make_inputs(), jnp.zeros((40, 2)))
    assert reduce(make_network((2, 3, 2)), landscape)[1].certificate.gradient_before > 0


def test_activation_without_lipschitz_constant_has_no_bound():
    assert activation("square").lipschitz == np.inf
    wide, _ = split(make_network((2, 3, 2, 2), "square"), "hidden[0]", 1, 0.4)
    first, *rest = wide.layers
    weight = first.weight.at[1].multiply(1 + 1e-9)
    wide = Dense.from_layers([DenseLayer(weight, first.bias), *rest], "square")
    reduced, record = reduce(wide, make_inputs(), tolerance=1e-5, refit=False)
    assert reduced.widths == (2, 3, 2, 2)
    assert 0 < record.certificate.output_change < 1e-5
    assert record.certificate.bound == np.inf


@pytest.mark.parametrize("tolerance", [1e-3, 0.03, 0.3, 3.0])
def test_without_refit_the_tolerance_is_kept_however_many_layers_merge(tolerance):
    for seed in range(4):
        network = make_network((2, 6, 6, 6, 2), seed=seed)
        _, record = reduce(network, make_inputs(), tolerance=tolerance, refit=False, bottlenecks="merge")
        assert record.certificate.output_change <= tolerance
