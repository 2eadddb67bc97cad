"""Bring the units of one network next to those of another: what is compared, and what may be done to them."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.embedding._unit_arrays import Arrays, axes_of, multiplied, permuted, rows_of, to_arrays
from lossatlas.embedding._unit_map import require_unit_spaces
from lossatlas.networks import Axis, Conv, Dense, UnitSpace


_GAIN = 100  # in units of rounding
_MAX_SWEEPS = 100
_BLOCK = 128  # rows, which stay in the cache
_BALANCED = 1e-13  # relative change of a scale
_MAX_BALANCING = 1000

Gauge = Literal["direction", "balanced"]
"""How homogeneous units are compared: with writers of norm 1, or with writers and readers of one norm."""


class Alignment:
    r"""A network on its way to a target: space by space its units are permuted and reflected.

    - `arrays`: of the network so far; `wanted`: those of the target. `orders`, `signs`: what was done, as in
      [`lossatlas.embedding.Match`][].
    - `reflections`: by space whose signs are free, the constant c of $\sigma(-t) = c - \sigma(t)$.
    - `objectives`: the sum of products of all arrays with those of the target, after the start and after every sweep.
    """

    def __init__(self, source: Arrays, target: Arrays, spaces: dict[str, UnitSpace], reflections: dict[str, float]):
        self.arrays, self.wanted, self.spaces, self.reflections = source, target, spaces, reflections
        self.orders = {name: np.arange(space.size) for name, space in spaces.items()}
        self.signs = {name: np.ones(space.size) for name, space in spaces.items()}
        self.objectives: list[float] = []
        self.sweeps = 0

    def move(self, name: str, order: np.ndarray, sign: np.ndarray) -> None:
        """Put the units of a space in another order, then change the signs of some."""
        space = self.spaces[name]
        self.arrays = permuted(self.arrays, space, order)
        if (sign < 0).any():
            self.arrays = _reflected(self.arrays, space, sign, self.reflections[name])
        self.orders[name], self.signs[name] = self.orders[name][order], self.signs[name][order] * sign

    def reflects(self, name: str) -> bool:
        """Whether the signs of the units of a space are free."""
        return name in self.reflections

    def ordered_start(self, settled: set[str] | None = None) -> None:
        """Match each space that is not settled once, by the entries whose other axes are, the one with most first."""
        settled = set(settled or ())
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
        arrays = self.arrays
        # Equal rows match best as they stand: sum |w_i - f_j|^2 is 0.
        if all(np.array_equal(arrays[axis.path], self.wanted[axis.path]) for axis in every):
            return False
        twins = twins_of(arrays, self.wanted, axes, space.size, reflects=self.reflects(name))
        if twins is not None:
            order, sign = twins
            is_there = np.array_equal(order, np.arange(space.size)) and bool((sign > 0).all())
            if not is_there:  # what is there already differs by rounding alone
                self.move(name, order, sign)
            return not is_there
        score = self.score(name, axes)
        order, sign = assign(score, reflects=self.reflects(name))
        gain = np.sum(sign * score[np.arange(space.size), order]) - np.trace(score)
        if gain <= _GAIN * np.finfo(score.dtype).eps * np.abs(score).sum():
            return False
        before = self.arrays, self.orders[name], self.signs[name]
        paths = [axis.path for axis in every]
        touched = set(paths) if len(set(paths)) < len(paths) else set()
        old = self.objective(touched)
        self.move(name, order, sign)
        # Where both axes of one array are permuted the objective is quadratic, and the assignment only a guess.
        if touched and self.objective(touched) <= old:
            self.arrays, self.orders[name], self.signs[name] = before
            return False
        return True

    def score(self, name: str, axes: list[Axis]) -> Float[np.ndarray, "units units"]:
        """How well unit j of the network stands for unit i of the target."""
        size = self.spaces[name].size
        products = [rows_of(self.wanted, axis, size) @ rows_of(self.arrays, axis, size).T for axis in axes]
        return sum(products, start=np.zeros((size, size), products[0].dtype if products else float))

    def objective(self, paths: set[str] | None = None) -> float:
        """The sum of products of all arrays, or of some, with those of the target."""
        chosen = self.wanted.keys() if paths is None else paths
        pairs = ((self.wanted[path].astype(float), self.arrays[path].astype(float)) for path in chosen)
        return float(sum(np.vdot(one, two) for one, two in pairs))

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
            msg = f"Only networks of one architecture can be matched; {name} has the activations {ours} and {theirs}."
            raise InputError(msg)
    for net in (network, reference):
        bad = next((n for n, a in to_arrays(net).items() if not np.isfinite(a).all()), None)
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


def _entries(array: np.ndarray, axis: Axis, size: int) -> int:
    return array.size // array.shape[axis.axis] * axis.outer * size * axis.inner


def twins_of(
    found: Arrays, wanted: Arrays, axes: list[Axis], size: int, *, reflects: bool
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
    if act.parity == "odd":
        return True
    # The constant that a reflection adds goes into the biases after it.
    holds = isinstance(network, Dense) and space.bias is not None
    biases = {_bias_after(axis) for axis in space.readers if axis.path.endswith(".weight")}
    holds = holds and len(biases) == len(space.readers) and biases <= named_arrays(network).keys()
    return holds and act.reflection is not None


def reflections_of(network: Network, spaces: dict[str, UnitSpace]) -> dict[str, float]:
    """By space whose units may change their signs, the constant c of the activation; 0 for odd ones."""
    return {
        name: 0.0 if space.activation is None else space.activation.reflection or 0.0
        for name, space in spaces.items()
        if can_reflect(network, space)
    }


def _reflected(arrays: Arrays, space: UnitSpace, signs: np.ndarray, constant: float) -> Arrays:
    """The same function with the signs of some units changed; the biases after them hold the constants."""
    shifted = dict(arrays)
    for axis in space.readers if constant else ():
        # Only fully connected networks have such units, see can_reflect.
        bias = _bias_after(axis)
        flipped = rows_of(arrays, axis, space.size)[signs < 0]
        shifted[bias] = shifted[bias] + (constant * flipped.sum(0)).astype(shifted[bias].dtype)
    shifted = multiplied(shifted, space.writers, space.size, signs)
    return multiplied(shifted, space.readers, space.size, signs)


def _bias_after(axis: Axis) -> str:
    return axis.path.replace(".weight", ".bias")


def degree_of(space: UnitSpace) -> float | None:
    """The degree p of homogeneous units; None where a scale is no symmetry."""
    if space.kind == "linear":
        return 1.0
    if space.activation is None or space.is_normalised or space.kind not in ("neuron", "channel"):
        return None
    return space.activation.degree


def scaled(arrays: Arrays, space: UnitSpace, factors: np.ndarray) -> Arrays:
    """The same function with the writers of homogeneous units multiplied, their readers divided."""
    degree = degree_of(space)
    if degree is None or (factors == 1).all():
        return arrays
    written = multiplied(arrays, space.writers, space.size, factors)
    return multiplied(written, space.readers, space.size, factors**-degree)


def in_gauge(arrays: Arrays, spaces: dict[str, UnitSpace], gauge: Gauge) -> tuple[Arrays, dict[str, np.ndarray]]:
    """Homogeneous units at scales of their own, and what brings those of the network back."""
    return _balanced(arrays, spaces) if gauge == "balanced" else _normalised(arrays, spaces)


def _normalised(arrays: Arrays, spaces: dict[str, UnitSpace]) -> tuple[Arrays, dict[str, np.ndarray]]:
    """Homogeneous units with writers of norm 1, space after space, and the norms before."""
    norms = {}
    for name, space in spaces.items():
        norms[name] = np.ones(space.size)
        if degree_of(space) is None:
            continue
        squares = _squares(arrays, space.writers, space.size)
        norms[name] = np.where(squares > 0, np.sqrt(squares), 1.0)
        arrays = scaled(arrays, space, 1 / norms[name])
    return arrays, norms


def _balanced(arrays: Arrays, spaces: dict[str, UnitSpace]) -> tuple[Arrays, dict[str, np.ndarray]]:
    r"""Homogeneous units at the scales of least squared weights: $|w_i|^2 = p\,|a_i|^2$ for writers w, readers a."""
    norms = {name: np.ones(space.size) for name, space in spaces.items()}
    for _ in range(_MAX_BALANCING):
        largest = 0.0
        for name, space in spaces.items():
            degree = degree_of(space)
            if degree is None:
                continue
            written, read = (_squares(arrays, axes, space.size) for axes in (space.writers, space.readers))
            alive = (written > 0) & (read > 0)
            ratio = np.where(alive, degree * read, 1.0) / np.where(alive, written, 1.0)
            factors = ratio ** (1 / (2 + 2 * degree))
            arrays = scaled(arrays, space, factors)
            norms[name] = norms[name] / factors
            largest = max(largest, float(np.abs(factors - 1).max(initial=0.0)))
        if largest <= _BALANCED:
            break
    return arrays, norms


def _squares(arrays: Arrays, axes: tuple[Axis, ...], size: int) -> Float[np.ndarray, " units"]:
    return sum((np.sum(rows_of(arrays, axis, size).astype(float) ** 2, axis=1) for axis in axes), np.zeros(size))
