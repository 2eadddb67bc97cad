"""The eigenvalue counts of a small critical point as it lies in the big network: predicted, then measured."""

import numpy as np

from lossatlas._parameters import num_parameters
from lossatlas._types import Network
from lossatlas.atlas._placement import REST, Placement
from lossatlas.atlas._unit_placement import UnitPlacement
from lossatlas.atlas._ways_out import written
from lossatlas.embedding import split
from lossatlas.geometry import Inertia, inertia
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.theory import split_inertia


_NO_SHARE = 1e-8


def embedded_inertia(
    point: Network,
    counted: Inertia,
    big: Network,
    placement: Placement | UnitPlacement,
    landscape: Landscape,
    *,
    tolerance: float,
    max_size: int,
) -> tuple[tuple[int, int, int] | None, Inertia | None, str]:
    """The counts of the point embedded as the big network's own copies lie: predicted, measured, and why not.

    Each split adds the inertia of a small block to that of the narrower network. What nothing reads has no place in
    that theory unless it is a null unit, so networks with such units are measured only; so are those that are not fully
    connected.

    **Arguments:**
    - `counted`: of the point in the small network. `tolerance`: in output units. `max_size`: for the full Hessian.
    """
    if not placement.is_own:
        return None, None, "inertia in the big network: the small network is not an exact merge of its copies"
    made = written(point, big, placement, landscape, tolerance)
    measured = None
    if made is not None and num_parameters(big) <= max_size:
        measured = inertia(made, landscape)
    if isinstance(placement, UnitPlacement):
        return None, measured, "predicted inertia: the theory is for fully connected networks"
    assert isinstance(point, Dense)
    if any((plan.source == REST).any() for plan in placement.layers):
        return None, measured, "predicted inertia: some units are read by nothing, or constant"
    total, network = list(counted.counts), point
    for i, plan in enumerate(placement.layers):
        for unit in range(point.widths[1 + i]):
            share = plan.share[plan.source == unit]
            if len(share) < 2:
                continue
            if np.abs(share).min() < _NO_SHARE:
                return None, measured, "predicted inertia: a copy has no share in what reads it"
            added = split_inertia(network, landscape, f"hidden[{i}]", unit, share / share.sum())
            network, _ = split(network, f"hidden[{i}]", unit, share / share.sum())
            total = [a + b for a, b in zip(total, (added.negative, added.zero, added.positive), strict=True)]
    negative, zero, positive = total
    return (negative, zero, positive), measured, ""
