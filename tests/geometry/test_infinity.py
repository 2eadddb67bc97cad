"""What runs away, and how, on networks made by hand."""

import time

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


def test_many_units_are_searched_in_a_moment():
    """400 units in three directions: all groups of 2 to 4 would be a thousand million."""
    rng = np.random.default_rng(0)
    rows = np.array([[1.0, 0.5], [-2.0, 0.3], [0.7, -0.9]])[np.arange(400) % 3]
    usual = np.concatenate([rows, rng.uniform(0.5, 1.0, (400, 1))], axis=1)
    start = time.perf_counter()
    (found,) = classify_escape(one_hidden(usual), LANDSCAPE)
    assert found.kind == "unknown"
    # A pair among them, and one that did not grow.
    usual[[30, 230]] = [[1.5, 0.5, 80.0], [1.51, 0.5, -81.0]]
    usual[[31, 231]] = [[-0.1, 2.0, 50.0], [-0.1, 2.01, -51.0]]
    before = usual.copy()
    before[[30, 230], 2] = [8.0, -8.1]
    (found,) = classify_escape(one_hidden(usual), LANDSCAPE, before=one_hidden(before))
    assert (found.kind, found.units) == ("merging pair", ("hidden[0][30]", "hidden[0][230]"))
    assert time.perf_counter() - start < 20


def test_each_output_of_a_logistic_loss_is_a_class_of_its_own():
    """Outputs 0 and 1 are certain on every example; a softmax across them would call them undecided."""
    network = Dense.from_layers([DenseLayer(jnp.asarray([[20.0], [20.0], [0.2]]), jnp.zeros(3))])
    landscape = Landscape(40 * X, (np.asarray(X) > 0) * np.ones(3), loss="logistic")
    (found,) = classify_escape(network, landscape, before=jax.tree.map(lambda a: 0.5 * a, network))
    assert (found.kind, found.units) == ("separable", ("output[0]", "output[1]"))
