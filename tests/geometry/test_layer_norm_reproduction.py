"""What the paper's experiment on initialisation becomes on digits: norms of layers, and what SGD makes of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from lossatlas.geometry import layer_curvature
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train


@pytest.mark.slow
def test_the_norm_of_the_first_layer_does_not_carry_its_scale():
    # Skorski et al. 2021, notebook: 30-30 ReLU, first weights N(0, s^2), SGD of 0.01, batches of 32, 1000 steps.
    digits: Any = load_digits()
    inputs, labels = jnp.asarray(digits.data) / 16, jnp.asarray(digits.target)
    landscape = Landscape(inputs, labels, loss="cross_entropy")
    few = landscape.subset(slice(512))
    norms, behind, losses = {}, {}, {}
    for scale in (1e-5, 0.01, 1.0):
        found = []
        for seed in range(5):
            std = lambda fan_in, fan_out, _, s=scale: s if fan_in == 64 else (2 / (fan_in + fan_out)) ** 0.5  # noqa: E731
            network = Dense(jax.random.key(seed), [64, 30, 30, 10], activation="relu", init=std)
            report = layer_curvature(network, few, only="*.weight", method="kernel")
            run = train(
                jax.random.key(seed), network, landscape, optimizer=optax.sgd, learning_rate=0.01, num_steps=1000,
                batch_size=32, snapshots=[0, 1000],
            )  # fmt: skip
            found.append((report.norms[0], report.norms[1], float(run.loss[-1])))
        norms[scale], behind[scale], losses[scale] = np.mean(found, axis=0)
        print(f"s={scale}: |H_1| {norms[scale]:.3f}, |H_2| {behind[scale]:.3g}, loss {losses[scale]:.3f}")
    # The narrative of the notebook, a small norm at a small scale, does not transfer: gates have no scale.
    np.testing.assert_allclose(norms[1e-5], norms[0.01], rtol=0.02)
    assert 0.4 < norms[1.0] / norms[0.01] < 1
    # The layers behind carry it, to first order as the square.
    assert behind[1e-5] < 1e-5 * behind[0.01] < 1e-3
    # And the largest scale, not the middle one, trains furthest in these steps.
    assert losses[1.0] < losses[0.01] < losses[1e-5]
