import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._progress import NoProgress
from lossatlas.geometry import (
    Slice,
    as_directions,
    loss_slice,
    moved_along,
    random_directions,
    refined_slice,
    regenerate_slice,
    slice_cost,
)
from lossatlas.geometry._classes import example_errors
from lossatlas.geometry._slice_values import SliceValues
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense


@pytest.fixture(scope="module")
def classes():
    """A network of 23 parameters, data of two classes, test data, and directions."""
    key = jax.random.key(0)
    rng = np.random.default_rng(0)
    make = lambda n: Landscape(rng.normal(size=(n, 3)), rng.integers(0, 2, n), loss="cross_entropy")  # noqa: E731
    network = Dense(key, [3, 3, 2])
    return network, make(10), make(7), random_directions(key, network)


def plain(fn):
    """A landscape on which a bare array of numbers is the point."""
    return Landscape.from_function(lambda params, batch: fn(params) + batch, jnp.zeros(1))


def along_axes(size):
    return as_directions(jnp.zeros(size), list(np.eye(size)))


def test_a_plane_of_a_quadratic_is_the_quadratic():
    matrix = np.array([[2.0, 0.5], [0.5, -1.0]])
    landscape = plain(lambda p: 0.5 * p @ jnp.asarray(matrix) @ p)
    found = loss_slice(
        jnp.zeros(2), landscape, along_axes(2), num=(5, 4), gradient_norm=True, extents=[(-1, 1), (0, 2)]
    )
    points = np.stack(np.meshgrid(*found.coordinates, indexing="ij"), axis=-1)
    wanted = 0.5 * np.einsum("abi,ij,abj->ab", points, matrix, points)
    np.testing.assert_allclose(found.values["loss"], wanted, atol=1e-14)
    np.testing.assert_allclose(found.values["gradient_norm"], np.linalg.norm(points @ matrix, axis=-1), atol=1e-14)
    assert found.lowest == ((-0.5, 2.0), -2.25)
    assert found.stats["evaluations"] == 5 * 4 * 3


def by_numpy(network, landscape):
    """Mean cross-entropy and accuracy of a tanh network, written anew."""
    first, last = network.layers
    x, labels = np.asarray(landscape.inputs), np.asarray(landscape.targets)
    hidden = np.tanh(x @ np.asarray(first.weight).T + np.asarray(first.bias))
    scores = hidden @ np.asarray(last.weight).T + np.asarray(last.bias)
    losses = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(x)), labels]
    return losses.mean(), (scores.argmax(axis=1) == labels).mean()


def test_every_quantity_is_that_of_the_moved_network(classes):
    network, landscape, test, directions = classes
    found = loss_slice(network, landscape, directions, num=3, test=test, gradient_norm=True)
    assert list(found.values) == ["loss", "gradient_norm", "accuracy", "test_loss", "test_accuracy"]
    gradient = eqx.filter_jit(landscape.gradient)
    for i, a in enumerate(found.coordinates[0].tolist()):
        there = moved_along(network, directions, [a, -1.0])
        here = {name: values[i, 0] for name, values in found.values.items()}
        np.testing.assert_allclose((here["loss"], here["accuracy"]), by_numpy(there, landscape), rtol=1e-12)
        np.testing.assert_allclose((here["test_loss"], here["test_accuracy"]), by_numpy(there, test), rtol=1e-12)
        np.testing.assert_allclose(here["gradient_norm"], np.linalg.norm(gradient(there)), rtol=1e-12)


def test_batches_and_loops_give_the_same_numbers(classes):
    network, landscape, test, directions = classes
    options = {"num": 3, "test": test, "gradient_norm": True}
    whole = loss_slice(network, landscape, directions, **options)
    streamed = loss_slice(
        network, landscape.with_batch_size(4), directions, **options | {"test": test.with_batch_size(5)}
    )
    for name, values in whole.values.items():
        np.testing.assert_allclose(streamed.values[name], values, rtol=1e-12, err_msg=name)
    for loop in ("host", "vmap"):
        other = loss_slice(network, landscape, directions, num=3, accuracy=False, loop=loop)
        np.testing.assert_allclose(other.values["loss"], whole.values["loss"], rtol=1e-12)


