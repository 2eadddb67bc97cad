"""Ensembles: every member is the run it would have been alone, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._status import Status
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train, train_ensemble


@pytest.fixture
def landscape():
    x = jnp.linspace(-1, 0.7, 24)[:, None]
    return Landscape(x, jnp.sin(3 * x) + 0.5)


def _build(key):
    return Dense(key, [1, 7, 1])


@pytest.mark.parametrize(("batch_size", "widths"), [(None, [1, 7, 1]), (7, [1, 9, 8, 1])])
def test_a_member_has_the_bytes_of_a_single_run(key, landscape, batch_size, widths):
    keys = jax.random.split(key, 3)
    rates = np.array([1e-3, 3e-2, 0.2])
    options = {"optimizer": "adam", "num_steps": 60, "batch_size": batch_size, "snapshots": 12}
    build = lambda k: Dense(k, widths)  # noqa: E731
    runs = train_ensemble(keys, build, landscape, learning_rate=rates, hyperparameters={"b1": 0.8}, **options)
    assert len(runs) == 3
    for i in range(3):
        alone = train(
            keys[i], build(keys[i]), landscape, learning_rate=rates[i], hyperparameters={"b1": 0.8}, **options
        )
        member = runs.member(i)
        assert member.parameters.tobytes() == alone.parameters.tobytes()
        assert member.loss.tobytes() == alone.loss.tobytes()
        assert member.gradient_norm.tobytes() == alone.gradient_norm.tobytes()
        assert member.steps.tolist() == alone.steps.tolist()
        assert member.settings["learning_rate"] == pytest.approx(alone.settings["learning_rate"])
        np.testing.assert_array_equal(ravel(member.network)[0], ravel(alone.network)[0])


def test_members_end_on_their_own(key, landscape):
    keys = jax.random.split(key, 3)
    quadratic = Landscape(jnp.ones((1, 1)), jnp.zeros((1, 1)))
    networks = [jax.tree.map(jnp.ones_like, Dense(k, [1, 1], use_output_bias=False)) for k in keys]
    # w <- (1 - rate) w: gradient 0.5^t <= 1e-3 from t = 10 on; 1e-3 is not reached in 50 steps at 0.01; 101 diverges.
    runs = train_ensemble(
        keys, networks, quadratic, learning_rate=np.array([0.5, 0.01, 101.0]), num_steps=200, snapshots=[0, 5, 50, 200],
        gradient_tolerance=1e-3,
    )  # fmt: skip
    del landscape
    assert runs.status == (Status.CONVERGED, Status.FINISHED, Status.DIVERGED)
    assert runs.diverged_at[:2] == (None, None)
    assert runs.num_snapshots.tolist() == [3, 4, 4]
    assert runs.member(0).steps.tolist() == [0, 5, 10]
    assert runs.num_steps.tolist() == [10, 200, 78]
    assert runs.steps[0, -1] == -1
    assert np.isnan(runs.loss[0, -1])
    third = runs.member(2)
    assert third.steps[-1] == third.diverged_at == 78
    np.testing.assert_allclose(runs.member(1).parameters[:, 0], 0.99 ** np.array([0, 5, 50, 200]), rtol=1e-12)


def test_side_by_side_equals_one_after_the_other_to_rounding(key, landscape):
    keys = jax.random.split(key, 5)
    one = train_ensemble(keys, _build, landscape, num_steps=30, snapshots=5)
    many = train_ensemble(keys, _build, landscape, num_steps=30, snapshots=5, vmap_size=2)
    np.testing.assert_allclose(many.parameters, one.parameters, rtol=1e-10)
    np.testing.assert_array_equal(many.steps, one.steps)


def test_any_float_of_a_factory_varies_over_members(key, landscape):
    keys = jnp.stack([key, key])
    values = {"learning_rate": np.array([0.1, 0.1]), "momentum": np.array([0.0, 0.9])}
    runs = train_ensemble(keys, _build, landscape, optimizer=optax.sgd, hyperparameters=values, num_steps=20)
    for i, momentum in enumerate((0.0, 0.9)):
        alone = train(
            key, _build(key), landscape, optimizer=optax.sgd, learning_rate=0.1, num_steps=20,
            hyperparameters={"momentum": momentum},
        )  # fmt: skip
        assert runs.member(i).parameters.tobytes() == alone.parameters.tobytes()
    assert np.abs(runs.parameters[0] - runs.parameters[1]).max() > 1e-3


def test_to_xarray_has_members_and_their_hyperparameters(key, landscape):
    keys = jax.random.split(key, 2)
    runs = train_ensemble(keys, _build, landscape, learning_rate=np.array([0.1, 0.2]), num_steps=9, snapshots=3)
    data = runs.to_xarray()
    assert dict(data.sizes) == {"member": 2, "snapshot": 3, "parameter": 22}
    assert data.learning_rate.values.tolist() == [0.1, 0.2]


def test_bad_ensembles_are_refused(key, landscape):
    keys = jax.random.split(key, 2)
    with pytest.raises(InputError, match="2 keys and 1 networks"):
        train_ensemble(keys, [_build(key)], landscape, num_steps=1)
    with pytest.raises(InputError, match="need one shape; network 1"):
        train_ensemble(keys, [_build(key), Dense(key, [1, 8, 1])], landscape, num_steps=1)
    with pytest.raises(InputError, match="one for each of the 2 members"):
        train_ensemble(keys, _build, landscape, learning_rate=np.ones(3), num_steps=1)
    with pytest.raises(InputError, match="non-empty list of keys"):
        train_ensemble(keys[:0], _build, landscape, num_steps=1)
    with pytest.raises(InputError, match="vmap_size"):
        train_ensemble(keys, _build, landscape, num_steps=1, vmap_size=0)
    runs = train_ensemble(keys, _build, landscape, num_steps=1)
    with pytest.raises(InputError, match="There are 2 members"):
        runs.member(2)


def test_a_member_counts_the_steps_after_its_last_snapshot(key, landscape):
    runs = train_ensemble(jax.random.split(key, 2), _build, landscape, num_steps=100, snapshots=[0, 10])
    alone = train(key, _build(key), landscape, num_steps=100, snapshots=[0, 10])
    assert runs.member(1).stats["num_steps"] == alone.stats["num_steps"] == 100
    assert runs.stats["num_steps"] == 200
