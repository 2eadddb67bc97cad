"""Sizes in words, and what one example looks like."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from lossatlas._errors import InputError
from lossatlas.networks import Conv, Dense, Recurrent, Residual, Transformer, input_shape, size_words


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Dense(KEY, [4, 2, 5, 3], num_linear=[1, 0]), "4-2+1-5-3"),
        (Conv(KEY, (1, 8, 8), [8, 16], [32, 10], pool="max"), "conv 1x8x8: 8-16 | 32-10"),
        (Residual(KEY, 4, 6, 3), "residual 4-6-3 | 2 plain blocks"),
        (Residual(KEY, 4, 6, 3, num_blocks=1, num_hidden=5, norm="rms"), "residual 4-6-3 | 1 block of 5"),
        (Transformer(KEY, 8, 5, 9, num_stream=6, num_heads=3, num_hidden=7), "transformer 8-6-9 | 2 blocks of 3x2 + 7"),
        (Recurrent(KEY, 3, 16, 2), "recurrent 3-16-2"),
        (eqx.nn.Linear(2, 1, key=KEY), "Linear"),
    ],
)  # fmt: skip
def test_sizes_are_one_line_and_the_shape_is_what_the_network_reads(network, words):
    assert size_words(network) == words
    shape = input_shape(network)
    if shape is None:
        return
    for tokens in (2, 4):
        jax.eval_shape(network, jax.ShapeDtypeStruct(tuple(n or tokens for n in shape), jnp.float64))
    with pytest.raises(InputError, match="reads one example of shape"):
        jax.eval_shape(network, jax.ShapeDtypeStruct(tuple((n or 2) + 1 for n in shape), jnp.float64))


def test_blocks_of_other_sizes_are_counted_apart():
    network = Residual(KEY, 4, 6, 3, num_blocks=3, num_hidden=5)
    wide = network.with_sizes({"hidden[2]": 9})
    assert size_words(wide) == "residual 4-6-3 | 2 blocks of 5, 1 block of 9"
