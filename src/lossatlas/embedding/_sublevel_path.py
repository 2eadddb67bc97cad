"""A path between two wide two-layer networks on which the loss never exceeds the larger one of the ends."""

import numpy as np

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.embedding._two_layers import (
    features_of,
    require_two_layers,
    with_readers,
    with_units,
)
from lossatlas.geometry import Path
from lossatlas.geometry._verify_path import verified
from lossatlas.landscape import Landscape


def sublevel_path(
    network: Network,
    other: Network,
    landscape: Landscape,
    *,
    num_points: int = 21,
    progress: ProgressLike = "none",
) -> Path:
    r"""Connect two networks of one hidden layer under the larger of their losses, for any loss convex in the outputs.

    Where the units of both together are enough, $m \ge rank\,\Phi_A + rank\,\Phi_B$ (twice the examples always are):
    readers of A move to independent units; independent units of B are copied to free places; readers move there, so
    that predictions go straight from those of A to those of B and the loss stays below the larger one; then the rest
    turns into B. Seven straight segments; the function changes on one of them alone.

    **Arguments:**
    - `network`, `other`: [`lossatlas.networks.Dense`][] of one hidden layer and the same shape, in float64.
    - `landscape`: any loss convex in the outputs.
    - `num_points`: of the verification of each segment.

    **Returns:** a [`lossatlas.geometry.Path`][] with its verification: `max_excess` is rounding, or the defect of ranks
    that are only numerical. Cost: two pivoted factorings, $O(n^2 m)$.

    **Raises:** `InputError` for other networks, and too few units.

    !!! cite
        Nguyen 2019, arXiv 1901.07417, and Venturi, Bandeira and Bruna 2018, arXiv 1802.06384 (connected sublevel sets);
        the seven segments are derived.
    """
    first, last = (require_two_layers(net, "sublevel_path") for net in (network, other))
    Path((first, last))  # says what differs
    features = [features_of(net, landscape) for net in (first, last)]
    ours, theirs = (found.support() for found in features)
    num_units = features[0].columns.shape[1]
    if len(ours) + len(theirs) > num_units:
        msg = (
            f"The networks have {num_units} units, but {len(ours)} + {len(theirs)} of them are independent on the "
            "data; as many are needed. Widen both (lossatlas.embedding.widen), or use fewer examples."
        )
        raise InputError(msg)
    outputs = [np.asarray(landscape.predictions(net), float).reshape(landscape.size, -1) for net in (first, last)]
    readers = [found.solve(units, out) for found, units, out in zip(features, (ours, theirs), outputs, strict=True)]
    free = np.setdiff1d(np.arange(num_units), ours)
    stay = np.intersect1d(theirs, free)
    moving = np.setdiff1d(theirs, free)
    places = np.concatenate([stay, np.setdiff1d(free, theirs)[: len(moving)]])
    units = np.concatenate([stay, moving])
    vertices = [first, with_readers(first, readers[0])]
    vertices.append(with_units(vertices[-1], places, last, units))
    elsewhere = np.zeros_like(readers[1])
    elsewhere[places], elsewhere[-1] = readers[1][units], readers[1][-1]
    vertices.append(with_readers(vertices[-1], elsewhere))
    rest = np.setdiff1d(np.arange(num_units), places)
    vertices.append(with_units(vertices[-1], rest, last, rest))
    vertices.append(with_readers(vertices[-1], readers[1]))
    vertices.append(with_units(vertices[-1], places, last, places))
    vertices.append(last)
    return verified(Path(tuple(vertices)), landscape, num_points=num_points, progress=progress)
