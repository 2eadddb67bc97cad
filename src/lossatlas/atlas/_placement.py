"""A small network written into the shape of a big one: copies share the readers, linear parts pass through neurons."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lossatlas.embedding import Reduction
from lossatlas.embedding._constants import LayerArrays, arrays_of, as_network
from lossatlas.embedding._layer_steps import FoldConstants, UnitStep
from lossatlas.networks import Activation, Dense


_CLEAR = 1.1  # how far beyond the largest pre-activation a half line's end is kept
_SMALLEST = 2.0**-12
REST, LINEAR = -1, -2


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """Which neuron of the big layer does what.

    - `source`: the small neuron that each neuron copies; REST: nothing reads it; LINEAR: it carries what is linear.
    - `factor`: of its incoming weights; `output`: what it then puts out, in units of the small neuron's output.
    - `share`: of the small neuron's readers; the shares of the copies of one neuron sum to one.
    """

    source: Int[np.ndarray, " m"]
    factor: Float[np.ndarray, " m"]
    output: Float[np.ndarray, " m"]
    share: Float[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the layers of a small network stand in a big one, `hidden[i]` for small layer i, and who does what.

    `is_own`: whether the copies are those of the big network itself.
    """

    hidden: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    is_own: bool


def equal_placement(small: Dense, big: Dense, hidden: tuple[int, ...]) -> Placement | None:
    """Every small neuron by as many equal copies as there is room for; None where the big network is too narrow or
    has linear units of its own.
    """
    if any(big.num_linear):
        return None
    plans = []
    for j, width in enumerate(big.widths[1:-1]):
        if j not in hidden:
            plans.append(_all(width, LINEAR))
            continue
        i = hidden.index(j)
        neurons, linear = small.widths[1 + i], small.num_linear[i]
        slots = neurons + linear
        if width < slots:
            return None
        source = np.full(width, REST)
        if slots:
            source = np.sort(np.arange(width) % slots)
            source = np.where(source >= neurons, LINEAR, source)
        counts = np.bincount(source[source >= 0], minlength=max(neurons, 1))
        share = np.where(source >= 0, 1 / np.maximum(counts, 1)[np.maximum(source, 0)], 0.0)
        plans.append(LayerPlan(source, np.ones(width), np.ones(width), share))
    return Placement(hidden, tuple(plans), is_own=False)


def own_placement(reduction: Reduction, small: Dense) -> Placement | None:
    """As the copies lie in the big network that was reduced; None unless only copies and constants were removed."""
    big = reduction.start
    assert isinstance(big, Dense)
    if not all(isinstance(step, UnitStep | FoldConstants) for step in reduction.plan):
        return None
    if any(small.num_linear) or any(big.num_linear):
        return None
    degree = big.activation.degree
    if degree not in (None, 1.0):
        return None
    plans = []
    layers = arrays_of(big)
    for j, width in enumerate(big.widths[1:-1]):
        outputs, writers = np.eye(width), np.eye(width)
        for step in reduction.plan:
            if isinstance(step, UnitStep) and step.map.space == f"hidden[{j}]":
                outputs = np.asarray(step.map.readers) @ outputs
                writers = np.asarray(step.map.writers) @ writers
        source = np.where(np.any(outputs != 0, axis=0), np.argmax(outputs != 0, axis=0), REST)
        output = np.where(source == REST, 1.0, outputs.sum(axis=0))
        is_even = big.activation.parity == "even"
        factor = np.where(writers.sum(axis=0) < 0, -1.0, 1.0) if is_even else output
        readers = np.asarray(layers[j + 1].readers)[:, :width] * output
        plans.append(LayerPlan(source, factor, output, reader_shares(readers, source)))
    if any(np.isnan(plan.share).any() for plan in plans):
        return None
    return Placement(tuple(range(len(plans))), tuple(plans), is_own=True)


def with_new_unit(placement: Placement, layer: int, unit: int | None) -> Placement | None:
    """The placement of a network with one neuron more in a layer, a copy of `unit` (None: of nothing).

    A copy of the unit is taken for it, else a neuron at rest, else a copy of another unit; the others of its group
    take over its share. None where no neuron can be spared.
    """
    plan = with_spared_unit(placement.layers[placement.hidden[layer]], unit)
    if plan is None:
        return None
    layers = list(placement.layers)
    layers[placement.hidden[layer]] = plan
    return Placement(placement.hidden, tuple(layers), placement.is_own)


