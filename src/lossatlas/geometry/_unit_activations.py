"""Where the units of a space bend: what their writers put out, and the function of it that goes on to the readers."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.geometry._unit_outputs import UnitTaps, batch_rows, moved_axis, units_last
from lossatlas.networks import Axis, UnitSpace, take_units
from lossatlas.numerics import Var, evaluate, literal_value, shape_of


_REASONS = {
    "head": "a head mixes positions, so it is no function of what writes it at one of them",
    "dimension": "queries, keys and values are mixed over positions before they are read",
    "stream": "a stream is a sum that all blocks share; it has no activation of its own",
    "gated": "a gated unit is a product of two values, not a function of one",
    "linear": "linear units have no activation",
}
_ADD = {"add", "sub", "add_any"}
_KEEP = {"neg", "convert_element_type", "copy", "stop_gradient"}
_BENDING = (
    "abs acos acosh and asin asinh atan atan2 atanh cbrt ceil clamp cos cosh div eq erf erfc exp exp2 expm1 floor "
    "ge gt integer_pow is_finite le log log1p logistic lt max min mul ne nextafter not or pow rem round rsqrt select_n "
    "sign sin sinh sqrt square tan tanh xor"
)
_ELEMENTWISE = frozenset([*_BENDING.split(), *_ADD, *_KEEP])


class Kernel(NamedTuple):
    """A contraction that writes units: its value, and the axis of the parameter that makes it."""

    var: Var
    axis: Axis


class Stage(NamedTuple):
    """One place where a space bends.

    - `before`: the pre-activation, what the writers put out; `after`: the function of it, entry by entry, that is read
      (or pooled, and then read). The same variable where nothing bends. `axis`: where the units lie in both.
    - `kernels`: the contractions whose sum, up to an affine map of every unit, is `before`.
    """

    before: Var
    after: Var
    axis: Axis
    kernels: tuple[Kernel, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class UnitStages:
    """Where the spaces of a network bend: by space its stages; for the others, why they have none."""

    taps: UnitTaps
    stages: dict[str, tuple[Stage, ...]]
    missing: dict[str, str]

    @property
    def variables(self) -> list[Var]:
        """All values before and after, each once."""
        pairs = [(stage.before, stage.after) for stages in self.stages.values() for stage in stages]
        return list(dict.fromkeys(var for pair in pairs for var in pair))


@dataclasses.dataclass(frozen=True)
class _State:
    """What is known of a value: the sum of contractions it comes from, and whether only affinely so."""

    root: Var
    axis: Axis
    kernels: tuple[Kernel, ...]
    is_affine: bool


class _LostError(Exception):
    """A space whose bending cannot be found."""


def find_stages(taps: UnitTaps, network: Network) -> UnitStages:
    """Find the pre-activation and the activation of every space, by following its writers through the jaxpr.

    A value is a pre-activation as long as it is an affine map, unit by unit, of the sum of what the writers contract:
    biases and normalisations by running statistics belong to it. Streams, heads and gated units have none.
    """
    closed, paths = taps.closed, list(named_arrays(network))
    variables = dict(zip(paths, closed.jaxpr.invars, strict=False))
    from_data = _from_data(closed, closed.jaxpr.invars[len(paths) :])
    found: dict[str, tuple[Stage, ...]] = {}
    missing: dict[str, str] = {}
    for name, space in taps.spaces.items():
        if space.kind in _REASONS:
            missing[name] = _REASONS[space.kind]
            continue
        try:
            found[name] = _stages(closed, variables, from_data, space)
        except _LostError as error:
            missing[name] = str(error)
    return UnitStages(taps, found, missing)


def stage_batches(
    stages: UnitStages, network: Network, inputs: Float[Array, "n ..."]
) -> Iterator[dict[str, tuple[Float[np.ndarray, "rows units"], Float[np.ndarray, "rows units"]]]]:
    """Pre-activations and activations by space, batch after batch; positions and stages are rows."""
    rows = batch_rows(stages.variables)
    for start in range(0, len(inputs), rows):
        # The last batch is filled up, so that one program serves all.
        index = np.minimum(np.arange(start, start + rows), len(inputs) - 1)
        seen = _read(stages, network, inputs[index[: max(1, min(rows, len(inputs)))]])
        kept = min(rows, len(inputs) - start)
        yield {name: (_as_rows(before, kept), _as_rows(after, kept)) for name, (before, after) in seen.items()}


def _as_rows(values: Array, kept: int) -> Float[np.ndarray, "rows units"]:
    return np.asarray(values, float)[:kept].reshape(-1, values.shape[-1])


def unit_directions(stages: UnitStages, network: Network, example: Array) -> dict[str, Float[np.ndarray, "m d"]]:
    """By space, the affine map to each unit's pre-activation as a row: its weights, then its constant.

    Normalisations by running statistics are multiplied in, so that rows of one direction bend at the same place.
    """
    arrays = named_arrays(network)
    rows = {}
    for name, found in stages.stages.items():
        stage = max(found, key=lambda stage: len(stage.kernels))  # a recurrence has no state to read at first
        size = stages.taps.spaces[name].size
        slopes, constant = (np.asarray(a, float) for a in _affine_map(stages, network, example, stage, size))
        parts = []
        for kernel, slope in zip(stage.kernels, slopes, strict=True):
            block = np.asarray(take_units(arrays[kernel.axis.path], kernel.axis, size), float)
            parts.append(slope[:, None] * np.moveaxis(block, -2, 0).reshape(size, -1))
        has_constant = bool(np.abs(constant).max(initial=0.0) > 0) or _has_constant(stages.taps.spaces[name], stage)
        rows[name] = np.concatenate([*parts, constant[:, None]] if has_constant else parts, axis=1)
    return rows


def _has_constant(space: UnitSpace, stage: Stage) -> bool:
    return len(space.writers) > len(stage.kernels)


def _from_data(closed: Any, inputs: list[Var]) -> set[Var]:
    reached = set(inputs)
    for eqn in closed.jaxpr.eqns:
        if any(literal_value(v) is None and v in reached for v in eqn.invars):
            reached.update(eqn.outvars)
    return reached


def _stages(closed: Any, variables: dict[str, Var], from_data: set[Var], space: UnitSpace) -> tuple[Stage, ...]:
    places = {variables[axis.path]: (axis, axis.axis) for axis in space.writers}
    states: dict[Var, _State] = {}
    users: dict[Var, list[Any]] = {}
    for eqn in closed.jaxpr.eqns:
        operands = [v for v in eqn.invars if literal_value(v) is None]
        for var in dict.fromkeys(v for v in operands if v in states):
            users.setdefault(var, []).append(eqn)
        for position, var in enumerate(eqn.invars):
            if literal_value(var) is None and var in places:
                _follow_writer(eqn, position, places, states, from_data)
        if eqn.outvars[0] not in states and any(v in states for v in operands):
            state = _after(eqn, operands, states, from_data)
            if state is not None:
                states[eqn.outvars[0]] = state
    outputs = {v for v in closed.jaxpr.outvars if literal_value(v) is None}
    made = []
    for root in dict.fromkeys(state.root for state in states.values() if state.is_affine):
        stage = _stage(root, states, users, outputs)
        if stage is not None:
            made.append(stage)
    if not made:
        msg = "what its readers read is no function, entry by entry, of what its writers put out"
        raise _LostError(msg)
    return tuple(made)


def _follow_writer(
    eqn: Any, position: int, places: dict[Var, tuple[Axis, int]], states: dict[Var, _State], from_data: set[Var]
) -> None:
    """Note where a writer contracts data, or where its units go."""
    (axis, here), out = places[eqn.invars[position]], eqn.outvars[0]
    if out in from_data:
        at = _written_at(eqn, position, here)
        if at is not None:
            states[out] = _State(out, dataclasses.replace(axis, axis=at), (Kernel(out, axis),), is_affine=True)
        return
    moved = moved_axis(eqn, position, here)
    if moved is not None:
        places[out] = axis, moved


def _written_at(eqn: Any, position: int, at: int) -> int | None:
    """Which axis of a product a free axis of one operand becomes."""
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        contracted, batch = params["dimension_numbers"]
        if at in contracted[position] or at in batch[position]:
            return None
        free = [
            [i for i in range(len(eqn.invars[side].aval.shape)) if i not in (*contracted[side], *batch[side])]
            for side in (0, 1)
        ]
        return len(batch[0]) + (len(free[0]) if position else 0) + free[position].index(at)
    if name == "conv_general_dilated" and position == 1 and params["feature_group_count"] == 1:
        numbers = params["dimension_numbers"]
        return numbers.out_spec[1] if at == numbers.rhs_spec[0] else None
    return None


def _after(eqn: Any, operands: list[Var], states: dict[Var, _State], from_data: set[Var]) -> _State | None:
    """What an operation makes of values that are known; None where it is no function of them entry by entry."""
    name = eqn.primitive.name
    data = [v for v in operands if v in from_data]
    if any(v not in states for v in data):
        return None
    known = [states[v] for v in data]
    first = known[0]
    if len(data) == 1 and name not in _ELEMENTWISE:
        at = _kept_axis(eqn, first.axis.axis)
        if at is None or not first.is_affine:
            return None
        # Slices, such as the steps of a recurrence, bend apart from each other.
        root = eqn.outvars[0] if name == "slice" else first.root
        return _State(root, dataclasses.replace(first.axis, axis=at), first.kernels, is_affine=True)
    if name not in _ELEMENTWISE:
        return None
    is_same_place = all(_place(state.axis) == _place(first.axis) for state in known)
    if name in _ADD and is_same_place and all(state.is_affine for state in known):
        if len({state.root for state in known}) == 1:
            return first
        kernels = tuple(dict.fromkeys(kernel for state in known for kernel in state.kernels))
        return _State(eqn.outvars[0], first.axis, kernels, is_affine=True)
    if len({state.root for state in known}) > 1 or not is_same_place:
        return None
    is_scaled = len(data) == 1 and (name == "mul" or (name == "div" and eqn.invars[0] is data[0]))
    is_affine = first.is_affine and (name in _KEEP or is_scaled)
    return dataclasses.replace(first, is_affine=is_affine)


def _place(axis: Axis) -> tuple[int, int, int, int]:
    return axis.axis, axis.outer, axis.inner, axis.offset


def _kept_axis(eqn: Any, at: int) -> int | None:
    """Where the units lie after an operation that moves values, or drops some of those at other positions."""
    if eqn.primitive.name == "slice":
        before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
        return at if before[at] == after[at] else None
    return moved_axis(eqn, 0, at)


def _stage(root: Var, states: dict[Var, _State], users: dict[Var, list[Any]], outputs: set[Var]) -> Stage | None:
    """The stage of one sum of contractions; None where it only goes into another sum."""
    before, kernels = root, states[root].kernels
    while True:
        here = users.get(before, [])
        made = [states.get(eqn.outvars[0]) for eqn in here]
        if before in outputs or any(state is None for state in made):
            break
        if len(here) != 1 or made[0] is None or not made[0].is_affine:
            break
        if made[0].root is not root:
            return None
        before = here[0].outvars[0]
    of_root = [var for var, state in states.items() if state.root is root and not state.is_affine]
    read = [var for var in of_root if _is_read(var, root, states, users, outputs)]
    if not read:
        if any(states[eqn.outvars[0]].root is not root for eqn in users.get(before, []) if eqn.outvars[0] in states):
            return None  # each of several slices goes into a sum of its own
        return Stage(before, before, states[before].axis, kernels)
    if len(read) > 1 or shape_of(read[0]).shape != shape_of(before).shape:
        msg = "more than one function of its pre-activation is read"
        raise _LostError(msg)
    return Stage(before, read[0], states[before].axis, kernels)


def _is_read(var: Var, root: Var, states: dict[Var, _State], users: dict[Var, list[Any]], outputs: set[Var]) -> bool:
    """Whether something else than a further function of the same pre-activation uses a value."""
    used = [states.get(eqn.outvars[0]) for eqn in users.get(var, [])]
    return var in outputs or any(state is None or state.root is not root for state in used)


@eqx.filter_jit
def _read(stages: UnitStages, network: Network, inputs: Array):
    leaves = list(named_arrays(network).values())

    def of_example(x):
        _, values = evaluate(stages.taps.closed, [*leaves, x], stages.variables)
        seen = dict(zip(stages.variables, values, strict=True))
        sizes = {name: stages.taps.spaces[name].size for name in stages.stages}
        return {
            name: tuple(
                jnp.concatenate([units_last(seen[var], stage.axis, sizes[name]) for stage, var in pairs])
                for pairs in ([(s, s.before) for s in found], [(s, s.after) for s in found])
            )
            for name, found in stages.stages.items()
        }

    return jax.vmap(of_example)(inputs)


@eqx.filter_jit
def _affine_map(stages: UnitStages, network: Network, example: Array, stage: Stage, size: int):
    """The slope of `before` in every kernel, and the constant, unit by unit, at the first position."""
    leaves = [*named_arrays(network).values(), example]

    def first(values: list[float]):
        changes = {kernel.var: _filled(value) for kernel, value in zip(stage.kernels, values, strict=True)}
        _, (before,) = evaluate(stages.taps.closed, leaves, [stage.before], changes=changes)
        return units_last(before, stage.axis, size)[0]

    constant = first([0.0] * len(stage.kernels))
    alone = np.eye(len(stage.kernels))
    return jnp.stack([first(list(row)) - constant for row in alone]), constant


def _filled(value: float):
    return lambda old, _: jnp.full_like(old, value)
