"""One size of a network that is being pruned, and what it costs."""

import math
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry import UnitTaps, unit_batches


Batches = Iterable[tuple[np.ndarray, dict[str, np.ndarray]]]
"""Outputs and unit outputs of a network, batch after batch, as `unit_batches` gives them."""

_MOST_OUTPUTS = 16


@shown
class PrunedPoint(eqx.Module):
    """One size on the way from a network to almost nothing.

    - `sizes`: units left in every space. `ranks`: of the layers of the start (counted from 0, the output included)
      that are held as two factors. `num_parameters`: how many parameters that leaves.
    - `output_change`: the largest change of any output on the data. `rms_change`: root mean square over rows, of the
      2-norm over outputs.
    - `start`: the network before; `plan`: the steps from it to the pruned one.
    - `masked`: the pruned network at the sizes of the start, with zeros in place of what reads the units that went, and
      factors multiplied out: the same outputs, and one compiled program for all points of a path.
    """

    sizes: dict[str, int]
    ranks: dict[int, int]
    num_parameters: int
    output_change: float
    rms_change: float
    start: Network
    plan: tuple[Any, ...]
    masked: Network

    @property
    def network(self) -> Network:
        """The pruned network."""
        network = self.start
        for step in self.plan:
            network = step.apply(network)
        return network

    def __repr__(self) -> str:
        sizes = [f"{name} {size}" for name, size in self.sizes.items()]
        sizes += [f"layer {layer} of rank {rank}" for layer, rank in self.ranks.items()]
        change = f"outputs changed by {self.output_change:.2g}"
        return f"PrunedPoint({self.num_parameters} parameters, {', '.join(sizes)}; {change})"


def measured_changes(taps: UnitTaps, network: Network, inputs: Array, reference: Batches) -> tuple[float, float]:
    """The largest change of an output against a reference, and the root mean square over rows."""
    largest, squares = 0.0, 0.0
    for (after, _), (before, _) in zip(unit_batches(taps, network, inputs), reference, strict=True):
        change = np.abs(after.astype(float) - before)
        largest = max(largest, float(change.max(initial=0.0)))
        squares += float((change**2).sum())
    return largest, math.sqrt(squares / len(inputs))


def directions_of(network: Network, inputs: Array) -> Array:
    """Directions among the outputs whose squared slopes add up to those of all outputs; random ones where many."""
    like = jax.eval_shape(network, jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype))
    size = math.prod(like.shape)
    flat = np.eye(size)
    if size > _MOST_OUTPUTS:
        flat = np.random.default_rng(0).choice([-1.0, 1.0], (_MOST_OUTPUTS, size)) / math.sqrt(_MOST_OUTPUTS)
    return jnp.asarray(flat.reshape(-1, *like.shape), like.dtype)
