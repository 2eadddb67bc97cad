"""The approximate class of reduction: a few neurons and linear units that carry what a layer carries on the data."""

import numpy as np

from lossatlas.embedding._constants import can_shift
from lossatlas.embedding._layer_steps import Refit
from lossatlas.embedding._measure import received
from lossatlas.embedding._reduction_state import ReductionState


_RCOND = 1e-9


def refit_layer(state: ReductionState, layer: int, allowance: float) -> bool:
    r"""Replace a hidden layer by the smallest (k, r): k of its neurons and r new linear units.

    What the next layer receives is fitted by least squares on the data, weighted by how strongly the output depends
    on it: for each k the neurons are the first k of a pivoted QR of the columns `output * norm of readers` (with
    and without the part that is affine in what enters the layer taken out), the linear part is the best of rank r
    (reduced-rank regression of what the neurons leave), and r is the smallest that the allowance permits. The
    smallest k + r wins, at a tie the smaller k. Outputs are kept on the data within the allowance; critical points
    do not stay critical in general.
    """
    import scipy.linalg

    here, following = state.layers[layer], state.layers[layer + 1]
    k0, units = here.num_neurons, here.num_units
    if units == 0 or not can_shift(state.layers, layer + 1):
        return False
    entering, outputs = state.features[layer], state.features[layer + 1]
    neurons = outputs[:, :k0]
    target = outputs @ following.readers.T
    mean = target.mean(0)
    weights = _sensitivities(state, layer + 1)
    ones = np.ones((len(entering), 1))
    weighted = (neurons - neurons.mean(0)) * np.linalg.norm(following.readers[:, :k0] * weights[:, None], axis=0)
    affine = np.concatenate([ones, entering], axis=1)
    curved = weighted - affine @ np.linalg.lstsq(affine, weighted, rcond=_RCOND)[0]
    orders = [scipy.linalg.qr(columns, mode="r", pivoting=True)[-1] for columns in (curved, weighted) if k0]
    best, chosen = (units, k0), None
    for k in range(min(k0, units) + 1):
        if k > best[0]:
            break
        for order in orders if k else orders[:1] or [np.empty(0, int)]:
            kept = np.sort(order[:k])
            steps = _fits(kept, neurons, entering, target - mean, mean, weights, layer)
            limit = min(best[0] - k, entering.shape[1], target.shape[1])
            rank = _smallest_rank(state, steps, layer, limit, allowance)
            if rank is not None and (k + rank, k) < best:
                best, chosen = (k + rank, k), steps(rank)
    return chosen is not None and state.attempt([chosen], layer, allowance)


def _fits(kept, neurons, entering, target, mean, weights, layer: int):
    """For k given neurons, the step with a linear part of any rank."""
    basis = np.concatenate([np.ones((len(entering), 1)), neurons[:, kept]], axis=1)

    def off(columns):
        coefficients = np.linalg.lstsq(basis, columns, rcond=_RCOND)[0]
        return columns - basis @ coefficients

    left = off(entering)
    slopes = np.linalg.lstsq(left, off(target * weights), rcond=_RCOND)[0]
    _, _, right = np.linalg.svd(left @ slopes, full_matrices=False)

    def step(rank: int) -> Refit:
        directions = right[:rank]
        linear = (slopes @ directions.T).T
        from_linear = directions / weights
        rest = target - entering @ linear.T @ from_linear
        coefficients = np.linalg.lstsq(basis, rest, rcond=_RCOND)[0]
        readers = np.concatenate([coefficients[1:].T, from_linear.T], axis=1)
        note = f"{neurons.shape[1]} neurons refitted by {len(kept)} of them and {rank} linear units"
        return Refit(layer, tuple(int(j) for j in kept), linear, readers, coefficients[0] + mean, note)

    return step


def _smallest_rank(state: ReductionState, step, layer: int, limit: int, allowance: float) -> int | None:
    def fits(rank: int) -> bool:
        return state.measure(step(rank).on_arrays(state.layers), layer) <= allowance

    if limit < 0 or not fits(limit):
        return None
    low, high = -1, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _sensitivities(state: ReductionState, layer: int) -> np.ndarray:
    """How strongly the output depends on what each unit of a layer receives; the largest is 1, none is 0."""
    here = state.layers[layer]
    if layer == len(state.layers) - 1:
        return np.ones(here.num_units)
    following = state.layers[layer + 1]
    norms = np.linalg.norm(following.readers, axis=0)
    k = here.num_neurons
    values = received(here, state.features[layer])[:, :k]
    # The slope of each neuron on the data, by the ratio of spreads of what it puts out and receives.
    spread = values.std(0)
    slope = np.where(spread > 0, state.features[layer + 1][:, :k].std(0) / np.where(spread > 0, spread, 1.0), 1.0)
    norms = np.concatenate([norms[:k] * np.minimum(slope, 1.0), norms[k:]])
    top = norms.max(initial=0.0)
    return np.maximum(norms / top, 1e-3) if top > 0 else np.ones(here.num_units)
