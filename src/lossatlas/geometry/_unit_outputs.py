"""What the readers of every unit space read: the outputs of its units, for any architecture that states them."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.networks import Axis, HasUnitSpaces, UnitSpace, take_units
from lossatlas.numerics import ClosedJaxpr, Var, evaluate, flat_jaxpr, shape_of


_UNROLL = 64
_BLOCK_BYTES = 2**28
_SLOPE_BLOCK = 32


class Tap(NamedTuple):
    """A value inside the network that a reader contracts: its variable, where the units lie in it, and when."""

    var: Var
    axis: Axis
    order: int


@dataclasses.dataclass(frozen=True, eq=False)
class UnitTaps:
    """Where a network of one shape reads its units.

    - `closed`: the network on one example as a flat jaxpr; `spaces`: its unit spaces.
    - `taps`: by space, every value that one of its readers contracts; spaces in the order of their first reading.
    - `hidden`: the spaces that cannot be seen, and why.
    """

    closed: ClosedJaxpr
    spaces: dict[str, UnitSpace]
    taps: dict[str, tuple[Tap, ...]]
    hidden: dict[str, str]

    @property
    def variables(self) -> list[Var]:
        """The values that are read, each once."""
        return list({tap.var: None for taps in self.taps.values() for tap in taps})

    def by_space(self, values: Sequence[Array]) -> dict[str, Float[Array, "positions units"]]:
        """The values of `variables` as the units of every space, the positions of all taps one after the other."""
        seen = dict(zip(self.variables, values, strict=True))
        return {
            name: jnp.concatenate([units_last(seen[tap.var], tap.axis, self.spaces[name].size) for tap in taps])
            for name, taps in self.taps.items()
        }

    def batch_rows(self) -> int:
        """How many examples keep the unit outputs of all spaces within a quarter of a gigabyte."""
        return batch_rows([tap.var for taps in self.taps.values() for tap in taps])


def batch_rows(variables: Sequence[Var]) -> int:
    """How many examples keep the values of some variables within a quarter of a gigabyte."""
    values = sum(math.prod(shape_of(var).shape) for var in variables)
    return max(1, _BLOCK_BYTES // (8 * max(values, 1)))


def find_taps(network: Network, example: Array) -> UnitTaps:
    """Find where the readers of every unit space read, by following their parameters through the jaxpr.

    **Arguments:**
    - `network`: with unit spaces. `example`: one input.

    **Raises:** `InputError` for a network without unit spaces, and an example that it cannot read.
    """
    if not isinstance(network, HasUnitSpaces):
        msg = f"A {type(network).__name__} states no unit spaces; see lossatlas.embedding.discover_units."
        raise InputError(msg)
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    closed = flat_jaxpr(lambda arrays, x: eqx.combine(arrays, static)(x), arrays, example, unroll=_UNROLL)
    variables = dict(zip(named_arrays(network), closed.jaxpr.invars, strict=False))
    spaces = {name: space for name, space in network.unit_spaces().items() if space.size}
    found: dict[str, tuple[Tap, ...]] = {}
    hidden: dict[str, str] = {}
    for name, space in spaces.items():
        try:
            taps = [tap for axis in space.readers for tap in _follow(closed, variables[axis.path], axis)]
        except _OutOfSightError as error:
            met = space.kind == "dimension" and "dot_general" in str(error)
            hidden[name] = "queries and keys meet each other: no weight reads them alone" if met else str(error)
            continue
        found[name] = tuple({(tap.var, tap.axis): tap for tap in taps}.values())
    found = dict(sorted(found.items(), key=lambda item: min(tap.order for tap in item[1])))
    return UnitTaps(closed, spaces, found, hidden)


def unit_outputs(network: Network, inputs: Float[Array, "n ..."]) -> dict[str, Float[np.ndarray, "n positions units"]]:
    """What the units of every space put out, as their readers read it.

    Positions are the places of a map, the tokens of a sequence, the steps of a recurrence, the coordinates of a
    head; 1 for neurons of fully connected layers. Where several readers read a space, their positions stand one
    after the other. BatchNorm uses running statistics.

    **Arguments:**
    - `network`: with unit spaces, its own or discovered ones.
    - `inputs`: shape (n, ...).

    **Returns:** by space, in the order in which they are read. Spaces that no reader contracts (queries and keys
    meet each other) are left out. Memory: all values at once; recurrences up to 64 steps are seen.

    **Raises:** `InputError` for a network without unit spaces.
    """
    taps = find_taps(network, inputs[0])
    blocks = [seen for _, seen in unit_batches(taps, network, inputs)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in taps.taps}


def unit_batches(
    taps: UnitTaps, network: Network, inputs: Float[Array, "n ..."], rows: int | None = None
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Outputs and unit outputs, batch after batch, as numpy arrays.

    **Arguments:**
    - `rows`: of a batch; default by memory.
    """
    n = len(inputs)
    rows = min(rows or taps.batch_rows(), n)
    for start in range(0, n, rows):
        # The last batch is filled up, so that one program serves all.
        index = np.minimum(np.arange(start, start + rows), n - 1)
        outputs, seen = _read(taps, network, inputs[index])
        kept = min(rows, n - start)
        yield np.asarray(outputs)[:kept], {name: np.asarray(values)[:kept] for name, values in seen.items()}


