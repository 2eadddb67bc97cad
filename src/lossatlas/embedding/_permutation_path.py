"""From a network to a permuted copy of itself, the function constant all the way."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, named_parameters
from lossatlas._progress import ProgressLike
from lossatlas._types import Network
from lossatlas.embedding._unit_arrays import largest_of, permuted, places, to_arrays, with_arrays
from lossatlas.embedding._unit_map import require_unit_spaces
from lossatlas.geometry import MovingBuffers, Path
from lossatlas.geometry._verify_path import verified
from lossatlas.landscape import Landscape
from lossatlas.networks import Axis, UnitSpace


_MOST_BYTES = 4 * 2**30


def permutation_path(
    network: Network,
    orders: Mapping[str, Sequence[int] | np.ndarray],
    landscape: Landscape,
    *,
    spares: Mapping[str, int] | None = None,
    num_points: int = 21,
    progress: ProgressLike = "none",
) -> Path:
    r"""A path to the same network with its units in another order, on which the function does not change at all.

    Each permuted space needs a spare unit, which nothing reads. For every cycle of the order, the spare takes over what
    writes the first unit (nothing reads it, so nothing changes), then what reads it (both put out the same, so nothing
    changes); each place of the cycle is filled from the next, the last from the spare. All segments are straight:
    $2(k + 1)$ for a cycle of k units, and one more for each space, where the spare goes to its final weights.

    So the permuted copies of a network are one connected set of equal loss as soon as every layer has a unit to spare.

    **Arguments:**
    - `network`: with unit spaces, its own or discovered ones, any architecture.
    - `orders`: by space, the old index of each new unit; the spare stays where it is.
    - `landscape`: what the path is verified on.
    - `spares`: by space, which unit is spare; default the first that nothing reads. `embedding.add_null_unit` makes
      one.
    - `num_points`: of the verification, as for [`lossatlas.geometry.verify_path`][].

    **Returns:** a [`lossatlas.geometry.Path`][] with its verification. Vertices share what does not change; together
    they take one copy of what touches a space for each of its segments.

    **Raises:** `InputError` for an order that is no permutation, a missing or moving spare, spaces that are closed or
    normalised across their units, and paths above 4 GB.

    !!! cite
        Simsek et al. 2021, arXiv 2105.12221 (connected sets with one more unit a layer); the construction is derived.
    """
    spaces = require_unit_spaces(network)
    plans = []
    for name in orders:
        if name not in spaces:
            raise unknown_name("unit space", name, spaces)
    for name, space in spaces.items():  # from input to output
        if name in orders:
            spare = _spare(network, space, (spares or {}).get(name))
            plans.append((space, _checked(space, orders[name], spare), spare))
    _check_memory(network, plans)
    vertices = [network]
    for space, order, spare in plans:
        vertices += _moves(vertices[-1], space, order, spare)
    has_buffers = named_arrays(network).keys() != named_parameters(network).keys()
    path = Path(tuple(vertices), refresh=MovingBuffers() if has_buffers else None)
    return verified(path, landscape, num_points=num_points, progress=progress)


def num_segments(order: Sequence[int] | np.ndarray) -> int:
    """How many segments the path of one space has: 2(k + 1) for every cycle of k > 1 units, and 1.

    **Arguments:**
    - `order`: a permutation.
    """
    return sum(2 * (len(cycle) + 1) for cycle in _cycles(np.asarray(order))) + 1


def _cycles(order: np.ndarray) -> Iterator[list[int]]:
    """The cycles of more than one place, each place followed by where its new unit comes from."""
    seen: set[int] = set()
    for first in range(len(order)):
        cycle = [first]
        while first not in seen and order[cycle[-1]] != first:
            cycle.append(int(order[cycle[-1]]))
        if first not in seen and len(cycle) > 1:
            yield cycle
        seen.update(cycle)


def _moves(network: Network, space: UnitSpace, order: np.ndarray, spare: int) -> list[Network]:
    found = [network]

    def copy(source: int, target: int) -> None:
        def copied(array: np.ndarray, axis: Axis) -> None:
            units = places(axis, space.size)
            lead = np.moveaxis(array, axis.axis, 0)
            lead[units[target]] = lead[units[source]]

        found.append(_changed(found[-1], space.writers, copied))

    def hand_over(source: int, target: int) -> None:
        def moved(array: np.ndarray, axis: Axis) -> None:
            units = places(axis, space.size)
            lead = np.moveaxis(array, axis.axis, 0)
            lead[units[target]] += lead[units[source]]
            lead[units[source]] = 0

        found.append(_changed(found[-1], space.readers, moved))

    for cycle in _cycles(order):
        copy(cycle[0], spare)
        hand_over(cycle[0], spare)
        for place, following in zip(cycle[:-1], cycle[1:], strict=True):
            copy(following, place)
            hand_over(following, place)
        copy(spare, cycle[-1])
        hand_over(spare, cycle[-1])
    target = permuted(to_arrays(network), space, order)

    def final(array: np.ndarray, axis: Axis) -> None:
        unit = places(axis, space.size)[spare]
        np.moveaxis(array, axis.axis, 0)[unit] = np.moveaxis(target[axis.path], axis.axis, 0)[unit]

    found.append(_changed(found[-1], space.writers, final))
    return found[1:]


def _changed(network: Network, axes: tuple[Axis, ...], change: Callable[[np.ndarray, Axis], None]) -> Network:
    """The network with copies of some parameters changed."""
    arrays = to_arrays(network)
    for axis in axes:
        arrays[axis.path] = arrays[axis.path].copy()
        change(arrays[axis.path], axis)
    return with_arrays(network, arrays)


def _spare(network: Network, space: UnitSpace, given: int | None) -> int:
    if space.closed is not None:
        msg = f"The units of {space.name} cannot be moved: {space.closed}"
        raise InputError(msg)
    if space.shares != "any":
        msg = (
            f"The units of {space.name} are normalised together, so a unit that nothing reads still changes the "
            "others; no path of constant function is known. Permute the other spaces."
        )
        raise InputError(msg)
    sizes = largest_of(to_arrays(network), space.readers, space.size)
    free = np.flatnonzero(sizes == 0)
    remedy = "Add one with lossatlas.embedding.add_null_unit."
    if given is not None and not 0 <= given < space.size:
        msg = f"The spare of {space.name} must be one of its units, 0 to {space.size - 1}, got {given}."
        raise InputError(msg)
    if given is not None and given not in free:
        size = f"{sizes[given]:.3g}"
        msg = f"Unit {given} of {space.name} is no spare: it is read with weights up to {size}, not 0. {remedy}"
        raise InputError(msg)
    if not len(free):
        msg = f"{space.name} has no spare unit, one that nothing reads. {remedy}"
        raise InputError(msg)
    return int(free[0]) if given is None else given


def _checked(space: UnitSpace, order: Sequence[int] | np.ndarray, spare: int) -> np.ndarray:
    indices = np.asarray(order)
    if sorted(indices.tolist()) != list(range(space.size)):
        msg = f"The order of {space.name} must be a permutation of 0..{space.size - 1}, got {indices.tolist()}."
        raise InputError(msg)
    if indices[spare] != spare:
        msg = (
            f"The spare of {space.name}, unit {spare}, must stay in its place, but the order puts unit "
            f"{indices[spare]} there."
        )
        raise InputError(msg)
    return indices


def _check_memory(network: Network, plans: list[tuple[UnitSpace, np.ndarray, int]]) -> None:
    arrays = named_arrays(network)
    total = 0
    for space, order, _ in plans:
        touched = max(
            sum(arrays[path].nbytes for path in {axis.path for axis in axes}) for axes in (space.writers, space.readers)
        )
        total += touched * num_segments(order)
    if total > _MOST_BYTES:
        msg = (
            f"The vertices of this path would take {total / 2**30:.1f} GB, at most 4 are allowed. Move fewer units at "
            "once, in several paths."
        )
        raise InputError(msg)
