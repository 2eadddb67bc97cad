import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import Path, verify_path
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


INPUTS = jax.random.normal(jax.random.key(1), (8, 3))
LANDSCAPE = Landscape(INPUTS, jax.random.normal(jax.random.key(2), (8, 2)))
A, B = (Dense(jax.random.key(i), [3, 5, 2]) for i in range(2))
# First the last layer goes to that of B, then the first one.
CORNER = eqx.tree_at(lambda n: n.layers, A, (A.layers[0], B.layers[1]))


def test_segments_are_told_apart_and_the_convex_ones_are_known():
    found = verify_path(Path((A, CORNER, B)), LANDSCAPE)
    first, second = found.segments
    assert first.moved == ("layers[1].weight", "layers[1].bias")[: len(first.moved)]
    assert first.is_convex
    assert not second.is_convex
    losses = [float(LANDSCAPE(network)) for network in (A, CORNER, B)]
    assert first.max_loss == pytest.approx(max(losses[:2]), rel=1e-12)
    np.testing.assert_allclose([found.start_loss, found.end_loss], [losses[0], losses[2]], rtol=1e-12)
    path = Path((A, CORNER, B))
    dense = np.array([float(LANDSCAPE(path(t))) for t in np.linspace(0, 1, 41)])
    np.testing.assert_allclose(found.max_loss, dense.max(), rtol=1e-12)
    climb = max(dense[j] - dense[: j + 1].min() for j in range(41))
    np.testing.assert_allclose(found.max_increase, climb, rtol=1e-9)
    start = LANDSCAPE.predictions(A)
    changes = [float(jnp.abs(LANDSCAPE.predictions(path(t)) - start).max()) for t in np.linspace(0, 1, 41)]
    assert found.function_change is not None
    np.testing.assert_allclose(found.function_change, max(changes), rtol=1e-12)
    line = Path((A, B))
    control = max(float(LANDSCAPE(line(t))) for t in np.linspace(0, 1, 21))
    np.testing.assert_allclose(found.control_max_loss, control, rtol=1e-12)
    assert found.stats["num_evaluations"] == 41 + 21
    assert found.to_xarray()["is_convex"].to_numpy().tolist() == [True, False]


def test_a_loss_of_which_nothing_is_known_is_never_called_convex():
    custom = Landscape(INPUTS, LANDSCAPE.targets, loss=lambda f, y: jnp.sum((f - y) ** 2))
    assert not any(segment.is_convex for segment in verify_path(Path((A, CORNER)), custom).segments)


def test_a_bezier_curve_is_one_segment():
    found = verify_path(Path((A, CORNER, B), kind="bezier"), LANDSCAPE, num_points=5)
    assert len(found.segments) == 1
    assert found.stats["num_evaluations"] == 15 + 5


def test_one_point_is_no_grid():
    with pytest.raises(InputError, match="num_points must be at least 2"):
        verify_path(Path((A, B)), LANDSCAPE, num_points=1)
