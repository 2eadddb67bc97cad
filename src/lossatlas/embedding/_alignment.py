"""Bring the units of one network next to those of another: what is compared, and what may be done to them."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.embedding._selection import Selection
from lossatlas.embedding._unit_map import on_axis, require_unit_spaces
from lossatlas.networks import Axis, Conv, Dense, UnitSpace, apply_reflection, put_units, replace_parameters, take_units


_GAIN = 100  # in units of rounding
_MAX_SWEEPS = 100
_BLOCK = 128  # rows, which stay in the cache
_BALANCED = 1e-13  # relative change of a scale
_MAX_BALANCING = 1000

Gauge = Literal["direction", "balanced"]
"""How homogeneous units are compared: with writers of norm 1, or with writers and readers of one norm."""


class Alignment:
    """A network on its way to a target: space by space its units are permuted and reflected.

    - `moved`: the network so far. `orders`, `signs`: what was done, as in [`lossatlas.embedding.Match`][].
    - `objectives`: the sum of products of all arrays with those of the target, after the start and after every sweep.
    """

    def __init__(self, network: Network, target: Network, spaces: dict[str, UnitSpace]):
        self.moved, self.spaces = network, spaces
        self.wanted = named_arrays(target)
        self.orders = {name: np.arange(space.size) for name, space in spaces.items()}
        self.signs = {name: np.ones(space.size) for name, space in spaces.items()}
        self.objectives: list[float] = []
        self.sweeps = 0

    def move(self, name: str, order: np.ndarray, sign: np.ndarray) -> None:
        """Put the units of a space in another order, then change the signs of some."""
        space = self.spaces[name]
        self.moved = reflected(permuted(self.moved, space, order), space, sign)
        self.orders[name], self.signs[name] = self.orders[name][order], self.signs[name][order] * sign

    def ordered_start(self) -> None:
        """Match each space once, by the entries whose other axes are settled, the one with most of them first."""
        settled: set[str] = set()
        while True:
            usable = {name: self.usable(name, settled) for name in self.spaces.keys() - settled}
            counts = {
                name: sum(_entries(self.wanted[axis.path], axis, self.spaces[name].size) for axis in usable[name])
                for name in self.spaces  # in this order, so that the first of equals is one and the same
                if name in usable
            }
            best = max(counts, key=lambda name: counts[name], default=None)
            if best is None or counts[best] == 0:
                return
            self.improve(best, usable[best])
            settled.add(best)

    def usable(self, name: str, settled: set[str]) -> list[Axis]:
        """The axes of a space in whose arrays everything else is settled."""
        return [axis for axis in axes_of(self.spaces[name]) if self._others(axis, name) <= settled]

    def ascend(self, names: list[str] | None = None, *, shuffled: bool = False) -> None:
        """Match space after space, all others held, until nothing is gained; in order, or in random order."""
        names, generator = list(names or self.spaces), np.random.default_rng(0)
        self.objectives.append(self.objective())
        for _ in range(_MAX_SWEEPS):
            self.sweeps += 1
            sweep = [names[i] for i in generator.permutation(len(names))] if shuffled else names
            changed = [self.improve(name) for name in sweep]
            self.objectives.append(self.objective())
            if not any(changed):
                return

    def improve(self, name: str, axes: list[Axis] | None = None) -> bool:
        """Match one space by linear assignment of what touches it; whether anything was gained."""
        space = self.spaces[name]
        every = axes_of(space)
        axes = every if axes is None else axes
        arrays = named_arrays(self.moved)
        # Equal rows match best as they stand: sum |w_i - f_j|^2 is 0.
        if all(np.array_equal(arrays[axis.path], self.wanted[axis.path]) for axis in every):
            return False
        twins = twins_of(arrays, self.wanted, axes, space.size, reflects=can_reflect(self.moved, space))
        if twins is not None:
            self.move(name, *twins)
            return True
        score = self.score(name, axes)
        order, sign = assign(score, reflects=can_reflect(self.moved, space))
        gain = np.sum(sign * score[np.arange(space.size), order]) - np.trace(score)
        if gain <= _GAIN * np.finfo(score.dtype).eps * np.abs(score).sum():
            return False
        before = self.moved, self.orders[name], self.signs[name]
        paths = [axis.path for axis in every]
        touched = set(paths) if len(set(paths)) < len(paths) else set()
        old = self.objective(touched)
        self.move(name, order, sign)
        # Where both axes of one array are permuted the objective is quadratic, and the assignment only a guess.
        if touched and self.objective(touched) <= old:
            self.moved, self.orders[name], self.signs[name] = before
            return False
        return True

    def score(self, name: str, axes: list[Axis]) -> Float[np.ndarray, "units units"]:
        """How well unit j of the network stands for unit i of the target."""
        found, size = named_arrays(self.moved), self.spaces[name].size
        products = [rows_of(self.wanted, axis, size) @ rows_of(found, axis, size).T for axis in axes]
        return sum(products, start=np.zeros((size, size), products[0].dtype if products else float))

    def objective(self, paths: set[str] | None = None) -> float:
        """The sum of products of all arrays, or of some, with those of the target."""
        found = named_arrays(self.moved)
        chosen = self.wanted.keys() if paths is None else paths
        return float(sum(np.vdot(np.asarray(self.wanted[p], float), np.asarray(found[p], float)) for p in chosen))

    def _others(self, axis: Axis, name: str) -> set[str]:
        """Spaces that touch other axes of the same parameter; the space itself where it touches two."""
        touching = {n for n, space in self.spaces.items() for a in axes_of(space) if a.path == axis.path and a != axis}
        is_twice = sum(a.path == axis.path for a in axes_of(self.spaces[name])) > 1
        return touching if is_twice else touching - {name}


def common_spaces(network: Network, reference: Network) -> tuple[dict[str, UnitSpace], dict[str, str]]:
    """The open unit spaces of two networks of one shape, and why the others are closed.

    **Raises:** `InputError` for networks of different architectures, shapes or activations, and where nothing is open.
    """
    spaces = require_unit_spaces(network)
    shapes, wanted = ({n: a.shape for n, a in named_arrays(net).items()} for net in (network, reference))
    if type(network) is not type(reference) or shapes != wanted:
        different = sorted(n for n in shapes.keys() | wanted.keys() if shapes.get(n) != wanted.get(n))
        where = f": {different[0]} is {shapes.get(different[0])} and {wanted.get(different[0])}" if different else ""
        msg = (
            f"Only networks of one architecture and shape can be matched, got {type(network).__name__} and "
            f"{type(reference).__name__}{where}. Reduce both first."
        )
        raise InputError(msg)
    others = require_unit_spaces(reference)
    for name, space in spaces.items():
        ours, theirs = (None if s.activation is None else s.activation.name for s in (space, others.get(name, space)))
        if ours != theirs:
            msg = f"Only networks of one architecture can be matched; {name} has {ours} and {theirs}."
            raise InputError(msg)
    for net in (network, reference):
        bad = next((n for n, a in named_arrays(net).items() if not bool(jnp.isfinite(a).all())), None)
        if bad is not None:
            msg = f"{bad} contains NaN or infinity, so the networks cannot be matched."
            raise InputError(msg)
    closed = {name: space.closed for name, space in spaces.items() if space.closed is not None}
    found = {name: space for name, space in spaces.items() if space.size and space.closed is None}
    if closed and not found:
        listed = "; ".join(f"{name}: {reason}" for name, reason in closed.items())
        msg = f"No unit space of the networks is open, so nothing can be matched. {listed}"
        raise InputError(msg)
    return found, closed


def axes_of(space: UnitSpace) -> list[Axis]:
    """Writers, then readers."""
    return [*space.writers, *space.readers]


def _entries(array: Array, axis: Axis, size: int) -> int:
    return array.size // array.shape[axis.axis] * axis.outer * size * axis.inner


def rows_of(arrays: dict[str, Array], axis: Axis, size: int) -> Float[np.ndarray, "units _"]:
    """What belongs to each unit along one axis, as rows."""
    lead = np.moveaxis(np.asarray(arrays[axis.path]), axis.axis, 0)
    block = lead[axis.offset : axis.offset + axis.outer * size * axis.inner]
    return np.moveaxis(block.reshape(axis.outer, size, -1), 1, 0).reshape(size, -1)


def twins_of(
    found: dict[str, Array], wanted: dict[str, Array], axes: list[Axis], size: int, *, reflects: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Order and signs where each unit of the target has an equal one in the network, else None.

    Units are sorted by their products with one random vector, so this costs a few readings of the weights, and then
    compared whole. Nothing can match better.
    """
    generator = np.random.default_rng(0)
    pairs = [(rows_of(wanted, axis, size), rows_of(found, axis, size)) for axis in axes]
    marks = np.zeros((2, size))
    for pair in pairs:
        vector = generator.normal(size=pair[0].shape[1])
        marks += [_products(rows, vector) for rows in pair]
    signs = np.where(marks < 0, -1.0, 1.0) if reflects else np.ones_like(marks)
    first, second = np.argsort(signs * marks, axis=1)
    order, sign = np.empty(size, int), np.empty(size)
    order[first], sign[first] = second, signs[0][first] * signs[1][second]
    for ours, theirs in pairs:
        rounding = 8 * np.finfo(ours.dtype).eps * np.abs(ours).max(initial=0.0)
        if any(
            (np.abs(ours[i] - sign[i, None].astype(ours.dtype) * theirs[order[i]]) > rounding).any()
            for i in _blocks(size)
        ):
            return None
    return order, sign


