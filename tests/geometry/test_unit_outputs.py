"""What the units of any architecture put out, as their readers read it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import find_taps, slope_products, unit_batches, unit_outputs
from lossatlas.networks import Conv, Dense, Recurrent, Residual, Transformer


KEY = jax.random.key(0)


def _rows(n, *shape):
    return jax.random.normal(jax.random.key(1), (n, *shape))


def test_neurons_and_linear_units_of_a_dense_network_are_its_features():
    network = Dense(KEY, [3, 4, 5, 2], num_linear=[2, 0])
    rows = _rows(7, 3)
    found = unit_outputs(network, rows)
    _, first, second, _ = jax.vmap(network.features)(rows)
    assert list(found) == ["hidden[0]", "linear[0]", "hidden[1]"]
    np.testing.assert_allclose(found["hidden[0]"][:, 0], first[:, :4], atol=1e-15)
    np.testing.assert_allclose(found["linear[0]"][:, 0], first[:, 4:], atol=1e-15)
    np.testing.assert_allclose(found["hidden[1]"][:, 0], second, atol=1e-15)


def test_flattened_maps_are_positions_of_their_channels():
    network = Conv(KEY, (1, 4, 4), [2, 3], [2])
    rows = _rows(5, 1, 4, 4)
    found = unit_outputs(network, rows)
    maps = jax.vmap(lambda x: jnp.tanh(network.convs[0].preactivation(x, in_batch=False)))(rows)
    np.testing.assert_allclose(found["channels[0]"], maps.reshape(5, 2, 16).transpose(0, 2, 1), atol=1e-15)
    assert found["channels[1]"].shape == (5, 16, 3)


def test_states_of_a_recurrence_are_positions_from_the_first_to_the_last():
    network = Recurrent(KEY, 3, 4, 2)
    rows = _rows(6, 5, 3)
    (states,) = unit_outputs(network, rows).values()
    assert states.shape == (6, 6, 4)
    assert not states[:, 0].any()
    np.testing.assert_allclose(
        jax.vmap(network.output)(jnp.asarray(states[:, -1])), jax.vmap(network)(rows), atol=1e-14
    )


def test_queries_and_keys_meet_each_other_and_are_not_seen():
    network = Transformer(KEY, 3, 4, 2, num_stream=5, num_heads=2, num_hidden=4, num_blocks=1)
    taps = find_taps(network, _rows(1, 4, 3)[0])
    assert list(taps.taps) == ["stream", "heads[0]", "values[0]", "hidden[0]"]
    assert "queries and keys meet each other" in taps.hidden["queries[0]"]


def test_batches_agree_with_all_rows_at_once_a_ragged_last_one_too():
    network = Residual(KEY, 3, 4, 2, num_hidden=5)
    rows = _rows(7, 3)
    taps = find_taps(network, rows[0])
    pieces = list(unit_batches(taps, network, rows, 3))
    assert [len(outputs) for outputs, _ in pieces] == [3, 3, 1]
    np.testing.assert_allclose(np.concatenate([o for o, _ in pieces]), jax.vmap(network)(rows), atol=1e-14)
    for name, values in unit_outputs(network, rows).items():
        np.testing.assert_array_equal(np.concatenate([seen[name] for _, seen in pieces]), values)


def test_slopes_are_those_of_the_outputs_in_the_units():
    network = Conv(KEY, (1, 4, 4), [2], [3, 2], pool="average")
    rows = _rows(6, 1, 4, 4)
    taps = find_taps(network, rows[0])
    found = slope_products(taps, network, rows, jnp.eye(2))
    hidden = jax.vmap(lambda maps: network.layers[0](maps.reshape(-1)))(
        jnp.asarray(unit_outputs(network, rows)["channels[0]"]).swapaxes(1, 2)
    )
    np.testing.assert_allclose(found["hidden[0]"], network.layers[1].weight.T @ network.layers[1].weight, rtol=1e-12)
    sloped = (1 - jnp.tanh(hidden) ** 2)[:, None] * network.layers[1].weight[None]
    through = (sloped @ network.layers[0].weight).reshape(6, 2, 2, 4)
    expected = np.einsum("nkip,nkjp->ij", through, through) / 6
    np.testing.assert_allclose(found["channels[0]"], expected, rtol=1e-12)


def test_slopes_of_many_rows_are_those_of_their_blocks():
    network, rows = Dense(KEY, [3, 4, 2]), _rows(70, 3)
    taps = find_taps(network, rows[0])
    whole = slope_products(taps, network, rows, jnp.eye(2))["hidden[0]"]
    parts = [slope_products(taps, network, rows[i : i + 35], jnp.eye(2))["hidden[0]"] for i in (0, 35)]
    np.testing.assert_allclose(whole, sum(parts) / 2, rtol=1e-12)


def test_networks_without_unit_spaces_are_refused():
    with pytest.raises(InputError, match="discover_units"):
        unit_outputs(eqx.nn.MLP(2, 2, 3, 1, key=KEY), _rows(2, 2))
