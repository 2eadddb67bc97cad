"""Streaming statistics of how affine a hidden layer is: moments, extremes and least squares, in float64."""

from typing import NamedTuple

import numpy as np

from lossatlas.geometry._hidden import triangular_factor
from lossatlas.networks import Activation


_KINK = 1e-9  # of the largest pre-activation
_CONSTANT = 1e-13  # a standard deviation below this share of the magnitude is rounding


class AffineMap(NamedTuple):
    """The best affine map `slope * z + offset` of every neuron, and whether it is constant."""

    slope: np.ndarray
    offset: np.ndarray
    is_constant: np.ndarray


class LayerStatistics:
    """What two passes over the data tell about one layer; batches merge exactly (Chan, Golub and LeVeque 1983).

    Of any unit space what its units receive (z) and put out (f); of a fully connected layer its block too.
    """

    def __init__(self, activation: Activation | None):
        self.activation = activation
        self.size = self.num_entering = 0
        self.means = np.zeros(0)  # of z and f, shape (2, m)
        self.products = np.zeros(0)  # centred sums zz, ff, zf, shape (3, m)
        self.largest = np.zeros(0)
        self.low, self.high = np.inf, -np.inf
        self.kink_distance = np.inf
        self.near_kinks = 0
        self.factor: np.ndarray | None = None
        self.squared_residual = np.zeros(())
        self.unexplained = self.passed_on = 0.0

    def add(self, z: np.ndarray, f: np.ndarray) -> None:
        """First pass."""
        count = len(z)
        means = np.stack([z.mean(0), f.mean(0)])
        dz, df = z - means[0], f - means[1]
        products = np.stack([(dz * dz).sum(0), (df * df).sum(0), (dz * df).sum(0)])
        if self.size == 0:
            self.means, self.products, self.largest = (
                np.zeros_like(means),
                np.zeros_like(products),
                np.zeros_like(means),
            )
        shift = means - self.means
        weight = self.size * count / (self.size + count)
        self.products = (
            self.products + products + weight * np.stack([shift[0] ** 2, shift[1] ** 2, shift[0] * shift[1]])
        )
        self.means = self.means + shift * count / (self.size + count)
        self.largest = np.maximum(self.largest, np.stack([np.abs(z).max(0), np.abs(f).max(0)]))
        self.low, self.high = np.minimum(self.low, z.min(0)), np.maximum(self.high, z.max(0))
        for kink in self.activation.kinks if self.activation is not None else ():
            distance = np.abs(z - kink)
            self.kink_distance = min(self.kink_distance, float(distance.min(initial=np.inf)))
            self.near_kinks += int(np.sum(distance <= _KINK * np.abs(z).max(initial=1.0)))
        self.size += count

    def add_block(self, entering: np.ndarray, following: np.ndarray) -> None:
        """First pass, of the block: what enters the layer, and what the next one receives."""
        columns = [np.ones((len(entering), 1)), entering, following]
        self.factor = triangular_factor(self.factor, np.concatenate(columns, axis=1))
        self.num_entering = entering.shape[1]

    @property
    def deviations(self) -> np.ndarray:
        """Standard deviations of z and f, shape (2, m)."""
        return np.sqrt(self.products[:2] / self.size)

    def affine(self) -> AffineMap:
        """Regression of f on z; constants give 0/0, and are the affine map of slope 0."""
        constant = np.asarray((self.deviations <= _CONSTANT * self.largest).any(0))
        slope = np.where(constant, 0.0, self.products[2] / np.where(constant, 1.0, self.products[0]))
        return AffineMap(slope, self.means[1] - slope * self.means[0], constant)

    def correlation(self, affine: AffineMap) -> np.ndarray:
        """Pearson's correlation of z and f; 1 for constants, which are affine."""
        scale = np.where(affine.is_constant, 1.0, np.sqrt(self.products[0] * self.products[1]))
        return np.where(affine.is_constant, 1.0, np.clip(self.products[2] / scale, -1.0, 1.0))

    def add_residual(self, z: np.ndarray, f: np.ndarray, affine: AffineMap) -> None:
        """Second pass: the residuals, which the moments would give only by cancellation."""
        self.squared_residual = self.squared_residual + ((f - affine.slope * z - affine.offset) ** 2).sum(0)

    def add_read(self, z: np.ndarray, f: np.ndarray, affine: AffineMap, readers: np.ndarray) -> None:
        """Second pass, of the block: what its readers see of the residuals."""
        residual = f - affine.slope * z - affine.offset
        self.unexplained += float(((residual @ readers) ** 2).sum())
        self.passed_on += float((((f - self.means[1]) @ readers) ** 2).sum())

    def residual(self) -> np.ndarray:
        """Root mean square of each neuron's residual."""
        return np.sqrt(self.squared_residual / self.size)

    def score(self) -> float:
        """What the readers see of the residuals, over what they see at all."""
        return float(np.sqrt(self.unexplained / self.passed_on)) if self.passed_on > 0 else float("nan")

    def margin(self) -> np.ndarray | None:
        """Room to the ends of the best affine piece of the activation; negative when the data straddle pieces."""
        if self.activation is None or not self.activation.segments:
            return None
        rooms = [np.minimum(self.low - s.lower, s.upper - self.high) for s in self.activation.segments]
        return np.max(rooms, axis=0)

    def block_map(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The best affine map from the layer's inputs to what the next layer reads: weight, bias, R squared."""
        assert self.factor is not None
        split = 1 + self.num_entering
        left, right = self.factor[:, :split], self.factor[:, split:]
        solution = np.linalg.lstsq(left, right)[0]
        # The first row belongs to the column of ones, so the others hold the variation about the mean.
        total = float((right[1:] ** 2).sum())
        left_over = float(((right - left @ solution) ** 2).sum())
        is_constant = total <= _CONSTANT**2 * float((right**2).sum())
        r2 = 1.0 if is_constant else 1.0 - left_over / total
        return solution[1:].T, solution[0], r2