def with_spared_unit(plan: LayerPlan, unit: int | None) -> LayerPlan | None:
    """The plan of a layer in which one neuron more is made of a copy that can be spared; None where none can."""
    counts = np.bincount(plan.source[plan.source >= 0], minlength=1)
    new = int(plan.source.max(initial=REST)) + 1
    spare = np.flatnonzero((plan.source >= 0) & (counts[np.maximum(plan.source, 0)] > 1))
    own, rest = [i for i in spare if plan.source[i] == unit], np.flatnonzero(plan.source == REST)
    choice = own or [*rest] or [*spare]
    if not choice:
        return None
    taken = min(choice, key=lambda i: abs(plan.share[i]))
    source, share = plan.source.copy(), plan.share.copy()
    factor, output = plan.factor.copy(), plan.output.copy()
    group = (source == source[taken]) & (np.arange(len(source)) != taken)
    left = share[group].sum()
    if source[taken] != REST:
        share[group] = share[group] / left if abs(left) > 1e-8 else 1 / group.sum()
    source[taken], share[taken], factor[taken], output[taken] = new, 1.0, 1.0, 1.0
    return LayerPlan(source, factor, output, share)


def place(
    small: Dense, big: Dense, placement: Placement, inputs: Float[np.ndarray, "n d"], tolerance: float
) -> Dense | None:
    """The small network in the shape of the big one.

    Neurons are copied exactly. What is linear goes through neurons near the middle of the activation (or well inside
    an affine piece), spread over all that carry it, with ever smaller weights until no output on the data differs by
    more than the tolerance.

    **Arguments:**
    - `big`: its incoming weights stay where a neuron is at rest. `inputs`: the data. `tolerance`: in output units.

    **Returns:** None where this is not possible: layers without biases that would have to pass something linear,
    too few neurons, or no weights small enough.
    """
    wanted = np.asarray(jax.vmap(small)(jnp.asarray(inputs)))
    scale = 1.0
    while scale >= _SMALLEST:
        made = _write(small, big, placement, inputs, scale)
        if made is None:
            return None
        error = np.abs(np.asarray(jax.vmap(made)(jnp.asarray(inputs))) - wanted).max(initial=0.0)
        if error <= tolerance:
            return made
        scale /= 2
    return None


def _write(small: Dense, big: Dense, placement: Placement, inputs: np.ndarray, scale: float) -> Dense | None:
    old, narrow, act = arrays_of(big), arrays_of(small), big.activation
    features, made, following = np.asarray(inputs), [], 0
    # What the next small layer receives, without its bias, from the features: features @ pending.T + constant.
    pending, constant = np.asarray(narrow[0].readers), np.zeros(narrow[0].readers.shape[0])
    for j, plan in enumerate(placement.layers):
        is_here = j in placement.hidden
        k = narrow[following].num_neurons if is_here else 0
        weight = np.array(old[j].weight, float)  # what is at rest stays
        bias = None if old[j].bias is None else np.array(old[j].bias, float)
        read = np.zeros((0, len(weight)))
        constants = np.zeros(0)
        if is_here:
            layer = narrow[following]
            chosen = plan.source >= 0
            own = plan.source[chosen]
            weight[chosen] = plan.factor[chosen, None] * pending[own]
            shift = constant[:k] + (0.0 if layer.bias is None else np.asarray(layer.bias))
            if bias is not None:
                bias[chosen] = plan.factor[chosen] * shift[own]
            elif np.abs(shift).max(initial=0.0) > 0:
                return None
            read, constants = np.zeros((k, len(weight))), np.zeros(k)
            read[own, np.flatnonzero(chosen)] = plan.share[chosen] / plan.output[chosen]
            if act.parity == "none" and act.reflection is not None:
                # sigma(-t) = c - sigma(t): a reflected copy puts out a constant beside.
                flipped = chosen & (plan.output < 0)
                np.add.at(constants, plan.source[flipped], act.reflection * plan.share[flipped])
        carried = pending[k:], constant[k:]
        lines = np.flatnonzero(plan.source == LINEAR)
        if len(carried[0]) and not len(lines):
            return None
        passed = _pass(carried, features, len(lines), act, scale, has_bias=bias is not None)
        if passed is None:
            return None
        weight[lines], shift, decode, offset = passed
        if bias is not None:
            bias[lines] = shift
        through = np.zeros((len(carried[0]), len(weight)))
        through[:, lines] = decode
        made.append(LayerArrays(weight, bias, None))
        pre = features @ weight.T + (0.0 if bias is None else bias)
        features = np.asarray(act(jnp.asarray(pre)))
        read, constants = np.concatenate([read, through]), np.concatenate([constants, offset])
        if is_here:
            following += 1
            readers = np.asarray(narrow[following].readers)
            pending, constant = readers @ read, readers @ constants
        else:
            pending, constant = read, constants
    bias = narrow[-1].bias
    if old[-1].bias is None and np.abs(constant).max(initial=0.0) > 0:
        return None
    last = constant + (0.0 if bias is None else np.asarray(bias))
    made.append(LayerArrays(pending, None if old[-1].bias is None else last, None))
    return as_network(made, act)


