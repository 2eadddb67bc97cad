"""Standard errors of what is measured along kernels: the same examples drawn again and again."""

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray


def resample_counts(key: PRNGKeyArray, num_examples: int, num_resamples: int) -> Float[np.ndarray, "b n"]:
    """How often every example is in each resample of as many, drawn with replacement; rows sum to `num_examples`."""
    drawn = np.asarray(jax.random.randint(key, (num_resamples, num_examples), 0, num_examples))
    counts = [np.bincount(row, minlength=num_examples) for row in drawn]
    return np.asarray(counts, float).reshape(num_resamples, num_examples)


def resampled_means(counts: Float[np.ndarray, "b n"], values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " b"]:
    """The mean of a number of each example, in every resample."""
    return counts @ values / counts.shape[1]


def resampled_distances(
    counts: Float[np.ndarray, "b n"],
    first: Float[np.ndarray, "k k"],
    second: Float[np.ndarray, "k k"],
    *,
    centred: bool = False,
) -> dict[str, Float[np.ndarray, " b"]]:
    r"""Distance S, scale s and change D of two kernels (see `kernel_distance`), in every resample of their examples.

    A resample with counts w has $\langle K, K' \rangle_w = \sum_{ij} w_i w_j K_{ij} K'_{ij}$, so the matrices are
    multiplied once and no submatrix is ever taken: $O(n k)$ for each resample. S is taken from the difference of the
    kernels, which does not cancel where it is small.

    **Arguments:**
    - `counts`: of the n examples. `first`, `second`: matrices over examples, or over examples and outputs (k = n C,
      the output running fastest). `centred`: of kernels centred by the means of the resample.
    """
    n = counts.shape[1]
    weights = np.repeat(counts, len(first) // n, axis=1)
    total = float(len(first))
    over_outputs = lambda matrix: matrix.reshape(n, -1, matrix.shape[1]).sum(1)  # noqa: E731

    def product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        plain = np.einsum("bi,bi->b", counts @ over_outputs(over_outputs(one * other).T).T, counts)
        if not centred:
            return plain
        rows = [counts @ over_outputs(matrix) / total for matrix in (one, other)]
        means = [np.einsum("bi,bi->b", weights, row) / total for row in rows]
        return plain - 2 * total * np.einsum("bi,bi,bi->b", weights, *rows) + total**2 * means[0] * means[1]

    step = second - first
    squares = product(first, first), product(second, second)
    norms = [np.sqrt(np.maximum(square, 0)) for square in squares]
    with np.errstate(invalid="ignore", divide="ignore"):
        longer = product(step, first + second) / (norms[0] + norms[1])  # the second norm less the first
        moved = np.maximum(product(step, step), 0)
        return {
            "distance": np.maximum(moved - longer**2, 0) / (2 * norms[0] * norms[1]),
            "scale": norms[1] / norms[0],
            "change": np.sqrt(moved) / norms[0],
        }
