"""Predictions, ReLUs and weights of several networks of one shape, and how far they are apart."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from lossatlas._parameters import ravel
from lossatlas._types import Network
from lossatlas.geometry._along import predictions
from lossatlas.geometry._gates import find_gates
from lossatlas.landscape import Landscape


class FunctionStates:
    """Predictions, ReLUs (None without any) and weights of all networks, and their distances."""

    def __init__(self, networks: Sequence[Network], data: Landscape):
        link = data.loss.link if data.loss is not None else lambda prediction: prediction
        outputs = [np.asarray(predictions(data, network)).reshape(data.size, -1) for network in networks]
        self.choices = [choices(values) for values in outputs]
        self.linked = [np.asarray(jax.vmap(link)(values)) for values in outputs]
        self.weights = [np.asarray(ravel(network)[0], float) for network in networks]
        gates = find_gates(networks[0], data)
        self.patterns = [gates.patterns(network, data) for network in networks] if gates.variables else None

    def shares(self, i: int) -> dict[str, Float[np.ndarray, " n"]]:
        """What is a mean over examples at one checkpoint, example by example."""
        before, last = max(i - 1, 0), len(self.weights) - 1
        found = {"output_distance_from_first": np.linalg.norm(self.linked[i] - self.linked[0], axis=1)}
        for suffix, j in {"": before, "_from_first": 0, "_to_last": last}.items():
            none = suffix == "" and i == 0
            found["disagreement" + suffix] = differing(None if none else self.choices, i, j, len(self.choices[0]))
            found["hamming" + suffix] = differing(None if none else self.patterns, i, j, len(self.choices[0]))
        return found

    def of_weights(self, i: int) -> dict[str, float]:
        """Distances and directions of the weights at one checkpoint."""
        way, whole = self.weights[i] - self.weights[0], self.weights[-1] - self.weights[0]
        lengths = np.linalg.norm(way), np.linalg.norm(whole)
        return {
            "weight_distance_from_first": float(lengths[0]),
            "weight_distance_to_last": float(np.linalg.norm(self.weights[i] - self.weights[-1])),
            "weight_change": float(lengths[0] / max(np.linalg.norm(self.weights[0]), 1e-300)),
            "direction": float(way @ whole / (lengths[0] * lengths[1])) if lengths[0] * lengths[1] > 0 else np.nan,
        }


def choices(outputs: Float[np.ndarray, "n o"]) -> np.ndarray:
    """The largest output of every example; of a single output whether it is positive."""
    return outputs.argmax(axis=1) if outputs.shape[1] > 1 else outputs[:, 0] > 0


def differing(values: list[np.ndarray] | None, i: int, j: int, size: int) -> Float[np.ndarray, " n"]:
    """The share of entries that differ, for every example; NaN without values."""
    if values is None:
        return np.full(size, np.nan)
    return (values[i] != values[j]).reshape(size, -1).mean(axis=1)
