import jax
import jax.numpy as jnp
import pytest

from lossatlas.numerics import is_affine_in


W, V, X = jnp.ones((3, 2)), jnp.ones((4, 3)), jnp.ones(2)
CASES = {
    "the last layer of a network": (lambda w, v: v @ jnp.tanh(w @ X), [1], True),
    "the first one": (lambda w, v: v @ jnp.tanh(w @ X), [0], False),
    "relu is affine almost everywhere, and not affine": (lambda w, v: v @ jax.nn.relu(w @ X), [0], False),
    "both layers of a linear network": (lambda w, v: v @ (w @ X), [0, 1], False),
    "one layer of it, scaled and summed": (lambda w, v: jnp.sum((2 * (v @ (w @ X)) - 1) / 3), [0], True),
    "what it does not depend on": (lambda w, v: jnp.exp(w), [1], True),  # noqa: ARG005
    "a division by it": (lambda w, v: 1 / v, [1], False),  # noqa: ARG005
    "through vmap and jit": (lambda w, v: jax.jit(jax.vmap(lambda x: v @ jnp.sin(w @ x)))(jnp.ones((5, 2))), [1], True),
}


@pytest.mark.parametrize("name", CASES)
def test_affine_is_proved_from_the_operations(name):
    fn, moving, expected = CASES[name]
    assert is_affine_in(fn, [W, V], moving) is expected
