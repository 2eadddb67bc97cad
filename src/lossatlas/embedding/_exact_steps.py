"""The exact class of reduction: fold constants, merge copies, turn affine neurons into linear units, merge layers."""

import numpy as np

from lossatlas.embedding._condensed import copies, merge_maps
from lossatlas.embedding._constants import can_shift
from lossatlas.embedding._layer_steps import FoldConstants, Linearise, MergeLayer, UnitStep, merge_defect
from lossatlas.embedding._measure import best_lines, received
from lossatlas.embedding._reduction_state import ReductionState, largest_prefix
from lossatlas.embedding._selection import Selection
from lossatlas.embedding._unit_map import UnitMap


_FLOOR = 1e-14


def fold_constant_units(state: ReductionState, layer: int, allowance: float) -> bool:
    """Drop units that are constant on the data, or that nothing reads, with their means put into biases."""
    here, following = state.layers[layer], state.layers[layer + 1]
    k = here.num_neurons
    if k == 0:
        return False
    outputs = state.features[layer + 1][:, :k]
    # A bias must hold the constants; without one only units that put out 0 can go.
    means = outputs.mean(0) if can_shift(state.layers, layer + 1) else np.zeros(k)
    spread = np.abs(outputs - means).max(0) * np.linalg.norm(following.readers[:, :k], axis=0)
    order = np.argsort(spread, kind="stable")

    def steps(count: int):
        dropped = np.sort(order[:count])
        kept = np.delete(np.arange(k), dropped)
        keep = Selection(kept, np.ones(len(kept)), k)
        constants = np.zeros(here.num_units)
        constants[dropped] = means[dropped]
        note = f"{count} constant or unread neurons folded into biases"
        return [FoldConstants(layer, constants), UnitStep(UnitMap(f"hidden[{layer}]", keep, keep, note=note))]

    return _take(state, steps, k, layer, allowance)


def merge_copies(state: ReductionState, layer: int, allowance: float) -> bool:
    """Merge neurons that agree up to sign, scale or reflection, at the widest tolerance that is allowed."""
    here, following = state.layers[layer], state.layers[layer + 1]
    k = here.num_neurons
    if k < 2:
        return False
    vectors = here.weight if here.bias is None else np.concatenate([here.weight, here.bias[:, None]], axis=1)
    weights = np.linalg.norm(following.readers[:, :k], axis=0)
    shiftable = can_shift(state.layers, layer + 1)
    tolerance = max(min(allowance, 0.3), 10 * _FLOOR)
    tried = k
    while tolerance >= _FLOOR:
        leaders, factors = copies(vectors, state.activation, tolerance)
        groups = len(np.unique(leaders))
        if groups == k:
            return False
        if groups != tried:
            writers, readers, constants = merge_maps(leaders, factors, weights, state.activation)
            if constants.any() and not shiftable:
                return False
            note = f"{k} neurons merged into {groups}"
            steps: list = [UnitStep(UnitMap(f"hidden[{layer}]", writers, readers, note=note))]
            if constants.any():
                full = np.concatenate([constants, np.zeros(here.num_units - k)])
                steps.insert(0, FoldConstants(layer, full))
            if state.attempt(steps, layer, allowance):
                return True
            tried = groups
        tolerance /= 10
    return False


def linearise_neurons(state: ReductionState, layer: int, allowance: float, *, all_or_none: bool = False) -> bool:
    """Turn neurons that act affinely on the data into linear units."""
    here, following = state.layers[layer], state.layers[layer + 1]
    k = here.num_neurons
    if k == 0:
        return False
    pre = received(here, state.features[layer])[:, :k]
    slope, offset, deviation = best_lines(pre, state.features[layer + 1][:, :k], state.activation)
    cost = deviation * np.linalg.norm(following.readers[:, :k], axis=0)
    if not can_shift(state.layers, layer + 1):
        constants = offset if here.bias is None else slope * here.bias + offset
        cost = np.where(np.abs(constants) <= _FLOOR, cost, np.inf)
    order = np.argsort(cost, kind="stable")
    order = order[np.isfinite(cost[order])]
    if all_or_none and len(order) < k:
        return False

    def steps(count: int):
        chosen = np.sort(order[:count])
        note = f"{count} neurons turned into linear units"
        return [Linearise(layer, tuple(int(j) for j in chosen), slope[chosen], offset[chosen], note)]

    if all_or_none:
        return state.attempt(steps(k), layer, allowance)
    return _take(state, steps, len(order), layer, allowance)


def compress_linear(state: ReductionState, layer: int, allowance: float) -> bool:
    """As few linear units as the rank of what they carry: readers times linear map."""
    here, following = state.layers[layer], state.layers[layer + 1]
    k, r = here.num_neurons, here.num_units - here.num_neurons
    if r == 0:
        return False
    readers = following.readers[:, k:]
    left, values, right = np.linalg.svd(readers @ here.linear, full_matrices=False)

    def steps(dropped: int):
        rank = r - dropped
        scale = 1 / np.sqrt(values[:rank])[:, None]
        # Balanced factors L' = S^1/2 V^T and U' = U S^1/2, written as maps of the present units.
        made, read = scale * (left[:, :rank].T @ readers), scale * (right[:rank] @ here.linear.T)
        note = f"{r} linear units compressed to rank {rank}"
        return [UnitStep(UnitMap(f"linear[{layer}]", made, read, note=note))]

    present = int(np.sum(values > _FLOOR * values[0])) if len(values) and values[0] > 0 else 0
    sure = r - min(present, r)

    def fits(extra: int) -> bool:
        return state.fits(_carried(state, steps(sure + extra)), layer, allowance)

    dropped = sure + largest_prefix(r - sure, fits)
    return dropped > 0 and state.attempt(steps(dropped), layer, allowance)


def merge_linear_layer(state: ReductionState, layer: int, allowance: float, *, merge_all: bool = False) -> bool:
    """Remove a hidden layer without neurons where that keeps critical points critical (defect 0)."""
    here, following = state.layers[layer], state.layers[layer + 1]
    if here.num_neurons:
        return False
    defect = merge_defect(here, following, np.zeros(0))
    if defect and not merge_all:
        return False
    step = MergeLayer(layer, np.zeros(0), np.zeros(0), f"linear hidden layer {layer} merged into the next")
    merged = state.attempt([step], layer, allowance)
    state.defect += defect if merged else 0
    return merged


def _take(state: ReductionState, steps, count: int, layer: int, allowance: float) -> bool:
    """Carry out as many of the ordered candidates as the allowance permits."""
    best = largest_prefix(count, lambda p: state.fits(_carried(state, steps(p)), layer, allowance))
    return best > 0 and state.attempt(steps(best), layer, allowance)


def _carried(state: ReductionState, steps: list) -> list:
    layers = state.layers
    for step in steps:
        layers = step.on_arrays(layers)
    return layers
