"""Maps that keep everything, the function alone, or nothing are told apart."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from lossatlas._errors import InputError
from lossatlas.embedding import (
    add_null_unit,
    compatible_embedding,
    replicate,
    split,
    validate_map,
)
from lossatlas.networks import Dense, DenseLayer, Recurrent, Transformer


KEY = jax.random.key(0)
DENSE = Dense(jax.random.key(1), [2, 3, 2])
ROWS = jax.random.normal(jax.random.key(2), (30, 2))
TRANSFORMER = Transformer(
    jax.random.key(3), 2, 3, 2, num_stream=3, num_heads=1, num_hidden=2, num_blocks=1, head_size=2
)
RECURRENT = Recurrent(jax.random.key(4), 2, 2, 2)


def with_random_reader(network):
    """A null unit's mirror image: random incoming weights, read by nothing."""
    return add_null_unit(network, "hidden[0]", incoming=[0.7, -1.1], bias=0.2)[0]


def with_shares_by_target(network):
    first, last = network.layers
    shares = jnp.array([0.3, 0.8])
    weight = jnp.concatenate([last.weight, (shares * last.weight[:, 0])[:, None]], axis=1)
    weight = weight.at[:, 0].multiply(1 - shares)
    copied = DenseLayer(jnp.concatenate([first.weight, first.weight[:1]]), jnp.append(first.bias, first.bias[0]))
    return Dense.from_layers([copied, DenseLayer(weight, last.bias)])


def with_unequal_copies(network):
    """The stream under LayerNorm doubled, readers shared out 0.3 to 0.7 instead of equally."""
    wide = replicate(network, "stream", 2)[0]
    reader = wide.output.weight
    half = reader.shape[1] // 2
    moved = jnp.concatenate([0.6 * reader[:, :half], 1.4 * reader[:, half:]], axis=1)
    return eqx.tree_at(lambda n: n.output.weight, wide, moved)


def with_other_shares_in_the_recurrence(network):
    wide = split(network, "hidden[0]", 0, 0.3)[0]
    column = wide.recurrent[:, 0] + wide.recurrent[:, 2]
    moved = wide.recurrent.at[:, 0].set(0.5 * column).at[:, 2].set(0.5 * column)
    return eqx.tree_at(lambda n: n.recurrent, wide, moved)


def pruned(network):
    first, last = network.layers
    return Dense.from_layers([DenseLayer(first.weight[:2], first.bias[:2]), DenseLayer(last.weight[:, :2], last.bias)])


SEQUENCES = jax.random.normal(jax.random.key(5), (60, 3, 2))
MAPS = {
    "split": (lambda n: split(n, "hidden[0]", 1, [0.5, -0.7, 1.2])[0], DENSE, ROWS, True, True),
    "compatible": (lambda n: compatible_embedding(KEY, n, {"hidden[0]": [0, 1, 2, 2, -1]})[0], DENSE, ROWS, True, True),
    "null": (lambda n: add_null_unit(n, "hidden[0]", bias=0.4)[0], DENSE, ROWS, True, True),
    "random unit that nothing reads": (with_random_reader, DENSE, ROWS, True, False),
    "a share for each target": (with_shares_by_target, DENSE, ROWS, True, False),
    "pruned": (pruned, DENSE, ROWS, False, False),
    "head": (lambda n: split(n, "heads[0]", 0, 0.3)[0], TRANSFORMER, SEQUENCES, True, True),
    "stream": (lambda n: replicate(n, "stream", 3)[0], TRANSFORMER, SEQUENCES, True, True),
    "stream, unequal": (with_unequal_copies, TRANSFORMER, SEQUENCES, True, False),
    "recurrent": (lambda n: split(n, "hidden[0]", 0, 0.3)[0], RECURRENT, SEQUENCES, True, True),
    "recurrent, other shares": (with_other_shares_in_the_recurrence, RECURRENT, SEQUENCES, True, False),
}


@pytest.mark.parametrize("name", MAPS)
def test_what_a_map_keeps_is_told(name):
    fn, network, inputs, keeps_outputs, keeps_criticality = MAPS[name]
    verdict = validate_map(KEY, fn, network, inputs, num_points=2)
    assert (verdict.keeps_outputs, verdict.keeps_criticality) == (keeps_outputs, keeps_criticality), verdict.words
    if keeps_outputs and not keeps_criticality:
        assert verdict.gradient > 1e-6
        assert "critical points are not" in verdict.words


def test_another_shape_of_outputs_is_refused():
    with pytest.raises(InputError, match="shape of the outputs"):
        validate_map(KEY, lambda _: Dense(KEY, [2, 3, 1]), DENSE, ROWS)
