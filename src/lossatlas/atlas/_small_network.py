"""The small network behind a big one: reduced, made linear where that fits, and polished to a critical point."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._parameters import num_parameters
from lossatlas._status import Status
from lossatlas.atlas._diagnosis import SmallNetwork
from lossatlas.atlas._entry import linked_predictions
from lossatlas.embedding import Reduction, reduce
from lossatlas.embedding._layer_steps import Linearise
from lossatlas.geometry import CriticalPoint, find_critical_points, linearization
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer


_SAME = 1e-9  # distance of functions that is rounding
NEAR = 0.15
"""The distance of two functions below which one stands for the other, as for the visits of a survey."""

_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A small network that may stand behind the big one, and what polishing made of it (None: too large)."""

    small: SmallNetwork
    point: CriticalPoint | None
    distance: float | None


def find_small(
    network: Dense,
    landscape: Landscape,
    reductions: list[tuple[Dense, Reduction]],
    *,
    scale: float,
    max_size: int,
    max_steps: int,
) -> Candidate:
    """The reduced network, or a more linear one, whose critical point is the nearest in function.

    The exactly reduced network, the practically reduced one, the linear network of least rank that computes nearly the
    same, and the reduced one with as many neurons as possible replaced by linear units (a neuron of small weights acts
    as one, whose level is finite where that of the neuron is at infinity) are polished by Levenberg-Marquardt on the
    gradient, then Newton: to a critical point of any index.

    **Arguments:**
    - `reductions`: the exact one and the practical one.
    - `scale`: one unit of distance of functions.
    - `max_size`: the most parameters that are polished. `max_steps`: Hessians for each candidate.
    """
    there = linked_predictions(landscape, network)
    found: list[Candidate] = []
    seen: set[str] = set()
    for small, reduction in reductions:
        variants = [(as_bottleneck(small, landscape, reduction.tolerance), False)]
        if reduction is reductions[-1][1]:
            linear = [*_linear_fit(network, landscape, there, scale)]
            linear += _more_linear(variants[0][0], landscape, there, scale)
            variants += [(candidate, True) for candidate in linear]
        for candidate, linearised in variants:
            if describe(candidate) in seen:
                continue
            seen.add(describe(candidate))
            distance = _distance(landscape, candidate, there, scale)
            behind = SmallNetwork(
                candidate, num_parameters(candidate), describe(candidate), reduction, linearised, distance
            )
            point = polished(candidate, landscape, max_steps) if behind.num_parameters <= max_size else None
            apart = None if point is None else _distance(landscape, point.network, there, scale)
            found.append(Candidate(behind, point, apart))
    return _smallest_of_the_nearest(found)


def polished(network: Dense, landscape: Landscape, max_steps: int) -> CriticalPoint:
    """The critical point of any index next to a small network, or the level at infinity that it runs to."""
    (near,) = find_critical_points([network], landscape, method="levenberg_marquardt", max_steps=max_steps)
    if near.status is not Status.MAX_STEPS and near.status is not Status.STALLED:
        return near
    (exact,) = find_critical_points([near.network], landscape, method="newton", max_steps=50)
    return exact if exact.status is Status.CONVERGED else near


def describe(network: Dense) -> str:
    """What a small network is, in words: `2 neurons`, `a linear network of rank 1`, `1 neuron beside 1 linear unit`."""
    neurons, linear = network.widths[1:-1], network.num_linear
    if not sum(neurons) and not sum(linear):
        return "a constant"
    if not sum(neurons):
        return f"a linear network of rank {min(linear)}"
    layers = [_layer_words(k, r) for k, r in zip(neurons, linear, strict=True)]
    return layers[0] if len(layers) == 1 else f"{len(layers)} hidden layers of {', '.join(layers)}"


def as_bottleneck(network: Dense, landscape: Landscape, tolerance: float) -> Dense:
    """An affine network as one hidden layer of linear units, as few as keep its outputs within the tolerance."""
    layer, *others = network.layers
    if others:
        return network
    inputs = np.asarray(landscape.inputs)
    weight = np.asarray(layer.weight)
    mean = inputs.mean(0) if layer.bias is not None else np.zeros(inputs.shape[1])
    moved = (inputs - mean) @ weight.T
    _, values, right = np.linalg.svd(moved, full_matrices=False)
    rank = 0
    while rank < len(values) and np.abs(moved - moved @ right[:rank].T @ right[:rank]).max() > tolerance:
        rank += 1
    basis = right[:rank]
    bias = None if layer.bias is None else np.asarray(layer.bias) + (weight - basis.T @ basis @ weight) @ mean
    first = DenseLayer(
        weight=jnp.zeros((0, weight.shape[1]), weight.dtype),
        bias=None if bias is None else jnp.zeros((0,), weight.dtype),
        linear=jnp.asarray(basis @ weight) if rank else None,
    )
    last = DenseLayer(weight=jnp.asarray(basis.T), bias=None if bias is None else jnp.asarray(bias), linear=None)
    return Dense.from_layers([first, last], network.activation)


