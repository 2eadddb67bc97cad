"""Matchings of networks from different trainings, and planted ones that must be found."""

import dataclasses
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_match import disguised, filled

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.embedding import (
    Repair,
    discover_units,
    match,
    match_activations,
    match_straight_through,
    rebasin,
    repair,
)
from lossatlas.geometry import Path, barrier, unit_outputs
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense, Residual, Transformer, replace_parameters


KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (60, 6))
LABELS = jax.random.randint(jax.random.key(2), (60,), 0, 3)
LANDSCAPE = Landscape(INPUTS, LABELS, loss="cross_entropy")


def dense(seed, activation="relu", widths=(6, 9, 8, 3)):
    return Dense(jax.random.key(seed), widths, activation=activation, init="he")


def test_a_planted_permutation_is_recovered_to_the_last_bit():
    reference = dense(0, "gelu", (6, 20, 17, 15, 3))
    other = disguised(reference)
    moved, found = match(other, reference, balance=True, landscape=INPUTS)
    assert found.function_change is not None
    assert found.residual == 0
    assert found.function_change < 1e-12
    assert barrier(Path((reference, moved)), LANDSCAPE).barrier == 0


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_planted_signs_and_scales_are_recovered_in_the_balanced_gauge(activation):
    reference = dense(0, activation)
    moved, found = match(disguised(reference), reference, balance=True, landscape=INPUTS)
    assert found.output_difference is not None
    assert found.residual < 1e-13
    assert found.output_difference < 1e-12
    _, back = match(reference, disguised(reference), balance=True)
    for name, order in found.orders.items():
        np.testing.assert_array_equal(order[back.orders[name]], np.arange(len(order)))
        np.testing.assert_array_equal(found.signs[name][back.orders[name]], back.signs[name])
        np.testing.assert_allclose(found.scales[name][back.orders[name]], 1 / back.scales[name], rtol=1e-10)
    del moved


def test_matching_back_is_the_inverse_for_networks_that_have_nothing_in_common():
    _, there = match(dense(0, "tanh"), dense(1, "tanh"))
    _, back = match(dense(1, "tanh"), dense(0, "tanh"))
    for name, order in there.orders.items():
        np.testing.assert_array_equal(order[back.orders[name]], np.arange(len(order)))
        np.testing.assert_array_equal(there.signs[name][back.orders[name]], back.signs[name])


def planted_residual(seed, draws):
    counts = {"ordered": 0, "identity": 0}
    for i in range(seed, seed + draws):
        network = Residual(jax.random.key(i), 20, 30, 5, num_blocks=6, num_hidden=50, activation="gelu")
        other = disguised(network, i)
        for start in counts:
            counts[start] += match(other, network, start=start)[1].is_same  # pyright: ignore[reportArgumentType]
    return counts


def test_the_ordered_start_finds_what_the_published_one_misses_in_residual_networks():
    assert planted_residual(0, 1) == {"ordered": 1, "identity": 0}


@pytest.mark.slow
def test_the_ordered_start_finds_all_of_forty_planted_residual_networks():
    counts = planted_residual(0, 40)
    assert counts["ordered"] == 40
    assert counts["identity"] < 20


@pytest.mark.slow
def test_two_hundred_noisy_copies_are_aligned():
    for seed in range(200):
        reference = dense(seed, "tanh", (6, 20, 17, 15, 3))
        vector, unravel = ravel(reference)
        noise = 1e-3 * np.random.default_rng(seed).normal(size=vector.shape)
        moved, found = match(disguised(unravel(vector + jnp.asarray(noise)), seed), reference)
        assert float(jnp.abs(ravel(moved)[0] - vector).max()) < 0.01
        assert found.distance < 0.01


def test_one_hidden_layer_is_matched_at_the_optimum():
    first, second = (filled(dense(0, "gelu", (3, 6, 2)), key) for key in (1, 2))
    _, found = match(second, first)
    rows = [
        np.concatenate([np.asarray(a) for a in (n.layers[0].weight.T, n.layers[0].bias[None], n.layers[1].weight)])
        for n in (first, second)
    ]
    output_bias = float(first.layers[1].bias @ second.layers[1].bias)
    best = max(np.sum(rows[0] * rows[1][:, list(p)]) for p in itertools.permutations(range(6)))
    np.testing.assert_allclose(found.objectives[-1], best + output_bias, rtol=1e-12)


