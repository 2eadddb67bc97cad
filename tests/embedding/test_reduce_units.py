"""Reduction of architectures other than Dense: copies, constants and unread units of every unit space."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas import Landscape
from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas.embedding import add_null_unit, reduce, split
from lossatlas.geometry import plant_landscape
from lossatlas.networks import Conv, Recurrent, Residual, Transformer, replace_parameters


KEY = jax.random.key(0)
SMALL: dict[str, Any] = {"image": (1, 5, 5), "channels": [2, 2], "widths": [2]}
NETWORKS = {
    "convolution": (Conv(KEY, **SMALL, pool="max"), (1, 5, 5), ["channels[0]", "channels[1]"]),
    "batch norm": (Conv(KEY, **SMALL, norm="batch", activation="relu"), (1, 5, 5), ["channels[0]", "channels[1]"]),
    "residual": (Residual(KEY, 2, 3, 2, num_hidden=3, norm="rms", num_blocks=1), (2,), ["hidden[0]"]),
    "transformer": (
        Transformer(KEY, 2, 3, 2, num_stream=3, num_heads=2, num_hidden=2, num_blocks=1),
        (3, 2),
        ["heads[0]", "hidden[0]"],
    ),
    "recurrent": (Recurrent(KEY, 2, 3, 2), (4, 2), ["hidden[0]"]),
}


def _filled(network):
    arrays = named_arrays(network)
    rng = np.random.default_rng(3)
    values = {name: jnp.asarray(0.7 * rng.normal(size=array.shape)) for name, array in arrays.items()}
    values = {name: jnp.abs(a) + 0.3 if "variance" in name else a for name, a in values.items()}
    return replace_parameters(network, values)


def _rows(n, shape):
    return jnp.asarray(np.random.default_rng(4).normal(size=(n, *shape)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_widened_network_comes_back_and_stays_critical(name):
    network, shape, spaces = NETWORKS[name]
    narrow = _filled(network)
    landscape = plant_landscape(jax.random.key(5), narrow, _rows(70, shape))
    wide = narrow
    for space in spaces:
        wide, _ = split(wide, space, 1, [0.4, -0.3, 0.9])
        wide, _ = add_null_unit(wide, space)
    reduced, reduction = reduce(wide, landscape)
    assert {n: s.size for n, s in reduced.unit_spaces().items()} == {n: s.size for n, s in narrow.unit_spaces().items()}
    certificate = reduction.certificate
    assert certificate.is_exact
    assert certificate.output_change < 1e-12
    assert certificate.gradient_after is not None
    assert certificate.gradient_after < 1e-12
    fresh = _rows(90, shape)[70:]
    np.testing.assert_allclose(jax.vmap(reduced)(fresh), jax.vmap(narrow)(fresh), atol=1e-12)
    assert any("merged" in note for note in reduction.notes)


def test_a_tolerance_lets_units_stand_in_for_others_and_is_kept():
    network, shape, _ = NETWORKS["convolution"]
    filled, inputs = _filled(network), _rows(40, shape)
    landscape = Landscape(inputs, jnp.zeros((40, 2)))
    reduced, reduction = reduce(filled, landscape, tolerance=2.0)
    certificate = reduction.certificate
    assert 1e-6 < certificate.output_change <= 2.0
    assert not certificate.is_exact
    assert certificate.bound == np.inf
    change = jnp.abs(jax.vmap(reduced)(inputs) - jax.vmap(filled)(inputs)).max()
    np.testing.assert_allclose(change, certificate.output_change, rtol=1e-9)
    assert sum(s.size for s in reduced.unit_spaces().values()) < 4


def test_antiparallel_units_merge_where_the_sign_is_a_symmetry_only():
    plain: dict[str, Any] = {"image": (1, 5, 5), "channels": [2], "widths": [2]}
    cases: list[tuple[dict[str, Any], bool]] = [({}, True), ({"pool": "max"}, False), ({"activation": "relu"}, False)]
    for options, merges in cases:
        network = _filled(Conv(KEY, **plain, **options))
        conv = network.convs[0].conv
        turned = {"convs[0].conv.weight": conv.weight.at[1].set(-conv.weight[0])}
        turned["convs[0].conv.bias"] = conv.bias.at[1].set(-conv.bias[0])
        network = replace_parameters(network, turned)
        reduced, _ = reduce(network, _rows(20, (1, 5, 5)))
        assert reduced.unit_spaces()["channels[0]"].size == (1 if merges else 2)


def test_a_network_without_unit_spaces_is_refused():
    with pytest.raises(InputError, match="states no unit spaces"):
        reduce(lambda x: x, _rows(5, (2,)))
