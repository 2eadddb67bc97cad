"""Langevin chains against closed forms, themselves, and what users get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._status import Status
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import chain_health, sample


CURVATURES = jnp.asarray([0.5, 2.0, 8.0])


@pytest.fixture(scope="module")
def bowl():
    """A point and a landscape: half the sum of curvatures times squares, at the minimum."""
    fn = lambda params, batch: 0.5 * jnp.sum(batch * params[None] ** 2, axis=1)  # noqa: E731
    return jnp.zeros(3), Landscape.from_function(fn, CURVATURES[None])


def variances(step, beta, gamma):
    """Of the stationary law of SGLD in each coordinate."""
    h = beta * np.asarray(CURVATURES) + gamma
    return 1 / (h * (1 - step * h / 4))


@pytest.mark.parametrize(("method", "step"), [("sgld", 0.02), ("mala", 0.02)])
def test_chains_have_the_stationary_law_of_a_quadratic(bowl, method, step):
    beta, gamma = 10.0, 5.0
    chains = sample(
        jax.random.key(0), *bowl, inverse_temperature=beta, localisation=gamma, step_size=step, num_steps=8000,
        num_chains=2, burn_in=200, method=method,
    )  # fmt: skip
    found = chains.health(burn_in=200)
    exact = 0.5 * np.asarray(CURVATURES) @ variances(0.0 if method == "mala" else step, beta, gamma)
    assert abs(found.mean - exact) < 4 * found.standard_error
    assert found.standard_error < 0.03 * exact
    assert found.is_mixed
    moved = chains.moved.mean()
    assert moved == 1.0 if method == "sgld" else abs(moved - chains.acceptance.mean()) < 0.02
    np.testing.assert_allclose(chains.mean.mean(0), 0.0, atol=0.05)


@pytest.mark.slow
def test_the_step_shows_in_the_law_of_sgld_and_not_of_mala(bowl):
    """At a step near the stable limit the two laws differ by a factor."""
    options = {"inverse_temperature": 10.0, "step_size": 0.04, "num_steps": 3000, "num_chains": 8, "burn_in": 300}
    means = {
        m: sample(jax.random.key(1), *bowl, method=m, **options).health(burn_in=300).mean for m in ("sgld", "mala")
    }
    exact = {m: 0.5 * np.asarray(CURVATURES) @ variances(s, 10.0, 0.0) for m, s in (("sgld", 0.04), ("mala", 0.0))}
    assert exact["sgld"] > 1.5 * exact["mala"]
    for method, value in exact.items():
        assert means[method] == pytest.approx(value, rel=0.06)


def test_chains_are_the_same_in_chunks_and_when_they_are_continued(bowl):
    options = {"inverse_temperature": 3.0, "step_size": 0.01, "localisation": 1.0, "num_chains": 2}
    key = jax.random.key(5)
    whole = sample(key, *bowl, num_steps=30, **options)
    chunks = sample(key, *bowl, num_steps=30, chunk_seconds=1e-9, **options)
    first = sample(key, *bowl, num_steps=12, **options)
    second = sample(key, *bowl, num_steps=18, after=first, **options)
    np.testing.assert_array_equal(chunks.loss, whole.loss)
    np.testing.assert_array_equal(np.concatenate([first.loss, second.loss], axis=1), whole.loss)
    np.testing.assert_array_equal(second.last, whole.last)
    np.testing.assert_allclose(12 / 30 * first.mean + 18 / 30 * second.mean, whole.mean, rtol=1e-12)
    assert not np.array_equal(whole.loss[0], whole.loss[1])


@pytest.mark.slow
def test_minibatches_keep_the_mean_and_only_some_parameters_may_move(key):
    x = jax.random.normal(jax.random.key(1), (32, 2))
    landscape = Landscape(x, x @ jnp.asarray([[1.0], [-1.0]]))
    line = Dense(key, [2, 1])
    line = Dense.from_layers([type(line.layers[0])(jnp.asarray([[1.0, -1.0]]), jnp.zeros(1), None)], line.activation)
    options = {"inverse_temperature": 50.0, "step_size": 1e-3, "num_steps": 4000, "num_chains": 2, "burn_in": 200}
    full = sample(key, line, landscape, **options)
    batches = sample(key, line, landscape, batch_size=16, **options)
    some = sample(key, line, landscape, only="layers[0].bias", **options)
    a, b = full.health(burn_in=200), batches.health(burn_in=200)
    assert abs(a.mean - b.mean) < 4 * np.hypot(a.standard_error, b.standard_error)
    assert np.isnan(batches.acceptance).all()
    assert some.last.shape == (2, 1)
    assert full.last.shape == (2, 3)


def test_a_chain_that_diverges_ends_there_and_says_so(bowl):
    chains = sample(jax.random.key(0), *bowl, inverse_temperature=1.0, step_size=5.0, num_steps=2000, num_chains=2)
    assert chains.status is Status.DIVERGED
    assert all(step is not None and 0 < step < 2000 for step in chains.diverged_at)
    assert np.isfinite(chains.loss[0, 0])
    assert np.isnan(chains.loss[:, -1]).all()
    assert np.isnan(chains.health().mean)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inverse_temperature": 0.0}, "inverse_temperature must be finite and positive"),
        ({"step_size": -1.0}, "step_size must be finite and positive"),
        ({"localisation": -1.0}, "localisation"),
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"burn_in": 5}, "burn_in must be at least 0 and less than num_steps = 5"),
        ({"num_chains": 0}, "num_chains"),
        ({"method": "hmc"}, "Unknown method 'hmc'"),
        ({"method": "mala", "batch_size": 1}, "MALA needs the exact loss"),
    ],
)
def test_sampling_refuses_what_it_cannot_do(bowl, options, words):
    given = {"inverse_temperature": 1.0, "step_size": 0.1, "num_steps": 5} | options
    with pytest.raises(InputError, match=words):
        sample(jax.random.key(0), *bowl, **given)


def test_chains_have_figures_and_labelled_arrays(bowl):
    chains = sample(
        jax.random.key(0), *bowl, inverse_temperature=1.0, step_size=0.1, num_steps=20, burn_in=4, num_chains=2
    )
    assert chains.to_xarray()["loss"].dims == ("chain", "step")
    assert len(chains._figure().data) == 2


def test_the_health_of_autoregressive_chains_is_the_closed_form():
    """AR(1) with coefficient r: n (1 - r) / (1 + r) effective samples."""
    rng, r = np.random.default_rng(0), 0.8
    noise = rng.standard_normal((8, 20_000))
    chains = np.zeros_like(noise)
    for t in range(1, noise.shape[1]):
        chains[:, t] = r * chains[:, t - 1] + noise[:, t]
    health = chain_health(chains[:, 100:])
    assert health.effective_samples == pytest.approx(8 * 19_900 * (1 - r) / (1 + r), rel=0.06)
    assert health.r_hat == pytest.approx(1.0, abs=0.01)
    assert health.standard_error == pytest.approx(np.sqrt(1 / (1 - r**2) / health.effective_samples), rel=0.05)
    assert health.is_mixed
    assert chain_health(noise).effective_samples > 0.9 * noise.size
    assert chain_health(chains + np.arange(8.0)[:, None]).r_hat > 1.5
    drifting = chain_health(noise + np.linspace(0, 1, noise.shape[1]))
    assert drifting.drift_p < 1e-6
    assert drifting.drift == pytest.approx(0.5, abs=0.05)
    assert chain_health(np.full((2, 10), 3.0)).standard_error == 0
    with pytest.raises(InputError, match="at least 8 steps"):
        chain_health(noise[:, :4])
