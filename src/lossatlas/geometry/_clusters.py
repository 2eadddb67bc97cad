"""Clusters of neurons by angle: complete linkage, the cut in the widest gap, and bounds on covers."""

import numpy as np

from lossatlas._errors import InputError


COVER_ANGLE = float(np.rad2deg(np.arccos(0.95)))
"""cos > 0.95, the angle within which one direction stands for another (Zhang and Xu 2024, Definition 1)."""

REPORTED_CUTS = (5.0, 10.0, 15.0, COVER_ANGLE)
_GAP = (1.0, 30.0)
_MAX_NEURONS = 20_000


def linkage_of(angles: np.ndarray) -> np.ndarray | None:
    """Complete linkage of an angle matrix in degrees; None for a single neuron.

    Complete linkage bounds the diameter of a cluster, so that each lies in a cap; single linkage chains.

    **Raises:** `InputError` above 20,000 neurons, whose angle matrix does not fit in memory.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    if len(angles) > _MAX_NEURONS:
        msg = f"Clustering takes at most {_MAX_NEURONS} neurons, got {len(angles)}; use effective_neurons(network)."
        raise InputError(msg)
    if len(angles) < 2:
        return None
    return linkage(squareform(angles, checks=False), "complete")


def widest_gap(tree: np.ndarray | None) -> float:
    """The cut in degrees: the middle, on a log scale, of the widest gap of the merge heights within [1, 30]."""
    low, high = np.log(_GAP[0]), np.log(_GAP[1])
    heights = np.zeros(0) if tree is None else np.log(np.clip(tree[:, 2], *_GAP))
    edges = np.sort(np.concatenate([[low], heights, [high]]))
    widest = int(np.diff(edges).argmax())
    return float(np.exp(0.5 * (edges[widest] + edges[widest + 1])))


def labels_at(tree: np.ndarray | None, cut: float) -> np.ndarray:
    """The cluster of each neuron at a cut in degrees, numbered from 0."""
    from scipy.cluster.hierarchy import fcluster

    if tree is None:
        return np.zeros(1, int)
    return fcluster(tree, cut, "distance") - 1


def cover_bracket(angles: np.ndarray) -> tuple[int, int]:
    """Bounds on the least number of directions of which each neuron has one within cos > 0.95.

    Below: neurons that are pairwise too far apart to share one (greedy, those of fewest conflicts first). Above: a
    greedy cover whose centres are neurons. The least cover itself is NP-hard, and its centres need not be neurons.
    """
    conflicts = angles < 2 * COVER_ANGLE
    free, lower = np.ones(len(angles), bool), 0
    while free.any():
        counts = np.where(free, (conflicts & free).sum(1), len(angles) + 1)
        free &= ~conflicts[counts.argmin()]
        lower += 1
    covers = angles < COVER_ANGLE
    open_, upper = np.ones(len(angles), bool), 0
    while open_.any():
        open_ &= ~covers[(covers & open_).sum(1).argmax()]
        upper += 1
    return lower, upper


def display_order(cosines: np.ndarray, labels: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Neurons by cluster, heaviest first, and inside a cluster by the leading eigenvector of the cosine matrix."""
    leading = np.linalg.eigh(cosines)[1][:, -1]
    leading = leading * np.sign(leading[np.abs(leading).argmax()])
    weight = np.bincount(labels, masses)[labels]
    return np.lexsort((-leading, labels, -weight))