def _products(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """In float64, so that few units agree by chance, without a copy of all rows."""
    return np.concatenate([rows[i] @ vector for i in _blocks(len(rows))])


def _blocks(size: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, size, _BLOCK)]


def assign(score: np.ndarray, *, reflects: bool) -> tuple[np.ndarray, np.ndarray]:
    """The order of the largest sum of scores, absolute ones where signs are free, and the signs."""
    from scipy.optimize import linear_sum_assignment

    _, order = linear_sum_assignment(np.abs(score) if reflects else score, maximize=True)
    chosen = score[np.arange(len(order)), order]
    return order, np.where(chosen < 0, -1.0, 1.0) if reflects else np.ones(len(order))


def can_reflect(network: Network, space: UnitSpace) -> bool:
    """Whether the sign of a unit is a symmetry."""
    act = space.activation
    if space.kind == "linear":
        return True
    if act is None or space.is_normalised or space.kind not in ("neuron", "channel"):
        return False
    if isinstance(network, Conv) and space.kind == "channel" and network.pool == "max":
        return False  # the largest of some values does not turn with their sign
    return act.parity == "odd" or (isinstance(network, Dense) and act.reflection is not None and space.bias is not None)


def permuted(network: Network, space: UnitSpace, order: np.ndarray) -> Network:
    """The same function with the units of a space in another order."""
    if np.array_equal(order, np.arange(space.size)):
        return network
    units = Selection(jnp.asarray(order), jnp.ones(space.size), space.size)
    arrays = named_arrays(network)
    for axis in axes_of(space):
        arrays[axis.path] = on_axis(units, arrays[axis.path], axis, space.size)
    return replace_parameters(network, arrays)