@pytest.mark.parametrize("start", ["ordered", "identity"])
def test_the_objective_never_falls(start):
    _, found = match(filled(dense(0), 1), filled(dense(0), 2), start=start, balance=True)
    assert len(found.objectives) == found.sweeps + 1
    assert (np.diff(found.objectives) >= 0).all()


@pytest.mark.parametrize("measure", ["product", "correlation"])
def test_units_are_matched_by_what_they_put_out_and_dead_ones_by_their_weights(measure):
    reference = filled(dense(0))
    dead = reference.layers[0].bias.at[jnp.asarray([1, 4, 6])].set(-100.0)
    reference = eqx.tree_at(lambda n: n.layers[0].bias, reference, dead)
    other = disguised(reference, 3)
    outputs = unit_outputs(reference, INPUTS)["hidden[0]"]
    assert (outputs[..., [1, 4, 6]] == 0).all()
    moved, found = match_activations(other, reference, INPUTS, measure=measure)
    assert found.residual < 1e-12
    np.testing.assert_allclose(jax.vmap(moved)(INPUTS), jax.vmap(reference)(INPUTS), atol=1e-10)


def test_signs_and_constants_of_sigmoids_are_seen_in_what_units_put_out():
    reference = filled(dense(0, "sigmoid"))
    for measure in ("product", "correlation"):
        assert match_activations(disguised(reference, 3), reference, INPUTS, measure=measure)[1].residual < 1e-12


@pytest.mark.slow
def test_a_transformer_is_matched_by_activations_with_what_nobody_reads_by_weights():
    reference = filled(Transformer(KEY, 3, 4, 2, num_stream=6, num_heads=2, num_hidden=5, num_blocks=1, head_size=3))
    other = disguised(reference)
    _, found = match_activations(other, reference, jax.random.normal(KEY, (20, 4, 3)), measure="correlation")
    assert found.residual < 1e-12
    assert "queries[0]" in found.orders


def test_straight_through_matching_keeps_the_lowest_loss_half_way():
    first, second = filled(dense(0), 1), filled(dense(0), 2)
    start, by_weights = match(second, first, balance=True)
    moved, found = match_straight_through(second, first, LANDSCAPE, start=by_weights, num_steps=15, learning_rate=0.1)
    half_way = [float(LANDSCAPE(Path((first, net))(0.5))) for net in (start, moved)]
    assert half_way[1] < half_way[0]
    np.testing.assert_allclose(jax.vmap(moved)(INPUTS), jax.vmap(second)(INPUTS), atol=1e-10)
    assert found.method == "straight-through"


def test_repaired_units_have_the_statistics_in_between():
    first, second = dense(0), dense(1)
    path = repair(Path((first, second)), INPUTS)
    t = 0.3

    def statistics(network):
        rows, found = np.asarray(INPUTS), []
        for layer in network.layers[:-1]:
            before = rows @ np.asarray(layer.weight).T + np.asarray(layer.bias)
            found.append((before.mean(0), before.std(0)))
            rows = np.maximum(before, 0)
        return found

    ends, here = [statistics(network) for network in (first, second)], statistics(path(t))
    for layer in range(2):
        for one, two, between in zip(ends[0][layer], ends[1][layer], here[layer], strict=True):
            np.testing.assert_allclose(between, (1 - t) * one + t * two, atol=1e-12)
    plain = statistics(Path((first, second))(t))
    assert np.abs(plain[1][1] - here[1][1]).max() > 0.05
    for at, end in ((0.0, first), (1.0, second)):
        np.testing.assert_allclose(ravel(path(at))[0], ravel(end)[0], atol=1e-12)
    with pytest.raises(InputError, match="a refresh of its own"):
        repair(path, INPUTS)


