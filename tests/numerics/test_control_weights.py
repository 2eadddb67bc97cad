import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.numerics import bezier_speed, control_weights


@pytest.mark.parametrize("kind", ["bezier", "polygon"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_weights_sum_to_one_and_the_ends_are_exact(kind, count):
    rows = np.stack([control_weights(kind, count, jnp.asarray(t)) for t in (0.0, 0.1, 0.37, 0.5, 0.99, 1.0)])
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-15)
    assert (rows >= 0).all()
    np.testing.assert_array_equal(rows[0], np.eye(count)[0])
    np.testing.assert_array_equal(rows[-1], np.eye(count)[-1])


def test_one_bend_is_the_published_curve():
    t = 0.3
    np.testing.assert_allclose(control_weights("bezier", 3, jnp.asarray(t)), [(1 - t) ** 2, 2 * t * (1 - t), t**2])
    np.testing.assert_allclose(control_weights("polygon", 3, jnp.asarray(t)), [1 - 2 * t, 2 * t, 0], atol=1e-15)


def test_the_speed_of_a_bezier_curve_is_the_derivative():
    controls = np.random.default_rng(0).normal(size=(4, 3))
    steps = np.diff(controls, axis=0)
    t, h = np.array([0.0, 0.2, 0.9]), 1e-6
    at = lambda s: np.asarray(control_weights("bezier", 4, jnp.asarray(s))) @ controls  # noqa: E731
    slope = [np.linalg.norm(at(s + h) - at(s - h)) / (2 * h) for s in t]
    np.testing.assert_allclose(bezier_speed(steps @ steps.T, t), slope, rtol=1e-6)
