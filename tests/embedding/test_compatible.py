"""General compatible embeddings, at points that are not critical and at planted ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedding_points import make_inputs, make_network

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas.embedding import compatible_embedding, reduce
from lossatlas.geometry import inertia, plant_landscape
from lossatlas.theory import critical_set_dimension


KEY = jax.random.key(7)
MAPS = {
    "splits": {"hidden[0]": [0, 1, 1], "hidden[1]": [1, 0, 0, 1]},
    "a null unit": {"hidden[0]": [0, -1, 1, 0], "hidden[1]": [0, 1]},
    "null units in both layers": {"hidden[0]": [-1, 0, 1, 1], "hidden[1]": [0, 1, -1, 0]},
}


@pytest.mark.parametrize("shares", ["equal", "random"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "softplus"])
@pytest.mark.parametrize("name", MAPS)
def test_outputs_stay_and_gradients_are_intertwined(name, activation, shares):
    network = make_network((2, 2, 2, 3), activation)
    landscape = Landscape(make_inputs(), jax.random.normal(KEY, (make_inputs().shape[0], 3)))
    wide, record = compatible_embedding(KEY, network, MAPS[name], shares=shares, landscape=landscape)
    assert wide.widths[1:3] == tuple(len(m) for m in MAPS[name].values())
    certificate = record.certificate
    assert certificate.gradient_before is not None
    assert certificate.output_change is not None
    assert certificate.intertwiner_defect is not None
    assert certificate.gradient_before > 1e-3
    assert certificate.output_change < 1e-12
    assert certificate.intertwiner_defect < 1e-12
    forward, backward = record.tangent_map.as_matrix(), record.gradient_map.as_matrix()
    np.testing.assert_allclose(forward.T @ backward, np.eye(forward.shape[1]), atol=1e-12)
    for found, wanted in zip(record.inverse(wide).layers, network.layers, strict=True):
        np.testing.assert_allclose(found.weight, wanted.weight, atol=1e-12)
        np.testing.assert_allclose(np.asarray(found.bias), np.asarray(wanted.bias), atol=1e-12)


@pytest.mark.parametrize(
    ("widths", "units"),
    [
        ((2, 2, 2, 1), {"hidden[0]": [0, 1, 1], "hidden[1]": [0, 0, 1, 1]}),
        ((2, 2, 2, 2), {"hidden[0]": [0, 1, 1, 0], "hidden[1]": [0, 0, 1]}),
        ((1, 2, 1), {"hidden[0]": [0, 1, -1, 0, 1]}),
    ],
)
def test_a_planted_point_gains_the_zeros_of_the_family_and_loses_no_sign(widths, units):
    network = make_network(widths)
    inputs = jax.random.normal(jax.random.key(1), (60, widths[0]))
    landscape = plant_landscape(jax.random.key(2), network, inputs, amplitude=0.05)
    wide, record = compatible_embedding(KEY, network, units, shares="random", landscape=landscape)
    assert record.certificate.gradient_after is not None
    assert record.certificate.gradient_after < 1e-13
    narrow_counts, wide_counts = inertia(network, landscape).counts, inertia(wide, landscape).counts
    assert narrow_counts[1] == 0
    assert wide_counts[1] >= critical_set_dimension(widths, wide.widths)
    assert wide_counts[0] >= narrow_counts[0]
    assert wide_counts[2] >= narrow_counts[2]


def test_a_drawn_member_reduces_to_the_network():
    network = make_network((2, 3, 2, 2))
    units = {"hidden[0]": [2, 0, 1, 1, -1], "hidden[1]": [0, 1, -1, 0]}
    wide, _ = compatible_embedding(KEY, network, units, shares="random")
    reduced, record = reduce(wide, make_inputs())
    assert reduced.widths == network.widths
    assert record.certificate.output_change < 1e-10


def test_without_noise_and_nulls_it_is_a_chain_of_splits():
    network = make_network((2, 2, 1))
    wide, _ = compatible_embedding(KEY, network, {"hidden[0]": [0, 1, 1]}, spread=0.0)
    np.testing.assert_array_equal(wide.layers[0].weight, network.layers[0].weight[jnp.array([0, 1, 1])])
    np.testing.assert_allclose(wide.layers[1].weight[0, 1:], network.layers[1].weight[0, 1] / 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1)), {"hidden[0]": [0, 0]}), "each of 0..1 at least"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1)), {"hidden[0]": [0, 1, 2]}), "each of 0..1"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1)), {"hidden[1]": [0]}), "may name hidden"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1), num_linear=1), {}), "without linear units"),
        (lambda: compatible_embedding(KEY, make_network((2, 2, 1), use_bias=False), {}), "biases"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(InputError, match=said):
        make()
