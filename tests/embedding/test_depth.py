# pyright: reportOptionalOperand=false, reportOperatorIssue=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from embedding_points import make_inputs, make_network, outputs

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas.embedding import lift, merge_layer, prune_by_linearization
from lossatlas.geometry import linearization, plant_landscape
from lossatlas.networks import Dense, DenseLayer


KEY = jax.random.key(7)


def test_merging_a_linear_layer_without_bottleneck_keeps_a_critical_point():
    shallow = make_network((2, 3, 3, 2), "leaky_relu")
    deep, _ = lift(shallow, make_inputs(60), 1, 3, key=KEY)
    landscape = plant_landscape(KEY, deep, make_inputs(60), amplitude=0.3)
    merged, record = merge_layer(deep, landscape, 1)
    assert merged.widths == (2, 3, 3, 2)
    assert record.criticality_defect == 0
    assert record.keeps_critical
    assert record.gradient_before < 1e-13
    assert record.gradient_after < 1e-13
    assert record.output_change < 1e-12
    replayed = record.replay(deep)
    np.testing.assert_array_equal(outputs(replayed, make_inputs()), outputs(merged, make_inputs()))


def test_dead_and_constant_neurons_merge_with_slope_zero():
    network = make_network((2, 3, 3, 2), "relu")
    layers = list(network.layers)
    layers[1] = DenseLayer(layers[1].weight, jnp.full(3, -100.0))
    network = Dense.from_layers(layers, "relu")
    merged, record = merge_layer(network, make_inputs(), 1)
    assert record.output_change < 1e-13
    assert not merged.layers[1].weight.any()


def test_bound_covers_the_change_of_a_layer_that_is_not_linear():
    network, inputs = make_network((2, 4, 4, 3)), make_inputs()
    for layer in (0, 1):
        merged, record = merge_layer(network, inputs, layer)
        change = np.linalg.norm(outputs(merged, inputs) - outputs(network, inputs), axis=1).max()
        assert 1e-3 < change <= record.bound * (1 + 1e-12)
        assert not record.keeps_critical
        assert 0 < record.agreement <= 1


def test_pruning_removes_the_layers_above_the_threshold_and_no_other():
    network, inputs = make_network((2, 3, 3, 2), "elu"), make_inputs(60)
    deep, _ = lift(network, inputs, 1, 4, key=KEY)
    deep, _ = lift(deep, inputs, 3, 5, key=KEY)
    measured = linearization(deep, Landscape(inputs, jnp.zeros(60)))
    assert [layer.mpc > 0.9999 for layer in measured.layers] == [False, True, False, True]
    pruned, record = prune_by_linearization(deep, inputs, 0.9999)
    assert pruned.widths == (2, 3, 3, 2)
    assert record.output_change < 1e-12
    assert len(record.plan) == 2
    same, record = prune_by_linearization(network, inputs, 0.9999)
    assert same.widths == network.widths
    assert record.output_change == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: merge_layer(n, x, 1), "layer must be 0 to 0"),
        (lambda n, x: merge_layer(n, x, -1), "layer must be 0 to 0"),
        (lambda n, x: prune_by_linearization(n, x, 0.0), "threshold"),
        (lambda n, x: prune_by_linearization(n, x, 1.1), "threshold"),
        (lambda n, x: merge_layer(n, x[:0], 0), "n at least 1"),
        (lambda n, x: merge_layer(n, x * jnp.nan, 0), "NaN"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call(make_network((2, 3, 2)), make_inputs())


def test_constants_without_a_bias_to_hold_them_are_refused():
    network = make_network((2, 3, 2), "sigmoid", use_output_bias=False)
    with pytest.raises(InputError, match="no bias after it"):
        merge_layer(network, make_inputs(), 0)


@eqx.filter_jit
def _train(network, x, y, order, batch):
    """Adam 1e-3 with cross-entropy on the given order of batches."""
    optimiser = optax.adam(1e-3)
    params, rest = eqx.partition(network, eqx.is_inexact_array)

    def loss(params, index):
        logits = jax.vmap(eqx.combine(params, rest))(x[index])
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, y[index]))

    def step(state, index):
        params, moments = state
        updates, moments = optimiser.update(jax.grad(loss)(params, index), moments)
        return (optax.apply_updates(params, updates), moments), None

    (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), order.reshape(-1, batch))
    return eqx.combine(params, rest)