def _layer_words(neurons: int, linear: int) -> str:
    one = f"{neurons} neuron{'' if neurons == 1 else 's'}"
    return one if not linear else f"{one} beside {linear} linear unit{'' if linear == 1 else 's'}"


def _linear_fit(network: Dense, landscape: Landscape, there: Float[np.ndarray, "n o"], scale: float) -> list[Dense]:
    """The linear network of least rank whose function is near that of the network, by reduced-rank regression."""
    if network.layers[-1].bias is None:
        return []
    inputs = np.asarray(landscape.inputs)
    mean = inputs.mean(0)
    outputs = np.asarray(landscape.predictions(network)).reshape(len(inputs), -1)
    weight = np.linalg.lstsq(inputs - mean, outputs - outputs.mean(0), rcond=None)[0].T
    _, values, right = np.linalg.svd((inputs - mean) @ weight.T, full_matrices=False)
    for rank in range(len(values) + 1):
        through = right[:rank].T @ right[:rank] @ weight
        bias = jnp.asarray(outputs.mean(0) - through @ mean)
        affine = Dense.from_layers([DenseLayer(jnp.asarray(through), bias, None)], network.activation)
        if _distance(landscape, affine, there, scale) <= NEAR:
            return [as_bottleneck(affine, landscape, _ROUNDING * scale)]
    return []


def _more_linear(network: Dense, landscape: Landscape, there: Float[np.ndarray, "n o"], scale: float) -> list[Dense]:
    """With as many neurons as possible turned into linear units, while the function stays near."""
    if not sum(network.widths[1:-1]):
        return []
    facts = linearization(network, landscape)
    costs = [
        (float(fact.residual[j]) * float(np.linalg.norm(_readers(network, i)[:, j])), i, j)
        for i, fact in enumerate(facts.layers)
        for j in range(network.widths[1 + i])
    ]
    order = sorted(costs)
    for count in range(len(order), 0, -1):
        linear = network
        for i, fact in enumerate(facts.layers):
            chosen = tuple(sorted(j for _, layer, j in order[:count] if layer == i))
            if chosen:
                slope, offset = (np.asarray(a)[list(chosen)] for a in (fact.slope, fact.offset))
                linear = Linearise(i, chosen, slope, offset).apply(linear)
        if _distance(landscape, linear, there, scale) <= NEAR:
            exact, _ = reduce(linear, landscape)
            return [as_bottleneck(exact, landscape, _ROUNDING * scale)]
    return []


def _readers(network: Dense, layer: int) -> np.ndarray:
    following = network.layers[layer + 1]
    parts = [following.weight] if following.linear is None else [following.weight, following.linear]
    return np.concatenate([np.asarray(part) for part in parts])


def _distance(landscape: Landscape, network: Dense, there: Float[np.ndarray, "n o"], scale: float) -> float:
    apart = linked_predictions(landscape, network) - there
    return float(np.sqrt(np.mean(apart**2))) / scale


def _smallest_of_the_nearest(found: list[Candidate]) -> Candidate:
    """Of candidates whose points are the same function, up to a hundredth of the distance, the smallest network."""
    rank, distance = min(map(_preference, found))
    same = [c for c in found if _preference(c)[0] == rank and _preference(c)[1] <= 1.01 * distance + _SAME]
    return min(same, key=lambda candidate: candidate.small.num_parameters)


def _preference(candidate: Candidate) -> tuple[int, float]:
    """Finite critical points nearby, then levels at infinity nearby, then the rest; the nearest of each."""
    point, distance = candidate.point, candidate.distance
    if point is None or distance is None or not np.isfinite(distance):
        return 3, candidate.small.distance
    rank = {Status.CONVERGED: 0, Status.AT_INFINITY: 1}.get(point.status, 2)
    return (rank if distance <= NEAR else 2), distance
