"""What the study of the embedding principle in depth measures at critical points; its training runs stand beside it."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from lossatlas import data
from lossatlas._parameters import num_parameters, ravel
from lossatlas._status import Certificate, Status
from lossatlas.embedding import Record, lift, lift_block, lift_inertia, walk_lift
from lossatlas.geometry import find_critical_point, find_critical_points, inertia, plant_landscape
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer, Residual
from lossatlas.studies._points import (
    counts,
    gradient,
    hessian,
    largest,
    moved,
    outputs,
    random_network,
    signs_of,
    table,
)


_PIECEWISE = ("leaky_relu", "relu", "elu")
_WIDTHS = (2, 3, 2, 2)


# Lifts of planted critical points (Propositions 1 and 2, Theorem 1, inertia)


def lifts(key: jax.Array, num_cases: int) -> xr.Dataset:
    """One lift for each random network at a planted critical point, over activations, places and widths."""
    rows = []
    for i in range(num_cases):
        name, before, width = _PIECEWISE[i % 3], (1, 0, 2)[i // 3 % 3], (4, 2, 3)[(i + i // 9) % 3]
        ours, inputs, residual, draw, walk = jax.random.split(jax.random.fold_in(key, i), 5)
        network = random_network(ours, _WIDTHS, name)
        landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 2)), amplitude=0.3)
        deep, record = lift(network, landscape.inputs, before, width, key=draw)
        other, _ = walk_lift(walk, record, landscape.inputs)
        small, full = (np.asarray(hessian(landscape, n)) for n in (network, deep))
        jacobian = np.asarray(_shallow_jacobian(record, deep))
        shallow, found = signs_of(small), signs_of(full)
        predicted = lift_inertia(record, shallow.counts)
        rows.append(
            {
                "activation": name,
                "before": before,
                "width": width,
                "output_change": record.certificate.output_change,
                "feature_change": _feature_change(network, deep, landscape.inputs, before),
                "features_span": _spans(deep, landscape.inputs, before),
                "gradient": largest(gradient(landscape, deep)),
                "gradient_walked": largest(gradient(landscape, other)),
                "walked": largest(ravel(other)[0] - ravel(deep)[0]),
                "hessian_defect": largest(full - jacobian.T @ small @ jacobian) / largest(full),
                "shallow_negative": shallow.negative,
                "shallow_zero": shallow.zero,
                "deep_negative": found.negative,
                "deep_zero": found.zero,
                "added": num_parameters(deep) - num_parameters(network),
                "signs_stay": (found.negative, found.positive) == (shallow.negative, shallow.positive),
                "is_predicted": found.counts == (predicted.negative, predicted.zero, predicted.positive),
                "is_clear": shallow.is_clear and found.is_clear,
            }
        )
    return table(rows, "case")


@eqx.filter_jit
def _shallow_jacobian(record: Record, deep: Any) -> jax.Array:
    """D Phi by automatic differentiation: the shallow parameters that a deep point equals."""
    vector, unravel = ravel(deep)
    return jax.jacrev(lambda v: ravel(record.inverse(unravel(v)))[0])(vector)


@eqx.filter_jit
def _features(network: Dense, inputs: jax.Array) -> list[jax.Array]:
    return jax.vmap(network.features)(inputs)


def _feature_change(network: Dense, deep: Dense, inputs: jax.Array, before: int) -> float:
    """How much the features of the layers that both have differ on the data."""
    old, new = _features(network, inputs), _features(deep, inputs)
    del new[before + 1]
    return max(largest(a - b) for a, b in zip(old, new, strict=True))


def _spans(deep: Dense, inputs: jax.Array, before: int) -> bool:
    """Whether the inserted layer and a constant span what enters it."""
    features = [np.asarray(f) for f in _features(deep, inputs)]
    one = np.ones((len(inputs), 1))
    inserted = np.hstack([features[before + 1], one])
    both = np.hstack([inserted, features[before]])
    return bool(np.linalg.matrix_rank(both, 1e-9) == np.linalg.matrix_rank(inserted, 1e-9))


def chains(key: jax.Array, num_cases: int) -> xr.Dataset:
    """Two lifts one after the other: critical points of a network two hidden layers shallower."""
    rows = []
    for i in range(num_cases):
        ours, inputs, residual, draw = jax.random.split(jax.random.fold_in(key, i), 4)
        network = random_network(ours, (2, 3, 2), "leaky_relu")
        landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 2)), amplitude=0.3)
        deep = network
        for width in (2, 4):  # the shapes of other parts: their programs are compiled already
            deep, _ = lift(deep, landscape.inputs, 1, width, key=jax.random.fold_in(draw, width))
        changed = largest(outputs(deep, landscape.inputs) - outputs(network, landscape.inputs))
        rows.append({"output_change": changed, "gradient": largest(gradient(landscape, deep))})
    return table(rows, "case")


def deficient(key: jax.Array, num_cases: int) -> xr.Dataset:
    """A weight of rank one lifted with full-rank factors and with factors of rank one: negative eigenvalues."""
    first_row, readers = jnp.array([[0.7, 0.4, -1.0]]), jnp.array([[1.0], [-0.5]])
    rows = []
    for i in range(num_cases):
        ours, inputs, residual, draw = jax.random.split(jax.random.fold_in(key, i), 4)
        first, last = random_network(ours, (2, 3, 2), "leaky_relu", std=1.0).layers
        network = Dense.from_layers([first, DenseLayer(readers @ first_row, last.bias)], "leaky_relu")
        landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 2)), amplitude=3.0)
        full, _ = lift(network, landscape.inputs, 1, 2, key=draw, mode="lemma")
        features = _features(network, landscape.inputs)[1]
        shift = 1.0 - jnp.min(features @ first_row.T)
        inserted = DenseLayer(jnp.concatenate([first_row, jnp.zeros((1, 3))]), jnp.array([shift, 1.0]))
        following = DenseLayer(jnp.concatenate([readers, jnp.zeros((2, 1))], axis=1), last.bias - shift * readers[:, 0])
        low = Dense.from_layers([first, inserted, following], "leaky_relu")
        rows.append(
            {
                "shallow": counts(landscape, network)[0],
                "full": counts(landscape, full)[0],
                "low": counts(landscape, low)[0],
                "gradient": largest(gradient(landscape, low)),
            }
        )
    return table(rows, "case")


def blocks(key: jax.Array, num_cases: int) -> xr.Dataset:
    """Linear residual blocks inserted before the output of residual networks at planted critical points."""
    rows = []
    for i in range(num_cases):
        ours, inputs, residual, draw = jax.random.split(jax.random.fold_in(key, i), 4)
        vector, unravel = ravel(Residual(ours, 2, 2, 2, num_blocks=1, activation="relu"))
        network = unravel(0.8 * jax.random.normal(ours, vector.shape))
        landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 2)), amplitude=0.3)
        deep, record = lift_block(network, landscape.inputs, key=draw)
        shallow, found = counts(landscape, network), counts(landscape, deep)
        added = num_parameters(deep) - num_parameters(network)
        rows.append(
            {
                "output_change": record.certificate.output_change,
                "gradient": largest(gradient(landscape, deep)),
                "adds_zeros_alone": found == (shallow[0], shallow[1] + added, shallow[2]),
            }
        )
    return table(rows, "case")


# Data dependency (Proposition 3)


def subsets(key: jax.Array, num_lifts: int) -> xr.Dataset:
    """Lifts of part of 160 inputs: the share whose inserted neurons stay linear on all, and the changes of outputs."""
    ours, inputs, draws = jax.random.split(key, 3)
    network = random_network(ours, (2, 3, 2), "relu")
    points = jax.random.normal(inputs, (160, 2))
    five = points[jnp.arange(160) % 5]  # repeated: one shape for all
    rows = []
    for n in (5, 10, 20, 40, 80, 160):
        part, holds, change, on_part = points[jnp.arange(160) % n], [], [], []
        for i in range(num_lifts):
            deep, record = lift(network, part, 0, 3, key=jax.random.fold_in(draws, i), margin=0.2)
            step = record.plan[0]
            received = np.asarray(points) @ np.asarray(step.weight).T + np.asarray(step.bias)
            holds.append((received > 0).all())
            change.append(largest(outputs(deep, points) - outputs(network, points)))
            on_part.append(largest(outputs(deep, five) - outputs(network, five)))
        row = {"examples": n, "holds": np.mean(holds), "change": np.median(change), "on_part": max(on_part)}
        rows.append(row)
    return table(rows, "subset")


def chance(key: jax.Array, num_neurons: int) -> xr.Dataset:
    """How often a random ReLU neuron without bias is all on or all off on n random inputs."""
    rows = []
    weights, inputs = np.asarray(jax.random.normal(key, (2, num_neurons, 10)))  # one weight, inputs of its own
    for n in (2, 4, 6, 8, 10):
        on = (weights[:, :1] * inputs[:, :n] > 0).sum(1)
        rows.append({"examples": n, "share": float(np.mean((on == 0) | (on == n)))})
    return table(rows, "count")


# Inexact critical points, and what they feign (Figure 4)

_DISTANCES = (1e-3, 1e-4, 1e-5, 1e-6)


def spurious(key: jax.Array) -> tuple[xr.Dataset, xr.Dataset]:
    """A minimum of 1-2-1 lifted once and twice: itself, a point 1e-4 beside it, and that one polished; by distance."""
    network, landscape = _minimum(key)
    step = jax.random.normal(jax.random.fold_in(key, 1), ravel(network)[0].shape)
    beside = moved(network, 1e-4 * step)
    polished = find_critical_point(beside, landscape, method="newton").network
    starts = {"exact": network, "beside": beside, "polished": polished}
    size = num_parameters(network) + 12
    values = np.full((3, 3, size), np.nan)
    found, slopes, certified = np.zeros((3, 3, 3), int), np.zeros((3, 3)), []
    for i, point in enumerate(starts.values()):
        for k, deep in enumerate(_lifted(key, point, landscape)):
            matrix = np.asarray(hessian(landscape, deep))
            values[i, k, : len(matrix)] = np.linalg.eigvalsh(matrix)
            found[i, k] = signs_of(matrix).counts
            slopes[i, k] = float(np.abs(np.asarray(gradient(landscape, deep))).sum())
        certified.append(inertia(_lifted(key, point, landscape)[1], landscape).is_strict_saddle is Certificate.YES)
    spectra = xr.Dataset(
        {
            "eigenvalue": (("point", "layers", "index"), values),
            "counts": (("point", "layers", "sign"), found),
            "gradient": (("point", "layers"), slopes),
            "certified_saddle": ("point", certified),
        },
        {"point": list(starts), "layers": [0, 1, 2]},
    )
    rows = []
    for distance in _DISTANCES:
        deep = _lifted(key, moved(network, distance * step), landscape)[1]
        slope = float(np.abs(np.asarray(gradient(landscape, deep))).sum())
        lowest = float(np.linalg.eigvalsh(np.asarray(hessian(landscape, deep)))[0])
        rows.append({"distance": distance, "gradient": slope, "lowest": lowest})
    return spectra, table(rows, "distance_index")


def _minimum(key: jax.Array) -> tuple[Dense, Landscape]:
    """A planted minimum of 1-2-1 with the two zeros of its scales."""
    for i in range(100):
        ours, inputs, residual = jax.random.split(jax.random.fold_in(key, i), 3)
        network = random_network(ours, (1, 2, 1), "leaky_relu", std=1.0)
        landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 1)), amplitude=0.02)
        found = signs_of(hessian(landscape, network))
        if found.counts == (0, 2, 5) and found.is_clear:
            return network, landscape
    msg = "No planted minimum of 1-2-1 was drawn; choose another seed."
    raise RuntimeError(msg)


def _lifted(key: jax.Array, network: Dense, landscape: Landscape) -> list[Dense]:
    """The network, and it with one and two more layers of two neurons before the output."""
    found = [network]
    for i in range(2):
        deeper, _ = lift(
            found[-1], landscape.inputs, len(found[-1].layers) - 1, 2, key=jax.random.fold_in(key, 100 + i)
        )
        found.append(deeper)
    return found


def remainder(key: jax.Array) -> xr.Dataset:
    """What a gradient left over adds to the Hessian of a lift of slope 1, beside +-sigma([G_W, g_b])."""
    ours, inputs, targets, draw = jax.random.split(key, 4)
    network = random_network(ours, (2, 3, 2), "leaky_relu")
    landscape = Landscape(jax.random.normal(inputs, (60, 2)), jax.random.normal(targets, (60, 2)))
    deep, record = lift(network, landscape.inputs, 1, 2, key=draw)
    jacobian = np.asarray(_shallow_jacobian(record, deep))
    extra = np.asarray(hessian(landscape, deep)) - jacobian.T @ np.asarray(hessian(landscape, network)) @ jacobian
    pulled = ravel(network)[1].tangent(gradient(landscape, network)).layers[1]
    singular = np.linalg.svd(np.column_stack([pulled.weight, pulled.bias]), compute_uv=False)
    measured = np.linalg.eigvalsh(extra)
    expected = np.sort(np.concatenate([np.tile(-singular, 2), np.tile(singular, 2)]))
    expected = np.sort(np.concatenate([expected, np.zeros(len(measured) - len(expected))]))
    return xr.Dataset({"measured": ("index", measured), "predicted": ("index", expected)})


def iris_points(key: jax.Array, num_starts: int) -> xr.Dataset:
    """Critical points of two leaky-ReLU neurons on iris, lifted once and twice: eigenvalues by sign."""
    landscape = data.load("iris").landscape("mse")
    starts = [random_network(jax.random.fold_in(key, i), (4, 2, 3), "leaky_relu") for i in range(num_starts)]
    points = find_critical_points(starts, landscape, max_steps=300)
    rows = []
    for i, point in enumerate(points):
        if point.status is Status.CONVERGED:
            for k, deep in enumerate(_lifted(key, point.network, landscape)):
                counted = inertia(deep, landscape)
                is_sure = counted.certificate is Certificate.YES
                rows.append((i, k, float(point.loss), *counted.counts, float(counted.gradient_norm), is_sure))
    names = ("point", "layers", "loss", "negative", "zero", "positive", "gradient", "certified")
    return table([dict(zip(names, row, strict=True)) for row in rows], "lift", names)


# Activations without an affine piece

_EXTENTS = (0.3, 0.1, 0.03, 0.01, 0.003)


def tanh_lifts(key: jax.Array) -> xr.Dataset:
    """Lifts of a tanh network into [-xi, xi]: change of outputs, gradient and largest eigenvalue by xi."""
    ours, inputs, residual, draw = jax.random.split(key, 4)
    network = random_network(ours, (1, 3, 1), "tanh", std=1.0)
    landscape = plant_landscape(residual, network, 2 * jax.random.normal(inputs, (40, 1)), amplitude=0.1)
    rows = []
    for extent in _EXTENTS:
        deep, record = lift(network, landscape.inputs, 1, 3, key=draw, mode="lemma", exact=False, extent=extent)
        rows.append(
            {
                "extent": extent,
                "output_change": record.certificate.output_change,
                "gradient": largest(gradient(landscape, deep)),
                "stiffness": float(np.linalg.eigvalsh(np.asarray(hessian(landscape, deep)))[-1]),
            }
        )
    return table(rows, "size")
