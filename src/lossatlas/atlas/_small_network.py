"""The small network behind a big one: reduced, made linear where that fits, and polished to a critical point."""

import dataclasses
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lossatlas._parameters import num_parameters
from lossatlas._status import Status
from lossatlas._types import Network
from lossatlas.atlas._diagnosis import SmallNetwork
from lossatlas.atlas._entry import linked_predictions
from lossatlas.atlas._work import affordable, loss_work
from lossatlas.embedding import Reduction, ReductionCertificate, pruning_path, reduce
from lossatlas.embedding._layer_steps import Linearise
from lossatlas.embedding._record import gradient, max_norm, outputs
from lossatlas.geometry import CriticalPoint, find_critical_points, linearization
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, DenseLayer, size_words


_SAME = 1e-9  # distance of functions that is rounding
_AS_NEAR = 2.0  # times the least distance: points as near as this are told apart by size
NEAR = 0.15
"""The distance of two functions below which one stands for the other, as for the visits of a survey."""

_ROUNDING = 1e-12


_POLISH_WORK = 1e11  # floating-point operations of the loss, Hessians of all candidates together
_FEWEST = 8  # Hessians: with fewer no search gets anywhere


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A small network that may stand behind the big one, and what polishing made of it (None: too dear)."""

    small: SmallNetwork
    point: CriticalPoint | None
    distance: float | None


def reductions_of(
    network: Network, landscape: Landscape, exact: float, tolerances: Sequence[float]
) -> list[tuple[Network, Reduction]]:
    """The network reduced exactly, then at each tolerance in output units, growing.

    Of a `Dense` the first of them decides, and the others go on from what it leaves, which is cheap; otherwise they lie
    on one pruning path of the exactly reduced network.
    """
    first = reduce(network, landscape, tolerance=exact)
    made = [first]
    wanted = np.asarray(outputs(network, landscape.inputs), float)
    path = None if isinstance(network, Dense) else pruning_path(first[0], landscape)
    for tolerance in tolerances:
        if path is not None:
            point = path.within(tolerance - first[1].certificate.output_change)
            small, plan, is_exact = point.network, (*first[1].plan, *point.plan), not point.plan
        elif len(made) == 1:
            made.append(reduce(network, landscape, tolerance=tolerance))
            continue
        else:
            start, so_far = made[-1]
            small, further = reduce(start, landscape, tolerance=tolerance - so_far.certificate.output_change)
            plan = (*so_far.plan, *further.plan)
            is_exact = so_far.certificate.is_exact and further.certificate.is_exact
        changes = np.abs(np.asarray(outputs(small, landscape.inputs), float) - wanted)
        certificate = ReductionCertificate(
            output_change=float(changes.max(initial=0.0)),
            mean_change=float(changes.mean()),
            bound=first[1].certificate.bound if small is first[0] else math.inf,
            gradient_before=first[1].certificate.gradient_before,
            gradient_after=max_norm(gradient(landscape, small)),
            criticality_defect=0,
            is_exact=is_exact,
        )
        made.append((small, Reduction(network, plan, certificate, tolerance)))
    return made


def find_small(
    network: Network,
    landscape: Landscape,
    reductions: list[tuple[Network, Reduction]],
    practical: int,
    *,
    scale: float,
    max_size: int,
    max_steps: int,
) -> Candidate:
    """The smallest of the networks whose critical point is near in function.

    The reduced networks are polished by Levenberg-Marquardt on the gradient, then Newton: to a critical point of any
    index. Of a `Dense` so are the linear network of least rank that computes nearly the same, and the practically
    reduced one with as many neurons as possible replaced by linear units (a neuron of small weights acts as one, whose
    level is finite where that of the neuron is at infinity).

    **Arguments:**
    - `reductions`: the exact one, and others; `practical`: which of them is the one that was asked for.
    - `scale`: one unit of distance of functions.
    - `max_size`: the most parameters that are polished. `max_steps`: Hessians for each candidate; fewer where they
      are dear, 1e11 operations in all beside those of a `Dense`.
    """
    there = linked_predictions(landscape, network)
    trials: dict[str, SmallNetwork] = {}
    for i, (small, reduction) in enumerate(reductions):
        variants = [(small, False)]
        if isinstance(small, Dense):
            small = as_bottleneck(small, landscape, reduction.tolerance)
            linear = [*_linear_fit(network, landscape, there, scale)] if i == practical else []
            linear += _more_linear(small, landscape, there, scale) if i == practical else []
            variants = [(small, False), *((candidate, True) for candidate in linear)]
        for candidate, linearised in variants:
            words = describe(candidate, network)
            distance = _distance(landscape, candidate, there, scale)
            behind = SmallNetwork(candidate, num_parameters(candidate), words, reduction, linearised, distance)
            if words not in trials or i == practical and not linearised:
                trials[words] = behind
    chosen = [behind for behind in trials.values() if behind.num_parameters <= max_size]
    found = []
    for behind in trials.values():
        steps = _affordable_steps(behind, landscape, max_steps, len(chosen)) if behind in chosen else 0
        point = polished(behind.network, landscape, steps) if steps else None
        apart = None if point is None else _distance(landscape, point.network, there, scale)
        found.append(Candidate(behind, point, apart))
    asked = next(c for c in found if c.small.reduction is reductions[practical][1] and not c.small.linearised)
    return _smallest_of_the_nearest(found, asked)


def _affordable_steps(behind: SmallNetwork, landscape: Landscape, max_steps: int, num: int) -> int:
    """How many Hessians a candidate gets; 0 where they are too few to get anywhere."""
    if isinstance(behind.network, Dense):
        return max_steps
    each = 4.0 * behind.num_parameters * loss_work(behind.network, landscape)
    steps = affordable(max_steps, _POLISH_WORK / num, each)
    return steps if steps >= min(_FEWEST, max_steps) else 0


def polished(network: Network, landscape: Landscape, max_steps: int) -> CriticalPoint:
    """The critical point of any index next to a small network, or the level at infinity that it runs to."""
    (near,) = find_critical_points([network], landscape, method="levenberg_marquardt", max_steps=max_steps)
    if near.status is not Status.MAX_STEPS and near.status is not Status.STALLED:
        return near
    more = min(50, max_steps)
    (exact,) = find_critical_points([near.network], landscape, method="newton", max_steps=more)
    return exact if exact.status is Status.CONVERGED else near


def describe(network: Network, big: Network | None = None) -> str:
    """What a small network is, in words: `2 neurons`, `a linear network of rank 1`, `1 neuron beside 1 linear unit`.

    Of other architectures the sizes, and whether they are those of the big one: `a smaller network, recurrent 3-2-1`.
    """
    if isinstance(network, Dense):
        return _dense_words(network)
    words = size_words(network)
    return f"a network of its own sizes, {words}" if words == size_words(big) else f"a smaller network, {words}"


def _dense_words(network: Dense) -> str:
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


def _distance(landscape: Landscape, network: Network, there: Float[np.ndarray, "n o"], scale: float) -> float:
    apart = linked_predictions(landscape, network) - there
    return float(np.sqrt(np.mean(apart**2))) / scale


def _smallest_of_the_nearest(found: list[Candidate], asked: Candidate) -> Candidate:
    """The smallest of the networks whose points are as near as the nearest, up to a factor of two; finite ones first.

    Where none is near, the one whose point comes nearest; where none was polished, the one that was asked for.
    """
    ranks = {Status.CONVERGED: 0, Status.AT_INFINITY: 1}

    def rank(candidate: Candidate) -> int:
        is_near = candidate.point is not None and _apart(candidate) <= NEAR
        return ranks.get(candidate.point.status, 2) if is_near and candidate.point is not None else 2

    near = [candidate for candidate in found if rank(candidate) < 2]
    if not near:
        nearest = min(found, key=_apart)
        return nearest if math.isfinite(_apart(nearest)) else asked
    least = min(map(_apart, near))
    as_near = [candidate for candidate in near if _apart(candidate) <= _AS_NEAR * least + _SAME]
    return min(as_near, key=lambda c: (rank(c), c.small.num_parameters, _apart(c)))


def _apart(candidate: Candidate) -> float:
    return candidate.distance if candidate.distance is not None and np.isfinite(candidate.distance) else math.inf
