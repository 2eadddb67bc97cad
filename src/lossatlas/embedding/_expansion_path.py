"""Between two networks that are one smaller network in disguise, the function constant all the way."""

from collections.abc import Sequence

import numpy as np

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters
from lossatlas._precision import require_float64
from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.embedding._alignment import common_spaces
from lossatlas.embedding._condensed import copies, multiples
from lossatlas.embedding._exact_units import unit_symmetries
from lossatlas.embedding._unit_arrays import (
    Arrays,
    largest_of,
    places,
    rows_of,
    to_arrays,
    with_arrays,
)
from lossatlas.geometry import MovingBuffers, Path
from lossatlas.geometry._verify_path import verified
from lossatlas.landscape import Landscape
from lossatlas.networks import Activation, Axis, UnitSpace


def expansion_path(
    network: Network,
    other: Network,
    landscape: Landscape,
    *,
    tolerance: float = 1e-6,
    num_points: int = 21,
    progress: ProgressLike = "none",
) -> Path:
    r"""Connect two networks that are expansions of one smaller network, on a path of constant function.

    A network expands another when its units are copies of the other's (up to sign, scale or reflection, where the
    activation has them) that share out its readers, and units that cancel or that nothing reads. All zero-loss networks
    of a teacher's task are of this kind for generic activations, and they are one connected set as soon as every layer
    has a unit to spare: this is the path.

    Both are decoded on the way. Layer after layer the readers of all copies move to one of them; from the last layer
    back, units that nothing reads let go of what they read. That leaves the smaller network in some places of either
    one. Then its units go to their places in the other, each through a free place, whose writers change while nothing
    reads them, and to which the readers move where both put out the same. All segments are straight.

    **Arguments:**
    - `network`, `other`: of one architecture and shape, feed-forward, with unit spaces, in float64.
    - `landscape`: what the path is verified on.
    - `tolerance`: how far copies may differ, and what dead units may contribute, relative to the largest; also the
      largest difference of their outputs, relative to the largest output. Raise it for networks that are not trained
      to rounding.
    - `num_points`: of the verification of each segment.

    **Returns:** a [`lossatlas.geometry.Path`][] with its verification: `function_change` is rounding for exact
    expansions, else at the order of how far both are from one. Memory: at most one copy of two layers a segment.

    **Raises:** `InputError` for networks that do not compute the same, that do not reduce to the same units, that have
    no unit to spare where one is needed, and architectures in which units cannot be moved layer after layer.

    !!! cite
        Simsek et al. 2021, arXiv 2105.12221 (expansion manifold, connected with one more unit a layer); the
        construction is derived.
    """
    if not (np.isfinite(tolerance) and 0 < tolerance < 1):
        msg = f"tolerance must lie between 0 and 1, got {tolerance}."
        raise InputError(msg)
    require_float64(network, "expansion_path")
    spaces, _ = common_spaces(network, other)
    _check_feed_forward(network)
    _check_same_function(network, other, landscape, tolerance)
    first, last = (_Walk(net, spaces, tolerance) for net in (network, other))
    for walk in (first, last):
        walk.collapse()
    for space in spaces.values():
        first.arrange(space, last.arrays)
    vertices = (*first.vertices, *reversed(last.vertices))
    has_buffers = named_arrays(network).keys() != named_parameters(network).keys()
    path = Path(vertices, refresh=MovingBuffers() if has_buffers else None)
    return verified(path, landscape, num_points=num_points, progress=progress)


