"""Fully connected networks of fewer units whose matrices are also factored: reduced-rank regression on the data."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas.embedding._constants import LayerArrays, arrays_of, as_network, split_readers
from lossatlas.embedding._factor_layer import FactorLayer
from lossatlas.embedding._pruned_point import Batches, PrunedPoint, directions_of, measured_changes
from lossatlas.embedding._ranks import Choices, rank_choices, share_out
from lossatlas.embedding._stand_in import Moments, moments_of, ridge_of
from lossatlas.geometry import unit_batches
from lossatlas.networks import Dense


if TYPE_CHECKING:
    from lossatlas.embedding._pruning import PruningPath


_SLOPE_ROWS = 256
_METRIC_RIDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class LowRank:
    r"""A pruned network whose matrices can be factored, all at the sizes of the start.

    - `point`: the network without some units. `rows`: of each layer, the units that are left, before the activation.
    - `roots`: of each layer R with $R^\top R$ what errors of the rows left cost. `choices`: sizes and losses by rank.
    """

    path: "PruningPath"
    point: PrunedPoint
    rows: tuple[np.ndarray, ...]
    roots: tuple[np.ndarray, ...]
    choices: tuple[Choices, ...]

    @property
    def least(self) -> int:
        """The parameters that are left at rank 1."""
        return self.point.num_parameters - sum(int(sizes[-1] - sizes[0]) for sizes, _ in self.choices)

    def with_parameters(self, most: int) -> PrunedPoint | None:
        """The network of at most so many parameters, ranks shared out by what they are worth; None where none fits."""
        whole = sum(int(sizes[-1]) for sizes, _ in self.choices)
        chosen = share_out(self.choices, most - self.point.num_parameters + whole)
        if chosen is None:
            return None
        count = self.point.num_parameters - whole
        ranks: dict[int, int] = {}
        for i, ((sizes, _), at) in enumerate(zip(self.choices, chosen, strict=True)):
            count += int(sizes[at])
            if at < len(sizes) - 1:
                ranks[i] = at + 1
        if not ranks:
            return self.point
        plan, masked = _factored(self, ranks)
        change, rms = measured_changes(self.path.taps, masked, self.path.inputs, self.path.batches())
        return PrunedPoint(
            self.point.sizes, ranks, count, change, rms, self.path.start, (*self.point.plan, *plan), masked
        )


def low_rank(path: "PruningPath", removed: int) -> LowRank:
    """The network without the first units of a path, and what each direction that its layers put out is worth.

    **Arguments:**
    - `path`: of a `Dense`. `removed`: how many units.
    """
    point = path.after(removed)
    layers = arrays_of(point.masked)
    kept = {name: np.arange(space.size) for name, space in path.taps.spaces.items()}
    for name, size in point.sizes.items():
        kept[name] = np.setdiff1d(kept[name], path.orders[name][: len(kept[name]) - size])
    rows = []
    for i, layer in enumerate(layers[:-1]):
        linear = layer.num_neurons + kept.get(f"linear[{i}]", np.arange(0))
        rows.append(np.concatenate([kept.get(f"hidden[{i}]", np.arange(0)), linear]))
    rows.append(np.arange(layers[-1].num_neurons))
    # A layer may be wide: slopes of so many rows are kept at once.
    seen = path.inputs[: min(_SLOPE_ROWS, path.taps.batch_rows())]
    slopes = _slopes(point.masked, seen, directions_of(path.start, seen))
    roots = tuple(_root(np.asarray(g, float)[:, keep], len(seen)) for g, keep in zip(slopes, rows, strict=True))
    found = _moments(path, point.masked, range(len(layers)), path.batches())
    choices = []
    for i, layer in enumerate(layers):
        columns = rows[i - 1] if i else np.arange(layer.readers.shape[1])
        matrix = np.asarray(layer.readers, float)[np.ix_(rows[i], columns)]
        moments = found[i].centred(has_constant=layer.bias is not None)[0][np.ix_(columns, columns)]
        choices.append(rank_choices(_directions(roots[i] @ matrix, moments)[0], matrix.shape))
    return LowRank(path, point, tuple(rows), roots, tuple(choices))


def _root(slopes: Float[np.ndarray, "rows n"], num_examples: int) -> Float[np.ndarray, "n n"]:
    """The triangular root of a metric; what outputs do not depend on in the rows seen weighs little, not nothing."""
    products = slopes.T @ slopes / num_examples
    ridge = max(_METRIC_RIDGE * float(np.trace(products)) / max(len(products), 1), 1e-20)
    return np.linalg.cholesky(products + ridge * np.eye(len(products))).T


def _directions(
    weighted: Float[np.ndarray, "n m"], moments: Float[np.ndarray, "m m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
    """Mean squares along the principal directions of what a matrix puts out, the largest first; they as columns."""
    values, vectors = np.linalg.eigh(weighted @ moments @ weighted.T)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _factored(found: LowRank, ranks: dict[int, int]) -> tuple[tuple[FactorLayer, ...], Dense]:
    """The steps that factor layers, and the network of the old sizes with the factors multiplied out.

    From the first factored layer on every matrix is fitted to what the whole network put out before the activation, on
    the features that are left, so that errors do not add up.
    """
    path, network = found.path, found.point.masked
    layers, wanted = arrays_of(network), arrays_of(path.start)
    ridge = ridge_of(layers[0].weight.dtype)
    plan: list[FactorLayer] = []
    for i in range(min(ranks), len(layers)):
        layer, keep = layers[i], found.rows[i]
        columns = found.rows[i - 1] if i else np.arange(layer.readers.shape[1])
        has_constant = layer.bias is not None
        target = np.asarray(wanted[i].readers, float)[keep].T
        moments = _moments(path, network, [i], path.batches())[i].onto(target)
        start = np.asarray(layer.readers, float)[keep].T
        added = moments.correction(start, columns, has_constant=has_constant, ridge=ridge)
        matrix, left, right = (start[columns] + added).T, None, None
        if i in ranks:
            inner = moments.centred(has_constant=has_constant)[0][np.ix_(columns, columns)]
            weighted = found.roots[i] @ matrix
            best = _directions(weighted, inner)[1][:, : ranks[i]]
            left, right = np.linalg.solve(found.roots[i], best), best.T @ weighted
            matrix = left @ right
        bias = None
        neurons = keep[keep < layer.num_neurons]
        if has_constant:
            offsets = (moments.wanted - moments.left[columns] @ matrix.T) / moments.count
            bias = np.asarray(wanted[i].bias, float)[neurons] + offsets[: len(neurons)]
        note = f"factored to rank {ranks[i]}" if i in ranks else "readers refitted"
        plan.append(FactorLayer(i, left, matrix if right is None else right, bias, note=note))
        layers[i] = _spread(layer, keep, columns, matrix, bias)
        network = as_network(layers, path.start.activation)
    return tuple(reversed(plan)), network  # from the back, so that the places of those before stay what they are


def _spread(layer: LayerArrays, rows: np.ndarray, columns: np.ndarray, matrix: np.ndarray, bias) -> LayerArrays:
    """The layer with some rows and columns of its matrix, and some of its biases, exchanged; other columns are zero."""
    readers = np.array(layer.readers)
    readers[rows] = 0.0
    readers[np.ix_(rows, columns)] = matrix
    if bias is not None:
        biases = np.array(layer.bias)
        biases[rows[: len(bias)]] = bias
        bias = jnp.asarray(biases)
    return split_readers(layer, jnp.asarray(readers), bias)


def _moments(path: "PruningPath", network: Dense, places: Sequence[int], reference: Batches) -> dict[int, Moments]:
    """Moments of what some layers read in a network, against what they read in a reference."""
    found: dict[int, Moments] = {}
    start = 0
    for (outputs, seen), (_, wanted) in zip(unit_batches(path.taps, network, path.inputs), reference, strict=True):
        inputs = np.asarray(path.inputs[start : start + len(outputs)])
        start += len(outputs)
        for i in places:
            part = moments_of(*(_read(i, inputs, values) for values in (seen, wanted)))
            found[i] = found[i] + part if i in found else part
    return found


def _read(place: int, inputs: np.ndarray, seen: dict[str, np.ndarray]) -> Float[np.ndarray, "rows m"]:
    """What a layer reads: the inputs, or the neurons and then the linear units of the layer before it."""
    if place == 0:
        return inputs
    spaces = (f"hidden[{place - 1}]", f"linear[{place - 1}]")
    empty = inputs[:, :0]  # a layer may pass nothing on
    return np.concatenate([empty, *(seen[name][:, 0] for name in spaces if name in seen)], axis=1)


@eqx.filter_jit
def _slopes(network: Dense, inputs: Array, directions: Array) -> list[Float[Array, "rows n"]]:
    r"""Of every layer the slopes of $d_k \cdot f$ in its units before the activation, a row for each example and k."""

    def outputs(x: Array, nudges: list[Array]) -> Array:
        for layer, nudge in zip(network.layers, nudges, strict=True):
            k = layer.num_neurons
            z = layer.preactivation(x) + nudge[:k]
            if layer is network.layers[-1]:
                return z
            linear = [] if layer.linear is None else [layer.linear @ x + nudge[k:]]
            x = jnp.concatenate([network.activation(z), *linear])
        return x

    def of_example(x: Array) -> list[Array]:
        zeros = [jnp.zeros(layer.num_neurons + layer.num_linear, x.dtype) for layer in network.layers]
        _, pull = jax.vjp(lambda nudges: outputs(x, nudges), zeros)
        return jax.vmap(lambda direction: pull(direction)[0])(directions)

    count = len(inputs) * len(directions)
    return [slopes.reshape(count, slopes.shape[-1]) for slopes in jax.vmap(of_example)(inputs)]
