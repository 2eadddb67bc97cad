"""A path from any point of a wide two-layer network to the least loss, on which the loss never rises."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import replace_parameters
from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.embedding._lowest_outputs import lowest_outputs
from lossatlas.embedding._two_layers import (
    Features,
    features_of,
    require_two_layers,
    with_readers,
    with_units,
)
from lossatlas.geometry import Path
from lossatlas.geometry._verify_path import verified
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_DRAWS = 24
_SCALES = (0.5, 1.0, 2.0, 4.0)


def descending_path(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    partial: bool = False,
    gap: float = 1e-6,
    num_points: int = 41,
    progress: ProgressLike = "none",
) -> Path:
    r"""From any network of one hidden layer with as many units as examples to the least loss, never upwards.

    Three straight segments: (1) readers V move to a set S of units whose outputs are independent, the function stays;
    (2) the units outside S, which nothing reads now, move to random ones until the outputs of all have rank n, the
    function stays; (3) V moves so that predictions go straight to those of the least loss, $\Phi V = Z$: the loss is
    convex in the predictions and falls all the way. A bad local minimum of such a network is no basin: one walks out
    along its plateau. (2) is left out where the rank is n already.

    Squared error ends at zero, with Z the targets. Cross-entropy and logistic loss of hard labels have no minimum: the
    path ends within `gap` of what they approach, zero; probabilities strictly between 0 and 1 are reached, and the
    loss ends at their entropy.

    **Arguments:**
    - `key`: of the random units, of which the best conditioned of 24 draws are taken.
    - `network`: a [`lossatlas.networks.Dense`][] of one hidden layer, in float64.
    - `landscape`: with loss `"mse"`, `"cross_entropy"` or `"logistic"`.
    - `partial`: for fewer units than examples, go to the least squares of as many independent units as there are,
      instead of refusing; with squared error only.
    - `gap`: how far above its infimum the mean loss may end where no finite predictions reach it.
    - `num_points`: of the verification of each segment.

    **Returns:** a [`lossatlas.geometry.Path`][] with its verification: `max_increase` is rounding, also that of the
    straight line to the same end, which is not monotone, stands in it. Cost: $O(n^2 m)$ operations for 25 factorings.

    **Raises:** `InputError` for other networks, callable losses (of which neither convexity nor the least loss is
    known), and fewer units than examples (an output bias counts as a unit).

    !!! cite
        Li, Ding and Sun 2018, arXiv 1812.11039 (no bad basins of wide networks); the exact path is derived.
    """
    start = require_two_layers(network, "descending_path")
    outputs = np.asarray(landscape.predictions(start), float).reshape(landscape.size, -1)
    targets = lowest_outputs(landscape, outputs, gap)
    if partial and (landscape.loss is None or landscape.loss.name != "mse"):
        raise InputError("partial=True ends at a least-squares fit, so it needs squared error (loss='mse').")
    features = features_of(start, landscape)
    num_units = features.columns.shape[1]
    if num_units < features.full_rank and not partial:
        msg = (
            f"{num_units} units cannot reach any outputs on {landscape.size} examples; at least "
            f"{features.full_rank} are needed. Widen the network (lossatlas.embedding.widen), or give partial=True for "
            "the best reachable fit."
        )
        raise InputError(msg)
    support = features.support()
    vertices = [start, with_readers(start, features.solve(support, outputs))]
    free = np.setdiff1d(np.arange(num_units), support)
    if len(support) < features.full_rank and len(free):
        vertices.append(_with_random_units(key, vertices[-1], free, landscape))
        features = features_of(vertices[-1], landscape)
    solution = features.solve(np.arange(num_units), targets)
    if not partial:
        solution = _exact(features, solution, targets)
    vertices.append(with_readers(vertices[-1], solution))
    return verified(Path(tuple(vertices)), landscape, num_points=num_points, progress=progress)


def _exact(features: Features, solution: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Two more steps of refinement, since the end is to be at zero."""
    for _ in range(2):
        left = targets - features.columns @ solution[:-1] - solution[-1:]
        solution = solution + features.solve(np.arange(features.columns.shape[1]), left)
    return solution


def _with_random_units(key: PRNGKeyArray, network: Dense, free: np.ndarray, landscape: Landscape) -> Dense:
    """Random incoming weights for free units; of some draws the one with the largest smallest singular value."""
    inputs = np.asarray(landscape.inputs, float).reshape(landscape.size, -1)
    spread = np.maximum(inputs.std(0), 1e-12 + 1e-6 * np.abs(inputs).max(0, initial=0.0))
    best, largest = network, -np.inf
    for draw in range(_DRAWS):
        rng_key, row_key = jax.random.split(jax.random.fold_in(key, draw))
        scale = _SCALES[draw % len(_SCALES)]
        weight = np.array(jax.random.normal(rng_key, (len(free), inputs.shape[1]), float)) * scale / spread
        values = {"layers[0].weight": weight}
        if network.layers[0].bias is not None:  # every unit bends at one of the examples
            rows = np.asarray(jax.random.choice(row_key, landscape.size, (len(free),)))
            values["layers[0].bias"] = -np.sum(weight * inputs[rows], 1)
        drawn = replace_parameters(network, {name: _full(network, name, free, value) for name, value in values.items()})
        moved = with_units(network, free, drawn, free)
        found = features_of(moved, landscape)
        columns = found.columns - found.columns.mean(0) * found.has_bias
        smallest = float(np.linalg.svd(columns, compute_uv=False)[min(found.full_rank, columns.shape[1]) - 1])
        if smallest > largest:
            best, largest = moved, smallest
    return best


def _full(network: Dense, name: str, units: np.ndarray, values: np.ndarray):
    array = network.layers[0].weight if name.endswith("weight") else network.layers[0].bias
    assert array is not None
    return array.at[units].set(jnp.asarray(values, array.dtype))
