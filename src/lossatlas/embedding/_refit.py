"""The approximate class of reduction: a few neurons and linear units that carry what a layer carries on the data."""

from collections.abc import Callable

import numpy as np

from lossatlas.embedding._constants import can_shift
from lossatlas.embedding._layer_steps import Refit
from lossatlas.embedding._measure import output_jacobian
from lossatlas.embedding._polish import FitProblem, LayerFit, polish
from lossatlas.embedding._reduction_state import ReductionState


_RCOND = 1e-7
_POLISHED_UNITS = 8


def refit_layer(state: ReductionState, layer: int, allowance: float) -> bool:
    r"""Replace a hidden layer by the smallest (k, r), k neurons and r linear units, that the allowance permits.

    The start for (k, r): the first k neurons of a pivoted QR of the columns `output * norm of readers`, with what is
    affine in the layer's inputs taken out, and the best linear part of rank r for what they leave (reduced-rank
    regression of what the next layer receives, weighted by how strongly the output depends on it). Up to 8 units the
    start is polished by Levenberg-Marquardt on the linearised output change. The smallest k + r within the
    allowance is found by bisection, and at it the smallest k. Outputs are kept on the data, critical points are not.
    """
    here = state.layers[layer]
    units = here.num_units
    if units == 0 or not can_shift(state.layers, layer + 1):
        return False
    start = _starts(state, layer)
    problem = _problem(state, layer)
    most = min(state.features[layer].shape[1], problem.target.shape[1])

    def within(fit: LayerFit) -> Refit | None:
        step = _step(layer, here.num_neurons, fit)
        return step if state.measure(step.on_arrays(state.layers), layer) <= allowance else None

    def polished(total: int) -> Refit | None:
        """The step with the fewest neurons that fits at this number of units."""
        for k in range(max(0, total - most), min(total, here.num_neurons) + 1):
            rough = start(k)(total - k)
            step = within(rough) or within(polish(problem, rough, 0.5 * allowance))
            if step is not None:
                return step
        return None

    best = _fewest(min(units - 1, _POLISHED_UNITS), polished)
    if best is not None:
        return state.attempt([best], layer, allowance)
    for total in range(_POLISHED_UNITS + 1, units):
        low, high = max(0, total - most), min(total, here.num_neurons)
        for k in dict.fromkeys((low, high, (low + high) // 2)):  # the extremes and the middle stand for all
            step = within(start(k)(total - k)) if low <= k <= high else None
            if step is not None:
                return state.attempt([step], layer, allowance)
    return False


def _fewest(largest: int, candidate: Callable[[int], Refit | None]) -> Refit | None:
    """The candidate of the smallest number for which there is one, by bisection."""
    best = candidate(largest)
    low, high = -1, largest
    while best is not None and high - low > 1:
        middle = (low + high) // 2
        found = candidate(middle)
        best, low, high = (best, middle, high) if found is None else (found, low, middle)
    return best


def _step(layer: int, before: int, fit: LayerFit) -> Refit:
    note = f"{before} neurons refitted by {len(fit.weight)} and {len(fit.linear)} linear units"
    return Refit(layer, fit.weight, fit.bias, fit.linear, fit.readers, fit.shift, note)


def _problem(state: ReductionState, layer: int) -> FitProblem:
    target = state.features[layer + 1] @ state.layers[layer + 1].readers.T
    jacobian = output_jacobian(state.layers, layer + 1, state.features, state.activation)
    offset = state.features[-1] - state.reference
    return FitProblem(state.features[layer], target, jacobian, offset, state.activation)


def _starts(state: ReductionState, layer: int) -> Callable[[int], Callable[[int], LayerFit]]:
    """For k neurons, for rank r: the least-squares fit to what the next layer receives."""
    import scipy.linalg

    here = state.layers[layer]
    entering, neurons = state.features[layer], state.features[layer + 1][:, : here.num_neurons]
    problem = _problem(state, layer)
    # Root mean square sensitivity of the outputs to each receiving unit; units that do not matter keep a little.
    weights = np.sqrt((problem.jacobian**2).sum(1).mean(0))
    top = weights.max(initial=0.0)
    weights = np.maximum(weights / top, 1e-3) if top > 0 else np.ones_like(weights)
    mean = problem.target.mean(0)
    target = problem.target - mean
    readers = state.layers[layer + 1].readers[:, : here.num_neurons]
    columns = (neurons - neurons.mean(0)) * np.linalg.norm(readers * weights[:, None], axis=0)
    affine = np.concatenate([np.ones((len(entering), 1)), entering], axis=1)
    curved = columns - affine @ np.linalg.lstsq(affine, columns, rcond=_RCOND)[0]
    order = scipy.linalg.qr(curved, mode="r", pivoting=True)[-1] if neurons.shape[1] else np.empty(0, int)

    def with_neurons(k: int) -> Callable[[int], LayerFit]:
        kept = np.sort(order[:k])
        basis = np.concatenate([np.ones((len(entering), 1)), neurons[:, kept]], axis=1)

        def off(values):
            return values - basis @ np.linalg.lstsq(basis, values, rcond=_RCOND)[0]

        left = off(entering)
        slopes = np.linalg.lstsq(left, off(target * weights), rcond=_RCOND)[0]
        directions = np.linalg.svd(left @ slopes, full_matrices=False)[2]

        def with_rank(rank: int) -> LayerFit:
            linear = (slopes @ directions[:rank].T).T
            from_linear = directions[:rank] / weights
            rest = target - entering @ linear.T @ from_linear
            coefficients = np.linalg.lstsq(basis, rest, rcond=_RCOND)[0]
            return LayerFit(
                weight=here.weight[kept],
                bias=None if here.bias is None else here.bias[kept],
                linear=linear,
                readers=np.concatenate([coefficients[1:].T, from_linear.T], axis=1),
                shift=coefficients[0] + mean,
            )

        return with_rank

    return with_neurons
