"""Match two networks of one shape up to the symmetries of their units."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._record import Data, outputs
from lossatlas.embedding._selection import Selection
from lossatlas.embedding._unit_map import on_axis, require_unit_spaces
from lossatlas.networks import Axis, Conv, Dense, UnitSpace, apply_reflection, put_units, replace_parameters, take_units


_SAME = 1e-9
_GAIN = 100  # in units of rounding
_MAX_SWEEPS = 100
_BLOCK = 128  # rows, which stay in the cache


@shown
class Match(eqx.Module):
    """How a network was brought next to another.

    - `orders`: by space, which unit of the network stands at each place now; `signs`: which were reflected (-1);
      `scales`: by what their writers were multiplied.
    - `residual`: the largest difference of a parameter or buffer, relative to the largest one.
    - `distance`: the Euclidean distance of all of them, relative to the norm of the reference.
    - `output_difference`: the largest difference of an output on the data; None without data.
    - `sweeps`: how many sweeps over the spaces it took.
    """

    orders: dict[str, Int[np.ndarray, " units"]]
    signs: dict[str, Float[np.ndarray, " units"]]
    scales: dict[str, Float[np.ndarray, " units"]]
    residual: float
    distance: float
    output_difference: float | None
    sweeps: int

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


def match(network: Network, reference: Network, *, landscape: Data = None) -> tuple[Network, Match]:
    r"""Bring a network as near to a reference as the symmetries of its units allow; its function stays.

    Units are permuted in every unit space, reflected where the activation is odd (or $\sigma(-t) = c - \sigma(t)$) and
    not followed by max pooling, and scaled where it is homogeneous. Space after space is matched by linear assignment
    of what touches it, first by the entries whose other axes are settled already, then all in turn until nothing is
    gained.

    Equal networks are recognised unless units are copies of each other, do nothing, or mix freely (linear units,
    coordinates within an attention head): reduce both first. For networks from different trainings it is weight
    matching, a local optimum.

    **Arguments:**
    - `network`, `reference`: of one architecture and shape, with unit spaces.
    - `landscape`: what outputs are compared on: a `Landscape`, inputs alone, or None.

    **Returns:** the matched network and a [`lossatlas.embedding.Match`][]. Cost: for each sweep and space of n units
    n^3 operations and a product of its parameters.

    **Raises:** `InputError` for networks of different architectures or shapes.

    !!! cite
        Weight matching: Ainsworth, Hayase, Srinivasa 2023, arXiv 2209.04836; signs, scales and the start by what is
        settled are added.
    """
    spaces = _common_spaces(network, reference)
    # At unit writers, homogeneous units are compared by direction; the reference's scales come back in the end.
    moved, own_scales = _normalised(network, spaces)
    target, scales = _normalised(reference, spaces)
    orders = {name: np.arange(space.size) for name, space in spaces.items()}
    signs = {name: np.ones(space.size) for name, space in spaces.items()}
    wanted = named_arrays(target)
    settled: set[str] = set()
    sweeps = 0
    for sweeps in range(1, _MAX_SWEEPS + 1):
        changed = False
        for name, space in spaces.items():
            axes = [a for a in _axes(space) if sweeps > 1 or _others(a, name, spaces) <= settled]
            if axes:
                settled.add(name)
            arrays = named_arrays(moved)
            # Equal rows match best as they stand: sum |w_i - f_j|^2 is 0.
            if all(np.array_equal(arrays[axis.path], wanted[axis.path]) for axis in _axes(space)):
                continue
            twins = _twins(arrays, wanted, axes, space.size, reflects=can_reflect(moved, space))
            if twins is None:
                score = _score(arrays, wanted, axes, space.size)
                order, sign = _assign(score, can_reflect(moved, space))
                gain = np.sum(sign * score[np.arange(space.size), order]) - np.trace(score)
                if gain <= _GAIN * np.finfo(score.dtype).eps * np.abs(score).sum():
                    continue
            else:
                order, sign = twins
            moved = _reflected(_permuted(moved, space, order), space, sign)
            orders[name], signs[name] = orders[name][order], signs[name][order] * sign
            changed = True
        if not changed and sweeps > 1:
            break
    for name, space in spaces.items():
        moved = _scaled(moved, space, scales[name])
    factors = {name: scales[name] / own_scales[name][orders[name]] for name in spaces}
    found, wanted = named_arrays(moved), named_arrays(reference)
    sizes = [_size(array) for array in wanted.values()]
    differences = [_size(found[path], array) for path, array in wanted.items()]
    (largest, norm), (apart, distance) = (_joined(parts) for parts in (sizes, differences))
    result = Match(
        orders,
        signs,
        factors,
        residual=apart / max(largest, 1e-300),
        distance=distance / max(norm, 1e-300),
        output_difference=None
        if landscape is None
        else float(jnp.abs(outputs(network, landscape) - outputs(reference, landscape)).max()),
        sweeps=sweeps,
    )
    return moved, result


@jax.jit
def _size(array: Array, other: Array | float = 0.0) -> tuple[Array, Array]:
    """The largest entry of a difference, and its Euclidean norm."""
    difference = array - other
    return jnp.max(jnp.abs(difference), initial=0.0), jnp.linalg.norm(difference.ravel())


def _joined(parts: list[tuple[Array, Array]]) -> tuple[float, float]:
    return max((float(largest) for largest, _ in parts), default=0.0), math.hypot(*(float(norm) for _, norm in parts))


def _common_spaces(network: Network, reference: Network) -> dict[str, UnitSpace]:
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
    return {name: space for name, space in spaces.items() if space.size}


def _axes(space: UnitSpace) -> list[Axis]:
    return [*space.writers, *space.readers]


def _others(axis: Axis, name: str, spaces: dict[str, UnitSpace]) -> set[str]:
    """Spaces that touch other axes of the same parameter; the space itself where it touches two."""
    touching = {n for n, space in spaces.items() for a in _axes(space) if a.path == axis.path and a != axis}
    return touching if sum(a.path == axis.path for a in _axes(spaces[name])) > 1 else touching - {name}


def _rows(arrays: dict[str, Array], axis: Axis, size: int) -> Float[np.ndarray, "units _"]:
    lead = np.moveaxis(np.asarray(arrays[axis.path]), axis.axis, 0)
    block = lead[axis.offset : axis.offset + axis.outer * size * axis.inner]
    return np.moveaxis(block.reshape(axis.outer, size, -1), 1, 0).reshape(size, -1)


def _twins(
    found: dict[str, Array], wanted: dict[str, Array], axes: list[Axis], size: int, *, reflects: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Order and signs where each unit of the reference has an equal one in the network, else None.

    Units are sorted by their products with one random vector, so this costs a few readings of the weights, and then
    compared whole. Nothing can match better.
    """
    generator = np.random.default_rng(0)
    pairs = [(_rows(wanted, axis, size), _rows(found, axis, size)) for axis in axes]
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