def reflected(network: Network, space: UnitSpace, signs: np.ndarray) -> Network:
    """The same function with the signs of some units changed."""
    if (signs > 0).all():
        return network
    if isinstance(network, Dense):
        return apply_reflection(network, space.name, jnp.asarray(signs))
    return _multiplied(network, space, signs, signs)


def _multiplied(network: Network, space: UnitSpace, writers: np.ndarray, readers: np.ndarray) -> Network:
    arrays = named_arrays(network)
    for axes, factors in ((space.writers, writers), (space.readers, readers)):
        for axis in axes:
            block = take_units(arrays[axis.path], axis, space.size)
            scaled = block * jnp.expand_dims(jnp.asarray(factors, block.dtype), (*range(block.ndim - 2), -1))
            arrays[axis.path] = put_units(arrays[axis.path], axis, space.size, scaled)
    return replace_parameters(network, arrays)


def degree_of(space: UnitSpace) -> float | None:
    """The degree p of homogeneous units; None where a scale is no symmetry."""
    if space.kind == "linear":
        return 1.0
    if space.activation is None or space.is_normalised or space.kind not in ("neuron", "channel"):
        return None
    return space.activation.degree


def scaled(network: Network, space: UnitSpace, factors: np.ndarray) -> Network:
    """The same function with the writers of homogeneous units multiplied, their readers divided."""
    degree = degree_of(space)
    if degree is None or (factors == 1).all():
        return network
    return _multiplied(network, space, factors, factors**-degree)


def in_gauge(network: Network, spaces: dict[str, UnitSpace], gauge: Gauge) -> tuple[Network, dict[str, np.ndarray]]:
    """Homogeneous units at scales of their own, and what brings those of the network back."""
    return _balanced(network, spaces) if gauge == "balanced" else _normalised(network, spaces)


def _normalised(network: Network, spaces: dict[str, UnitSpace]) -> tuple[Network, dict[str, np.ndarray]]:
    """Homogeneous units with writers of norm 1, space after space, and the norms before."""
    norms = {}
    for name, space in spaces.items():
        norms[name] = np.ones(space.size)
        if degree_of(space) is None:
            continue
        squares = _squares(network, space.writers, space.size)
        norms[name] = np.where(squares > 0, np.sqrt(squares), 1.0)
        network = scaled(network, space, 1 / norms[name])
    return network, norms


def _balanced(network: Network, spaces: dict[str, UnitSpace]) -> tuple[Network, dict[str, np.ndarray]]:
    r"""Homogeneous units at the scales of least squared weights: $|w_i|^2 = p\,|a_i|^2$ for writers w, readers a."""
    norms = {name: np.ones(space.size) for name, space in spaces.items()}
    for _ in range(_MAX_BALANCING):
        largest = 0.0
        for name, space in spaces.items():
            degree = degree_of(space)
            if degree is None:
                continue
            written, read = (_squares(network, axes, space.size) for axes in (space.writers, space.readers))
            alive = (written > 0) & (read > 0)
            ratio = np.where(alive, degree * read, 1.0) / np.where(alive, written, 1.0)
            factors = ratio ** (1 / (2 + 2 * degree))
            network = scaled(network, space, factors)
            norms[name] = norms[name] / factors
            largest = max(largest, float(np.abs(factors - 1).max(initial=0.0)))
        if largest <= _BALANCED:
            break
    return network, norms


def _squares(network: Network, axes: tuple[Axis, ...], size: int) -> Float[np.ndarray, " units"]:
    arrays = named_arrays(network)
    return sum((np.sum(rows_of(arrays, axis, size).astype(float) ** 2, axis=1) for axis in axes), np.zeros(size))
