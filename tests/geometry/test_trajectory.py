import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import training
from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel
from lossatlas.geometry import as_directions, project_trajectory, random_directions, trajectory_directions
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


def test_projection_is_that_of_least_squares_with_what_is_off_the_plane():
    rng = np.random.default_rng(0)
    point, rows = jnp.asarray(rng.normal(size=5)), rng.normal(size=(6, 5))
    vectors = rng.normal(size=(2, 5))  # not orthogonal
    found = project_trajectory(point, as_directions(point, list(vectors)), rows)
    step = rows - np.asarray(point)
    wanted = step @ np.linalg.pinv(vectors)
    np.testing.assert_allclose(found.coordinates, wanted)
    np.testing.assert_allclose(found.off_plane, np.linalg.norm(step - wanted @ vectors, axis=1))
    np.testing.assert_allclose(found.distance, np.linalg.norm(step, axis=1))
    np.testing.assert_allclose(found.captured, np.sum((wanted @ vectors) ** 2) / np.sum(step**2))
    np.testing.assert_allclose(found.distance**2 - found.off_plane**2, np.sum((wanted @ vectors) ** 2, axis=1))


def test_what_does_not_move_along_the_directions_is_off_the_plane(key):
    network = Dense(key, [2, 2, 1])
    vector = np.asarray(ravel(network)[0])
    rows = vector + np.eye(len(vector))  # a step along every parameter
    directions = random_directions(key, network, 1, only="layers[1].weight")
    found = project_trajectory(network, directions, rows)
    sizes = named_parameters(network)
    moving = np.concatenate([np.full(array.size, name == "layers[1].weight") for name, array in sizes.items()])
    np.testing.assert_allclose(found.coordinates[~moving], 0, atol=1e-15)
    np.testing.assert_allclose(found.off_plane[~moving], 1)
    assert (found.off_plane[moving] < 1).all()
    inside = directions.vectors[0] / np.linalg.norm(directions.vectors[0])
    np.testing.assert_allclose(found.captured, np.sum(inside**2) / len(rows))


def test_a_training_run_ends_at_the_network_and_brings_its_losses(key):
    x = np.linspace(-1, 1, 8)[:, None]
    landscape = Landscape(x, np.sin(3 * x))
    run = training.train(key, Dense(key, [1, 3, 1]), landscape, optimizer="adam", learning_rate=0.05, num_steps=20)
    plane = trajectory_directions(run.network, run)
    found = project_trajectory(run.network, plane, run)
    np.testing.assert_allclose(found.coordinates[-1], 0, atol=1e-12)
    assert np.array_equal(found.steps, run.steps)
    assert np.array_equal(found.loss, run.loss)
    assert found.captured > 0.9
    assert found.clock == "step"
    assert found.to_xarray().sizes["snapshot"] == len(run.steps)
    with pytest.raises(InputError, match="a row of 10 parameters"):
        project_trajectory(run.network, plane, run.parameters[:, 1:])
