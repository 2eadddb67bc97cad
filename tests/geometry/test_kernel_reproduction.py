"""Fort et al. 2020 on digits: the kernel turns fast at first, and what it has learned by then it keeps."""

import jax
import numpy as np
import optax
import pytest

from lossatlas.geometry import kernel_evolution
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train


_EPOCHS = [0, 0.4, 0.8, 1.2, 1.6, 2.0, 3.6, 4.0, 7.6, 8.0, 40.0]
_STEPS = 20  # an epoch: 1,000 examples in batches of 50


@pytest.fixture(scope="module")
def digits():
    """1,000 standardised digits to train on, 797 to test."""
    from sklearn.datasets import load_digits

    images, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    images = (images - images.mean(0)) / (images.std(0) + 1e-8)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    parts = slice(0, 1000), slice(1000, None)
    return tuple(Landscape(images[part], labels[part], loss="cross_entropy") for part in parts)


def evolution(digits, seed, convention):
    """A run of 40 epochs, momentum 0.9, rate 0.05 and a tenth after three quarters; kernels of 100 examples."""
    training, test = digits
    network = Dense(jax.random.key(seed), [64, 64, 64, 10], activation="relu", init="he")
    total = 40 * _STEPS
    rate = optax.piecewise_constant_schedule(0.05, {3 * total // 4: 0.1})
    steps = [round(epoch * _STEPS) for epoch in _EPOCHS]
    run = train(
        jax.random.key(seed),
        network,
        training,
        optimizer=optax.sgd(rate, momentum=0.9),
        num_steps=total,
        batch_size=50,
        snapshots=steps,
    )
    probe = Landscape(training.inputs[:100], training.targets[:100], loss="cross_entropy")
    networks = [run.network_at(i) for i in range(run.num_snapshots)]
    return kernel_evolution(
        networks, probe, _EPOCHS, test=test if convention == "trace" else None, convention=convention
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_velocity_collapses_within_epochs(digits, seed):
    found = evolution(digits, seed, "full")
    at = dict(zip(_EPOCHS, range(len(_EPOCHS)), strict=True))
    velocity, hamming, distance = found["velocity"], found["hamming_from_first"], found["distance_from_first"]
    print({t: f"{velocity[i]:.2g}" for t, i in at.items()}, distance.round(3), hamming.round(3))
    assert velocity[at[0.8]] / velocity[at[8.0]] > 50
    assert distance[at[2.0]] >= 0.85 * distance[at[40.0]]
    assert hamming[at[2.0]] >= 0.85 * hamming[at[40.0]]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_frozen_kernel_learns_early(digits, seed):
    found = evolution(digits, seed, "trace")
    at = dict(zip(_EPOCHS, range(len(_EPOCHS)), strict=True))
    accuracy = found["frozen_accuracy"]
    print(accuracy.round(3), found["network_accuracy"].round(3))
    error = 1 - accuracy
    assert error[at[0]] / error[at[40.0]] > 1.5
    assert accuracy[at[2.0]] - accuracy[0] > 0.6 * (accuracy[at[40.0]] - accuracy[0])
    assert found["network_accuracy"][at[40.0]] > 0.95