def test_parts_of_the_data_that_python_drives_give_the_same_numbers(classes):
    network, landscape, test, directions = classes
    options: dict[str, Any] = {"num": 3, "test": test, "gradient_norm": True}
    whole = loss_slice(network, landscape, directions, **options)
    driven = loss_slice(network, landscape.with_batch_size(4), directions, **options, loop="host")  # 4, 4 and 2
    for name, values in whole.values.items():
        np.testing.assert_allclose(driven.values[name], values, rtol=1e-12, err_msg=name)


def test_a_value_does_not_depend_on_the_points_beside_it(classes):
    network, landscape, _, directions = classes
    at = SliceValues(network, landscape, directions)
    points = np.random.default_rng(1).normal(size=(5, 2))
    together = at(points)
    at.chunk = 2  # the last chunk is filled up
    assert np.array_equal(at(points), together)
    assert np.array_equal(at(points[3:4]), together[3:4])


def test_the_network_is_never_modified_and_every_call_gives_the_same_bytes(classes):
    # loss-landscapes 3.0.6 moves the caller's network: the same line starts at .27, then 6.4, then 7.1.
    network, landscape, _, directions = classes
    before = jax.tree.map(np.array, eqx.filter(network, eqx.is_array))
    first, second = (loss_slice(network, landscape, directions, num=3) for _ in range(2))
    assert eqx.tree_equal(before, jax.tree.map(np.array, eqx.filter(network, eqx.is_array)))
    for name, values in first.values.items():
        assert np.array_equal(values, second.values[name])
    assert first.values["loss"][1, 1] == pytest.approx(float(landscape(network)), rel=1e-14)


def test_cells_that_are_not_finite_are_masked_and_left_as_they_are():
    # landscaper 1.3.1 puts the mean in their place and adds noise to the highest cells.
    landscape = plain(lambda p: -jnp.log(0.7 - jnp.sum(p**2)))
    found = loss_slice(jnp.zeros(2), landscape, along_axes(2), num=11)
    radius = np.add.outer(found.coordinates[0] ** 2, found.coordinates[1] ** 2)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found.values["loss"], -np.log(0.7 - radius), atol=1e-12)
    assert found.num_masked == (radius > 0.7).sum() > 0
    assert found.lowest[1] == pytest.approx(-np.log(0.7))
    everywhere = loss_slice(jnp.zeros(2), plain(lambda p: jnp.sum(p) * jnp.nan), along_axes(2), num=2)
    with pytest.raises(InputError, match="Every cell is masked"):
        _ = everywhere.lowest


def test_a_slice_from_a_file_makes_the_same_numbers_again(classes, tmp_path):
    network, landscape, test, directions = classes
    found = loss_slice(network, landscape.with_batch_size(4), directions, num=(3, 2), test=test)
    path = tmp_path / "slice.nc"
    found.to_xarray().to_netcdf(path, engine="h5netcdf")
    stored = Slice.from_xarray(xr.load_dataset(path, engine="h5netcdf"))
    assert stored.directions.settings["seed"] == np.asarray(jax.random.key_data(jax.random.key(0))).tolist()
    other = ravel(network)[1](jnp.zeros(20))  # the same structure, other numbers
    again = regenerate_slice(stored, other, landscape, test=test)
    for name, values in found.values.items():
        assert np.array_equal(stored.values[name], values)
        assert np.array_equal(again.values[name], values)
    assert again.settings == found.settings
    with pytest.raises(InputError, match="with test data; give the same"):
        regenerate_slice(stored, network, landscape)
    with pytest.raises(InputError, match="is no slice"):
        Slice.from_xarray(xr.Dataset())


def test_what_does_not_move_must_be_the_same_to_regenerate(classes, key):
    network, landscape, _, _ = classes
    directions = random_directions(key, network, 1, only="layers[1].*")
    found = loss_slice(network, landscape, directions, num=2)
    with pytest.raises(InputError, match="What does not move"):
        regenerate_slice(found, Dense(jax.random.fold_in(key, 5), [3, 3, 2]), landscape)


