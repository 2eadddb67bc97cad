"""Prune any network on a budget: remove what changes the outputs least, and let what is left stand in for it."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_parameters, num_parameters
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._budget import Mixes
from lossatlas.embedding._elimination import elimination
from lossatlas.embedding._pruned_point import Batches, PrunedPoint, directions_of, measured_changes
from lossatlas.embedding._record import Data, inputs_of
from lossatlas.embedding._stand_in import gather, ridge_of
from lossatlas.embedding._unit_map import ShiftReaders, UnitMap, reader_biases_hold
from lossatlas.geometry import UnitTaps, find_taps, slope_products, unit_batches
from lossatlas.networks import Dense, UnitSpace


_SLOPE_ROWS = 256
_CACHE_BYTES = 2**30
_ROUND = 0.8
_AROUND = 1e-8


@shown
class PruningPath(eqx.Module):
    """The order in which the units of a network are best removed; made by [`lossatlas.embedding.pruning_path`][].

    - `start`: the network; `inputs`: the rows; `taps`: where its units are read.
    - `sequence`: from which space the next unit goes. `orders`: which one, by space.
    - `parameters`: how many are left after each step of the sequence, `parameters[0]` all.
    - `fixed`: the spaces that stay as they are, and why.
    - `reference`: outputs and unit outputs of the start on all rows; None where they need more than a gigabyte.
    """

    start: Network
    inputs: Array
    taps: UnitTaps = eqx.field(static=True)
    sequence: tuple[str, ...] = eqx.field(static=True)
    orders: dict[str, Int[np.ndarray, " units"]]
    parameters: Int[np.ndarray, " steps"]
    fixed: dict[str, str] = eqx.field(static=True)
    reference: list[Any] | None = None

    def batches(self) -> Batches:
        """Outputs and unit outputs of the start, batch after batch."""
        return unit_batches(self.taps, self.start, self.inputs) if self.reference is None else self.reference

    def after(self, removed: int) -> PrunedPoint:
        """The network without the first units of the sequence, what is left standing in for them; nothing is factored.

        **Arguments:**
        - `removed`: how many, 0 to `len(sequence)`.

        **Raises:** `InputError` outside this range.
        """
        if not 0 <= removed <= len(self.sequence):
            msg = f"removed must be 0 to {len(self.sequence)}, got {removed}."
            raise InputError(msg)
        counts = {name: self.sequence[:removed].count(name) for name in self.orders}
        plan, masked = _stand_ins(self, counts)
        change, rms = measured_changes(self.taps, masked, self.inputs, self.batches())
        sizes = {name: self.taps.spaces[name].size - count for name, count in counts.items()}
        return PrunedPoint(sizes, {}, int(self.parameters[removed]), change, rms, self.start, plan, masked)

    def with_parameters(self, most: int) -> PrunedPoint:
        """The network with at most so many parameters that changes the outputs least.

        In a `Dense` the best, by the root mean square change on the data, of fewer units, lower ranks, and mixtures of
        both; else the first network of the path.

        **Raises:** `InputError` when even the last one has more.
        """
        return self._with_parameters(most, self._mixes)

    def within(self, tolerance: float) -> PrunedPoint:
        """The smallest network whose outputs change by at most the tolerance on the data, by bisection.

        In a `Dense` the smallest of fewer units, lower ranks, and mixtures of both.
        """
        low, high, best = 0, len(self.sequence) + 1, None
        while high - low > 1:
            middle = (low + high) // 2
            point = self.after(middle)
            if point.output_change <= tolerance:
                low, best = middle, point
            else:
                high = middle
        if mixes := self._mixes:
            return mixes.smallest(tolerance, low)
        return self.after(0) if best is None else best

    def curve(self, num_points: int = 10) -> list[PrunedPoint]:
        """Networks at sizes spaced by equal factors, from the whole to the last."""
        mixes = self._mixes
        wanted = np.geomspace(self.parameters[0], self.parameters[-1], num_points)
        points = [self._with_parameters(int(most + 0.5), mixes) for most in wanted]
        return list({point.num_parameters: point for point in points}.values())

    @property
    def _mixes(self) -> Mixes | None:
        return Mixes(self) if isinstance(self.start, Dense) else None

    def _with_parameters(self, most: int, mixes: Mixes | None) -> PrunedPoint:
        small = np.flatnonzero(self.parameters <= most)
        if not len(small):
            msg = f"With one unit in every space {self.parameters[-1]:,} parameters are left, more than {most:,}."
            raise InputError(msg)
        removed = int(small[0])
        return self.after(removed) if mixes is None else mixes.best(most, removed)


def pruning_path(network: Network, landscape: Data, *, fixed: tuple[str, ...] = ()) -> PruningPath:
    r"""Find in which order the units of a network are best removed, across all its unit spaces.

    A unit that goes is stood in for by the others: least squares of what its space puts out on what is left of it, the
    same for all readers and positions, added to the readers (and their biases). Within a space the order is that of
    backward elimination, errors weighed by the products of the slopes of the outputs in the units; between spaces the
    next unit is the one that changes the outputs least for the parameters that it frees. Both are measured anew, on the
    pruned network, whenever a fifth of the parameters has gone. `curve()`, `with_parameters` and `within` then make
    networks; each space is fitted to what the whole network put out there, on the features of the spaces pruned before
    it, so that errors do not add up. What is exact goes first: copies, constants, what is not read, and linear
    combinations of others on the data; among them first what is so off the data too, on rows with noise of their
    standard deviation.

    In a `Dense` ranks compete with units. A layer of n x m of rank r is held as two, r linear units (a layer without
    neurons) and their readers, which frees $nm - r(n + m)$ parameters: reduced-rank regression of what the whole
    network put out before the activation on the features that are left, weighed by the slopes of the outputs there;
    the bias takes the mean. For a size or a tolerance some ten mixtures are made, from ranks alone over units first and
    then ranks to units alone, and the best by the measured change is taken. Other architectures have no place for a
    factored layer: there units go alone.

    Outputs are kept on the data as far as measured, critical points are not.

    **Arguments:**
    - `network`: with unit spaces. `landscape`: a `Landscape` or inputs (n, ...); streamed.
    - `fixed`: spaces whose units stay.

    **Returns:** A [`lossatlas.embedding.PruningPath`][]. Cost: some 15 rounds, each of two passes over the data, $m^3$
    operations for a space of m units, and a network; each network: a pass for each space and one for its outputs. For a
    `Dense` `with_parameters` makes some ten networks, with $m^3$ operations for each layer, and `within` some ten times
    fifteen. All have the sizes of the first one, so four programs are compiled in all.

    **Raises:** `InputError` for a network without unit spaces, unknown spaces, and empty or NaN inputs.

    !!! cite
        Least squares that let the rest stand in for what goes: Hassibi and Stork 1993 (there for single weights and the
        loss); here for whole units, their readers and the outputs, across all unit spaces. Reduced-rank regression:
        Izenman 1975.
    """
    inputs = inputs_of(landscape, "pruning_path")
    taps = find_taps(network, inputs[0])
    for name in fixed:
        if name not in taps.spaces:
            raise unknown_name("unit space", name, taps.spaces)
    reasons = {name: _why_fixed(name, taps, fixed) for name in taps.spaces}
    spaces = [name for name in taps.taps if reasons[name] is None]
    why = {name: reason for name, reason in reasons.items() if reason is not None}
    orders = {name: np.arange(0) for name in spaces}
    reference = list(unit_batches(taps, network, inputs)) if _fits(taps, inputs) else None
    path = PruningPath(network, inputs, taps, (), orders, np.array([num_parameters(network)]), why, reference)
    masked = network
    while longer := _next_round(path, masked):
        path = longer
        _, masked = _stand_ins(path, {name: len(order) for name, order in path.orders.items()})
    return path


def _why_fixed(name: str, taps: UnitTaps, fixed: tuple[str, ...]) -> str | None:
    space = taps.spaces[name]
    if name in fixed:
        return "asked for"
    if space.closed is not None:
        return space.closed
    if space.shares != "any":
        return "a normalisation over the whole space would change all units"
    return taps.hidden.get(name)


def _next_round(path: PruningPath, masked: Network) -> PruningPath | None:
    """The path with the units that go next, measured on the network pruned so far; None when no unit can go."""
    taps, inputs = path.taps, path.inputs
    spaces = {name: taps.spaces[name] for name, order in path.orders.items() if len(order) < taps.spaces[name].size - 1}
    if not spaces:
        return None
    moments = gather(taps, masked, inputs, list(spaces))
    around = gather(taps, masked, _nearby(inputs), list(spaces))
    slopes = slope_products(taps, masked, inputs[:_SLOPE_ROWS], directions_of(path.start, inputs))
    orders, costs = {}, {}
    for name, space in spaces.items():
        left = np.setdiff1d(np.arange(space.size), path.orders[name])
        has_constant = reader_biases_hold(path.start, space)
        here, near = (found[name].centred(has_constant=has_constant)[0] for found in (moments, around))
        covariance = (here + _AROUND * near)[np.ix_(left, left)]
        order, costs[name] = elimination(covariance, slopes[name][np.ix_(left, left)])
        orders[name] = left[order]
    sequence, parameters = _sequence(path, spaces, costs)
    longer = {
        name: np.concatenate([order, orders[name][: sequence.count(name)]]) if name in orders else order
        for name, order in path.orders.items()
    }
    return PruningPath(
        path.start,
        inputs,
        taps,
        (*path.sequence, *sequence),
        longer,
        np.concatenate([path.parameters, parameters]),
        path.fixed,
        path.reference,
    )


def _nearby(inputs: Array) -> Array:
    """Rows a little off those given: of units that cost nothing on the data, those go first that cost little there."""
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        return inputs
    noise = np.random.default_rng(0).normal(size=inputs.shape)
    return inputs + jnp.asarray(noise * np.std(np.asarray(inputs), axis=0), inputs.dtype)


def _sequence(
    path: PruningPath, spaces: dict[str, UnitSpace], costs: dict[str, np.ndarray]
) -> tuple[tuple[str, ...], np.ndarray]:
    """From which space the next units go, by what they cost for the parameters that they free, for one round."""
    shapes = {name: list(array.shape) for name, array in named_parameters(path.start).items()}
    for name, order in path.orders.items():
        _shrink(shapes, path.taps.spaces[name], len(order))
    total = int(path.parameters[-1])
    gone = dict.fromkeys(spaces, 0)
    sequence, parameters = [], []

    def price(name: str) -> float:
        before = costs[name][gone[name] - 1] if gone[name] else 0.0
        return (costs[name][gone[name]] - before) / _freed(shapes, spaces[name])

    while total > _ROUND * path.parameters[-1]:
        candidates = [name for name in spaces if gone[name] < len(costs[name]) - 1]
        if not candidates:
            break
        name = min(candidates, key=price)
        total -= _freed(shapes, spaces[name])
        _shrink(shapes, spaces[name], 1)
        gone[name] += 1
        sequence.append(name)
        parameters.append(total)
    return tuple(sequence), np.array(parameters, int)


def _shrink(shapes: dict[str, list[int]], space: UnitSpace, units: int) -> None:
    for axis in (*space.writers, *space.readers):
        if axis.path in shapes:
            shapes[axis.path][axis.axis] -= units * axis.outer * axis.inner


def _freed(shapes: dict[str, list[int]], space: UnitSpace) -> int:
    """How many parameters go with one unit of a space."""
    touched = {axis.path: list(shapes[axis.path]) for axis in (*space.writers, *space.readers) if axis.path in shapes}
    before = sum(math.prod(shape) for shape in touched.values())
    _shrink(touched, space, 1)
    return before - sum(math.prod(shape) for shape in touched.values())


def _stand_ins(path: PruningPath, counts: dict[str, int]) -> tuple[tuple[ShiftReaders | UnitMap, ...], Network]:
    """The steps that remove units, and the network of the old sizes in which what is removed is not read."""
    taps, masked = path.taps, path.start
    plan: list[ShiftReaders | UnitMap] = []
    for name in path.orders:
        n, count = taps.spaces[name].size, counts[name]
        if count == 0 and masked is path.start:
            continue
        kept = np.setdiff1d(np.arange(n), path.orders[name][:count])
        has_constant = reader_biases_hold(path.start, taps.spaces[name])
        moments = gather(taps, masked, path.inputs, [name], path.batches())[name]
        ridge = ridge_of(next(iter(named_parameters(path.start).values())).dtype)
        mixing, constants = moments.stand_in(kept, has_constant=has_constant, ridge=ridge)
        here: list[ShiftReaders | UnitMap] = [ShiftReaders(name, constants)] if has_constant else []
        selection = np.eye(n)[kept]
        spread = selection.T @ mixing
        for step in (*here, UnitMap(name, np.eye(n), spread)):
            masked = step.apply(masked)
        note = f"{n} units pruned to {len(kept)}" if count else "readers refitted"
        plan += [*here, UnitMap(name, selection, mixing, note=note)]
    return tuple(plan), masked


def _fits(taps: UnitTaps, inputs: Array) -> bool:
    """Whether the unit outputs of all rows may be kept in memory."""
    per_row = 2**28 / taps.batch_rows()
    return per_row * len(inputs) <= _CACHE_BYTES
