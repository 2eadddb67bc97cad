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
from lossatlas.embedding._low_rank import low_rank
from lossatlas.embedding._ranks import rank_choices, share_out
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
    point = path.after(int(np.flatnonzero(path.parameters <= num_parameters(network) // 2)[0]))
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
    assert path.with_parameters(30).num_parameters <= 30
    within = path.within(0.5)
    assert within.output_change <= 0.5
    assert path.with_parameters(within.num_parameters - 1).output_change > 0.5
    assert path.within(1e-13).num_parameters == num_parameters(network)
    sizes = [point.num_parameters for point in path.curve(5)]
    assert sizes[0] == num_parameters(network)
    assert sizes[-1] == 8
    assert sizes == sorted(sizes, reverse=True)


@pytest.fixture(scope="module")
def planted():
    """The path of tanh 8-20+1-30-3 whose second matrix, of 30 x 21, has rank 4."""
    network = Dense(KEY, [8, 20, 30, 3], num_linear=[1, 0], init=0.5)
    left, right = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(30, 4), (4, 21)]))
    layers = list(network.layers)
    layers[1] = DenseLayer(left @ right / 4, 0.1 * jnp.arange(30.0))
    return pruning_path(Dense.from_layers(layers, "tanh"), make_inputs(120, 8))


def test_a_planted_rank_is_found_exactly_at_no_change(planted):
    network = planted.start
    point = planted.within(1e-7)
    assert point.ranks == {1: 4}
    assert point.num_parameters == num_parameters(network) - (21 * 30 - 4 * (21 + 30))
    assert num_parameters(point.network) == point.num_parameters
    assert point.network.num_linear == (1, 4, 0)
    assert point.network.widths == (8, 20, 0, 30, 3)
    fresh = make_inputs(40, 8, seed=5)
    np.testing.assert_allclose(outputs(point.network, fresh), outputs(network, fresh), atol=1e-7)
    assert "layer 1 of rank 4" in repr(point)


def test_neurons_that_see_few_directions_are_factored_where_their_matrix_has_full_rank():
    network = Dense(KEY, [8, 20, 30, 3], init=0.5)
    inputs = make_inputs(120, 3) @ jax.random.normal(jax.random.key(3), (3, 8))
    point = pruning_path(network, inputs).within(1e-7)
    assert point.ranks[0] == 3
    np.testing.assert_allclose(outputs(point.network, inputs), outputs(network, inputs), atol=1e-7)


def _svd_of_what_layers_put_out(network, inputs, ranks):
    """The control: layers cut to ranks by the SVD of what they put out on the data, without slopes and refits."""
    layers = []
    for i, (layer, features) in enumerate(zip(network.layers, jax.vmap(network.features)(inputs), strict=False)):
        weight = layer.weight
        if i in ranks:
            u = jnp.linalg.svd(weight @ features.T, full_matrices=False)[0][:, : ranks[i]]
            weight = u @ (u.T @ weight)
        layers.append(DenseLayer(weight, layer.bias))
    return Dense.from_layers(layers, network.activation)


@pytest.fixture(scope="module")
def tanh_path():
    """The path of tanh 8-24-24-3."""
    return pruning_path(Dense(KEY, [8, 24, 24, 3], init=0.4), make_inputs(200, 8))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.15])
def test_a_budget_is_spent_no_worse_than_on_units_or_on_ranks_alone(tanh_path, share):
    path = tanh_path
    network, inputs = path.start, path.inputs
    most = int(share * num_parameters(network))
    point = path.with_parameters(most)
    assert num_parameters(point.network) == point.num_parameters <= most
    change = np.abs(outputs(point.network, inputs) - outputs(network, inputs))
    np.testing.assert_allclose(change.max(), point.output_change, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt((change**2).sum(1).mean()), point.rms_change, rtol=1e-6)
    np.testing.assert_allclose(outputs(point.masked, inputs), outputs(point.network, inputs), atol=1e-10)
    units = path.after(int(np.flatnonzero(path.parameters <= most)[0]))
    assert point.rms_change <= units.rms_change
    ranks = low_rank(path, 0).with_parameters(most)
    if ranks is None:
        return
    assert point.rms_change <= ranks.rms_change
    control = _svd_of_what_layers_put_out(network, inputs, ranks.ranks)
    assert ranks.rms_change < np.sqrt(((outputs(control, inputs) - outputs(network, inputs)) ** 2).sum(1).mean())


