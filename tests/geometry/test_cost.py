"""What a product costs, and batches that fit."""

import jax
import jax.numpy as jnp
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import fitting_batch_size, product_cost
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


@pytest.fixture(scope="module")
def wide():
    network = Dense(jax.random.key(0), [3, 200, 1])
    return network, Landscape(jnp.ones((256, 3)), jnp.ones((256, 1)))


def test_a_fitting_batch_needs_no_more_memory_than_allowed(wide):
    network, landscape = wide
    whole = product_cost(network, landscape).memory_bytes
    size = fitting_batch_size(network, landscape, max_bytes=whole // 4)
    assert size is not None
    assert 16 <= size < 256
    used = product_cost(network, landscape.subset(slice(size))).memory_bytes
    assert 0.2 * whole < used < 0.5 * whole  # what is fixed is small here
    assert fitting_batch_size(network, landscape, max_bytes=2 * whole) is None


def test_too_little_memory_is_refused(wide):
    with pytest.raises(InputError, match=r"One example needs .* only 10 bytes are allowed"):
        fitting_batch_size(wide[0], wide[1], max_bytes=10)


def test_the_words_name_products_time_and_memory(wide):
    cost = product_cost(*wide)
    assert cost.seconds > 0
    assert cost.words(1000).startswith("1,000 products of ")
    assert "working memory" in cost.words(1)