def slope_products(
    taps: UnitTaps, network: Network, inputs: Float[Array, "n ..."], directions: Float[Array, "k ..."]
) -> dict[str, Float[np.ndarray, "units units"]]:
    r"""By space, $G = E_x \sum_{kp} g_{kp} g_{kp}^\top$, $g_{kp} = \partial\, d_k \cdot f / \partial u_p$, position p.

    To first order an error e of the units, the same for all examples, changes the outputs by $e^\top G e$ (mean square,
    at one position); the diagonal of G holds the mean square slopes.

    **Arguments:**
    - `directions`: $d_k$, in the space of outputs.
    """
    n = len(inputs)
    rows = max(1, min(_SLOPE_BLOCK, taps.batch_rows() // len(directions), n))
    total: dict[str, np.ndarray] = {}
    for start in range(0, n, rows):
        # The last block is filled up with rows of weight zero, so that one program serves all.
        index = np.arange(start, start + rows)
        block = inputs[np.minimum(index, n - 1)]
        part = _slopes(taps, network, block, jnp.asarray(index < n, directions.dtype), directions)
        for name, products in part.items():
            total[name] = total.get(name, 0.0) + np.asarray(products, float) / n
    return total


class _OutOfSightError(Exception):
    """A reader whose reading cannot be found."""


def _follow(closed: ClosedJaxpr, var: Var, axis: Axis) -> list[Tap]:
    """Every contraction of the axis of a parameter, through operations that move or keep it."""
    taps: list[Tap] = []
    places = {var: {axis.axis}}
    for order, eqn in enumerate(closed.jaxpr.eqns):
        for position, atom in enumerate(eqn.invars):
            for at in sorted(places.get(atom, ())) if isinstance(atom, Var) else ():
                if (met := _contracted(eqn, position, at)) is not None:
                    other, other_at = met
                    if not isinstance(other, Var):
                        msg = f"{axis.path} reads a constant"
                        raise _OutOfSightError(msg)
                    taps.append(Tap(other, dataclasses.replace(axis, path="", axis=other_at, bias=None), order))
                    continue
                moved = moved_axis(eqn, position, at)
                if moved is None:
                    msg = f"{axis.path} goes through {eqn.primitive.name} before it reads"
                    raise _OutOfSightError(msg)
                places.setdefault(eqn.outvars[0], set()).add(moved)
    if not taps:
        msg = f"{axis.path} contracts nothing"
        raise _OutOfSightError(msg)
    return taps


def _contracted(eqn: Any, position: int, at: int) -> tuple[Any, int] | None:
    """The other operand and its axis where the operation contracts this one."""
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        contracted, _ = params["dimension_numbers"]
        if at not in contracted[position]:
            return None
        other = 1 - position
        return eqn.invars[other], contracted[other][list(contracted[position]).index(at)]
    if name == "conv_general_dilated" and position == 1 and params["feature_group_count"] == 1:
        numbers = params["dimension_numbers"]
        if at == numbers.rhs_spec[1]:
            return eqn.invars[0], numbers.lhs_spec[1]
    return None


def moved_axis(eqn: Any, position: int, at: int) -> int | None:
    """Where the axis lies after an operation that keeps its entries in order; None for any other operation."""
    name, params = eqn.primitive.name, eqn.params
    if position != 0:
        return None
    before = eqn.invars[0].aval.shape
    if name in ("convert_element_type", "copy", "stop_gradient"):
        return at
    if name == "transpose":
        return list(params["permutation"]).index(at)
    if name == "broadcast_in_dim":
        return int(params["broadcast_dimensions"][at])
    if name in ("reshape", "squeeze", "expand_dims"):
        after, lead = eqn.outvars[0].aval.shape, math.prod(before[:at])
        fits = [j for j, size in enumerate(after) if size == before[at] and math.prod(after[:j]) == lead]
        return fits[0] if fits else None
    return None


def units_last(value: Array, axis: Axis, size: int) -> Float[Array, "positions units"]:
    """A value with its units last, and all its positions in a row."""
    return jnp.moveaxis(take_units(value, axis, size), -2, -1).reshape(-1, size)


@eqx.filter_jit
def _read(taps: UnitTaps, network: Network, inputs: Array):
    leaves = list(named_arrays(network).values())

    def of_example(x):
        outputs, values = evaluate(taps.closed, [*leaves, x], taps.variables)
        return outputs[0], taps.by_space(values)

    return jax.vmap(of_example)(inputs)


@eqx.filter_jit
def _slopes(taps: UnitTaps, network: Network, inputs: Array, weights: Array, directions: Array):
    leaves = list(named_arrays(network).values())
    zeros = [jnp.zeros(like.shape, like.dtype) for like in map(shape_of, taps.variables)]

    def of_example(x, weight):
        _, pull = jax.vjp(lambda nudges: evaluate(taps.closed, [*leaves, x], taps.variables, nudges)[0][0], zeros)
        return jax.vmap(lambda direction: taps.by_space(pull(weight * direction)[0]))(directions)

    pulled = jax.vmap(of_example)(inputs, weights)
    rows = {name: slopes.reshape(-1, slopes.shape[-1]) for name, slopes in pulled.items()}
    return {name: slopes.T @ slopes for name, slopes in rows.items()}
