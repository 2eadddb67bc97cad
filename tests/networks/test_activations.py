import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.networks import activation, activation_names


POINTS = np.linspace(-4.0, 4.0, 81) + 0.013  # no kinks


@pytest.mark.parametrize("name", activation_names())
def test_stated_properties_hold(name):
    act = activation(name)
    t = jnp.asarray(POINTS)
    plus, minus = np.asarray(act(t)), np.asarray(act(-t))
    assert (act.parity == "odd") == np.allclose(plus + minus, 0, atol=1e-13)
    assert (act.parity == "even") == np.allclose(plus, minus, atol=1e-13)
    total = plus + minus
    assert (act.reflection is not None) == (np.ptp(total) < 1e-12 and act.parity != "even")
    if act.reflection is not None:
        np.testing.assert_allclose(total, act.reflection, atol=1e-13)
    scaled = np.asarray(act(2.5 * t))
    if act.degree is not None:
        np.testing.assert_allclose(scaled, 2.5**act.degree * plus, rtol=1e-12, atol=1e-13)
    else:
        assert not any(np.allclose(scaled, 2.5**p * plus, atol=1e-6) for p in (0, 1, 2, 3))
    slopes = np.asarray(jax.vmap(jax.grad(act))(t))
    assert np.abs(slopes).max() <= act.lipschitz + 1e-12
    for segment in act.segments:
        inside = (segment.lower < POINTS) & (segment.upper > POINTS)
        np.testing.assert_allclose(plus[inside], segment.slope * POINTS[inside] + segment.offset, atol=1e-13)
    # Where no segment is stated the function is curved.
    bends = np.asarray(jax.vmap(jax.grad(jax.grad(act)))(t))
    covered = np.zeros(len(POINTS), bool)
    for segment in act.segments:
        covered |= (segment.lower < POINTS) & (segment.upper > POINTS)
    assert not np.abs(bends[covered]).max(initial=0.0) > 1e-12
    assert (np.abs(bends[~covered]) > 0).all()


@pytest.mark.parametrize("name", activation_names())
def test_kinks_are_where_the_slope_jumps(name):
    act = activation(name)
    grid = np.linspace(-3.0, 3.0, 601)
    slope = np.asarray(jax.vmap(jax.grad(act))(jnp.asarray(grid + 1e-9)))
    before = np.asarray(jax.vmap(jax.grad(act))(jnp.asarray(grid - 1e-9)))
    jumps = grid[np.abs(slope - before) > 1e-3]
    np.testing.assert_allclose(jumps, np.asarray(act.kinks), atol=1e-9)
    assert act.is_smooth == (len(act.kinks) == 0)


def test_properties_of_a_callable_are_found():
    assert activation(jnp.tanh).name == "tanh"
    odd = activation(lambda t: jnp.arctan(t))
    assert (odd.parity, odd.reflection) == ("odd", 0.0)
    even = activation(lambda t: jnp.cos(t))
    assert even.parity == "even"
    shifted = activation(lambda t: 2.0 + jnp.tanh(t))
    assert (shifted.parity, shifted.reflection) == ("none", pytest.approx(4.0))
    neither = activation(lambda t: jnp.exp(t) + t)
    assert (neither.parity, neither.reflection, neither.segments) == ("none", None, ())


def test_bad_input_is_named():
    with pytest.raises(InputError, match="Did you mean 'sigmoid'"):
        activation("sigmoidd")
    with pytest.raises(InputError, match="elementwise"):
        activation(lambda t: jnp.sum(t))
