"""What the study of the hierarchy of critical embeddings measures."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from lossatlas import data
from lossatlas._parameters import num_parameters, ravel
from lossatlas.embedding import (
    Record,
    add_null_unit,
    check_compatible,
    compatible_dimension,
    compatible_embedding,
    global_split,
    split,
)
from lossatlas.embedding._escape import tripled
from lossatlas.geometry import plant_landscape, residual_curvature
from lossatlas.geometry._residual_curvature import residual_landscape
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer
from lossatlas.studies._points import (
    counts,
    gradient,
    hessian,
    hull,
    largest,
    outputs,
    random_network,
    signs_of,
    small_levels,
    table,
)
from lossatlas.theory import critical_set_dimension, split_inertia


_ACTIVATIONS = ("tanh", "gelu", "softplus", "sigmoid")
_FAMILIES: tuple[tuple[str, tuple[int, ...], dict[str, list[int]]], ...] = (
    ("splits, two layers", (2, 2, 2, 1), {"hidden[0]": [0, 1, 1], "hidden[1]": [0, 0, 1, 1]}),
    ("splits, two outputs", (2, 2, 2, 2), {"hidden[0]": [0, 1, 1, 0], "hidden[1]": [0, 0, 1]}),
    ("splits and a null", (1, 2, 1), {"hidden[0]": [0, 1, -1, 0, 1]}),
    ("nulls in both layers", (2, 2, 2, 1), {"hidden[0]": [0, 1, -1], "hidden[1]": [0, -1, 1, 0]}),
)
_CHAIN = (("split", 0), ("null", 1), ("split", 1), ("null", 0))  # what is done in which hidden layer
_FINE = 1e-12  # what counts as zero, of the largest eigenvalue, where planted residuals are tiny


# One step at a time (Theorems 4.1 to 4.3 and 6.1), and what else keeps the function


def steps(key: jax.Array, num_cases: int) -> xr.Dataset:
    """A split, a null neuron and a chain of both at planted critical points; and expansions that keep outputs alone."""
    rows = []
    for i in range(num_cases):
        ours, inputs, residual, draw = jax.random.split(jax.random.fold_in(key, i), 4)
        network = random_network(ours, (2, 2, 2, 2), "tanh")
        points, far = jax.random.normal(inputs, (60, 2)), 5 * jax.random.normal(jax.random.fold_in(inputs, 1), (60, 2))
        landscape = plant_landscape(residual, network, points, amplitude=0.3)
        ends = {
            "a split": _chained(draw, network, _CHAIN[:1]),
            "a null neuron": _chained(draw, network, _CHAIN[1:2]),
            "a chain of four": _chained(draw, network, _CHAIN),
            "random incoming weights": add_null_unit(network, "hidden[0]", incoming=[0.7, -0.4])[0],
            "unequal readers": _unequal(draw, network),
        }
        for kind, wide in ends.items():
            rows.append(
                {
                    "kind": kind,
                    "case": i,
                    "output_change": largest(outputs(wide, far) - outputs(network, far)),
                    "gradient": largest(gradient(landscape, wide)),
                }
            )
    return table(rows, "map")


def _chained(key: jax.Array, network: Any, chain: tuple[tuple[str, int], ...]) -> Any:
    """Steps one after the other, with random units, shares and biases."""
    for i, (kind, layer) in enumerate(chain):
        number = float(jax.random.uniform(jax.random.fold_in(key, i), minval=-2.0, maxval=2.0))
        if kind == "split":
            network, _ = split(network, f"hidden[{layer}]", i % 2, number)
        else:
            network, _ = add_null_unit(network, f"hidden[{layer}]", bias=number)
    return network


_COPIES = {"hidden[0]": [0, 1, 1], "hidden[1]": [1, 0, 0]}


def _unequal(key: jax.Array, network: Any) -> Any:
    """Copies whose readers sum up right, but with another share for each reader: the backward condition is broken."""
    wide, _ = compatible_embedding(key, network, _COPIES, shares="random")
    change = jnp.array([[0.3, -0.3], [0.1, -0.1]])
    weight = wide.layers[1].weight.at[1:, 1:].add(change)
    return eqx.tree_at(lambda n: n.layers[1].weight, wide, weight)


def conditions(key: jax.Array) -> xr.Dataset:
    """Which condition the validator names when one is broken, and what a null neuron does without a bias after it."""
    ours, inputs, residual, draw = jax.random.split(key, 4)
    network = random_network(ours, (2, 2, 2, 2), "tanh")
    kept = check_compatible(network, compatible_embedding(draw, network, _COPIES, shares="random")[0], _COPIES)
    broken = check_compatible(network, _unequal(draw, network), _COPIES)
    points = jax.random.normal(inputs, (60, 2))
    bare = random_network(ours, (2, 3, 2), "tanh", use_output_bias=False)
    landscape = plant_landscape(residual, bare, points, amplitude=0.3)
    wide, _ = add_null_unit(bare, "hidden[0]", bias=0.5)
    error = outputs(bare, points) - landscape.targets
    # The first form of the paper's condition on biases: those of effective neurons stay as they are.
    units = {"hidden[0]": [0, 1, -1], "hidden[1]": [0, 1, 0]}
    member, _ = compatible_embedding(draw, network, units, shares="random", spread=1.0)
    bias = network.layers[1].bias[jnp.array(units["hidden[1]"])]
    printed = eqx.tree_at(lambda n: n.layers[1].bias, member, bias)
    there = outputs(network, points)
    return xr.Dataset(
        {
            "compatible": kept.is_compatible,
            "violation": str(broken.violation),
            "gradient_without_bias": largest(gradient(landscape, wide)),
            "predicted_without_bias": largest(np.tanh(0.5) * np.mean(np.asarray(error), axis=0)),
            "change_with_correction": largest(outputs(member, points) - there),
            "change_without_correction": largest(outputs(printed, points) - there),
        }
    )


def subspaces(key: jax.Array) -> xr.Dataset:
    """Chains of splits and null neurons of one critical point with random shares and biases: what they span."""
    ours, inputs, residual, draws, mixing = jax.random.split(key, 5)
    network = random_network(ours, (2, 2, 2, 2), "tanh")
    landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, 2)), amplitude=0.3)
    rows = []
    for more in (1, 2, 3, 4):
        points = [_chained(jax.random.fold_in(draws, i), network, _CHAIN[:more]) for i in range(10)]
        dimension, ends = hull(jax.random.fold_in(mixing, more), points)
        worst = max(largest(gradient(landscape, end)) for end in ends)
        rows.append({"steps": more, "dimension": dimension, "gradient": worst})
    return table(rows, "chain")


# General compatible embeddings (Theorems 5.1 and 6.2, degrees of freedom)


def members(key: jax.Array, num_cases: int) -> xr.Dataset:
    """One random member of a family for each random network: what it keeps, and the Hessian beside the narrow one."""
    rows = []
    for i in range(num_cases):
        family, widths, units = _FAMILIES[i % 4]
        activation = _ACTIVATIONS[i // 4 % 4]
        ours, inputs, targets, residual, draw = jax.random.split(jax.random.fold_in(key, i), 5)
        network = random_network(ours, widths, activation, std=1.5)
        points = jax.random.normal(inputs, (60, widths[0]))
        anywhere = Landscape(points, jax.random.normal(targets, (60, widths[-1])))
        wide, record = compatible_embedding(draw, network, units, shares="random", landscape=anywhere)
        planted = plant_landscape(residual, network, points, amplitude=0.05)
        small, full = (np.asarray(hessian(planted, n)) for n in (network, wide))
        narrow, large, rest = (signs_of(matrix) for matrix in (small, full, _beside(record, full)))
        rows.append(
            {
                "family": family,
                "activation": activation,
                "output_change": record.certificate.output_change,
                "gradient": record.certificate.gradient_before,
                "intertwiner_defect": record.certificate.intertwiner_defect,
                "gradient_when_critical": largest(gradient(planted, wide)),
                "hessian_defect": _hessian_defect(record, small, full),
                "freedom": critical_set_dimension(widths, wide.widths),
                "narrow_negative": narrow.negative,
                "narrow_zero": narrow.zero,
                "narrow_positive": narrow.positive,
                "wide_negative": large.negative,
                "wide_zero": large.zero,
                "wide_positive": large.positive,
                "adds_up": large.counts == tuple(np.add(narrow.counts, rest.counts)),
                "is_clear": narrow.is_clear and large.is_clear and rest.is_clear,
            }
        )
    return table(rows, "case")


def _beside(record: Record, full: np.ndarray) -> np.ndarray:
    """The wide Hessian on the kernel of B^T."""
    back = np.asarray(record.gradient_map.as_matrix())
    kernel = np.linalg.svd(back.T)[2][back.shape[1] :].T
    return kernel.T @ full @ kernel


def _hessian_defect(record: Record, small: np.ndarray, full: np.ndarray) -> float:
    """How far H_wide A is from B H_narrow, relative to the largest entry."""
    forward, back = (np.asarray(m.as_matrix()) for m in (record.tangent_map, record.gradient_map))
    return largest(full @ forward - back @ small) / largest(full)


def dimensions(key: jax.Array, num_families: int) -> xr.Dataset:
    """The free numbers of each family: counted, the rank of the map that draws members, and zeros of the Hessian."""
    rows = []
    for i, (family, widths, units) in enumerate(_FAMILIES[:num_families]):
        ours, inputs, residual, draw = jax.random.split(jax.random.fold_in(key, i), 4)
        network = random_network(ours, widths, "tanh")
        landscape = plant_landscape(residual, network, jax.random.normal(inputs, (60, widths[0])), amplitude=0.05)
        wide, _ = compatible_embedding(draw, network, units, shares="random")
        measured = compatible_dimension(draw, network, units)
        narrow, large = (signs_of(hessian(landscape, n)) for n in (network, wide))
        rows.append(
            {
                "family": family,
                "has_nulls": any(-1 in copies for copies in units.values()),
                "predicted": measured.predicted,
                "rank": measured.rank,
                "added_zeros": large.zero - narrow.zero,
                "narrow_zero": narrow.zero,
                "is_clear": narrow.is_clear and large.is_clear and measured.gap >= 100,
            }
        )
    return table(rows, "family_index")


# Truly bad points (Theorem 6.3)


def escapes(key: jax.Array, num_minima: int) -> xr.Dataset:
    """Planted minima with residuals, split three-fold: curvatures along two directions, and the inertia."""
    rows = []
    inputs = jnp.linspace(-6.0, 6.0, 60)[:, None]
    for i, (network, landscape) in enumerate(_minima(key, (1, 2, 2, 1), inputs, num_minima)):
        second = np.asarray(hessian(residual_landscape(network, landscape), network))
        below = num_parameters(network) - 3  # the readout has two weights and a bias
        values, vectors = np.linalg.eigh(second[:below, :below])
        wide, _ = global_split(network)
        full = np.asarray(hessian(landscape, wide))
        signs = signs_of(full, _FINE)
        ratio = residual_curvature(key, network, landscape, num_probes=num_parameters(network)).ratio
        for name, at, factors in (("2 lambda", 0, (1.0, -1.0, 0.0)), ("-lambda / 2", -1, (0.5, 0.5, 1.0))):
            change = ravel(network)[1].tangent(jnp.concatenate([jnp.asarray(vectors[:, at]), jnp.zeros(3)]))
            scaled = [jax.tree.map(lambda a, c=c: c * a, change) for c in factors]
            direction = np.asarray(tripled(network, wide, (scaled[0], scaled[1], scaled[2])))
            rows.append(
                {
                    "point": i,
                    "name": name,
                    "eigenvalue": values[at],
                    "predicted": 2 * values[0] if at == 0 else -values[-1] / 2,
                    "measured": float(direction @ full @ direction),
                    "gradient": largest(gradient(landscape, wide)),
                    "negative": signs.negative,
                    "zero": signs.zero,
                    "positive": signs.positive,
                    "ratio": ratio,
                }
            )
    names = ("point", "name", "eigenvalue", "predicted", "measured", "gradient")
    return table(rows, "direction", (*names, "negative", "zero", "positive", "ratio"))


def two_layer_escapes(key: jax.Array, num_minima: int) -> xr.Dataset:
    """Planted minima of networks with one hidden layer: the negative eigenvalues that the best single split adds."""
    inputs, rows = jnp.linspace(-6.0, 6.0, 60)[:, None], []
    for network, landscape in _minima(key, (1, 2, 1), inputs, num_minima):
        wide = [split(network, "hidden[0]", unit, share)[0] for unit in (0, 1) for share in (0.5, 2.0)]
        most = max(signs_of(hessian(landscape, n), _FINE).negative for n in wide)
        rows.append({"negative": most})
    return table(rows, "point", ("negative",))


def _minima(key: jax.Array, widths: tuple[int, ...], inputs: jax.Array, num: int) -> list[tuple[Dense, Landscape]]:
    """Planted minima without zeros, with residuals of rms 0.003; fewer than asked for where draws do not give them."""
    found = []
    for i in range(50 * num):
        ours, residual = jax.random.split(jax.random.fold_in(key, i))
        network = random_network(ours, widths, "tanh", std=1.5)
        landscape = plant_landscape(residual, network, inputs, amplitude=0.003)
        signs = signs_of(hessian(landscape, network), _FINE)
        if signs.negative == signs.zero == 0:
            found.append((network, landscape))
        if len(found) == num:
            break
    return found


def interpolating(key: jax.Array, num_members: int) -> xr.Dataset:
    """A network that fits its data: no member of any family is a strict saddle, and one split adds zeros alone."""
    family, widths, units = _FAMILIES[0]
    ours, inputs, draws = jax.random.split(key, 3)
    network = random_network(ours, widths, "tanh", std=1.5)
    points = 2 * jax.random.normal(inputs, (60, widths[0]))
    landscape = Landscape(points, outputs(network, points))
    ratio = residual_curvature(key, network, landscape, num_probes=num_parameters(network)).ratio
    narrow = counts(landscape, network)
    ends = {"three-fold": global_split(network)[0], "one split": split(network, "hidden[0]", 0, 0.3)[0]}
    ends |= {
        f"{family} {i}": compatible_embedding(jax.random.fold_in(draws, i), network, units, shares="random")[0]
        for i in range(num_members)
    }
    rows = []
    for name, wide in ends.items():
        added = np.subtract(counts(landscape, wide), narrow)
        rows.append({"name": name, "negative": added[0], "zero": added[1], "positive": added[2], "ratio": ratio})
    return table(rows, "member")


# The hierarchy on one-dimensional data


def levels(key: jax.Array, most: int, starts: int, descents: int, wide: int = 3) -> tuple[xr.Dataset, xr.Dataset]:
    """Critical points of few neurons, and their equal-split copies in `wide` neurons, with counts and prediction."""
    landscape = data.load("hierarchy-1d").landscape()
    found = small_levels(key, most, starts, descents)
    functions = xr.Dataset(
        {
            "prediction": (("level", "x"), np.array([np.ravel(e.predictions) for e in found])),
            "target": ("x", np.ravel(landscape.targets)),
            "loss": ("level", np.array([e.loss for e in found])),
            "neurons": ("level", np.array([e.neurons for e in found])),
        },
        {"x": np.ravel(landscape.inputs) * 5, "level": np.array([e.name for e in found])},  # in units of the table
    )
    rows = []
    for entry in found:
        for unit in range(entry.neurons if entry.neurons < wide else 1):
            network, predicted = entry.network, np.array(counts(landscape, entry.network))
            for k in range(wide - entry.neurons, 0, -1):  # shares 1/(k+1): copies become equal
                added = split_inertia(network, landscape, "hidden[0]", unit, 1 / (k + 1))
                predicted += np.array([added.negative, added.zero, added.positive])
                network, _ = split(network, "hidden[0]", unit, 1 / (k + 1))
            counted = counts(landscape, network)
            rows.append(
                {
                    "level": entry.name,
                    "loss": float(entry.loss),
                    "neurons": entry.neurons,
                    "unit": unit,
                    "negative": counted[0],
                    "zero": counted[1],
                    "positive": counted[2],
                    "predicted": tuple(int(c) for c in predicted) == counted,
                    "gradient": largest(gradient(landscape, network)),
                    "output_change": largest(outputs(network, landscape.inputs) - np.asarray(entry.predictions)),
                }
            )
    names = ("level", "loss", "neurons", "unit", "negative", "zero", "positive", "predicted", "gradient")
    return functions, table(rows, "copy", (*names, "output_change"))


# Critical for every sample, or for special ones


def special(num_factors: int = 13) -> xr.Dataset:
    """Two neurons without biases on four points: copies of one, and a second one that nothing reads.

    The labels leave the residual eps at f = tanh(1.0258 x), eps in the null space of its derivatives. The gradient at
    (1, w, 0, w') is the mean of eps tanh(w' x), which is no zero for general eps; for the other basis of that null
    space it is, at one w'.
    """
    w, x = 1.0258, np.array([0.25, 1.0, 4.0, 16.0])
    kernel = np.linalg.svd(np.stack([np.tanh(w * x), x / np.cosh(w * x) ** 2]))[2][2:]
    factors = np.unique(np.append(np.linspace(0.5, 3.5, num_factors), [1.0, 2.0]))
    at_two = kernel @ np.tanh(2 * w * x)
    chosen = np.array([-at_two[1], at_two[0]]) @ kernel / np.linalg.norm(at_two)  # orthogonal to tanh(2 w x)
    rows = []
    for name, eps in (("general 1", kernel[0]), ("general 2", kernel[1]), ("special", chosen)):
        landscape = Landscape(jnp.asarray(x[:, None]), jnp.asarray((np.tanh(w * x) - eps)[:, None]))
        copies = [_two_neurons((d, 1 - d), (w, w)) for d in (-0.5, 0.3, 2.0)]
        line = max(largest(gradient(landscape, n)) for n in copies)
        for factor in factors:
            silent = largest(gradient(landscape, _two_neurons((1.0, 0.0), (w, factor * w))))
            rows.append({"residual": name, "factor": factor, "copies": line, "silent": silent})
    return table(rows, "point")


def _two_neurons(readers: tuple[float, float], weights: tuple[float, float]) -> Dense:
    hidden = DenseLayer(jnp.asarray(weights)[:, None], None)
    return Dense.from_layers([hidden, DenseLayer(jnp.asarray(readers)[None], None)], "tanh")


def compression() -> xr.Dataset:
    """Eigenvalues by sign of A^T H A and of H = [[0, 1], [1, 0]] for A = (1, 0)^T: compression alone keeps no zero."""
    full, forward = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0], [0.0]])
    both = {"narrow": signs_of(forward.T @ full @ forward), "wide": signs_of(full)}
    return xr.Dataset({name: ("sign", np.array(signs.counts)) for name, signs in both.items()})
