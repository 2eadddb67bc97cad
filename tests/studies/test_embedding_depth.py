"""What a reader would not trust of the study of depth: the printed claim on inertia, and how stalls are told."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from smoke_runs import smoke_run

from lossatlas import Landscape
from lossatlas.geometry import linearization
from lossatlas.networks import Conv, Dense, DenseLayer
from lossatlas.studies._embedding_depth_training import _correlation, stalled


def _verdicts(results):
    study, _ = smoke_run("embedding-depth")
    return {claim.name: str(claim.verdict) for claim in study.claims(results)}


def test_inertia_as_printed_fails_and_as_corrected_holds():
    verdicts = _verdicts(smoke_run("embedding-depth")[1])
    assert verdicts.pop("printed-strict-saddles") == "fails"
    for name in ("inertia", "inertia-minimum", "spurious-shrink", "spurious-closed-form", "spurious-certified"):
        assert verdicts[name] == "holds"


def test_counts_of_the_figure_would_reverse_both_verdicts():
    results = smoke_run("embedding-depth")[1].copy(deep=True)
    results["spectra"].ds["counts"].values[0, :, 0] = [0, 1, 2]
    verdicts = _verdicts(results)
    assert verdicts["printed-strict-saddles"] == "holds"
    assert verdicts["inertia-minimum"] == "fails"


def test_beside_the_minimum_there_are_negatives_that_polishing_takes_away():
    counts = smoke_run("embedding-depth")[1]["spectra"].ds["counts"]
    beside = counts.sel(point="beside").values[:, 0]
    assert np.diff(beside).tolist() == [2, 2]  # min(outputs, neurons + 1) singular values times two neurons
    np.testing.assert_array_equal(counts.sel(point="polished").values, counts.sel(point="exact").values)


def test_a_stall_is_where_the_loss_is_flattest():
    steps = np.unique(np.append(0, np.geomspace(1, 10_000, 100).astype(int)))
    loss = 1 / (1 + (steps / 50) ** 2) + 0.3 / (1 + (steps / 3000) ** 2)  # flattest between the two decays
    at = steps[stalled(steps, loss)]
    slopes = np.abs(np.gradient(np.log(loss[1:]), np.log(steps[1:])))
    inside = (steps[1:] >= 20) & (steps[1:] < 5000)
    assert slopes[inside].min() == slopes[steps[1:] == at]
    assert 300 < at < 3000


def test_convolutions_on_one_pixel_are_as_linear_as_the_dense_network():
    key = jax.random.key(0)
    network = Conv(key, (1, 1, 1), [4, 3], [1], kernel=1, init=lambda *_: 1.0)
    layers = [DenseLayer(c.conv.weight[:, :, 0, 0], c.conv.bias) for c in network.convs]
    dense = Dense.from_layers([*layers, DenseLayer(network.layers[0].weight, network.layers[0].bias)])
    inputs = jnp.linspace(-2.0, 2.0, 30)[:, None] + 0.3
    measured = linearization(dense, Landscape(inputs, inputs), keep=1.0)
    assert _correlation(network, inputs[:, :, None, None]) == pytest.approx(float(measured.mpc.min()), abs=1e-12)
    # With BatchNorm of the batch a small scale makes them linear.
    normed = Conv(key, (1, 1, 1), [4, 3], [1], kernel=1, norm="batch", batch_statistics=True, init=lambda *_: 1.0)
    small = eqx.tree_at(lambda n: [c.norm.scale for c in n.convs], normed, [jnp.full(4, 0.01), jnp.full(3, 0.01)])
    one, little = (_correlation(n, inputs[:, :, None, None]) for n in (normed, small))
    assert one < 0.999 < 0.9999 < little