def _pass(
    carried: tuple[np.ndarray, np.ndarray],
    features: np.ndarray,
    width: int,
    act: Activation,
    scale: float,
    *,
    has_bias: bool,
):
    """Weights and biases of the neurons that carry a linear map, and how it is read from them."""
    matrix, constant = carried
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(values > 1e-12 * max(values.max(initial=0.0), 1e-300)))
    if rank > width:
        return None
    root = np.sqrt(values[:rank])
    columns = _spread(width, rank)
    weight = scale * columns @ (root[:, None] * right[:rank])
    pre = features @ weight.T
    mean = pre.mean(0) if has_bias else np.zeros(width)
    centre = _centre(act, float(np.abs(pre - mean).max(initial=0.0))) if has_bias else 0.0
    value, slope = (float(a) for a in jax.value_and_grad(act)(jnp.asarray(centre)))
    if abs(slope) < 1e-3 or (rank and not has_bias and abs(value) > 0):
        return None
    # pre = mean + (act(pre - mean + centre) - value) / slope
    decode = (left[:, :rank] * root) @ columns.T / (scale * slope)
    offset = constant + (left[:, :rank] * root) @ columns.T @ mean / scale - decode @ np.full(width, value)
    return weight, centre - mean, decode, offset


def _centre(act: Activation, reach: float) -> float:
    """Where the activation is the most linear over an interval of this half-length: inside a piece, or at 0."""
    for piece in act.segments:
        if piece.slope == 0:
            continue
        if np.isinf(piece.upper) and np.isinf(piece.lower):
            return 0.0
        if np.isinf(piece.upper):
            return piece.lower + _CLEAR * reach + 1e-3
        if np.isinf(piece.lower):
            return piece.upper - _CLEAR * reach - 1e-3
        return 0.5 * (piece.lower + piece.upper)
    return 0.0


def _spread(width: int, rank: int) -> Float[np.ndarray, "w r"]:
    """Orthonormal columns of flat entries (the discrete cosine transform), so that no neuron leaves its line early."""
    angle = np.pi * (np.arange(width)[:, None] + 0.5) * np.arange(rank)[None] / max(width, 1)
    columns = np.cos(angle) * np.sqrt(2 / max(width, 1))
    columns[:, :1] /= np.sqrt(2)
    return columns


def reader_shares(readers: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The share that each copy has of what reads its group, by projection on the group's sum."""
    share = np.zeros(len(source))
    for unit in np.unique(source[source >= 0]):
        group = np.flatnonzero(source == unit)
        total = readers[:, group].sum(axis=1)
        size = float(total @ total)
        share[group] = readers[:, group].T @ total / size if size > 0 else np.nan
    return share


def _all(width: int, role: int) -> LayerPlan:
    return LayerPlan(np.full(width, role), np.ones(width), np.ones(width), np.zeros(width))
