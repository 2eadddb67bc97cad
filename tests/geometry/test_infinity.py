"""What runs away, and how, on networks made by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas.geometry import classify_escape
from lossatlas.geometry._infinity import has_run_away, has_stayed
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer


X = jnp.linspace(-1.0, 1.0, 21)[:, None] + 0.025
LANDSCAPE = Landscape(X, jnp.sin(3 * X))


def one_hidden(units, activation="tanh"):
    w, b, a = np.asarray(units, dtype=float).T
    return Dense.from_layers(
        [DenseLayer(jnp.asarray(w[:, None]), jnp.asarray(b)), DenseLayer(jnp.asarray(a[None]), jnp.zeros(1))],
        activation,
    )


USUAL = (1.3, 0.2, 0.8)


@pytest.mark.parametrize(
    ("units", "activation", "kind", "names"),
    [
        ([USUAL, (900.0, 0.0, 0.5)], "tanh", "step", {"hidden[0][1]"}),
        ([USUAL, (900.0, 0.0, 0.5)], "sigmoid", "step", {"hidden[0][1]"}),
        ([(0.01, 0.001, 70.0), USUAL], "tanh", "linear", {"hidden[0][0]"}),
        ([USUAL, (1.0, 0.5, 80.0), (1.01, 0.5, -81.0)], "tanh", "merging pair", {"hidden[0][1]", "hidden[0][2]"}),
        ([USUAL, (1.0, 0.5, 80.0), (-1.01, -0.5, 81.0)], "tanh", "merging pair", {"hidden[0][1]", "hidden[0][2]"}),
        (
            [(1.0, 0.5, 80.0), (1.02, 0.5, -160.0), (1.04, 0.5, 80.5)],
            "tanh",
            "merging group",
            {"hidden[0][0]", "hidden[0][1]", "hidden[0][2]"},
        ),
    ],
)
def test_each_kind_is_named(units, activation, kind, names):
    (found,) = classify_escape(one_hidden(units, activation), LANDSCAPE)
    assert found.kind == kind
    assert set(found.units) == names


def test_a_usual_network_is_unknown_and_growth_is_measured():
    network = one_hidden([USUAL, (-2.0, 0.5, 1.0)])
    (found,) = classify_escape(network, LANDSCAPE)
    assert found.kind == "unknown"
    (found,) = classify_escape(jax.tree.map(lambda a: 5 * a, network), LANDSCAPE, before=network)
    np.testing.assert_allclose(found.growth, 5.0)


def test_a_step_that_did_not_grow_is_not_named():
    network = one_hidden([USUAL, (900.0, 0.0, 0.5)])
    (found,) = classify_escape(network, LANDSCAPE, before=network)
    assert found.kind == "unknown"


def test_evidence_is_what_the_network_has():
    (found,) = classify_escape(one_hidden([USUAL, (900.0, 0.0, 0.5)]), LANDSCAPE)
    z = 900 * np.abs(np.asarray(X))
    np.testing.assert_allclose(
        [found.smallest_preactivation, found.largest_preactivation, found.incoming_norm, found.outgoing_norm],
        [z.min(), z.max(), 900.0, 0.5],
    )


def test_other_networks_are_unknown(key):
    (found,) = classify_escape(eqx.nn.MLP(1, 1, 2, 1, key=key), LANDSCAPE)
    assert (found.kind, found.units) == ("unknown", ())


def test_norms_that_grow_with_each_decade_run_away():
    decades = np.arange(17.0)
    constant = np.full(17, 3.0)
    logarithmic = 1 + decades  # exponential tails
    power = 10 ** (decades / 3)
    assert has_stayed(constant)
    assert not has_run_away(constant, ())
    assert has_run_away(logarithmic, ())
    assert has_run_away(power, ())
    # A search that ended at a gradient of 1e-4 needs the units to show it.
    early = np.where(decades <= 4, power, np.nan)
    assert not has_run_away(early, classify_escape(one_hidden([USUAL]), LANDSCAPE))
    assert has_run_away(early, classify_escape(one_hidden([USUAL, (900.0, 0.0, 0.5)]), LANDSCAPE))
