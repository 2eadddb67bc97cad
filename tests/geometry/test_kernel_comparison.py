from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lossatlas._errors import InputError
from lossatlas.geometry import Kernel, compare_kernels, function_change, ntk
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


RNG = np.random.default_rng(0)
FIRST = Dense(jax.random.key(1), [3, 5, 2], activation="tanh")
SECOND = Dense(jax.random.key(2), [3, 5, 2], activation="tanh")
DATA = Landscape(RNG.normal(size=(8, 3)), RNG.normal(size=(8, 2)))


def scaled(network, factor):
    """The last layer, and so the outputs, times a factor."""
    first, last = network.layers
    return Dense.from_layers([first, type(last)(factor * last.weight, factor * last.bias)], "tanh")


def jacobian(network):
    """All derivatives by JAX alone: (examples, outputs, parameters)."""
    vector, unravel = ravel_pytree(network)
    return np.asarray(jax.jacrev(lambda v: jax.vmap(unravel(v))(DATA.inputs))(vector)), vector


def made(matrix, layers=None, convention: Any = "trace", num_outputs=2):
    return Kernel(
        matrix=matrix,
        layers=layers or {},
        num_outputs=num_outputs,
        convention=convention,
        method="by hand",
        stats={},
        settings={},
    )


def by_hand(one, two):
    cosine = np.sum(one * two) / np.sqrt(np.sum(one**2) * np.sum(two**2))
    return 1 - cosine, np.sqrt(np.sum(two**2) / np.sum(one**2)), np.sqrt(np.sum((two - one) ** 2) / np.sum(one**2))


def test_every_part_is_that_of_the_jacobians_and_its_errors_those_of_the_examples_drawn():
    compared = compare_kernels(*(ntk(net, DATA, per_layer=True) for net in (FIRST, SECOND)), num_resamples=50)
    jacobians = [jacobian(net)[0] for net in (FIRST, SECOND)]
    parts = {"whole": slice(None), "layers[0]": slice(0, 20), "layers[1]": slice(20, None)}
    pairs = {n: [np.einsum("icp,jcp->ij", j[..., at], j[..., at]) / 2 for j in jacobians] for n, at in parts.items()}
    centring = np.eye(8) - 1 / 8
    pairs["whole, centred"] = [centring @ matrix @ centring for matrix in pairs["whole"]]
    assert set(compared.parts) == set(pairs)
    drawn = np.asarray(jax.random.randint(jax.random.key(0), (50, 8), 0, 8))
    for name, pair in pairs.items():
        part = compared.parts[name]
        np.testing.assert_allclose((part.distance, part.scale, part.change), by_hand(*pair), rtol=1e-9)
        if name != "whole, centred":
            found = np.array([by_hand(*(matrix[np.ix_(rows, rows)] for matrix in pair)) for rows in drawn])
            wanted = dict(zip(("distance", "scale", "change"), found.std(axis=0, ddof=1), strict=True))
            assert compared.errors[name] == pytest.approx(wanted)
    table = compared.to_xarray()
    assert list(table["part"].to_numpy()) == list(compared.parts)
    np.testing.assert_allclose(np.cos(table["angle"]), 1 - table["distance"])
    assert compare_kernels(compared.first, compared.second, num_resamples=0).errors == {}


def test_rows_of_a_full_kernel_are_drawn_example_by_example():
    halves = [RNG.normal(size=(12, 5)) for _ in range(2)]
    one, two = (half @ half.T for half in halves)
    compared = compare_kernels(made(one, convention="full"), made(two, convention="full"), num_resamples=30)
    drawn = 2 * np.asarray(jax.random.randint(jax.random.key(0), (30, 6), 0, 6))
    drawn = np.stack([drawn, drawn + 1], axis=-1).reshape(30, 12)
    found = [by_hand(one[np.ix_(rows, rows)], two[np.ix_(rows, rows)])[0] for rows in drawn]
    assert compared.errors["whole"]["distance"] == pytest.approx(np.std(found, ddof=1))
    assert compared.settings["num_examples"] == 6


def test_a_scaled_last_layer_keeps_its_own_kernel_and_scales_the_others():
    # f = A h(x) + b becomes c f: the kernel of (A, b) is h.h + 1 as before, that of what is below is c^2 times as much.
    c, other = 3.0, ntk(scaled(FIRST, 3.0), DATA, per_layer=True)
    first = ntk(FIRST, DATA, per_layer=True)
    compared = compare_kernels(first, other)
    below, last = compared.layers["layers[0]"], compared.layers["layers[1]"]
    assert (last.distance, last.change) == pytest.approx((0, 0), abs=1e-12)
    assert (below.distance, below.scale, below.change) == pytest.approx((0, c**2, c**2 - 1), abs=1e-12)
    change = (c**2 - 1) * np.linalg.norm(first.layers["layers[0]"]) / np.linalg.norm(first.matrix)
    assert compared.whole.change == pytest.approx(change)
    assert compared.errors["layers[1]"]["change"] == pytest.approx(0, abs=1e-12)
    # The outputs are linear in the last layer, so that the linearisation misses nothing.
    moved = function_change(FIRST, scaled(FIRST, c), DATA)
    assert (moved.outputs, moved.linear_error) == pytest.approx((c - 1, 0), abs=1e-12)
    assert moved.disagreement == 0