def test_maps_are_repaired_over_their_positions_and_normalised_ones_left_alone():
    images = jax.random.normal(KEY, (7, 1, 4, 4))
    ends = tuple(Conv(jax.random.key(i), (1, 4, 4), [3], [4, 2], activation="relu") for i in range(2))
    path = repair(Path(ends), images)
    maps = [np.asarray(jax.vmap(n.convs[0].conv)(images)) for n in (*ends, path(0.5))]
    deviations = [m.std((0, 2, 3)) for m in maps]
    np.testing.assert_allclose(deviations[2], 0.5 * (deviations[0] + deviations[1]), atol=1e-12)
    normed = Conv(KEY, (1, 4, 4), [3], [4, 2], norm="batch")
    refresh = repair(Path((normed, normed)), images).refresh
    assert isinstance(refresh, Repair)
    left = dict(refresh.left)
    assert "normalisation follows" in left["channels[0]"]


@pytest.fixture(scope="module")
def trained():
    from lossatlas.training import train

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 6)) * 1.5
    kinds = rng.integers(0, 12, 240)
    inputs = jnp.asarray(centres[kinds] + 0.5 * rng.normal(size=(240, 6)))
    landscape = Landscape(inputs, jnp.asarray(kinds % 3), loss="cross_entropy")
    options = {"optimizer": "adam", "learning_rate": 5e-3, "num_steps": 300, "snapshots": 2}
    runs = [train(KEY, dense(seed, widths=(6, 24, 24, 3)), landscape, **options) for seed in (0, 1)]
    return [run.network for run in runs], landscape


def test_the_lowest_measured_barrier_is_kept(trained):
    (first, second), landscape = trained
    moved, found = rebasin(second, first, landscape, num_points=15)
    assert found.naive.barrier.barrier > 3 * found.best.barrier.barrier
    barriers = [candidate.barrier.barrier for candidate in found.candidates]
    assert barriers == sorted(barriers)
    assert [c.name for c in found.candidates if "weights from activations" in c.name]
    np.testing.assert_array_equal(ravel(found.path.vertices[1])[0], ravel(moved)[0])
    verification: Any = found.path.verification
    assert verification.control_max_loss == pytest.approx(verification.max_loss, rel=1e-9)
    np.testing.assert_allclose(landscape.predictions(moved), landscape.predictions(second), atol=1e-10)
    assert found._figure().data


def test_a_foreign_module_is_matched_by_discovered_units_and_closed_ones_are_told():
    modules = [eqx.nn.MLP(6, 3, 7, 2, key=jax.random.key(i)) for i in range(2)]
    call = lambda network, x: network(x)  # noqa: E731
    first = discover_units(call, modules[0], INPUTS[0]).network
    second = eqx.tree_at(lambda network: network.params, first, modules[1])
    _, found = match_activations(second, first, INPUTS)
    assert len(found.orders) == 2
    assert found.function_change is not None
    assert found.function_change < 1e-10
    spaces = tuple(dataclasses.replace(space, closed="an operation without a rule") for space in first.spaces)
    closed = dataclasses.replace(first, spaces=spaces)
    with pytest.raises(InputError, match="No unit space .* is open.*an operation without a rule"):
        match(closed, closed)


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (dense(0), dense(0, "tanh"), r"hidden\[0\] has the activations relu and tanh"),
        (dense(0), replace_parameters(dense(0), {"layers[0].bias": jnp.full(9, jnp.nan)}), "contains NaN"),
    ],
)
def test_networks_that_cannot_be_matched_are_refused(one, two, said):
    with pytest.raises(InputError, match=said):
        match(one, two)


def test_other_bad_input_is_refused():
    with pytest.raises(InputError, match="at least one of the methods"):
        rebasin(dense(0), dense(1), LANDSCAPE, methods=[])
    with pytest.raises(InputError, match="needs the data"):
        match_activations(dense(0), dense(1), None)
    with pytest.raises(InputError, match="num_steps must be at least 1"):
        match_straight_through(dense(0), dense(1), LANDSCAPE, num_steps=0)
