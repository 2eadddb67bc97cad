"""The approximate class of reduction: a few neurons and linear units that carry what a layer carries on the data."""

from collections.abc import Callable

import numpy as np

from lossatlas.embedding._constants import can_shift
from lossatlas.embedding._layer_steps import Refit
from lossatlas.embedding._measure import output_jacobian
from lossatlas.embedding._polish import FitProblem, LayerFit, can_polish, polish
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
    problem = _problem(state, layer)
    start = _starts(state, layer, problem)
    most = min(state.features[layer].shape[1], problem.target.shape[1])

    def within(fit: LayerFit) -> Refit | None:
        step = _step(layer, here.num_neurons, fit)
        return step if state.fits(step.on_arrays(state.layers), layer, allowance) else None

    def polished(total: int) -> Refit | None:
        """The step with the fewest neurons that fits at this number of units."""
        for k in range(max(0, total - most), min(total, here.num_neurons) + 1):
            rough = start(k)(total - k)
            step = within(rough)
            if step is None and can_polish(problem, rough):
                step = within(polish(problem, rough, 0.5 * allowance))
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


def _starts(state: ReductionState, layer: int, problem: FitProblem) -> Callable[[int], Callable[[int], LayerFit]]:
    """For k neurons, for rank r: the least-squares fit to what the next layer receives."""
    import scipy.linalg

    here = state.layers[layer]
    neurons = state.features[layer + 1][:, : here.num_neurons]
    # Root mean square sensitivity of the outputs to each receiving unit; units that do not matter keep a little.
    weights = np.sqrt((problem.jacobian**2).sum(1, dtype=float).mean(0))
    top = weights.max(initial=0.0)
    weights = np.maximum(weights / top, 1e-3) if top > 0 else np.ones_like(weights)
    parts = (problem.entering, neurons, problem.target * weights)
    entering_mean, neurons_mean, target_mean = (part.mean(0, dtype=float) for part in parts)
    # One QR of all columns, the constant first: what follows needs their inner products, not their rows.
    data = np.concatenate([np.ones((len(neurons), 1)), *parts], axis=1)
    bounds = np.cumsum([part.shape[1] for part in parts])[:-1]
    factor = np.asarray(np.linalg.qr(data, mode="r"))
    entering, neurons, target = np.split(factor[1:, 1:], bounds, axis=1)
    frame, scales, axes = _thin_svd(entering)
    readers = state.layers[layer + 1].readers[:, : here.num_neurons]
    columns = neurons * np.linalg.norm(readers * weights[:, None], axis=0)
    curved = columns - frame @ (frame.T @ columns)
    order = scipy.linalg.qr(curved, mode="r", pivoting=True)[-1] if curved.size else np.arange(here.num_neurons)

    def with_neurons(k: int) -> Callable[[int], LayerFit]:
        kept = np.sort(order[:k])
        basis, sizes, mix = _thin_svd(neurons[:, kept])
        # Regress what the neurons leave of the target on what they leave of the entering features, frame - basis M.
        overlap = basis.T @ frame
        _, cosines, turned = np.linalg.svd(overlap, full_matrices=False)
        squares = 1 - cosines**2
        inverse = np.where(squares > _RCOND, 1 / np.where(squares > _RCOND, squares, 1.0), 0.0)
        rest = frame.T @ (target - basis @ (basis.T @ target))
        slopes = rest + turned.T @ ((inverse - 1)[:, None] * (turned @ rest))
        left = frame @ slopes - basis @ (overlap @ slopes)
        # gesdd, numpy's way, may not converge on products of low rank.
        directions = scipy.linalg.svd(left, full_matrices=False, lapack_driver="gesvd")[2]

        def with_rank(rank: int) -> LayerFit:
            chosen = slopes @ directions[:rank].T
            linear = (axes.T @ (chosen / scales[:, None])).T
            unfitted = target - frame @ chosen @ directions[:rank]
            coefficients = mix.T @ (basis.T @ unfitted / sizes[:, None])
            shift = target_mean - neurons_mean[kept] @ coefficients - entering_mean @ linear.T @ directions[:rank]
            return LayerFit(
                weight=here.weight[kept],
                bias=None if here.bias is None else here.bias[kept],
                linear=linear,
                readers=np.concatenate([coefficients, directions[:rank]]).T / weights[:, None],
                shift=shift / weights,
            )

        return with_rank

    return with_neurons


def _thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The singular value decomposition without directions of relative size below `_RCOND`."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    rank = int(np.sum(values > _RCOND * values.max(initial=0.0)))
    return left[:, :rank], values[:rank], right[:rank]
