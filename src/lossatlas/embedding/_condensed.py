"""Units that are copies of each other up to sign, scale or reflection, and the maps that merge them."""

import numpy as np

from lossatlas.embedding._selection import Selection
from lossatlas.networks import Activation


_FIRST_ENTRIES = 16


def copies(vectors: np.ndarray, activation: Activation, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Group units whose (weights, bias) agree up to the symmetries of the activation.

    **Arguments:**
    - `vectors`: what makes each unit, shape (k, m) or (k, m+1) with the bias last.
    - `activation`: odd, even and reflected activations ($\sigma(-t) = c - \sigma(t)$) allow a sign, homogeneous ones a
      positive scale. GELU, SiLU and ReLU allow no sign: $\sigma(t) - \sigma(-t) = t$ leaves a linear term.
    - `tolerance`: two units agree when the largest difference of their canonical vectors is at most
      `tolerance * (1 + largest entry)`.

    **Returns:** the leader of each unit (its own index for leaders), and the factor c with
    `vectors[i] = c * vectors[leader]` up to the tolerance.
    """
    k = len(vectors)
    leaders, factors = np.arange(k), np.ones(k)
    if k == 0:
        return leaders, factors
    norms = np.linalg.norm(vectors, axis=1)
    has_scale = activation.degree is not None
    canonical = vectors / np.where(norms > 0, norms, 1.0)[:, None] if has_scale else vectors
    has_sign = activation.parity != "none" or activation.reflection is not None
    # Entries that tell units apart come first, so that most candidates are given up after a few of them.
    sorted_entries = canonical[:, np.argsort(-canonical.std(axis=0), kind="stable")]
    is_zero = (norms == 0) & has_scale  # no multiple of anything
    bounds = np.where(is_zero, -np.inf, tolerance * (1 + np.abs(canonical).max(axis=1, initial=0.0)))
    heads = np.empty(k, int)
    num_heads = 0
    for i in range(k):
        for sign in () if is_zero[i] else (1.0, -1.0) if has_sign else (1.0,):
            head = _nearest(sign * sorted_entries[i], sorted_entries, heads[:num_heads], bounds)
            if head is not None:
                leaders[i] = head
                factors[i] = sign * (norms[i] / norms[head] if has_scale else 1.0)
                break
        else:
            heads[num_heads] = i
            num_heads += 1
    return leaders, factors


def _nearest(vector: np.ndarray, vectors: np.ndarray, heads: np.ndarray, bounds: np.ndarray) -> int | None:
    """The head at the least maximum distance from a vector, the first of equals; None where none is within bounds."""
    distance = np.zeros(len(heads))
    start, step = 0, _FIRST_ENTRIES
    while start < len(vector) and len(heads):
        some = slice(start, start + step)
        distance = np.maximum(distance, np.abs(vectors[heads, some] - vector[some]).max(axis=1))
        close = distance <= bounds[heads]
        heads, distance = heads[close], distance[close]
        start, step = start + step, 4 * step
    return int(heads[np.argmin(distance)]) if len(heads) else None


def merge_maps(
    leaders: np.ndarray, factors: np.ndarray, weights: np.ndarray, activation: Activation
) -> tuple[Selection, Selection, np.ndarray]:
    r"""The maps that merge each group into one unit.

    **Arguments:**
    - `weights`: how much each unit counts in the mean that makes the merged one (norms of its readers).

    **Returns:** the map of writers and the map of readers, shape (groups, units), and the constant that each unit
    puts out beside its multiple of the merged unit (c for a reflected unit, 0 otherwise).
    """
    heads = np.unique(leaders)
    group = np.searchsorted(heads, leaders)
    total = np.bincount(group, weights)
    share = np.where(total[group] > 0, weights / np.where(total > 0, total, 1.0)[group], 1 / np.bincount(group)[group])
    writers = Selection(group, share / factors, len(heads)).T
    outputs, constants = multiples(factors, activation)
    return writers, Selection(group, outputs, len(heads)).T, constants


def multiples(factors: np.ndarray, activation: Activation) -> tuple[np.ndarray, np.ndarray]:
    r"""What units put out whose writers are multiples c of others: $\sigma(c t) = a\,\sigma(t) + b$.

    **Arguments:**
    - `factors`: c, positive for homogeneous activations, else 1; negative where a sign is a symmetry.

    **Returns:** a, and b: the constant of reflected units, 0 otherwise.
    """
    outputs = np.abs(factors) ** (activation.degree or 0.0)
    flipped = factors < 0
    if activation.parity == "odd" or (activation.parity == "none" and activation.reflection is not None):
        return np.where(flipped, -outputs, outputs), np.where(flipped, activation.reflection or 0.0, 0.0)
    return outputs, np.zeros(len(factors))
