"""What the study of the embedding principle in width measures."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from sklearn.datasets import load_digits

from lossatlas import data
from lossatlas._progress import ProgressMeter
from lossatlas._status import Certificate, Status
from lossatlas.embedding import split
from lossatlas.geometry import find_critical_points, inertia, plant_landscape
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer
from lossatlas.studies._points import (
    counts,
    gradient,
    hessian,
    hull,
    largest,
    random_network,
    signs_of,
    small_levels,
    table,
)
from lossatlas.theory import split_inertia
from lossatlas.training import train


_ACTIVATIONS = ("tanh", "sigmoid", "softplus", "relu")
_WIDTHS = ((2, 3, 2), (2, 3, 2, 2), (3, 4, 1), (2, 3, 3, 1))
_SHARES = (-0.7, 0.3, 0.5, 2.0)


def splits(key: jax.Array, num_cases: int) -> xr.Dataset:
    """One split in each random network: what it changes, and the inertia that it adds."""
    rows = []
    for i in range(num_cases):
        widths, name, share = _WIDTHS[i % 4], _ACTIVATIONS[i // 4 % 4], _SHARES[(i + i // 4) % 4]
        layer = i // 16 % (len(widths) - 2)
        ours, inputs, targets, residual, unit = jax.random.split(jax.random.fold_in(key, i), 5)
        network = random_network(ours, widths, name)
        points = jax.random.normal(inputs, (60, widths[0]))
        space, which = f"hidden[{layer}]", int(jax.random.randint(unit, (), 0, widths[layer + 1]))
        anywhere = Landscape(points, jax.random.normal(targets, (60, widths[-1])))
        _, record = split(network, space, which, share, landscape=anywhere)
        planted = plant_landscape(residual, network, points, amplitude=0.5)
        wide, critical = split(network, space, which, share, landscape=planted)
        added = split_inertia(network, planted, space, which, share)
        small, large = (signs_of(hessian(planted, n)) for n in (network, wide))
        narrow, full = small.counts, large.counts
        predicted = np.add(narrow, (added.negative, added.zero, added.positive))
        rows.append(
            {
                "activation": name,
                "layers": len(widths) - 1,
                "share": share,
                "output_change": record.certificate.output_change,
                "gradient": record.certificate.gradient_before,
                "intertwiner_defect": record.certificate.intertwiner_defect,
                "gradient_when_critical": critical.certificate.gradient_after,
                "added_negative": full[0] - narrow[0],
                "predicted_negative": int(predicted[0]) - narrow[0],
                "is_certified": added.certificate is Certificate.YES and small.is_clear and large.is_clear,
                "agrees": bool((predicted == full).all()),
            }
        )
    return table(rows, "case")


def subspaces(key: jax.Array) -> xr.Dataset:
    """K neurons of a critical point split one after the other with random shares: what the wide points span."""
    ours, inputs, residual, draws, mixing = jax.random.split(key, 5)
    network = random_network(ours, (2, 3, 2), "tanh")
    landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 2)), amplitude=0.3)
    rows = []
    for more in (1, 2, 3):
        points = []
        for shares in np.asarray(jax.random.uniform(jax.random.fold_in(draws, more), (8, more), minval=-2, maxval=2)):
            wide = network
            for unit, share in enumerate(shares):
                wide, _ = split(wide, "hidden[0]", unit, float(share))
            points.append(wide)
        dimension, ends = hull(jax.random.fold_in(mixing, more), points)
        rows.append(
            {
                "neurons_more": more,
                "dimension": dimension,
                "gradient": max(largest(gradient(landscape, end)) for end in ends),
                "zero_eigenvalues": counts(landscape, ends[0])[1] - counts(landscape, network)[1],
            }
        )
    return table(rows, "family")


def _split_equally(network: Dense, unit: int, copies: int) -> Any:
    return network if copies == 1 else split(network, "hidden[0]", unit, [1 / copies] * copies)[0]


# The hierarchy of critical points, and training


def levels(key: jax.Array, most: int, starts: int, descents: int) -> tuple[xr.Dataset, xr.Dataset, list[Any]]:
    """Critical points of one neuron up to `most`, and the inertia of equal splits of the lowest one of two."""
    landscape, found = data.load("hierarchy-1d").landscape(), small_levels(key, most, starts, descents)
    levels = {
        "name": [entry.name for entry in found],
        "neurons": [entry.neurons for entry in found],
        "loss": [entry.loss for entry in found],
        "gradient": [entry.gradient_norm for entry in found],
        "counts": [entry.inertia.counts for entry in found if entry.inertia is not None],
    }
    minimum = next((entry.network for entry in found if entry.neurons == 2 and entry.is_minimum), None)
    rows = []
    for unit, copies in itertools.product((0, 1), (1, 2, 3)):
        if minimum is not None:
            wide = _split_equally(minimum, unit, copies)
            counted = inertia(wide, landscape)
            rows.append((unit, copies, *counted.counts, float(counted.gradient_norm)))
    names = ("neuron", "copies", "negative", "zero", "positive", "gradient")
    columns = np.array(rows, float).reshape(-1, len(names)).T
    splits = xr.Dataset({name: ("split", column) for name, column in zip(names, columns, strict=True)})
    dimensions = {name: ("level", "sign") if name == "counts" else ("level",) for name in levels}
    shaped = {name: np.array(values).reshape(-1, 3) if name == "counts" else values for name, values in levels.items()}
    networks = [(entry.name, entry.loss, entry.predictions) for entry in found]
    return xr.Dataset({name: (dimensions[name], np.array(shaped[name])) for name in levels}), splits, networks


def training(
    key: jax.Array,
    wide: int,
    init_power: float,
    learning_rate: float,
    num_steps: int,
    levels: list[Any],
    progress: ProgressMeter,
) -> xr.Dataset:
    """Gradient descent of a wide network on the same data: its loss, and how far its function is from each level's."""
    landscape = data.load("hierarchy-1d").landscape()
    std = wide**-init_power
    network = Dense(key, (1, wide, 1), init=lambda *_: std)
    run = train(
        key,
        network,
        landscape,
        learning_rate=learning_rate,
        num_steps=num_steps,
        snapshots=np.unique(np.geomspace(1, num_steps, 300).astype(int)),
        progress=progress,
    )
    spread = float(np.std(np.asarray(landscape.targets)))
    functions = np.stack([np.asarray(jax.vmap(run.network_at(i))(landscape.inputs)) for i in range(run.num_snapshots)])
    apart = [np.sqrt(np.mean((functions - level) ** 2, axis=(1, 2))) / spread for *_, level in levels]
    return xr.Dataset(
        {"loss": ("step", run.loss), "distance": (("level", "step"), np.array(apart).reshape(-1, run.num_snapshots))},
        {
            "step": run.steps,
            "level": np.array([name for name, *_ in levels]),
            "level_loss": ("level", np.array([loss for _, loss, _ in levels])),
        },
    )


