"""Copies of units moved apart: the noise cancels in their readers to first order, and units alone have none."""

import jax
import numpy as np
import pytest
from embedding_points import make_inputs, make_network, outputs

from lossatlas._errors import InputError
from lossatlas.embedding import part_copies, replicate, split, widen
from lossatlas.landscape import Landscape
from lossatlas.networks import Conv


KEY = jax.random.key(3)


def _gap(network, record, inputs, noise):
    parted, certificate = part_copies(KEY, network, record, noise=noise, landscape=inputs)
    gap = float(np.abs(outputs(parted, inputs) - outputs(network, inputs)).max())
    assert certificate.output_change == gap
    return gap


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.2, 1.1, -0.3]])
def test_outputs_change_in_second_order_of_the_noise(shares):
    network, record = split(make_network((3, 4, 3, 2)), "hidden[0]", 1, shares)
    inputs = make_inputs(50, 3)
    first, second = (_gap(network, record, inputs, noise) for noise in (1e-2, 1e-3))
    assert first > 1e-7
    np.testing.assert_allclose(first / second, 100, rtol=0.1)


def test_copies_part_and_other_units_stay():
    narrow = make_network((3, 4, 2))
    network, record = split(narrow, "hidden[0]", 1, [0.5, 0.5])
    parted, certificate = part_copies(KEY, network, record, noise=0.02)
    assert certificate.output_change is None
    moved = np.abs(parted.layers[0].weight - network.layers[0].weight).max(1)
    assert (moved > 0).tolist() == [False, True, False, False, True]
    np.testing.assert_allclose(
        parted.layers[0].weight[1] + parted.layers[0].weight[4], 2 * narrow.layers[0].weight[1], atol=1e-14
    )
    np.testing.assert_array_equal(parted.layers[1].weight, network.layers[1].weight)
    again, _ = part_copies(KEY, network, record, noise=0.02)
    np.testing.assert_array_equal(again.layers[0].weight, parted.layers[0].weight)


def test_gradients_of_copies_differ_after_the_noise_and_were_equal_before():
    network, record = widen(make_network((3, 4, 2)), {"hidden[0]": 8})
    landscape = Landscape(make_inputs(30, 3), make_inputs(30, 2, seed=5))
    parted, certificate = part_copies(KEY, network, record, noise=0.02, landscape=landscape)
    assert certificate.gradient_before != certificate.gradient_after
    copies = np.argmax(np.asarray(record.plan[0].writers), axis=1)
    first, second = np.flatnonzero(copies == np.bincount(copies).argmax())[:2]
    shares = np.asarray(record.plan[0].readers)[[first, second]].sum(1)
    for point, is_equal in ((network, True), (parted, False)):
        rows = jax.grad(landscape)(point).layers[0].weight[np.array([first, second])] / shares[:, None]
        assert np.allclose(rows[0], rows[1], atol=1e-12) == is_equal


def test_channels_are_parted_and_their_statistics_are_not():
    network, record = replicate(Conv(KEY, (1, 4, 4), [2], [2], norm="batch"), "channels[0]", 2)
    parted, _ = part_copies(KEY, network, record, noise=0.1)
    assert (parted.convs[0].conv.weight != network.convs[0].conv.weight).all()
    np.testing.assert_array_equal(parted.convs[0].norm.mean.value, network.convs[0].norm.mean.value)


@pytest.mark.parametrize("noise", [0.0, -1.0, float("nan")])
def test_noise_must_be_positive(noise):
    network, record = widen(make_network((3, 4, 2)), {"hidden[0]": 5})
    with pytest.raises(InputError, match="noise must be a positive number"):
        part_copies(KEY, network, record, noise=noise)


def test_a_network_of_other_sizes_is_refused():
    network, record = widen(make_network((3, 4, 2)), {"hidden[0]": 5})
    with pytest.raises(InputError, match="has 4 units; the map"):
        part_copies(KEY, record.start, record, noise=0.1)
