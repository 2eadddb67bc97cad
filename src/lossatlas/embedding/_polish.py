"""Levenberg-Marquardt on one hidden layer and its readers, so that the network gives given outputs on the data."""

import dataclasses

import numpy as np

from lossatlas.embedding._measure import activate
from lossatlas.networks import Activation


_MAX_STEPS = 40
_WORK = 2e9
_MAX_ROWS = 1024
_MAX_DAMPING = 1e8
_LEAST_DROP = 1e-4


@dataclasses.dataclass
class LayerFit:
    """A hidden layer (neurons, linear units) with its readers and the shift of what the next layer receives."""

    weight: np.ndarray
    bias: np.ndarray | None
    linear: np.ndarray
    readers: np.ndarray
    shift: np.ndarray

    def flat(self) -> np.ndarray:
        """All entries as one vector."""
        parts = (self.weight, self.linear, self.readers, self.shift, self.bias)
        return np.concatenate([np.ravel(part) for part in parts if part is not None])

    def moved(self, vector: np.ndarray) -> "LayerFit":
        """The same shapes filled from a vector."""
        parts, start = {}, 0
        for name in ("weight", "linear", "readers", "shift", "bias"):
            old = getattr(self, name)
            if old is not None:
                parts[name] = vector[start : start + old.size].reshape(old.shape)
                start += old.size
        return LayerFit(bias=parts.pop("bias", None), **parts)


@dataclasses.dataclass
class FitProblem:
    """What a layer must achieve: `jacobian @ (received - target) + offset` as small as possible on every example.

    - `entering`: what enters the layer, (n, m). `target`: what the next layer received so far, (n, q).
    - `jacobian`: derivative of the outputs in what the next layer receives, (n, o, q).
    - `offset`: how far the outputs are from where they should be so far, (n, o).
    """

    entering: np.ndarray
    target: np.ndarray
    jacobian: np.ndarray
    offset: np.ndarray
    activation: Activation

    def some_rows(self, most: int) -> "FitProblem":
        """The problem on at most so many examples, spread evenly."""
        if len(self.offset) <= most:
            return self
        rows = np.linspace(0, len(self.offset) - 1, most).astype(int)
        return FitProblem(
            self.entering[rows], self.target[rows], self.jacobian[rows], self.offset[rows], self.activation
        )

    def residual(self, fit: LayerFit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The residual (n, o), with pre-activations and unit outputs."""
        pre = self.entering @ fit.weight.T + (0.0 if fit.bias is None else fit.bias)
        outputs = np.concatenate([activate(self.activation, pre), self.entering @ fit.linear.T], axis=1)
        moved = outputs @ fit.readers.T + fit.shift - self.target
        return np.einsum("noq,nq->no", self.jacobian, moved) + self.offset, pre, outputs

    def derivative(self, fit: LayerFit, pre: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """The derivative of the residual in the entries of `fit.flat()`, shape (n * o, p)."""
        n, o, _ = self.jacobian.shape
        k = len(fit.weight)
        through = self.jacobian @ fit.readers
        sloped = through[:, :, :k] * activate(self.activation, pre, slope=True)[:, None, :]
        entering = self.entering[:, None, None, :]
        parts = [
            sloped[..., None] * entering,
            through[:, :, k:, None] * entering,
            self.jacobian[..., None] * outputs[:, None, None, :],
            self.jacobian,
        ]
        if fit.bias is not None:
            parts.append(sloped)
        return np.concatenate([part.reshape(n * o, -1) for part in parts], axis=1)


def can_polish(problem: FitProblem, fit: LayerFit) -> bool:
    """Whether one step is within the work allowed: rows times outputs times parameters squared at most 2e9."""
    return _num_steps(problem, fit) > 0


def _num_steps(problem: FitProblem, fit: LayerFit) -> int:
    return int(min(_MAX_STEPS, _WORK / max(problem.offset.size * fit.flat().size ** 2, 1)))


def polish(problem: FitProblem, fit: LayerFit, goal: float) -> LayerFit:
    """Decrease the mean square residual until its largest entry is below the goal or no progress is made.

    The number of steps is limited by work, rows times outputs times parameters squared, 2e9 in all; of more than 1,024
    rows, 1,024 spread evenly are fitted (the caller tests the fit on all). Damping starts at 1e-3 of the diagonal.
    """
    vector = fit.flat()
    steps = _num_steps(problem, fit)
    problem = problem.some_rows(_MAX_ROWS)
    residual, pre, outputs = problem.residual(fit)
    value, damping = np.mean(residual**2), 1e-3
    for _ in range(steps):
        if np.abs(residual).max() <= goal or not np.isfinite(value):
            break
        slope = problem.derivative(fit, pre, outputs)
        normal, gradient = slope.T @ slope, slope.T @ residual.reshape(-1)
        diagonal = np.diag(normal)
        scale = diagonal + 1e-9 * diagonal.max() + 1e-300
        while damping < _MAX_DAMPING:
            trial = vector - np.linalg.solve(normal + np.diag(damping * scale), gradient)
            candidate = fit.moved(trial)
            new, new_pre, new_outputs = problem.residual(candidate)
            new_value = np.mean(new**2)
            if new_value < value:
                damping *= 0.2
                break
            damping *= 5.0
        else:
            return fit
        drop = 1 - new_value / value
        vector, fit, residual, pre, outputs, value = trial, candidate, new, new_pre, new_outputs, new_value
        if drop < _LEAST_DROP:
            break
    return fit
