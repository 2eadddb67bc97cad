"""Units that are copies of each other up to sign, scale or reflection, and the maps that merge them."""

import numpy as np

from lossatlas.networks import Activation


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
    heads: list[int] = []
    for i in range(k):
        if has_scale and norms[i] == 0:
            heads.append(i)
            continue
        for sign in (1.0, -1.0) if has_sign else (1.0,):
            distance = np.abs(sign * canonical[i] - canonical[heads]).max(axis=1) if heads else np.empty(0)
            close = distance <= tolerance * (1 + np.abs(canonical[heads]).max(axis=1)) if heads else np.empty(0, bool)
            if close.any():
                head = heads[int(np.argmin(np.where(close, distance, np.inf)))]
                leaders[i] = head
                factors[i] = sign * (norms[i] / norms[head] if has_scale else 1.0)
                break
        else:
            heads.append(i)
    return leaders, factors


def merge_maps(
    leaders: np.ndarray, factors: np.ndarray, weights: np.ndarray, activation: Activation
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""The maps that merge each group into one unit.

    **Arguments:**
    - `weights`: how much each unit counts in the mean that makes the merged one (norms of its readers).

    **Returns:** the map of writers and the map of readers, shape (groups, units), and the constant that each unit
    puts out beside its multiple of the merged unit (c for a reflected unit, 0 otherwise).
    """
    heads = np.unique(leaders)
    group = np.searchsorted(heads, leaders)
    k = len(leaders)
    members = np.zeros((len(heads), k))
    members[group, np.arange(k)] = 1.0
    total = members @ weights
    share = np.where(total[group] > 0, weights / np.where(total > 0, total, 1.0)[group], 1 / members.sum(1)[group])
    writers = members * (share / factors)
    flipped = factors < 0
    outputs = np.abs(factors) ** (activation.degree or 0.0)
    constants = np.zeros(k)
    if activation.parity == "odd" or (activation.parity == "none" and activation.reflection is not None):
        outputs = np.where(flipped, -outputs, outputs)
        constants = np.where(flipped, activation.reflection or 0.0, 0.0)
    return writers, members * outputs, constants