def test_ranks_are_the_reduced_rank_regression_of_an_output_layer():
    network, inputs = make_network((4, 12, 9)), make_inputs(80, 4)
    path = pruning_path(network, inputs, fixed=("hidden[0]",))
    found = low_rank(path, 0).with_parameters(num_parameters(network) - (12 * 9 - 3 * (12 + 9)))
    assert found is not None
    assert found.ranks == {1: 3}
    wanted = np.asarray(outputs(network, inputs))
    u, values, vt = np.linalg.svd(wanted - wanted.mean(0), full_matrices=False)
    best = (u[:, :3] * values[:3]) @ vt[:3] + wanted.mean(0)
    np.testing.assert_allclose(outputs(found.network, inputs), best, atol=1e-7)


@pytest.mark.parametrize("has_bias", [True, False])
def test_every_layer_is_refitted_whether_or_not_it_has_biases(has_bias):
    network = Dense(KEY, [6, 10, 9, 8, 2], num_linear=[2, 0, 1], use_bias=has_bias, use_output_bias=False)
    inputs = make_inputs(60, 6)
    path = pruning_path(network, inputs)
    point = low_rank(path, 3).with_parameters(int(0.6 * num_parameters(network)))
    assert point is not None
    assert len(point.ranks) > 1
    assert num_parameters(point.network) == point.num_parameters
    change = np.abs(outputs(point.network, inputs) - outputs(network, inputs))
    np.testing.assert_allclose(change.max(), point.output_change, rtol=1e-6)


def test_a_layer_that_passes_nothing_on_is_left_alone():
    network, inputs = Dense(KEY, [3, 0, 4, 2]), make_inputs(20, 3)
    point = pruning_path(network, inputs).within(1e-9)
    assert point.sizes == {"hidden[1]": 1}
    np.testing.assert_allclose(outputs(point.network, inputs), outputs(network, inputs), atol=1e-9)


def test_a_share_of_parameters_goes_where_it_gains_most():
    # Sizes 2 and 4 of two factors, 5 of the whole; the second matrix is worth nothing beyond its first direction.
    first, second = rank_choices(np.array([4.0, 3.0]), (1, 5)), rank_choices(np.array([9.0, 0.0, 0.0]), (4, 4))
    assert [sizes.tolist() for sizes, _ in (first, second)] == [[5], [8, 16]]
    assert second[1].tolist() == [0.0, 0.0]
    one = (np.array([2, 4, 5]), np.array([6.0, 2.0, 0.0]))
    other = (np.array([2, 4, 8]), np.array([9.0, 8.0, 0.0]))
    assert share_out([one, other], 3) is None
    assert share_out([one, other], 6) == [1, 0]
    assert share_out([one, other], 9) == [2, 1]
    assert share_out([one, other], 100) == [2, 2]


def test_units_silent_on_the_data_go_first_where_they_stay_silent_near_it():
    # relu(x - 3) and relu(x - 1.2) are zero on rows below 1; the second wakes up sooner.
    layers = [DenseLayer(jnp.ones((3, 1)), jnp.array([-1.2, -3.0, 1.0])), DenseLayer(jnp.ones((1, 3)), jnp.zeros(1))]
    network = Dense.from_layers(layers, "relu")
    path = pruning_path(network, jnp.linspace(-1.0, 1.0, 40)[:, None])
    assert path.orders["hidden[0]"].tolist() == [1, 0]
    assert path.after(1).output_change == 0.0


def test_an_exported_module_with_layers_of_linear_units_alone_agrees(planted, tmp_path):
    torch = pytest.importorskip("torch")
    from lossatlas import interop
    from lossatlas.networks import load, save

    inputs = planted.inputs
    point = planted.with_parameters(int(0.5 * num_parameters(planted.start)))
    assert 0 in point.network.widths
    expected = np.asarray(outputs(point.network, inputs))
    module = interop.to_torch(point.network)
    with torch.no_grad():
        np.testing.assert_allclose(module(torch.from_numpy(np.array(inputs))).numpy(), expected, atol=1e-12)
    save(tmp_path / "small.safetensors", point.network)
    np.testing.assert_array_equal(outputs(load(tmp_path / "small.safetensors").network, inputs), expected)


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
