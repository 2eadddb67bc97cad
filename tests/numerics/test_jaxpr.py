import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.networks import Conv, Recurrent
from lossatlas.numerics import evaluate, flat_jaxpr


NESTED = {"jit", "pjit", "closed_call", "checkpoint", "custom_jvp_call", "custom_vjp_call", "scan"}


def _names(closed):
    return [eqn.primitive.name for eqn in closed.jaxpr.eqns]


def test_calls_are_written_out_and_the_function_stays():
    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (2 * g,))

    def fn(x, y):
        inner = jax.jit(lambda a: jax.nn.relu(jax.checkpoint(jnp.sin)(a)))
        return {"sum": inner(x["a"]) + inner(y), "product": doubled(inner(x["a"])) * 3}

    x, y = {"a": jnp.linspace(-1, 1, 4)}, jnp.ones(4)
    closed = flat_jaxpr(fn, x, y)
    assert not NESTED & set(_names(closed))
    outputs, _ = evaluate(closed, [x["a"], y])
    expected = jax.tree.leaves(fn(x, y))
    for got, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-15)


def test_loops_are_unrolled_up_to_a_length():
    network = Recurrent(jax.random.key(0), 3, 4, 2)
    rows = jax.random.normal(jax.random.key(1), (5, 3))
    assert "scan" in _names(flat_jaxpr(network, rows, unroll=4))
    closed = flat_jaxpr(network, rows, unroll=5)
    assert _names(closed).count("tanh") == 5
    np.testing.assert_allclose(evaluate(closed, [rows])[0][0], network(rows), atol=1e-14)

    def backwards(xs):
        return jax.lax.scan(lambda carry, x: (carry + x, carry * x), jnp.zeros(()), xs, reverse=True)

    xs = jnp.arange(4.0)
    (last, made), wanted = evaluate(flat_jaxpr(backwards, xs, unroll=4), [xs])[0], backwards(xs)
    np.testing.assert_allclose(last, wanted[0])
    np.testing.assert_allclose(made, wanted[1])


def test_values_within_are_seen_and_nudged():
    network = Conv(jax.random.key(0), (1, 4, 4), [2], [3])
    image = jax.random.normal(jax.random.key(1), (1, 4, 4))
    closed = flat_jaxpr(network, image)
    (tanh,) = [eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "tanh"]
    tap = tanh.outvars[0]
    outputs, (maps,) = evaluate(closed, [image], [tap])
    np.testing.assert_allclose(network.layers[0](maps.reshape(-1)), outputs[0], atol=1e-14)

    def moved(nudge):
        return evaluate(closed, [image], [tap], [nudge])[0][0]

    slopes = jax.jit(jax.jacrev(moved))(jnp.zeros(maps.shape))
    np.testing.assert_allclose(slopes.reshape(3, -1), network.layers[0].weight, atol=1e-14)


def test_values_are_exchanged_before_they_are_used():
    closed = flat_jaxpr(lambda x: jnp.tanh(x) * 2 + x, jnp.ones(()))
    tanh = next(eqn.outvars[0] for eqn in closed.jaxpr.eqns if eqn.primitive.name == "tanh")
    doubled = {tanh: lambda value, seen: value + seen[closed.jaxpr.invars[0]]}
    (output,), (value,) = evaluate(closed, [jnp.asarray(0.5)], [tanh], changes=doubled)
    assert float(value) == pytest.approx(np.tanh(0.5) + 0.5)
    assert float(output) == pytest.approx(2 * (np.tanh(0.5) + 0.5) + 0.5)
