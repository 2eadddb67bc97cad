"""What a computation tells of a unit space beside its axes: kind, activation, biases."""

import collections
import functools as ft
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas.embedding._axis_rules import ELEMENTWISE, NONLINEAR
from lossatlas.embedding._axis_trace import Trace
from lossatlas.embedding._roles import COPIED, SHARED, Roles
from lossatlas.networks import Activation, activation, activation_names
from lossatlas.numerics import literal_value


_VIEWS = {"reshape", "transpose", "squeeze", "broadcast_in_dim", "copy", "convert_element_type", "slice", "split"}
_MOVES = _VIEWS | {"stop_gradient", "concatenate", "stack", "tile", "pad", "reduce_max", "reduce_window_max"}
_MIXERS = {"dot_general", "conv_general_dilated"}
_ADDITIONS = {"add", "sub", "add_any"}
_GRID = np.concatenate([np.linspace(-4.0, 4.0, 41), [-20.0, 20.0]])


@ft.cache
def _known_values() -> dict[str, np.ndarray]:
    """What every known activation makes of the grid."""
    return {name: np.asarray(activation(name)(jnp.asarray(_GRID))) for name in activation_names()}


class Facts:
    """Answers about unit spaces, each a class of equal atoms.

    - `from_data`: variables that depend on the example. `origin`: views of one parameter to its variable.

    Cost: linear in the number of operations, and in that of the touching ones for each question.
    """

    def __init__(self, trace: Trace, roles: Roles, params: dict[Any, str]):
        self._trace, self._roles, self._params = trace, roles, params
        self.from_data = set(trace.from_data)
        self.origin: dict[Any, Any] = {var: var for var in params}
        self._from_params = set(params)
        self._number: dict[Any, float] = {}
        self._maker = {out: eqn for eqn in trace.eqns for out in eqn.outvars}
        self._users: dict[Any, list[Any]] = collections.defaultdict(list)
        self._touching: dict[int, list[Any]] = collections.defaultdict(list)
        before = -1
        while before != len(self.from_data):  # once more where a scan carries data
            before = len(self.from_data)
            for eqn in trace.eqns:
                if any(self._is_from_data(v) for v in _variables(eqn)):
                    self.from_data.update(eqn.outvars)
        for eqn in trace.eqns:
            self._note(eqn)

    def _note(self, eqn: Any) -> None:
        operands = _variables(eqn)
        if any(self._through(v) in self._from_params for v in operands):
            self._from_params.update(eqn.outvars)
        for operand in dict.fromkeys(operands):
            self._users[operand].append(eqn)
        for atom in dict.fromkeys(a for var in (*operands, *eqn.outvars) for a in self._atoms(var)):
            self._touching[atom].append(eqn)
        viewed = _viewed(eqn)
        if viewed is None and eqn.primitive.name in ELEMENTWISE:
            numbers = [self._known(v) for v in eqn.invars]
            if all(number is not None for number in numbers):  # such as the size of a window, worked out by torchax
                given = [jnp.asarray(n, v.aval.dtype) for n, v in zip(numbers, eqn.invars, strict=True)]
                made = eqn.primitive.bind(*given, **eqn.params)
                self._number.update(dict.fromkeys(eqn.outvars, float(made)))
        if viewed is None or eqn.outvars[0] in self.from_data:
            return
        number = self._known(viewed)
        if number is not None:
            self._number.update(dict.fromkeys(eqn.outvars, number))
        elif operands and self._through(operands[0]) in self.origin:
            self.origin.update(dict.fromkeys(eqn.outvars, self.origin[self._through(operands[0])]))

    def _atoms(self, var: Any) -> list[int]:
        return [atom for layout in self._trace.axes[var] for atom in self._trace.atoms.leaves(layout)]

    def _is_from_data(self, var: Any, depth: int = 0) -> bool:
        if var in self.from_data:
            return True
        sources = self._trace.same.get(var, [])
        if depth < 8 and any(self._is_from_data(source, depth + 1) for source in sources if source is not var):
            self.from_data.add(var)
            return True
        return False

    def _through(self, var: Any) -> Any:
        """The variable that a scan passes on under this name, where it is one alone."""
        while len(self._trace.same.get(var, [])) == 1:
            (var,) = self._trace.same[var]
        return var

    def _known(self, operand: Any) -> float | None:
        """The number that a value is everywhere, None where it is not known."""
        value = literal_value(operand)
        if value is None:
            return self._number.get(operand)
        return float(value) if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number) else None

    def _carries(self, operand: Any, atom: int) -> bool:
        return literal_value(operand) is None and atom in self._atoms(operand)

    def roles(self, var: Any, atom: int) -> set[int | None]:
        """The roles of a space's units in a value."""
        places = [(var, axis) for axis in range(len(self._trace.axes[var]))]
        nodes = [node for place in places for node in self._roles.nodes(place) if node is not None]
        return {self._roles.colour[node] for node in nodes if self._roles.atom(node) == atom}

    def kind(self, atom: int) -> Any:
        """The kind of a space, as in [`lossatlas.networks.UnitSpace`][]."""
        eqns = self._touching[atom]
        pairs = [eqn for eqn in eqns if len(eqn.invars) == 2 and all(v in self.from_data for v in _variables(eqn))]
        pairs = [eqn for eqn in pairs if len(_variables(eqn)) == 2]
        for eqn in pairs:
            if eqn.primitive.name == "dot_general":
                batch = eqn.params["dimension_numbers"][1]
                leaves = [self._trace.atoms.leaves(self._trace.axes[eqn.invars[0]][axis]) for axis in batch[0]]
                return "head" if any(atom in found for found in leaves) else "dimension"
        both = [eqn for eqn in pairs if all(self._carries(v, atom) for v in eqn.invars)]
        num_matrices = self._num_matrices(atom)
        joined = [eqn for eqn in both if eqn.primitive.name in _ADDITIONS]
        if num_matrices > 1 and any(len(self._users[v]) > 1 for eqn in joined for v in eqn.invars):
            return "stream"
        if any(eqn.primitive.name == "conv_general_dilated" for eqn in eqns):
            return "channel"
        if num_matrices > 1 and any(eqn.primitive.name == "mul" for eqn in both):
            return "gated"
        act = self.activation(atom)
        is_linear = act is not None and act.name == "identity" and self.bias(atom) is None and num_matrices == 1
        is_bent = any(eqn.primitive.name in NONLINEAR for eqn in eqns)
        return "linear" if is_linear and not is_bent else "neuron"

    def _num_matrices(self, atom: int) -> int:
        """How many times units are written by a matrix product or a convolution."""
        found = set()
        for eqn in self._touching[atom]:
            if eqn.primitive.name in _MIXERS and self._carries(eqn.outvars[0], atom):
                for operand in _variables(eqn):
                    source = self.origin.get(operand)
                    if source is not None and COPIED in self.roles(operand, atom):
                        axes = range(len(self._trace.axes[source]))
                        nodes = [n for axis in axes for n in self._roles.nodes((source, axis)) if n is not None]
                        found |= {n for n in nodes if self._roles.atom(n) == atom and self._roles.colour[n] == COPIED}
        return len(found)

    def is_normalised(self, atom: int) -> bool:
        """Whether something of the units is divided by a root, as normalisations do."""
        roots = [eqn for eqn in self._touching[atom] if eqn.primitive.name in ("rsqrt", "sqrt")]
        return bool(roots) or any(found.atom == atom for found in self._roles.sums)

    def is_branched(self, atom: int) -> bool:
        """Whether units go through a `cond`, of which one example shows one branch."""
        return any(id(eqn) in self._trace.in_branch for eqn in self._touching[atom])

    def preactivation(self, atom: int) -> Any:
        """The value after the last writer: what the activation is applied to. None without one."""
        found = None
        for eqn in self._touching[atom]:
            out = eqn.outvars[0]
            if out not in self.from_data or not self._carries(out, atom):
                continue
            carrying = [v for v in eqn.invars if self._carries(v, atom)]
            writes = any(not self._is_from_data(v) and self._through(v) in self._from_params for v in carrying)
            joins = eqn.primitive.name in _ADDITIONS and len(carrying) == 2
            if writes or joins:
                found = out
        return found

    def bias(self, atom: int) -> str | None:
        """The path of the parameter that is added last before the activation, None without one."""
        queue, seen = collections.deque([self.preactivation(atom)]), set()
        while queue:
            var = queue.popleft()
            if var is None or literal_value(var) is not None or var in seen:
                continue
            seen.add(var)
            source = self.origin.get(var)
            if source is not None:
                sizes = [n for n in source.aval.shape if n > 1]
                if self._carries(source, atom) and len(sizes) <= 1:
                    return self._params[source]
                continue
            eqn = self._maker.get(self._through(var))
            if eqn is None:
                queue.extend([self._through(var)] if self._through(var) is not var else [])
            elif eqn.primitive.name in ("add", "add_any"):
                queue.extend(reversed(eqn.invars))
            elif eqn.primitive.name == "sub" or _viewed(eqn) is not None:
                queue.append(eqn.invars[0] if eqn.primitive.name == "sub" else _viewed(eqn))
        return None

    def reader_bias(self, atom: int, reader: Any, axis: int) -> tuple[str | None, int]:
        """The path of a bias that is added to what a parameter reads along an axis, and the axis that both feed.

        None where zeros are padded or in a scan, where a constant is no change of a bias.
        """
        for eqn in self._touching[atom]:
            if eqn.primitive.name not in _MIXERS or id(eqn) in self._trace.in_scan:
                continue
            views = [v for v in _variables(eqn) if self.origin.get(v) is reader and SHARED in self.roles(v, atom)]
            padding = eqn.params.get("padding", ())
            if views and not any(any(pair) for pair in padding):
                return self._added_to(eqn.outvars[0], reader, axis)
        return None, 0

    def _added_to(self, var: Any, reader: Any, axis: int) -> tuple[str | None, int]:
        leaves = [self._trace.atoms.leaves(layout) for layout in self._trace.axes[reader]]
        while len(self._users[var]) == 1:
            (eqn,) = self._users[var]
            if eqn.primitive.name == "add":
                others = [self.origin.get(v) for v in eqn.invars if v is not var and literal_value(v) is None]
                if others and others[0] is not None and len(others[0].aval.shape) == 1:
                    fed = self._trace.atoms.leaves(self._trace.axes[others[0]][0])
                    along = [i for i, found in enumerate(leaves) if i != axis and found and found == fed]
                    return (self._params[others[0]], along[0]) if len(along) == 1 else (None, 0)
                return None, 0
            if _viewed(eqn) is None:
                return None, 0
            var = eqn.outvars[0]
        return None, 0

    def activation(self, atom: int) -> Activation | None:
        """What is applied between the last writer and every reader, where that is elementwise; else None.

        One of [`lossatlas.networks.activation_names`][] where the values agree on a grid.
        """
        start = self.preactivation(atom)
        if start is None:
            return None
        eqns = self._touching[atom]
        steps = list(eqns[next((i + 1 for i, eqn in enumerate(eqns) if start in eqn.outvars), 0) :])
        read = self._chain(atom, start, steps, jnp.asarray(_GRID))
        if read is None or not np.isfinite(read[0]).all() or len(read) < self._num_reads(atom):
            return None  # where the same parameters write in two places, this is one of them
        if any(not np.allclose(read[0], other, rtol=1e-12, atol=1e-12) for other in read[1:]):
            return None
        tolerance = 1e-10 if start.aval.dtype == jnp.float64 else 1e-5
        for name, values in _known_values().items():
            if np.allclose(values, read[0], rtol=tolerance, atol=tolerance):
                return activation(name)

        def elementwise(x: Array) -> Array:
            found = self._chain(atom, start, steps, x)
            assert found is not None
            return found[0]

        return activation(elementwise)

    def _num_reads(self, atom: int) -> int:
        """How many products read the units, those of recurrences aside: they read what was carried."""
        eqns = [eqn for eqn in self._touching[atom] if eqn.primitive.name in _MIXERS]
        eqns = [eqn for eqn in eqns if id(eqn) not in self._trace.in_scan]
        return sum(
            any(v not in self.from_data and SHARED in self.roles(v, atom) for v in _variables(eqn)) for eqn in eqns
        )

    def _chain(self, atom: int, start: Any, steps: list[Any], x: Array) -> list[Array] | None:
        """What the readers get when the units receive `x`, the same everywhere; None where they mix."""
        values: dict[Any, Array] = {start: x}
        read: list[Array] = []
        for eqn in steps:
            given = {v: values[self._through(v)] for v in _variables(eqn) if self._through(v) in values}
            if not given:
                continue
            made = self._step(atom, eqn, given, x)
            if made is None:
                return None
            if eqn.primitive.name in _MIXERS:
                read.append(made)
            else:
                values.update(dict.fromkeys(eqn.outvars, made))
        return read or None

    def _step(self, atom: int, eqn: Any, given: dict[Any, Array], x: Array) -> Array | None:
        name, first = eqn.primitive.name, next(iter(given.values()))
        if name in _MIXERS:
            others = [v for v in _variables(eqn) if v not in given]
            is_read = len(others) == 1 and others[0] not in self.from_data and SHARED in self.roles(others[0], atom)
            return first if is_read else None
        if name in _MOVES:  # of several values, like those of a concatenation, readers may get any
            is_whole = all(var in given or not self._carries(var, atom) for var in _variables(eqn))
            is_one = all(np.array_equal(first, other) for other in given.values())
            return first if is_whole and is_one else None
        if name == "reduce_sum":
            shape = eqn.invars[0].aval.shape
            gone = [axis for axis in eqn.params["axes"] if self._carries_at(eqn.invars[0], axis, atom)]
            return None if gone else first * math.prod(shape[axis] for axis in eqn.params["axes"])
        if name == "reduce_window_sum":
            return first * math.prod(eqn.params["window_dimensions"])
        if name not in ELEMENTWISE or any(var.aval.shape != eqn.outvars[0].aval.shape for var in given):
            return None
        operands = []
        for operand in eqn.invars:
            value = self._known(operand)
            if literal_value(operand) is None and operand in given:
                operands.append(given[operand])
            elif value is None:
                return None
            else:
                is_float = jnp.issubdtype(operand.aval.dtype, jnp.floating)
                operands.append(jnp.full(x.shape, value, x.dtype if is_float else operand.aval.dtype))
        return eqn.primitive.bind(*operands, **eqn.params)

    def _carries_at(self, var: Any, axis: int, atom: int) -> bool:
        return atom in self._trace.atoms.leaves(self._trace.axes[var][axis])


def _viewed(eqn: Any) -> Any:
    """The operand that an operation only shows in another form, None for operations that change numbers."""
    if eqn.primitive.name in _VIEWS:
        return eqn.invars[0]
    if eqn.primitive.name == "mul":  # by one, as torchax writes affine layers
        others = [v for v in eqn.invars if np.ndim(literal_value(v)) or literal_value(v) != 1]
        return others[0] if len(others) == 1 else None
    return None


def _variables(eqn: Any) -> list[Any]:
    return [operand for operand in eqn.invars if literal_value(operand) is None]


def parameters_of(roles: Roles, trace: Trace, params: list[Any]) -> Iterator[tuple[Any, int, int]]:
    """Every unit node of every parameter: variable, axis, node."""
    for var in params:
        for axis in range(len(trace.axes[var])):
            for node in roles.nodes((var, axis)):
                if node is not None:
                    yield var, axis, node