def test_an_interrupted_slice_goes_on_where_it_stopped(classes, tmp_path, monkeypatch):
    network, landscape, _, directions = classes
    calls = []
    original = SliceValues.__call__

    def interrupted(self, points, *report):
        calls.append(len(points))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, points, *report)

    options = {"num": 9, "folder": tmp_path, "loop": "host"}  # parts of 64 points
    monkeypatch.setattr(SliceValues, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loss_slice(network, landscape, directions, **options)
    found = loss_slice(network, landscape, directions, **options)
    assert calls == [64, 17, 17]
    assert np.array_equal(
        found.values["loss"], loss_slice(network, landscape, directions, num=9, loop="host").values["loss"]
    )
    # Another slice in the same folder does not read these.
    twice = random_directions(jax.random.key(7), network)
    other = loss_slice(network, landscape, twice, **options)
    assert not np.array_equal(other.values["loss"], found.values["loss"])
    assert len(list(pathlib.Path(tmp_path).glob("*.npz"))) == 4


def test_the_cost_is_said_beforehand_and_is_what_it_comes_to(classes):
    network, landscape, test, directions = classes
    said = slice_cost(network, landscape, directions, num=3, test=test, gradient_norm=True)
    assert said.points == 9
    assert said.evaluations == pytest.approx(9 * (3 + 0.7))
    assert said.seconds > 0
    assert said.words().startswith("9 points, 33 evaluations of the loss, ")
    assert said.words(90).startswith("90 points, 333 evaluations")
    assert said.bytes >= directions.vectors.nbytes + 9 * 8 * 5
    found = loss_slice(network, landscape, directions, num=3, test=test, gradient_norm=True, progress=NoProgress())
    assert found.stats["evaluations"] == said.evaluations


def test_the_loop_is_chosen_by_the_network_and_the_chunks_by_its_size(key):
    image = Conv(key, (1, 4, 4), (2,), [2])
    batch = Landscape(jnp.ones((3, 1, 4, 4)), jnp.zeros((3, 2)))
    at = SliceValues(image, batch, random_directions(key, image))
    assert (at.loop, at.chunk) == ("host", 1)
    small = Dense(key, [1, 2, 1])
    at = SliceValues(small, Landscape(jnp.ones((3, 1)), jnp.zeros((3, 1))), random_directions(key, small))
    assert (at.loop, at.chunk) == ("map", 512)
    assert at.names == ("loss",)
    side = SliceValues(image, batch, random_directions(key, image), loop="vmap")
    assert side.chunk == 512


def test_accuracy_of_logistic_losses_and_of_rows_of_probabilities():
    x, labels = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 2
    scores = x @ np.array([[1.0, -2.0], [0.5, 1.0]]).T
    for kind, targets, predictions, right in [
        ("rows", np.eye(2)[labels], scores, scores.argmax(axis=1) == labels),
        ("labels", labels, scores, scores.argmax(axis=1) == labels),
        ("signs", labels[:, None].astype(float), scores[:, :1], (scores[:, 0] > 0) == labels),
    ]:
        wrong = example_errors(kind, jnp.asarray(predictions), jnp.asarray(targets))
        assert np.array_equal(wrong, 1.0 - right)
        broken = jnp.asarray(predictions).at[0].set(jnp.nan)
        assert example_errors(kind, broken, jnp.asarray(targets))[0] == 1  # whatever argmax makes of it


def test_slices_that_cannot_be_are_refused_before_any_work(classes, key):
    network, landscape, _, directions = classes
    for options, words in [
        ({"num": 1}, "at least 2 along each"),
        ({"num": (3, 3, 3)}, "each of the 2 directions"),
        ({"extents": [(1, -1), (0, 1)]}, "increasing numbers"),
        ({"extents": [(0, 1)]}, "2 pairs"),
    ]:
        with pytest.raises(InputError, match=words):
            loss_slice(network, landscape, directions, **options)
    with pytest.raises(InputError, match="accuracy needs"):
        loss_slice(jnp.zeros(2), plain(jnp.sum), along_axes(2), accuracy=True)
    with pytest.raises(InputError, match="Make the directions from this network"):
        loss_slice(Dense(key, [3, 4, 2]), landscape, directions)
    refined = refined_slice(key, jnp.zeros(1), plain(jnp.sum), along_axes(1)).on_grid(3)
    with pytest.raises(InputError, match="was interpolated"):
        regenerate_slice(refined, jnp.zeros(1), plain(jnp.sum))