def _score(
    found: dict[str, Array], wanted: dict[str, Array], axes: list[Axis], size: int
) -> Float[np.ndarray, "units units"]:
    """How well unit j of the network stands for unit i of the reference."""
    products = [_rows(wanted, axis, size) @ _rows(found, axis, size).T for axis in axes]
    return sum(products, start=np.zeros((size, size), products[0].dtype if products else float))


def _assign(score: np.ndarray, can_reflect: bool) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment

    _, order = linear_sum_assignment(np.abs(score) if can_reflect else score, maximize=True)
    chosen = score[np.arange(len(order)), order]
    return order, np.where(chosen < 0, -1.0, 1.0) if can_reflect else np.ones(len(order))


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


def _permuted(network: Network, space: UnitSpace, order: np.ndarray) -> Network:
    units = Selection(jnp.asarray(order), jnp.ones(space.size), space.size)
    arrays = named_arrays(network)
    for axis in _axes(space):
        arrays[axis.path] = on_axis(units, arrays[axis.path], axis, space.size)
    return replace_parameters(network, arrays)


def _reflected(network: Network, space: UnitSpace, signs: np.ndarray) -> Network:
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


def _scaled(network: Network, space: UnitSpace, factors: np.ndarray) -> Network:
    degree = degree_of(space)
    return network if degree is None else _multiplied(network, space, factors, factors**-degree)


def _normalised(network: Network, spaces: dict[str, UnitSpace]) -> tuple[Network, dict[str, np.ndarray]]:
    """Homogeneous units with writers of norm 1, space after space, and the norms before."""
    norms = {}
    for name, space in spaces.items():
        norms[name] = np.ones(space.size)
        if degree_of(space) is None:
            continue
        arrays = named_arrays(network)
        squares = sum(np.sum(_rows(arrays, axis, space.size) ** 2, axis=1) for axis in space.writers)
        norms[name] = np.where(squares > 0, np.sqrt(squares), 1.0)
        network = _scaled(network, space, 1 / norms[name])
    return network, norms
