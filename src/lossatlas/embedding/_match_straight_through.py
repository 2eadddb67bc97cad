"""Match two networks by training what the units are matched to."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._types import Network
from lossatlas.embedding._alignment import Alignment
from lossatlas.embedding._match import Match, Pair
from lossatlas.embedding._unit_arrays import to_arrays, with_arrays
from lossatlas.geometry import Path
from lossatlas.geometry._path import check_statistics
from lossatlas.landscape import Landscape


def match_straight_through(
    network: Network,
    reference: Network,
    landscape: Landscape,
    *,
    start: Match | None = None,
    num_steps: int = 100,
    learning_rate: float = 0.01,
    progress: ProgressLike = "none",
) -> tuple[Network, Match]:
    r"""Match two networks so that the loss half way between them is low.

    A target $\tilde\theta$, at first the reference, is trained by Adam with the gradient of the loss at
    $\frac12(\theta_A + \pi(\theta_B))$, $\pi$ the symmetry that brings the network nearest to $\tilde\theta$: the
    gradient passes straight through the matching. The best $\pi$ seen is kept. Expensive, and often the lowest barrier.

    **Arguments:**
    - `network`, `reference`: of one architecture and shape, with unit spaces.
    - `start`: an earlier match of the two; default that of their weights.
    - `num_steps`: how many targets are tried.
    - `learning_rate`: of Adam, on the scale of the weights.

    **Returns:** the matched network and a [`lossatlas.embedding.Match`][]. Cost: for each step a gradient over all data
    and a weight matching that starts from the last one.

    **Raises:** `InputError` as [`lossatlas.embedding.match`][], for numbers out of range, and running statistics
    that do not interpolate.

    !!! cite
        Ainsworth et al. 2023, arXiv 2209.04836, Algorithm 3.
    """
    import optax

    if num_steps < 1 or not (learning_rate > 0 and np.isfinite(learning_rate)):
        msg = f"num_steps must be at least 1 and learning_rate positive, got {num_steps} and {learning_rate}."
        raise InputError(msg)
    check_statistics(Path((reference, network)))
    pair = Pair(network, reference, "balanced")
    alignment = pair.alignment(start)
    if start is None:
        alignment.ordered_start()
    first = with_arrays(reference, pair.target)
    vector, unravel = ravel(first)
    optimizer = optax.adam(learning_rate)
    with jax.numpy_dtype_promotion("standard"):
        memory = optimizer.init(vector)
    best: Alignment | None = None
    lowest = np.inf
    with as_meter(progress).task("straight-through matching", num_steps) as task:
        for step in range(num_steps):
            alignment = _continued(pair, alignment, unravel(vector))
            loss, gradient = _half_way(landscape, first, with_arrays(network, alignment.arrays))
            if float(loss) < lowest:
                best, lowest = alignment, float(loss)
            with jax.numpy_dtype_promotion("standard"):
                change, memory = optimizer.update(gradient, memory, vector)
            vector = vector + jnp.asarray(change, vector.dtype)
            task.update(step + 1, f"loss half way {lowest:.4g}")
    if best is None:
        msg = "The loss half way between the two networks is not finite for any matching that was tried."
        raise InputError(msg)
    final = pair.alignment()
    for name, order in best.orders.items():
        final.move(name, order, best.signs[name])
    final.sweeps, final.objectives = best.sweeps, [final.objective()]
    return pair.finish(final, "straight-through", landscape)


def _continued(pair: Pair, last: Alignment, target: Network) -> Alignment:
    """The last matching improved towards a new target."""
    made = pair.alignment(target=to_arrays(target))
    made.arrays = last.arrays
    made.orders, made.signs, made.sweeps = dict(last.orders), dict(last.signs), last.sweeps
    made.ascend()
    return made


@eqx.filter_jit
def _half_way(landscape: Landscape, first: Network, second: Network) -> tuple[Array, Any]:
    (one, unravel), (two, _) = ravel(first), ravel(second)
    return landscape.value_and_gradient(unravel(0.5 * (one + two)))