@pytest.mark.slow
def test_ten_hidden_layers_on_digits_are_pruned_by_linearization():
    """Card 5C: tanh 64-50x10-10, Adam 1e-3, batches of 100, std 0.1, float32; the prototype gave 10 -> 7 hidden layers
    and an agreement of 0.986 at threshold 0.99, 10 -> 5 and 0.969 at 0.98, 10 -> 1 and 0.915 at 0.95 after 250 steps,
    and 10 -> 9 and 0.995 at 0.99 after 500. Seeds differ; the asserted ranges hold them."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(labels))
    x = jnp.asarray(images[rows] / 16, jnp.float32)
    y = jnp.asarray(labels[rows], jnp.int32)
    test = Landscape(x[1000:], y[1000:], loss="cross_entropy")
    layers, losses = {}, {}
    for seed in range(3):
        key = jax.random.key(seed)
        network = Dense(key, [64, *[50] * 10, 10], init=lambda *_: 0.1, dtype=jnp.float32)
        order = jnp.concatenate([jax.random.permutation(jax.random.fold_in(key, e), 1000) for e in range(50)])
        for first, last in ((0, 250), (250, 500)):
            with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integers
                network = _train(network, x[:1000], y[:1000], order[first * 100 : last * 100], 100)
            assert np.mean(np.asarray(test.predictions(network)).argmax(1) == np.asarray(y[1000:])) > 0.8
            for threshold in (0.99, 0.98, 0.95):
                pruned, record = prune_by_linearization(network, test, threshold, keep=1.0)
                layers[seed, last, threshold] = len(pruned.layers) - 1
                losses[seed, last, threshold] = float(test(pruned)) - float(test(network))
                assert record.agreement >= {0.99: 0.98, 0.98: 0.94, 0.95: 0.87}[threshold]
    # Measured with these seeds: 8 7 8, 7 5 6, 1 1 3 hidden layers after 250 steps and 10 8 10, 8 6 7, 4 3 4 after 500.
    for seed in range(3):
        assert 6 <= layers[seed, 250, 0.99] <= 9
        assert 4 <= layers[seed, 250, 0.98] <= 8
        assert layers[seed, 250, 0.95] <= 4
        assert layers[seed, 500, 0.99] >= layers[seed, 250, 0.99]
        assert losses[seed, 250, 0.99] < 0.03


@pytest.mark.slow
def test_larger_weights_on_digits_leave_nothing_to_prune():
    """Card 5C, the control: init std 0.2236, no layer above 0.94."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images[:1000] / 16, jnp.float32), jnp.asarray(labels[:1000], jnp.int32)
    network = Dense(jax.random.key(0), [64, *[50] * 10, 10], init=lambda *_: 0.2236, dtype=jnp.float32)
    order = jnp.tile(jax.random.permutation(jax.random.key(1), 1000), 25)
    with jax.numpy_dtype_promotion("standard"):
        network = _train(network, x, y, order, 100)
    landscape = Landscape(x, y, loss="cross_entropy")
    pruned, record = prune_by_linearization(network, landscape, 0.95, keep=1.0)
    assert len(pruned.layers) == 11
    assert record.agreement == 1.0


def test_a_layer_of_mpc_one_is_pruned_at_threshold_one():
    """As `linearization` calls its neurons linear; here they are constant."""
    network = make_network((2, 3, 3, 2), "relu")
    network = eqx.tree_at(lambda n: n.layers[1].bias, network, jnp.full(3, -100.0))
    pruned, record = prune_by_linearization(network, make_inputs(), 1.0)
    assert pruned.widths == (2, 3, 2)
    assert record.output_change < 1e-13
