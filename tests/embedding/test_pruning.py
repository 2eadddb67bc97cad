# pyright: reportOptionalSubscript=false

"""Networks pruned on a budget: what is exact goes first, what is left stands in, of any architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import make_inputs, make_network, outputs

from lossatlas._errors import InputError
from lossatlas.embedding import add_null_unit, pruning_path, split
from lossatlas.embedding._elimination import elimination
from lossatlas.networks import Conv, Dense, DenseLayer, Recurrent, Residual, Transformer, num_parameters


KEY = jax.random.key(0)
TRANSFORMER = Transformer(KEY, 3, 4, 2, num_stream=5, num_heads=2, num_hidden=6, num_blocks=1)


def _summed_residuals(moments, metric, kept):
    block = moments[:, kept]
    return np.trace(metric @ (moments - block @ np.linalg.solve(moments[np.ix_(kept, kept)], block.T)))


def test_elimination_takes_the_best_next_variable_at_each_step():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 7)) @ rng.normal(size=(7, 7))
    slopes = rng.normal(size=(3, 7))
    moments, metric = rows.T @ rows / 40, slopes.T @ slopes
    order, costs = elimination(moments, metric)
    kept = list(range(7))
    for step in range(6):
        best = min(kept, key=lambda k: _summed_residuals(moments, metric, [j for j in kept if j != k]))
        kept.remove(best)
        assert order[step] == best
        np.testing.assert_allclose(costs[step], _summed_residuals(moments, metric, kept), rtol=1e-7)
    np.testing.assert_allclose(costs[-1], np.trace(metric @ moments), rtol=1e-7)


def test_elimination_gives_up_one_of_two_copies_for_nothing_and_not_both():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 4))
    rows = np.concatenate([rows, -2 * rows[:, :1]], axis=1)
    order, costs = elimination(rows.T @ rows / 60, np.eye(5))
    assert order[0] in (0, 4)
    assert costs[0] < 1e-9 < costs[1]
    assert sorted(order) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu"])
def test_copies_constants_and_unread_units_go_first_at_no_change(name):
    narrow = make_network((3, 4, 3, 2), name)
    wide, _ = split(narrow, "hidden[0]", 1, [0.3, 1.2, -0.5])
    wide, _ = split(wide, "hidden[1]", 2, 0.4)
    wide, _ = add_null_unit(wide, "hidden[1]", bias=0.4)
    inputs = make_inputs(60, 3)
    path = pruning_path(wide, inputs)
    point = path.after(4)
    assert point.sizes == {"hidden[0]": 4, "hidden[1]": 3}
    assert point.output_change < 1e-8
    fresh = make_inputs(20, 3, seed=9)
    np.testing.assert_allclose(outputs(point.network, fresh), outputs(narrow, fresh), atol=1e-7)
    assert path.after(5).output_change > 1e-3


NETWORKS = {
    "linear units, no output bias": (Dense(KEY, [3, 6, 5, 2], num_linear=2, use_output_bias=False), (3,)),
    "convolution": (Conv(KEY, (2, 6, 6), [4, 5], [6, 2], pool="max", activation="relu"), (2, 6, 6)),
    "separable, batch norm": (Conv(KEY, (2, 6, 6), [4, 5], [2], norm="batch", separable=True), (2, 6, 6)),
    "residual": (Residual(KEY, 3, 4, 2, num_hidden=7, norm="layer"), (3,)),
    "transformer": (TRANSFORMER, (4, 3)),
    "recurrent": (Recurrent(KEY, 3, 6, 2), (5, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_is_what_its_point_says(name):
    network, shape = NETWORKS[name]
    inputs = jax.random.normal(jax.random.key(1), (40, *shape))
    path = pruning_path(network, inputs)
    assert path.parameters[0] == num_parameters(network)
    assert (np.diff(path.parameters) < 0).all()
    point = path.after(len(path.sequence) // 2)
    pruned = point.network
    assert num_parameters(pruned) == point.num_parameters
    assert {n: s.size for n, s in pruned.unit_spaces().items() if n in point.sizes} == point.sizes
    change = np.abs(np.asarray(jax.vmap(pruned)(inputs)) - np.asarray(jax.vmap(network)(inputs)))
    np.testing.assert_allclose(change.max(), point.output_change, atol=1e-8)
    np.testing.assert_allclose(np.sqrt((change**2).sum(1).mean()), point.rms_change, atol=1e-8)
    last = path.after(len(path.sequence))
    assert set(last.sizes.values()) == {1}


def test_spaces_that_cannot_be_pruned_unit_by_unit_stay_and_say_why():
    path = pruning_path(TRANSFORMER, jax.random.normal(KEY, (10, 4, 3)), fixed=("values[0]",))
    assert path.fixed.keys() == {"stream", "queries[0]", "values[0]"}
    assert "normalisation" in path.fixed["stream"]
    assert set(path.sequence) == {"heads[0]", "hidden[0]"}


def test_readers_are_the_least_squares_fit_of_what_they_received():
    network, inputs = make_network((3, 6, 2)), make_inputs(50, 3)
    point = pruning_path(network, inputs).after(3)
    hidden = np.tanh(inputs @ point.network.layers[0].weight.T + point.network.layers[0].bias[None])
    columns = np.concatenate([hidden, np.ones((50, 1))], axis=1)
    best = np.linalg.lstsq(columns, outputs(network, inputs), rcond=None)[0]
    np.testing.assert_allclose(point.network.layers[1].weight, best[:-1].T, atol=1e-7)
    np.testing.assert_allclose(point.network.layers[1].bias, best[-1], atol=1e-7)


def test_standing_in_beats_dropping_the_same_units():
    network, inputs = make_network((3, 30, 20, 2)), make_inputs(300, 3)
    path = pruning_path(network, inputs)
    point = path.with_parameters(num_parameters(network) // 2)
    fresh = make_inputs(200, 3, seed=8)
    kept = [np.setdiff1d(np.arange(n), path.orders[f"hidden[{i}]"][: n - point.sizes[f"hidden[{i}]"]])
            for i, n in enumerate((30, 20))]  # fmt: skip
    first, second, last = network.layers
    dropped = Dense.from_layers([
        DenseLayer(first.weight[kept[0]], first.bias[kept[0]]),
        DenseLayer(second.weight[np.ix_(*kept[::-1])], second.bias[kept[1]]),
        DenseLayer(last.weight[:, kept[1]], last.bias),
    ], "tanh")  # fmt: skip
    exact = outputs(network, fresh)
    ours, theirs = (np.abs(outputs(net, fresh) - exact).mean() for net in (point.network, dropped))
    assert num_parameters(dropped) == point.num_parameters
    assert ours < 0.2 * theirs


def test_budgets_and_tolerances_are_kept():
    network, inputs = make_network((3, 8, 2)), make_inputs(50, 3)
    path = pruning_path(network, inputs)
    assert path.with_parameters(30).num_parameters <= 30 < path.with_parameters(30).num_parameters + 6
    within = path.within(0.5)
    assert within.output_change <= 0.5
    assert path.after(8 - within.sizes["hidden[0]"] + 1).output_change > 0.5
    assert path.within(1e-13).num_parameters == num_parameters(network)
    sizes = [point.num_parameters for point in path.curve(5)]
    assert sizes[0] == num_parameters(network)
    assert sizes[-1] == 8
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda path: path.with_parameters(3), "8 parameters are left, more than 3"),
        (lambda path: path.after(9), "removed must be 0 to 7, got 9"),
        (lambda path: pruning_path(path.start, None), "needs the data"),
        (lambda path: pruning_path(path.start, jnp.zeros((0, 3))), "n at least 1"),
        (lambda path: pruning_path(path.start, path.inputs, fixed=("hiden[0]",)), "Did you mean 'hidden"),
        (lambda path: pruning_path(lambda x: x, path.inputs), "states no unit spaces"),
    ],
)
def test_bad_input_is_named(call, said):
    path = pruning_path(make_network((3, 8, 2)), make_inputs(50, 3))
    with pytest.raises(InputError, match=said):
        call(path)
