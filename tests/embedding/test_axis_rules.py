"""Every kind of operation between the writers and the readers of a hidden space: does the space stay open?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from lossatlas.embedding import discover_units


ROWS, WIDTH = 4, 3
X = jax.random.normal(jax.random.key(0), (ROWS, 2))
PLACES = jnp.array([0, 2, 1])
SECOND = jnp.array(1)


def _layers(names):
    """Two layers for each name, so that one function holds many operations."""
    params = {}
    for i, name in enumerate(names):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), i), 3)
        shapes = {"in": (WIDTH, 2), "bias": (WIDTH,), "out": (2, WIDTH)}
        params[name] = {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}
    return params


def _function(table):
    """Rows of hidden units for each name, an operation on them, and what reads the units along the last axis."""

    def fn(params, x):
        made = {}
        for name, operation in table.items():
            p = params[name]
            made[name] = operation(jnp.tanh(x @ p["in"].T + p["bias"][None]), p) @ p["out"].T
        return made

    return fn


def _closed(table):
    found = discover_units(_function(table), _layers(table), X).spaces.values()
    closed = {name: [] for name in table}
    for space in found:
        path = (space.writers + space.readers)[0].path
        closed[next(name for name in table if f"'{name}'" in path)].append(space.closed)
    return closed


def _table(h, p):
    """As an embedding has it: rows by their numbers."""
    del h
    return jnp.tanh(p["in"].T[jnp.array([0, 1, 1])])


OPEN = {
    "scatter": lambda h, _: jnp.zeros_like(h).at[PLACES].set(h[:3]),
    "scatter one": lambda h, _: h.at[2].set(jnp.sin(h[0])),
    "scatter ones": lambda h, _: h.at[2].set(1.0),
    "scatter-add": lambda h, _: h.at[PLACES].add(h[:3]),
    "scatter-mul": lambda h, _: h.at[PLACES].mul(h[:3], unique_indices=True),
    "scatter-max": lambda h, _: h.at[PLACES].max(h[:3]),
    "segment sum": lambda h, _: jax.ops.segment_sum(h, jnp.array([0, 0, 1, 1]), 2),
    "batched scatter": lambda h, _: jax.vmap(lambda r, i: r.at[i].set(0.0))(jnp.stack([h, jnp.sin(h)]), PLACES[:2]),
    "cache": lambda h, _: jax.lax.dynamic_update_slice(jnp.zeros((7, h.shape[1])), h, (SECOND, 0)),
    "dynamic_slice": lambda h, _: jax.lax.dynamic_slice_in_dim(h, SECOND, 2, 0),
    "gather": lambda h, _: h[PLACES],
    "batched gather": lambda h, _: jax.vmap(lambda r, i: r[i])(jnp.stack([h, jnp.sin(h)]), PLACES[:2]),
    "table": _table,
    "stack": lambda h, _: jnp.stack([h, jnp.sin(h)]).mean(0),
    "tile": lambda h, _: jnp.tile(h, (2, 1)),
    "concatenate": lambda h, _: jnp.concatenate([h, jnp.sin(h)]),
    "split": lambda h, _: jnp.split(h, 2)[1],
    "pad": lambda h, _: jnp.pad(h, ((1, 2), (0, 0))),
    "cumsum": lambda h, _: jnp.cumsum(h, axis=0),
    "sort": lambda h, _: jnp.sort(h, axis=0),
    "argmax": lambda h, _: h * jnp.argmax(h, axis=0)[None].astype(h.dtype),
    "top_k": lambda h, _: jax.lax.top_k(h, 2, axis=0)[0],
    "fft": lambda h, _: jnp.fft.rfft(h, axis=0).real,
    "cond": lambda h, _: jax.lax.cond(X[0, 0] > SECOND, jnp.sin, jax.nn.relu, h),
    "checkpoint": lambda h, _: jax.checkpoint(jnp.sin)(h),
    "barrier": lambda h, _: jax.lax.optimization_barrier((h, h))[1],
    "mask": lambda h, _: jnp.where(jnp.tril(jnp.ones((ROWS, ROWS), bool)), 0.5, 0.0) @ h,
    "threshold of a mean": lambda h, _: jnp.where(h.mean() > 0.1, jnp.sin(h), h),
    "variance": lambda h, _: (h - h.mean(1, keepdims=True)) / jnp.std(h, axis=1, keepdims=True),
    "erf": lambda h, _: jax.lax.erf(h),
    "logistic": lambda h, _: jax.lax.logistic(h),
    "searchsorted": lambda h, _: h * jnp.searchsorted(jnp.arange(3.0), h).astype(h.dtype),
}


FEW = "scatter-add", "batched scatter", "cache", "batched gather", "stack", "tile", "top_k", "fft", "cond", "checkpoint"


@pytest.mark.parametrize("names", [FEW, pytest.param(tuple(OPEN), marks=pytest.mark.slow)])
def test_what_treats_all_units_alike_leaves_their_space_open(names):
    assert _closed({name: OPEN[name] for name in names}) == {name: [None] for name in names}


CLOSED = {
    "scatter": lambda h, _: h.at[:, 1].set(0.0),
    "scatter-add": lambda h, _: h.at[:, PLACES].add(jnp.sin(h)),
    "dynamic_update_slice": lambda h, _: jax.lax.dynamic_update_slice(h, h[:, :1], (0, SECOND)),
    "dynamic_slice": lambda h, p: jax.lax.dynamic_slice_in_dim(h, SECOND, 1, 1) * jnp.ones_like(p["bias"])[None],
    "gather": lambda h, _: h[:, jnp.argmax(jnp.abs(h[:, :1]), axis=0)] * h,
    "top_k": lambda h, _: h * jax.lax.top_k(h, 1)[0],
    "fft": lambda h, _: jnp.fft.ifft(h, axis=1).real,
    "sort": lambda h, _: jax.lax.cond(X[0, 0] > SECOND, jnp.tanh, lambda a: jnp.sort(a, axis=1), h),
    "cumsum": lambda h, _: jnp.cumsum(h, axis=1),
    "argmax": lambda h, _: h * jnp.argmax(h, axis=1)[:, None].astype(h.dtype),
    "lu": lambda h, _: h @ jnp.linalg.inv(jnp.eye(h.shape[1]) + h.T @ h),
    "a constant array": lambda h, _: h + jnp.asarray(np.array([[0.0, 1.0, 2.0]])),
}


def test_what_tells_units_apart_closes_their_space_and_is_named():
    for name, reasons in _closed(CLOSED).items():
        assert reasons
        assert all(reason is not None for reason in reasons)
        assert name in " ".join(reasons)


def test_an_operation_that_nobody_knows_closes_what_it_touches_and_is_named():
    twist = Primitive("twist")
    twist.def_impl(lambda x: 2.0 * x)
    twist.def_abstract_eval(lambda x: x)
    mlir.register_lowering(twist, mlir.lower_fun(lambda x: 2.0 * x, multiple_results=False))
    ad.deflinear2(twist, lambda cotangent, _: [2.0 * cotangent])
    closed = _closed({"touched": lambda h, _: twist.bind(h), "other": lambda h, _: h})
    assert closed["other"] == [None]
    assert set(closed["touched"]) == {"the operation twist is unknown to discovery"}


def test_the_branch_that_an_example_does_not_take_is_not_said_to_be_tested():
    """A null unit puts out nothing in the branch that is seen, and one in the other."""
    table = {"branch": lambda h, _: jax.lax.cond(X[0, 0] > SECOND, jnp.cos, jnp.sin, h)}
    (space,) = discover_units(_function(table), _layers(table), X).spaces.values()
    assert space.closed is None
    assert space.activation is not None
    assert space.activation.name == "unknown"


def test_units_of_a_branch_that_is_not_taken_are_closed():
    def fn(p, x):
        taken = lambda x: p["a"]["out"] @ jnp.tanh(p["a"]["in"] @ x)  # noqa: E731
        other = lambda x: p["b"]["out"] @ jnp.tanh(p["b"]["in"] @ x)  # noqa: E731
        return jax.lax.cond(x[0] > 1e6, other, taken, x)

    first, second = sorted(discover_units(fn, _layers("ab"), X[0]).spaces.values(), key=lambda space: space.name)
    assert first.closed is None
    assert second.closed == "the example does not reach its units"


@pytest.mark.parametrize("acts", [(jnp.tanh, jnp.sin), (jnp.sin, jnp.tanh)])
def test_units_that_are_written_twice_have_no_activation_of_one_of_the_two(acts):
    """The same weights in two places, as in siamese networks."""

    def fn(p, x):
        first, second = (act(p["in"] @ row + p["bias"]) for act, row in zip(acts, x, strict=True))
        return p["out"] @ first + p["out"] @ second

    (space,) = discover_units(fn, _layers("a")["a"], X[:2]).spaces.values()
    assert (space.closed, space.activation) == (None, None)
