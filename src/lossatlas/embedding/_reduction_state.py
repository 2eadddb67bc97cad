"""A reduction under way: the present layers, what they changed, and the test that every step must pass."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from lossatlas.embedding._constants import LayerArrays
from lossatlas.embedding._measure import downstream_lipschitz, features_of, outputs_from, received
from lossatlas.networks import Activation


_FIRST_ROWS = 256


@dataclasses.dataclass
class ReductionState:
    """The layers so far, with the promise: no output on the data changes by more than an allowance.

    - `reference`: the outputs of the network that the reduction began with.
    - `change`: the largest output change so far; `bound`: the sum of the a-priori bounds of the accepted steps.
    - `defect`: the sum of the criticality defects of merged layers.
    """

    layers: list[LayerArrays]
    activation: Activation
    inputs: np.ndarray
    reference: np.ndarray
    change: float = 0.0
    bound: float = 0.0
    defect: int = 0
    plan: list[Any] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.features = features_of(self.layers, self.inputs, self.activation)

    @property
    def num_hidden(self) -> int:
        """How many hidden layers are left."""
        return len(self.layers) - 1

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Neurons and linear units of every hidden layer."""
        return [(layer.num_neurons, layer.num_units - layer.num_neurons) for layer in self.layers[:-1]]

    @property
    def num_parameters(self) -> int:
        """How many parameters are left."""
        return sum(array.size for layer in self.layers for array in layer if array is not None)

    def fits(self, layers: list[LayerArrays], layer: int, allowance: float) -> bool:
        """Whether candidate layers that differ from hidden layer `layer` on stay within the allowance on all rows."""
        return self._measure(layers, layer, allowance) <= allowance

    def _measure(self, layers: list[LayerArrays], layer: int, allowance: float) -> float:
        """The largest output change, or any number above the allowance once a few rows exceed it."""
        entering = self.features[layer]
        step, change = len(entering) // _FIRST_ROWS, 0.0
        for rows in (slice(None, None, step), slice(None)) if step > 1 else (slice(None),):
            out = outputs_from(layers, layer, entering[rows], self.activation)
            change = float(np.abs(out - self.reference[rows]).max(initial=0.0))
            if not change <= allowance:
                return np.inf
        return change

    def attempt(self, steps: list[Any], layer: int, allowance: float) -> bool:
        """Carry out steps on hidden layer `layer` if the total change stays within the allowance."""
        layers = self.layers
        for step in steps:
            layers = step.on_arrays(layers)
        change = self._measure(layers, layer, allowance)
        if not change <= allowance:
            return False
        self._accept(layers, steps, layer, change)
        return True

    def _accept(self, layers: list[LayerArrays], steps: list[Any], layer: int, change: float) -> None:
        removed = len(self.layers) - len(layers)
        before = received(self.layers[layer + 1], self.features[layer + 1])
        entering = self.features[: layer + 1]
        features = [*entering[:-1], *features_of(layers[layer:], entering[-1], self.activation)]
        after = received(layers[layer + 1 - removed], features[layer + 1 - removed])
        moved = np.linalg.norm(after - before, axis=1).max(initial=0.0)
        if moved > 0:
            self.bound += float(moved) * downstream_lipschitz(layers, layer + 1 - removed, self.activation)
        self.layers, self.features, self.change = layers, features, change
        self.plan.extend(steps)


def largest_prefix(count: int, fits: Callable[[int], bool]) -> int:
    """The largest p up to `count` for which `fits(p)`, by bisection (fits is taken as monotone; 0 always fits)."""
    if count == 0 or fits(count):
        return count
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