def test_layers_pair_by_name_and_one_that_moves_nothing_has_no_distance():
    eye, zero = np.eye(4), np.zeros((4, 4))
    first = made(3 * eye, {"a": eye, "b": 2 * eye})
    assert compare_kernels(first, made(eye, {"a": eye, "c": zero})).layers == {}
    found = compare_kernels(first, made(eye, {"a": zero, "b": eye}))
    assert np.isnan(found.layers["a"].distance) and np.isnan(found.errors["a"]["distance"])
    assert (found.layers["b"].distance, found.layers["b"].change) == (0, 0.5)
    constant = compare_kernels(made(np.ones((4, 4))), made(2 * np.ones((4, 4))))
    assert np.isnan(constant.centred.distance) and constant.whole.scale == 2


def test_other_outputs_and_examples_are_refused():
    eye = np.eye(4)
    for pair, said in (
        ((made(eye), made(eye, num_outputs=4)), "2 and 4 outputs"),
        ((made(eye), made(np.eye(3))), "same examples in both"),
        ((made(eye), made(eye, convention="full")), "conventions 'trace' and 'full'"),
        ((made(eye[:2]), made(eye[:2])), "examples with themselves"),
        ((made(eye), made(0 * eye)), "kernel of zeros"),
    ):
        with pytest.raises(InputError, match=said):
            compare_kernels(*pair)
    with pytest.raises(InputError, match="at least 2, or 0"):
        compare_kernels(made(eye), made(eye), num_resamples=1)
    with pytest.raises(InputError, match="at least 2"):
        function_change(FIRST, SECOND, DATA, num_resamples=1)


def test_the_function_moves_as_the_jacobian_says_and_what_it_misses_is_of_second_order():
    derivative, theta = jacobian(FIRST)
    moved = np.asarray(ravel_pytree(SECOND)[0])
    before, after = (np.asarray(jax.vmap(net)(DATA.inputs)) for net in (FIRST, SECOND))
    found = function_change(FIRST, SECOND, DATA.with_batch_size(3))
    missed = after - before - derivative @ (moved - theta)
    assert found.outputs == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before))
    assert found.linear_error == pytest.approx(np.linalg.norm(missed) / np.linalg.norm(after - before))
    assert found.parameters == pytest.approx(np.linalg.norm(moved - theta) / np.linalg.norm(theta))
    assert found.disagreement == np.mean(before.argmax(1) != after.argmax(1)) > 0
    drawn = np.asarray(jax.random.randint(jax.random.key(0), (200, 8), 0, 8))
    ratios = [np.linalg.norm(missed[rows]) / np.linalg.norm((after - before)[rows]) for rows in drawn]
    assert found.errors["linear_error"] == pytest.approx(np.std(ratios, ddof=1))
    unravel = ravel_pytree(FIRST)[1]
    near = [unravel(theta + step * (moved - theta)) for step in (1e-3, 5e-4)]
    errors: Any = [function_change(FIRST, net, DATA.with_batch_size(3)).linear_error for net in near]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.01)


def test_networks_of_other_code_or_shape_have_no_linearisation_between_them():
    same = function_change(FIRST, FIRST, DATA)
    assert (same.outputs, same.disagreement, same.parameters) == (0, 0, 0)
    assert same.linear_error is not None and np.isnan(same.linear_error)
    bent = Dense.from_layers(FIRST.layers, "relu")  # the same arrays, another function
    for other in (bent, Dense(jax.random.key(0), [3, 7, 2])):
        found = function_change(FIRST, other, DATA)
        assert found.outputs > 0
        assert (found.parameters, found.linear_error) == (None, None)
    with pytest.raises(InputError, match="2 and 4 outputs"):
        function_change(FIRST, Dense(jax.random.key(0), [3, 5, 4]), DATA)


def test_any_function_has_a_change():
    point = Landscape.from_function(
        lambda params, batch: jnp.sum((jnp.sin(batch[0] @ params["w"]) - batch[1]) ** 2, axis=1),
        (DATA.inputs, DATA.targets),
        predict=lambda params, batch: jnp.sin(batch[0] @ params["w"]),
    )
    weights = [RNG.normal(size=(3, 2)) for _ in range(2)]
    found = function_change({"w": jnp.asarray(weights[0])}, {"w": jnp.asarray(weights[1])}, point)
    inner, step = DATA.inputs @ weights[0], DATA.inputs @ (weights[1] - weights[0])
    change = np.sin(DATA.inputs @ weights[1]) - np.sin(inner)
    wanted = np.linalg.norm(change - np.cos(inner) * step) / np.linalg.norm(change)
    assert found.linear_error == pytest.approx(wanted)
