"""Children that leave a run: they are their parent but for the order of their data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import spawn, train


X = jnp.linspace(-1, 0.7, 22)[:, None]
CURVE = Landscape(X, jnp.sin(3 * X) + 0.5)
NETWORK = Dense(jax.random.key(1), [1, 6, 1])
OPTIONS = {"optimizer": optax.sgd, "learning_rate": 0.05, "hyperparameters": {"momentum": 0.9}, "batch_size": 6}


def vectors(networks):
    return np.stack([np.asarray(ravel(network)[0]) for network in networks])


def test_a_child_in_the_order_of_its_parent_is_the_parent_bitwise(key):
    options = {"spawn_steps": [7, 0], "num_children": 1, "num_steps": 15, **OPTIONS}
    found = spawn(key, NETWORK, CURVE, same_order=True, **options)
    whole = train(key, NETWORK, CURVE, num_steps=15, snapshots=[15], **OPTIONS)
    assert found.spawn_steps.tolist() == [0, 7]
    for network in (found.parent, *found.children_at(0), *found.children_at(7)):
        assert np.asarray(ravel(network)[0]).tobytes() == whole.parameters[-1].tobytes()
    # The control: in an order of its own a child is another network.
    other = spawn(key, NETWORK, CURVE, **options)
    np.testing.assert_array_equal(vectors([other.parent]), vectors([found.parent]))
    assert (
        np.abs(vectors([*other.children_at(0), *other.children_at(7)]) - vectors([found.parent])).max(1) > 1e-6
    ).all()


def test_children_differ_among_each_other_and_come_again_with_the_key(key):
    options = {"spawn_steps": [7], "num_children": 2, "num_steps": 15, **OPTIONS}
    found, again = (spawn(key, NETWORK, CURVE, **options) for _ in range(2))
    ends = vectors([*found.children_at(7), found.parent])
    assert len({row.tobytes() for row in ends}) == 3
    np.testing.assert_array_equal(ends[:2], vectors(again.children_at(7)))
    assert found.stats["num_steps"] == 15 + 2 * 8
    table = found.to_xarray()
    assert dict(table.sizes) == {"spawn_step": 1, "child": 2}
    np.testing.assert_allclose(table["loss"].sel(spawn_step=7)[1], CURVE(found.children_at(7)[1]), rtol=1e-12)


@pytest.mark.slow
def test_children_side_by_side_are_those_one_after_the_other_to_rounding(key):
    # Side by side those that left later wait for the others.
    options = {"spawn_steps": [0, 7], "num_children": 2, "num_steps": 15, **OPTIONS}
    one, many = (spawn(key, NETWORK, CURVE, vmap_size=size, **options) for size in (1, 4))
    for step in (0, 7):
        np.testing.assert_allclose(vectors(many.children_at(step)), vectors(one.children_at(step)), rtol=1e-9)


def test_what_cannot_be_spawned_is_refused(key):
    options = {"spawn_steps": [0, 7], "num_steps": 15, "num_children": 1, **OPTIONS}
    for steps in ([16], [-1]):
        with pytest.raises(InputError, match="spawn_steps must lie between 0 and num_steps = 15"):
            spawn(key, NETWORK, CURVE, **{**options, "spawn_steps": steps})
    with pytest.raises(InputError, match="list of whole steps"):
        spawn(key, NETWORK, CURVE, **{**options, "spawn_steps": []})
    with pytest.raises(InputError, match="num_children must be at least 1"):
        spawn(key, NETWORK, CURVE, **{**options, "num_children": 0})
    for batch_size in (None, 22):
        with pytest.raises(InputError, match="order of their minibatches, and there are none"):
            spawn(key, NETWORK, CURVE, **{**options, "batch_size": batch_size})
    with pytest.raises(InputError, match="diverged at step 1, before the spawn step 7"):
        spawn(key, NETWORK, CURVE, **{**options, "learning_rate": 1e200})
    found = spawn(key, NETWORK, CURVE, **options)
    with pytest.raises(InputError, match=r"left at step 3; the spawn steps are \[0, 7\]"):
        found.children_at(3)