class _Walk:
    """A network on its way through others of the same function: `arrays` of the last one, `vertices` so far."""

    def __init__(self, network: Network, spaces: dict[str, UnitSpace], tolerance: float):
        self.vertices = [network]
        self.arrays = to_arrays(network)
        self.spaces, self.tolerance = spaces, tolerance
        self.acts = {name: unit_symmetries(network, space) for name, space in spaces.items()}
        read = {axis.path for space in spaces.values() for axis in space.readers}
        self.weights = {name: [a for a in space.writers if a.path in read] for name, space in spaces.items()}

    def collapse(self) -> None:
        """All readers of copies to one of them, front to back; then, back to front, dead units stop reading others."""
        for space in self.spaces.values():
            self._go(self._merged(space))
        for name, space in reversed(self.spaces.items()):
            self._go(self._without_negligible(self.arrays, space))  # what only dead units read is dead by now
            dead = np.flatnonzero(largest_of(self.arrays, space.readers, space.size) == 0)
            self._go(_written(self.arrays, self.weights[name], space.size, dead))

    def arrange(self, space: UnitSpace, wanted: Arrays) -> None:
        """Move the live units of a space to where they are in `wanted`, as they are there."""
        at, to, factors = self._pairs(space, wanted)
        is_moving = (at != to) | (np.abs(factors - 1) > self.tolerance)
        while is_moving.any():
            free = np.setdiff1d(np.arange(space.size), at)
            ready = np.flatnonzero(is_moving & np.isin(to, free))
            if len(ready):
                source, target, scale = wanted, to[ready], factors[ready]
                is_moving[ready], taken = False, to[ready]
            elif len(free):  # a cycle: one of it steps aside
                ready = np.flatnonzero(is_moving)[:1]
                source, target, taken, scale = self.arrays, free[:1], at[ready], np.ones(1)
            else:
                msg = (
                    f"{space.name} has no unit to spare: all {space.size} of its units are needed, so its orders are "
                    "isolated from each other. Widen both networks by one unit there (lossatlas.embedding.widen)."
                )
                raise InputError(msg)
            self._go(_written(self.arrays, space.writers, space.size, target, source, taken))
            self._go(_handed_over(self.arrays, space, at[ready], target, 1 / scale, self.acts[space.name]))
            at[ready] = target

    def _go(self, arrays: Arrays) -> None:
        if any(array is not self.arrays[path] for path, array in arrays.items()):
            self.vertices.append(with_arrays(self.vertices[-1], arrays))
            self.arrays = arrays

    def _merged(self, space: UnitSpace) -> Arrays:
        """The readers of all copies at those that contribute most, zero where they cancel."""
        order = np.argsort(-self._contributions(self.arrays, space), kind="stable")
        act = self.acts[space.name]
        leaders, factors = copies(self._vectors(self.arrays, space)[order], act, self.tolerance)
        moves = leaders != np.arange(len(leaders))
        arrays = _handed_over(self.arrays, space, order[moves], order[leaders[moves]], factors[moves], act)
        return self._without_negligible(arrays, space)

    def _without_negligible(self, arrays: Arrays, space: UnitSpace) -> Arrays:
        """No readers where a unit contributes next to nothing."""
        sizes = self._contributions(arrays, space)
        dead = np.flatnonzero((sizes > 0) & (sizes <= self.tolerance * sizes.max(initial=0.0)))
        return _written(arrays, space.readers, space.size, dead)

    def _contributions(self, arrays: Arrays, space: UnitSpace) -> np.ndarray:
        """The largest reader of each unit, times the scale of homogeneous ones."""
        norms = np.linalg.norm(self._vectors(arrays, space), axis=1)
        return largest_of(arrays, space.readers, space.size) * norms ** (self.acts[space.name].degree or 0.0)

    def _pairs(self, space: UnitSpace, wanted: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Live units here, their places there, and what to multiply their writers by to get those there."""
        live = [np.flatnonzero(largest_of(a, space.readers, space.size)) for a in (self.arrays, wanted)]
        vectors = [self._vectors(a, space)[units] for a, units in zip((self.arrays, wanted), live, strict=True)]
        leaders, factors = copies(np.concatenate(vectors), self.acts[space.name], self.tolerance)
        count = len(live[0])
        partner = {int(leader): count + j for j, leader in enumerate(leaders[count:])}
        lone = [int(live[0][i]) for i in range(count) if i not in partner]
        if lone or len(live[1]) != count:
            msg = (
                f"The networks are not one smaller network in disguise: at tolerance {self.tolerance:g} they reduce to "
                f"{count} and {len(live[1])} units of {space.name}, and {len(lone)} of the first have no counterpart "
                f"in the second{f' (unit {lone[0]})' if lone else ''}. Raise the tolerance if both were trained less "
                "far; networks that fit the data in different ways are joined by lossatlas.embedding.sublevel_path."
            )
            raise InputError(msg)
        pairs = np.array([partner[i] for i in range(count)], int)
        return live[0], live[1][pairs - count], factors[pairs] / factors[:count]

    def _vectors(self, arrays: Arrays, space: UnitSpace) -> np.ndarray:
        return np.concatenate([rows_of(arrays, axis, space.size) for axis in space.writers], axis=1)


def _written(
    arrays: Arrays,
    axes: Sequence[Axis],
    size: int,
    units: np.ndarray,
    source: Arrays | None = None,
    taken: np.ndarray | None = None,
) -> Arrays:
    """Other entries for some units along some axes: those of the units `taken` of other arrays, or zero."""
    if not len(units):
        return arrays
    made = dict(arrays)
    for axis in axes:
        made[axis.path] = array = made[axis.path].copy()
        where = places(axis, size)
        lead = np.moveaxis(array, axis.axis, 0)
        lead[where[units]] = 0 if source is None else np.moveaxis(source[axis.path], axis.axis, 0)[where[taken]]
    return made


def _handed_over(
    arrays: Arrays, space: UnitSpace, sources: np.ndarray, targets: np.ndarray, factors: np.ndarray, act: Activation
) -> Arrays:
    """The readers of some units at others instead, where the writers of the former are multiples of the latter's."""
    if not len(sources):
        return arrays
    made = dict(arrays)
    outputs, constants = multiples(factors, act)
    for axis in space.readers:
        where = places(axis, space.size)
        if constants.any():  # of fully connected networks alone, see can_reflect
            assert axis.bias is not None
            made[axis.bias] = made[axis.bias] + constants @ rows_of(arrays, axis, space.size)[sources]
        made[axis.path] = array = made[axis.path].copy()
        lead = np.moveaxis(array, axis.axis, 0)
        for source, target, output in zip(sources, targets, outputs, strict=True):
            lead[where[target]] += output * lead[where[source]]
            lead[where[source]] = 0
    return made


def _check_feed_forward(network: Network) -> None:
    spaces: list[UnitSpace] = list(network.unit_spaces().values())
    for i, space in enumerate(spaces):
        read = {axis.path for later in spaces[i:] for axis in later.readers}
        reason = space.closed
        if reason is None and space.shares != "any":
            reason = "they are normalised together, so a unit that nothing reads still changes the others"
        if reason is None and any(axis.path in read for axis in space.writers):
            reason = "they are written by what reads them or later units, so they cannot be moved layer after layer"
        if reason is not None:
            msg = f"expansion_path cannot move the units of {space.name}: {reason}. It needs a feed-forward network."
            raise InputError(msg)


def _check_same_function(network: Network, other: Network, landscape: Landscape, tolerance: float) -> None:
    if not landscape.has_predictions:
        raise InputError("expansion_path compares outputs, and this landscape has none; give it a predict function.")
    outputs = [np.asarray(landscape.predictions(net), float) for net in (network, other)]
    apart, scale = float(np.abs(outputs[1] - outputs[0]).max(initial=0.0)), float(np.abs(outputs[0]).max(initial=0.0))
    if not apart <= tolerance * scale:
        losses = [float(landscape(net)) for net in (network, other)]
        msg = (
            f"The networks do not compute the same on the data: outputs differ by up to {apart:.3g} (largest output "
            f"{scale:.3g}), losses are {losses[0]:.3g} and {losses[1]:.3g}. Train both to zero loss, raise the "
            "tolerance, or take lossatlas.embedding.sublevel_path, which asks for no such thing."
        )
        raise InputError(msg)
