"""Planes against loss-landscapes and landscaper."""

import jax
import numpy as np
import pytest

import _problems
from lossatlas._parameters import ravel
from lossatlas.geometry import loss_slice
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv, Dense


pytestmark = pytest.mark.slow  # a process of the peer, with its own PyTorch or JAX


STEPS = 5


@pytest.fixture(params=["mlp", "cnn"])
def plane(request, tmp_path):
    """A network, its data, a plane, and what `ask` hands over."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    if request.param == "mlp":
        network, x = Dense(key, [6, 7, 3], activation="tanh"), rng.normal(size=(20, 6))
    else:
        network = Conv(key, (1, 8, 8), (16, 32), [10], padding="VALID", activation="tanh")
        x = rng.normal(size=(6, 1, 8, 8))
    landscape = Landscape(x, rng.integers(0, 3, len(x)), loss="cross_entropy")
    directions = _problems.plane_of(network)
    np.save(tmp_path / "directions.npy", directions.vectors)
    path = _problems.Problem(request.param, "tanh", network, landscape).write(tmp_path)
    options = {"path": str(path), "directions": str(tmp_path / "directions.npy"), "steps": STEPS}
    return network, landscape, directions, options | {"out": str(tmp_path / "plane.npy")}


def test_a_plane_agrees_with_loss_landscapes_which_moves_the_network(peer, plane):
    running = peer("loss-landscapes", "_peer_loss_landscapes.py")
    network, landscape, directions, options = plane
    moved = running.ask("plane", **options)["moved"]
    theirs = np.load(options["out"])
    before = np.asarray(ravel(network)[0])
    ours = loss_slice(network, landscape, directions, num=STEPS + 1, extents=[(-1, 1)] * 2).values["loss"]
    # It walks to and fro: even rows stand at 1, 2, ... steps, odd rows one step short of that.
    wanted = [ours[i, 1:] if i % 2 == 0 else ours[i, :-1] for i in range(STEPS)]
    np.testing.assert_allclose(theirs, wanted, rtol=1e-12)
    assert moved > np.linalg.norm(before)  # the model that it was given is somewhere else now
    np.testing.assert_array_equal(np.asarray(ravel(network)[0]), before)


def test_a_plane_agrees_with_landscaper_but_for_the_noise_on_its_maximum(peer, plane):
    running = peer("landscaper", "_peer_landscaper.py")
    network, landscape, directions, options = plane
    planes = []
    for _ in range(3):
        running.ask("plane", **options)
        planes.append(np.load(options["out"]))
    theirs = planes[0]
    reach = 1 - 1 / STEPS  # its steps are 2 / STEPS, though its coordinates end at 1
    ours = loss_slice(network, landscape, directions, num=STEPS, extents=[(-reach, reach)] * 2).values["loss"]
    top = ours == ours.max()
    # Directions are scaled by square roots in single precision.
    np.testing.assert_allclose(ours[~top], theirs[~top], rtol=1e-6)
    assert np.ptp(planes, axis=0)[top].max() > 0  # another noise each time
    assert np.ptp(planes, axis=0)[~top].max() == 0
    corner = [reach * np.sign(index - STEPS // 2) for index in np.argwhere(top)[0]]
    assert set(np.abs(corner)) == {reach}
    vector, unravel = ravel(network)
    there = unravel(vector + np.asarray(corner) @ np.asarray(directions.vectors))
    np.testing.assert_allclose(ours[top], float(landscape(there)), rtol=1e-12)
