"""Match two networks of one shape up to the symmetries of their units."""

import math
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._alignment import Alignment, Gauge, common_spaces, in_gauge, reflections_of, scaled
from lossatlas.embedding._record import Data, outputs
from lossatlas.embedding._unit_arrays import Arrays, to_arrays, with_arrays


_SAME = 1e-9
_STARTS = ("ordered", "identity")
_KEPT = 1e-4  # of the largest output: a symmetry changes none by more, in any precision


@shown
class Match(eqx.Module):
    """How a network was brought next to another.

    - `orders`: by space, which unit of the network stands at each place now; `signs`: which were reflected (-1);
      `scales`: by what their writers were multiplied.
    - `residual`: the largest difference of a parameter or buffer, relative to the largest one.
    - `distance`: the Euclidean distance of all of them, relative to the norm of the reference.
    - `output_difference`: the largest difference of an output on the data; None without data.
    - `sweeps`: how many sweeps over the spaces it took.
    - `method`: by what it was matched. `objectives`: the sum of products of all arrays with those of the reference,
      homogeneous units at common scales, at the start and after every sweep; it never falls.
    - `function_change`: the largest change of an output by the matching itself, which is rounding; None without data.
    - `closed`: the spaces that were left alone, and why.
    """

    orders: dict[str, Int[np.ndarray, " units"]]
    signs: dict[str, Float[np.ndarray, " units"]]
    scales: dict[str, Float[np.ndarray, " units"]]
    residual: float
    distance: float
    output_difference: float | None
    sweeps: int
    method: str = eqx.field(static=True, default="weights")
    objectives: tuple[float, ...] = ()
    function_change: float | None = None
    closed: dict[str, str] = eqx.field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether both are one network up to symmetry: the residual is that of rounding."""
        return self.residual < _SAME

    def __repr__(self) -> str:
        return f"Match({self})"

    def __str__(self) -> str:
        if self.is_same:
            return f"the same network up to symmetry, residual {self.residual:.0e}"
        return f"different networks: relative distance {self.distance:.3g} after matching"


def match(
    network: Network,
    reference: Network,
    *,
    landscape: Data = None,
    start: Literal["ordered", "identity"] | Match = "ordered",
    balance: bool = False,
) -> tuple[Network, Match]:
    r"""Bring a network as near to a reference as the symmetries of its units allow; its function stays.

    Units are permuted in every unit space, reflected where the activation is odd (or $\sigma(-t) = c - \sigma(t)$) and
    not followed by max pooling, and scaled where it is homogeneous. Space after space is matched by linear assignment
    of what touches it, first by the entries whose other axes are settled already, then all in turn until nothing is
    gained.

    Equal networks are recognised unless units are copies of each other, do nothing, or mix freely (linear units,
    coordinates within an attention head): reduce both first. For networks from different trainings it is weight
    matching, a local optimum; see [`lossatlas.embedding.rebasin`][].

    **Arguments:**
    - `network`, `reference`: of one architecture and shape, with unit spaces.
    - `landscape`: what outputs are compared on: a `Landscape`, inputs alone, or None.
    - `start`: `"ordered"`, by what is settled; `"identity"`, the units as they stand and spaces in random
      order, as published; or an earlier `Match` of the two.
    - `balance`: compare homogeneous units at the scales where writers and readers have one norm, so that weight on
      either side counts; default by the direction of their writers.

    **Returns:** the matched network and a [`lossatlas.embedding.Match`][]. Cost: for each sweep and space of n units
    n^3 operations and a product of its parameters.

    **Raises:** `InputError` for networks of different architectures, shapes or activations, and parameters that are
    not finite.

    !!! cite
        Weight matching: Ainsworth, Hayase, Srinivasa 2023, arXiv 2209.04836; signs, scales and the start by what is
        settled are added.
    """
    if isinstance(start, str) and start not in _STARTS:
        raise unknown_name("start", start, _STARTS)
    pair = Pair(network, reference, "balanced" if balance else "direction")
    alignment = pair.alignment(start if isinstance(start, Match) else None)
    if start == "ordered":
        alignment.ordered_start()
    alignment.ascend(shuffled=start == "identity")
    return pair.finish(alignment, "weights", landscape)


class Pair:
    """Two networks with their homogeneous units at common scales, and the way back to the scales of the reference."""

    def __init__(self, network: Network, reference: Network, gauge: Gauge):
        self.network, self.reference = network, reference
        self.spaces, self.closed = common_spaces(network, reference)
        self.reflections = reflections_of(network, self.spaces)
        self.source, self.own_scales = in_gauge(to_arrays(network), self.spaces, gauge)
        self.target, self.scales = in_gauge(to_arrays(reference), self.spaces, gauge)

    def alignment(self, start: Match | None = None, target: Arrays | None = None) -> Alignment:
        """The network as it stands, or as an earlier match left it, next to the reference or another target."""
        made = Alignment(self.source, self.target if target is None else target, self.spaces, self.reflections)
        if start is not None:
            for name, order in start.orders.items():
                made.move(name, order, start.signs[name])
        return made

    def finish(self, alignment: Alignment, method: str, data: Data) -> tuple[Network, Match]:
        """The aligned network at the scales of the reference, and what was done.

        **Raises:** `InputError` where the outputs on the data change: then the unit spaces are no symmetries.
        """
        found = alignment.arrays
        for name, space in self.spaces.items():
            found = scaled(found, space, self.scales[name])
        moved = with_arrays(self.network, found)
        factors = {name: self.scales[name] / self.own_scales[name][alignment.orders[name]] for name in self.spaces}
        wanted = to_arrays(self.reference)
        largest, norm = _sizes(wanted)
        apart, distance = _sizes({path: found[path] - array for path, array in wanted.items()})
        change, difference = None, None
        if data is not None:
            before, after, others = (outputs(net, data) for net in (self.network, moved, self.reference))
            change, difference = (float(jnp.abs(before - other).max()) for other in (after, others))
            if change > _KEPT * float(jnp.abs(before).max()):
                msg = (
                    f"Matching changed the outputs by {change:.1e}, so the unit spaces of {type(moved).__name__} are "
                    "no symmetries of it. Check what unit_spaces() says of its writers and readers."
                )
                raise InputError(msg)
        return moved, Match(
            alignment.orders,
            alignment.signs,
            factors,
            residual=apart / max(largest, 1e-300),
            distance=distance / max(norm, 1e-300),
            output_difference=difference,
            sweeps=alignment.sweeps,
            method=method,
            objectives=tuple(alignment.objectives),
            function_change=change,
            closed=self.closed,
        )


def _sizes(arrays: Arrays) -> tuple[float, float]:
    """The largest entry of some arrays, and the Euclidean norm of all."""
    largest = max((float(np.abs(array).max(initial=0.0)) for array in arrays.values()), default=0.0)
    return largest, math.hypot(*(float(np.linalg.norm(array.astype(float).ravel())) for array in arrays.values()))
