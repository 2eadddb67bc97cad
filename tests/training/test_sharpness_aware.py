"""SAM and ASAM against closed forms and optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import asam, sam, train


RATE = 0.1


@pytest.fixture(scope="module")
def curve():
    x = jnp.linspace(-1, 0.7, 20)[:, None]
    return Landscape(x, jnp.sin(3 * x) + 0.5), Dense(jax.random.key(1), [1, 6, 1])


def quadratic():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4))
    matrix = root @ root.T
    fn = lambda params, batch: 0.5 * jnp.einsum("i,nij,j->n", params, batch, params)  # noqa: E731
    return matrix, jnp.asarray(rng.standard_normal(4)), Landscape.from_function(fn, jnp.asarray(matrix)[None])


@pytest.mark.parametrize("eta", [None, 0.0, 0.3])
def test_one_step_on_a_quadratic_is_the_closed_form(key, eta):
    matrix, w, landscape = quadratic()
    rho = 0.2
    optimizer = sam(optax.sgd(RATE), rho=rho) if eta is None else asam(optax.sgd(RATE), rho=rho, eta=eta)
    run = train(key, w, landscape, optimizer=optimizer, num_steps=1, snapshots=[1])
    scale = np.ones(4) if eta is None else np.abs(np.asarray(w)) + eta
    g = matrix @ np.asarray(w)
    worst = np.asarray(w) + rho * scale**2 * g / np.linalg.norm(scale * g)
    np.testing.assert_allclose(run.parameters[0], np.asarray(w) - RATE * matrix @ worst, rtol=1e-12)


def test_sam_is_that_of_optax(key):
    _, w, landscape = quadratic()
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
    runs = [
        train(key, w, landscape, optimizer=optimizer, num_steps=20, snapshots=[20])
        for optimizer in (sam(optax.adam(0.01), rho=0.2), optax.contrib.sam(optax.adam(0.01), ascent, opaque_mode=True))
    ]
    np.testing.assert_allclose(runs[0].parameters, runs[1].parameters, rtol=1e-12)


@pytest.mark.parametrize(("make", "batch_size"), [(sam, 8), pytest.param(asam, None, marks=pytest.mark.slow)])
def test_without_a_radius_it_is_the_optimiser_itself(key, curve, make, batch_size):
    landscape, network = curve
    options = {"num_steps": 12, "batch_size": batch_size, "snapshots": [12]}
    plain = train(key, network, landscape, optimizer=optax.adam(0.02), **options)
    zero = train(key, network, landscape, optimizer=make(optax.adam(0.02), rho=0.0), **options)
    some = train(key, network, landscape, optimizer=make(optax.adam(0.02), rho=0.1), **options)
    np.testing.assert_array_equal(zero.parameters, plain.parameters)
    assert np.abs(some.parameters - plain.parameters).max() > 1e-4


def test_at_a_critical_point_nothing_moves(key):
    _, w, landscape = quadratic()
    run = train(key, jnp.zeros_like(w), landscape, optimizer=sam(optax.sgd(RATE), rho=0.5), num_steps=3)
    np.testing.assert_array_equal(run.parameters, 0.0)


def test_it_trains_in_a_loop_of_ones_own(curve):
    landscape, network = curve
    optimizer = sam(optax.sgd(RATE), rho=0.05)
    state = optimizer.init(network)
    gradient = eqx.filter_jit(landscape.value_and_gradient)
    gradient_at = lambda net: ravel(net)[1].tangent(gradient(net)[1])  # noqa: E731
    updates, _ = optimizer.update(gradient_at(network), state, network, grad_fn=lambda net, _: gradient_at(net))
    run = train(jax.random.key(0), network, landscape, optimizer=optimizer, num_steps=1, snapshots=[1])
    np.testing.assert_allclose(
        ravel(optax.apply_updates(network, updates))[0], run.parameters[0], rtol=1e-12, atol=1e-14
    )


def test_what_cannot_be_used_is_refused():
    for number in (-0.1, np.inf):
        with pytest.raises(InputError, match="rho must be finite and not negative"):
            sam(optax.sgd(RATE), rho=number)
    with pytest.raises(InputError, match="eta must be"):
        asam(optax.sgd(RATE), eta=-1.0)
    optimizer = sam(optax.sgd(RATE))
    params = jnp.ones(2)
    with pytest.raises(InputError, match="grad_fn"):
        optimizer.update(params, optimizer.init(params), params)
