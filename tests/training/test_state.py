"""A run that goes on is the run that was never interrupted, to the last bit."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas._errors import InputError
from lossatlas._status import Status
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, Expansion
from lossatlas.training import train, train_ensemble
from lossatlas.training._loop import unravel_of
from lossatlas.training._optimizer import as_optimizer
from lossatlas.training._state import adopt


X = jnp.linspace(-1, 0.7, 22)[:, None]
CURVE = Landscape(X, jnp.sin(3 * X) + 0.5)
NETWORK = Dense(jax.random.key(1), [1, 6, 1])
# The rate falls at steps 9 and 30: before the cut of the tests and after it. Four batches are an epoch.
RATE = optax.piecewise_constant_schedule(0.1, {9: 0.3, 30: 0.1})
MOMENTUM = {"optimizer": optax.sgd(RATE, momentum=0.9), "batch_size": 6}
ADAM = {"optimizer": "adam", "learning_rate": 0.01}


@pytest.mark.parametrize("options", [MOMENTUM, ADAM], ids=["momentum, schedule and minibatches", "adam"])
def test_a_run_in_two_parts_is_the_whole_run_bitwise(key, options):
    whole = train(key, NETWORK, CURVE, num_steps=40, snapshots=[0, 17, 33, 40], **options)
    first = train(key, NETWORK, CURVE, num_steps=17, snapshots=[0, 5, 12, 17], **options)
    second = train(key, first.network, CURVE, start=first.state, num_steps=40, snapshots=[17, 25, 33, 40], **options)
    assert second.steps.tolist() == [17, 25, 33, 40]
    assert second.stats["num_steps"] == 40 and second.settings["first_step"] == 17
    for name in ("parameters", "loss", "gradient_norm"):
        assert getattr(second, name)[[0, 2, 3]].tobytes() == getattr(whole, name)[1:].tobytes(), name
    for one, other in zip(jax.tree.leaves(second.state), jax.tree.leaves(whole.state), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    # The control: without the state the second part is another run.
    lost = train(key, first.network, CURVE, num_steps=40 - 17, snapshots=[0, 3, 5, 23], **options)
    assert np.abs(lost.parameters[-1] - whole.parameters[-1]).max() > 1e-6


def test_members_branch_from_one_run_and_go_on_from_their_own(key):
    first = train(key, NETWORK, CURVE, num_steps=10, snapshots=[0, 5, 9, 10], **MOMENTUM)
    alone = train(key, first.network, CURVE, start=first.state, num_steps=20, snapshots=[10, 11, 12, 20], **MOMENTUM)
    keys, options = [key, jax.random.key(5)], {"num_steps": 20, "snapshots": [20], **MOMENTUM}
    children = train_ensemble(keys, [first.network] * 2, CURVE, start=first.state, **options)
    assert children.member(0).parameters.tobytes() == alone.parameters[-1:].tobytes()
    assert np.abs(children.parameters[0] - children.parameters[1]).max() > 1e-6
    # Each from its own state, at different steps: one branches again, the other is at the end already.
    networks = [first.network, children.member(1).network]
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), first.state, children.member(1).state)
    both = train_ensemble(keys, networks, CURVE, start=states, **options)
    assert both.parameters.tobytes() == children.parameters.tobytes()
    assert both.num_steps.tolist() == [20, 20]


def test_an_expansion_takes_over_the_momentum_of_its_network(key):
    first = train(key, NETWORK, CURVE, num_steps=10, snapshots=[0, 5, 9, 10], **MOMENTUM)
    rule = as_optimizer(MOMENTUM["optimizer"], None, None, float)
    taken = adopt(first.state, unravel_of(Expansion(first.network)), rule)
    for one, other in zip(jax.tree.leaves(taken), jax.tree.leaves(first.state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(taken.memory))


def test_other_data_are_seen_from_the_first_step_on(key):
    other = Landscape(X, X)
    first = train(key, NETWORK, CURVE, num_steps=5, snapshots=[0, 1, 2, 5], **ADAM)
    moved = train(key, first.network, other, start=first.state, num_steps=8, snapshots=[5, 6, 7, 8], **ADAM)
    loss, gradient = other.value_and_gradient(first.network)
    np.testing.assert_allclose(moved.loss[0], loss, rtol=1e-12)
    # The sixth step of Adam, from the moments that the run had, with the gradient of the other data.
    mean, square = (np.asarray(leaf) for leaf in jax.tree.leaves(first.state.memory) if leaf.shape)
    mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
    step = 0.01 * (mean / (1 - 0.9**6)) / (np.sqrt(square / (1 - 0.999**6)) + 1e-8)
    np.testing.assert_allclose(moved.parameters[1], moved.parameters[0] - step, rtol=1e-10)


def test_the_gradient_that_a_run_kept_is_used_to_the_last_bit(key):
    # Another program may round the gradient of the same point otherwise. A kept one that is off by 1e-10 shows which
    # was used.
    first = train(key, NETWORK, CURVE, num_steps=5, snapshots=[0, 1, 2, 5], **ADAM)
    nudged = eqx.tree_at(lambda state: state.gradient, first.state, replace_fn=lambda a: a * (1 + 1e-10))
    go_on = {"num_steps": 8, "snapshots": [5, 6, 7, 8], **ADAM}
    runs = [train(key, first.network, CURVE, start=state, **go_on) for state in (first.state, nudged)]
    assert 0 < np.abs(runs[1].parameters[1] - runs[0].parameters[1]).max() < 1e-10


def test_a_run_that_diverged_does_not_go_on(key):
    lost = train(key, NETWORK, CURVE, num_steps=5, snapshots=[0, 2, 4, 5], **{**ADAM, "learning_rate": 1e200})
    more = train(key, lost.network, CURVE, start=lost.state, num_steps=8, snapshots=[1, 2, 5, 8], **ADAM)
    assert lost.status is more.status is Status.DIVERGED
    assert lost.diverged_at == more.diverged_at == 1


def test_a_state_that_does_not_fit_is_refused(key):
    first = train(key, NETWORK, CURVE, num_steps=10, snapshots=[0, 5, 9, 10], **MOMENTUM)
    go_on = {"start": first.state, "num_steps": 12, "snapshots": [12], **MOMENTUM}
    for network in (NETWORK, Dense(key, [1, 4, 1])):
        with pytest.raises(InputError, match="state of other parameters"):
            train(key, network, CURVE, **go_on)
    with pytest.raises(InputError, match="keeps memory of shapes"):
        train(key, first.network, CURVE, **{**go_on, "optimizer": "adam"})
    with pytest.raises(InputError, match="already; got num_steps = 4"):
        train(key, first.network, CURVE, **{**go_on, "num_steps": 4})
    with pytest.raises(InputError, match="between 10 and num_steps = 12"):
        train(key, first.network, CURVE, **{**go_on, "snapshots": [3, 9]})
    states = jax.tree.map(lambda a: jnp.stack([a] * 3), first.state)
    with pytest.raises(InputError, match="states of 3 runs, and there are 2 members"):
        train_ensemble([key, key], [first.network] * 2, CURVE, **{**go_on, "start": states})