# Condensation on digits, and a saddle of iris


def digits(key: jax.Array, num_steps: int, std: float, progress: ProgressMeter) -> xr.Dataset:
    """A wide ReLU network trained from tiny weights, and the narrow ones that stand for its groups of neurons."""
    images, labels = load_digits(return_X_y=True)
    order = np.asarray(jax.random.permutation(key, len(images)))
    images, labels = images[order] / 16, labels[order]
    landscape = Landscape(jnp.asarray(images[:1000]), jnp.asarray(np.eye(10)[labels[:1000]]))
    network = Dense(key, (64, 200, 10), activation="relu", init=lambda *_: std)
    network = train(
        key, network, landscape, optimizer="adam", learning_rate=1e-4, num_steps=num_steps, progress=progress
    ).network
    hidden, last = network.layers
    vectors = np.column_stack([hidden.weight, hidden.bias])
    readers = np.asarray(last.weight)
    lengths = np.linalg.norm(vectors, axis=1)
    amplitudes = lengths * np.linalg.norm(readers, axis=0)
    kept = np.flatnonzero(amplitudes > 0.02 * amplitudes.max())
    cosines = (vectors[kept] @ vectors[kept].T) / np.outer(lengths[kept], lengths[kept])
    groups = _groups(cosines, 0.9)
    predictions = np.asarray(jax.vmap(network)(jnp.asarray(images[1000:]))).argmax(1)
    agreement = []
    for is_mean in (False, True):
        rows, columns = [], []
        for group in groups:
            members = kept[group]
            weights = amplitudes[members][:, None]
            row = (weights * vectors[members] / lengths[members][:, None]).sum(0) if is_mean else vectors[members[0]]
            rows.append(row / np.linalg.norm(row))
            columns.append((readers[:, members] * lengths[members]).sum(1))
        narrow = np.array(rows)
        small = Dense.from_layers(
            [
                DenseLayer(jnp.asarray(narrow[:, :-1]), jnp.asarray(narrow[:, -1])),
                DenseLayer(jnp.asarray(np.array(columns).T), last.bias),
            ],
            "relu",
        )
        says = np.asarray(jax.vmap(small)(jnp.asarray(images[1000:]))).argmax(1)
        agreement.append(float(np.mean(says == predictions)))
    order = np.concatenate(groups)
    return xr.Dataset(
        {
            "cosine": (("neuron", "other"), cosines[order][:, order]),
            "agreement": ("rule", np.array(agreement)),
            "accuracy": float(np.mean(predictions == labels[1000:])),
            "loss": float(landscape(network)),
            "groups": len(groups),
        },
        {"rule": np.array(["one of the group", "weighted mean"])},
    )


def _groups(cosines: np.ndarray, least: float) -> list[np.ndarray]:
    """Neurons with a cosine of at least `least` to the first of their group, the largest group first."""
    left, groups = np.arange(len(cosines)), []
    while len(left):
        near = cosines[left[0], left] >= least
        groups.append(left[near])
        left = left[~near]
    return sorted(groups, key=len, reverse=True)


def iris(key: jax.Array, num_starts: int) -> xr.Dataset:
    """Critical points of two sigmoid neurons on iris, and the eigenvalues by sign after equal splits of one of them."""
    landscape = data.load("iris").landscape()
    starts = [random_network(jax.random.fold_in(key, i), (4, 2, 3), "sigmoid") for i in range(num_starts)]
    near = find_critical_points(starts, landscape, method="levenberg_marquardt", max_steps=400)
    points = find_critical_points([p.network for p in near], landscape, method="newton", max_steps=50)
    rows = []
    for i, point in enumerate(points):
        readers = np.linalg.norm(np.asarray(point.network.layers[1].weight), axis=0)
        if point.status is not Status.CONVERGED or readers.min() < 1e-6:
            continue
        for copies in (1, 2, 3):
            wide = _split_equally(point.network, 0, copies)
            counted = inertia(wide, landscape)
            rows.append((i, copies, float(point.loss), *counted.counts, float(counted.gradient_norm)))
    names = ("point", "copies", "loss", "negative", "zero", "positive", "gradient")
    columns = np.array(rows, float).reshape(-1, len(names)).T
    return xr.Dataset({name: ("split", column) for name, column in zip(names, columns, strict=True)})
