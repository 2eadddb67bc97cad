"""Depth reduction beyond fully connected networks: last residual blocks, and norms folded away."""
# pyright: reportOptionalOperand=false, reportOperatorIssue=false

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import largest, outputs

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, ravel, replace_parameters
from lossatlas.embedding import fold_batch_norm, lift_block, merge_block
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Affine, Conv, Residual, ResidualBlock


KEY = jax.random.key(0)
ROWS = jax.random.normal(jax.random.key(2), (40, 3))
IMAGES = jax.random.normal(jax.random.key(2), (9, 2, 6, 6))


def _filled(network):
    arrays = named_arrays(network)
    keys = jax.random.split(jax.random.key(1), len(arrays))
    values = {n: 0.5 * jax.random.normal(k, a.shape) for k, (n, a) in zip(keys, arrays.items(), strict=True)}
    return replace_parameters(network, {n: jnp.abs(a) + 0.3 if "variance" in n else a for n, a in values.items()})


def test_a_lifted_block_merges_back_and_stays_critical():
    network = _filled(Residual(KEY, 3, 3, 2, activation="relu", num_blocks=1))
    deep, _ = lift_block(network, ROWS, key=KEY)
    landscape = plant_landscape(KEY, deep, ROWS, amplitude=0.3)
    merged, record = merge_block(deep, landscape)
    assert largest(ravel(merged)[0] - ravel(network)[0]) < 1e-12
    assert record.output_change < 1e-12
    assert record.criticality_defect == 0
    assert record.keeps_critical
    assert record.gradient_before < 1e-13
    assert record.gradient_after < 1e-12


def test_a_linear_block_with_readers_of_its_own_merges_too():
    network = _filled(Residual(KEY, 3, 4, 2, num_hidden=3, activation="relu", num_blocks=1))
    inner = network.blocks[0].inner
    far = ResidualBlock(Affine(inner.weight, inner.bias + 50.0), network.blocks[0].outer, None)
    network = eqx.tree_at(lambda n: n.blocks, network, (far,))
    merged, record = merge_block(network, ROWS)
    assert merged.blocks == ()
    assert record.output_change < 1e-12
    np.testing.assert_allclose(outputs(record.replay(network), ROWS), outputs(network, ROWS), atol=1e-12)


def test_the_bound_covers_a_block_that_is_not_linear():
    network = _filled(Residual(KEY, 3, 4, 2))
    merged, record = merge_block(network, ROWS)
    change = np.linalg.norm(outputs(merged, ROWS) - outputs(network, ROWS), axis=1).max()
    assert 1e-3 < change <= record.bound * (1 + 1e-12)
    assert not record.keeps_critical


def test_blocks_with_a_skip_after_them_and_norms_are_refused():
    network = Residual(KEY, 3, 4, 2)
    with pytest.raises(InputError, match="through the skip of the next block"):
        merge_block(network, ROWS, 0)
    with pytest.raises(InputError, match="through a norm"):
        merge_block(Residual(KEY, 3, 4, 2, num_hidden=3, norm="rms"), ROWS)
    with pytest.raises(InputError, match="no block left"):
        merge_block(eqx.tree_at(lambda n: n.blocks, network, ()), ROWS)
    with pytest.raises(InputError, match="Residual, got Conv"):
        merge_block(Conv(KEY, (2, 6, 6), [2], [2]), ROWS)
    with pytest.raises(InputError, match="no bias that could hold"):
        merge_block(eqx.tree_at(lambda n: n.output.bias, network, None), ROWS)


@pytest.mark.parametrize("separable", [False, True])
def test_norms_are_folded_exactly_for_all_inputs(separable):
    network = _filled(Conv(KEY, (2, 6, 6), [3, 4], [2], norm="batch", pool="max", separable=separable))
    folded = fold_batch_norm(network)
    assert all(layer.norm is None for layer in folded.convs)
    far = 10 * jax.random.normal(jax.random.key(5), (7, 2, 6, 6))
    for inputs in (IMAGES, far):
        np.testing.assert_allclose(outputs(folded, inputs), outputs(network, inputs), atol=1e-12)
    assert fold_batch_norm(folded) is folded


def test_a_critical_point_stays_one_when_its_norm_is_folded():
    network = _filled(Conv(KEY, (1, 4, 4), [2], [2], norm="batch", head="average"))
    images = jax.random.normal(KEY, (40, 1, 4, 4))
    landscape = plant_landscape(KEY, network, images, amplitude=0.3)
    assert largest(landscape.gradient(fold_batch_norm(network))) < 1e-13


def test_statistics_of_a_batch_are_folded_for_that_batch():
    network = _filled(Conv(KEY, (2, 6, 6), [3], [2], norm="batch", batch_statistics=True))
    with pytest.raises(InputError, match="give the inputs"):
        fold_batch_norm(network)
    folded = fold_batch_norm(network, IMAGES)
    np.testing.assert_allclose(outputs(folded, IMAGES), network.call_batch(IMAGES), atol=1e-12)
    assert not folded.batch_statistics
    with pytest.raises(InputError, match="Conv, got Residual"):
        fold_batch_norm(Residual(KEY, 3, 4, 2))
