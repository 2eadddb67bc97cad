"""How each parameter enters a network: which contraction consumes it, found by following it through the jaxpr."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array, Float

from lossatlas.geometry._patches import WindowUse, window_use
from lossatlas.numerics import ClosedJaxpr, Var, flat_jaxpr, literal_value, shape_of


_UNROLL = 64
_SAME_ENTRIES = ("transpose", "reshape", "squeeze", "expand_dims", "copy", "rev")


@dataclasses.dataclass(frozen=True)
class MatrixUse:
    """A `dot_general` of a parameter with another value.

    - `other`: that value; `output`: where the cotangent of the product is read.
    - `before`: axes of `other`, positions first, then the contracted ones; `num_positions`, `num_inputs`: sizes.
    - `after`: axes of the output, positions first, then those that the parameter makes; `num_outputs`: their size.
    """

    other: Var
    output: Var
    before: tuple[int, ...]
    after: tuple[int, ...]
    num_positions: int
    num_inputs: int
    num_outputs: int

    @property
    def groups(self) -> int:
        """One: every input meets every output."""
        return 1

    def inputs(self, value: Array) -> Float[Array, "1 positions inputs"]:
        """What the parameter is contracted with."""
        return value.transpose(self.before).reshape(1, self.num_positions, self.num_inputs)

    def outputs(self, cotangent: Array) -> Float[Array, "1 positions outputs"]:
        """The slope of a prediction in what the contraction makes."""
        return cotangent.transpose(self.after).reshape(1, self.num_positions, self.num_outputs)


Use = MatrixUse | WindowUse
"""A contraction whose gradient in the parameter is the sum over positions of inputs times outputs."""


@dataclasses.dataclass(frozen=True)
class Factored:
    """A parameter whose gradient is `scale` times the sum of its uses."""

    path: str
    uses: tuple[Use, ...]
    scale: float

    @property
    def num_positions(self) -> int:
        """Of all uses together."""
        return sum(use.num_positions for use in self.uses)

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return self.uses[0].num_inputs, self.uses[0].num_outputs


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The network on one example as a flat jaxpr, and how to differentiate each parameter.

    - `paths`: of its parameters, the first variables; `factored`: those that only contractions consume.
    - `shifts`: biases by path, and the output that they are added to, row by row (one position).
    - `direct`: all others, whose gradients are formed.
    - `num_outputs`: numbers that a prediction has.
    """

    closed: ClosedJaxpr
    paths: tuple[str, ...]
    factored: tuple[Factored, ...]
    shifts: dict[str, Var]
    direct: tuple[str, ...]
    num_outputs: int

    def size(self, path: str) -> int:
        """How many numbers a parameter has."""
        return math.prod(shape_of(self.closed.jaxpr.invars[self.paths.index(path)]).shape)


def make_plan(fn: Callable[..., Array], arrays: dict[str, Array], selected: Sequence[str], example: Any) -> Plan:
    """Follow every selected parameter to what consumes it.

    **Arguments:**
    - `fn`: `fn(leaves, example)`, the prediction on one example; `arrays`: the leaves by path. `selected`: paths.

    **Returns:** the plan. A parameter is followed through transposes, reshapes and scalar factors to `dot_general` and
    `conv_general_dilated`, also several of them (weights that are shared over time); a bias to the addition behind
    one. Whatever else happens to it makes it direct.
    """
    closed = flat_jaxpr(fn, list(arrays.values()), example, unroll=_UNROLL, keep_custom_derivatives=True)
    variables = dict(zip(arrays, closed.jaxpr.invars, strict=False))
    taps = _Taps(closed)
    factored = [found for path in selected if (found := _follow(closed, taps, path, variables[path]))]
    # A bias shares the cotangents of a product with one position; behind others it costs no more when direct.
    matrices = {use.output: use for found in factored for use in found.uses if isinstance(use, MatrixUse)}
    rest = [path for path in selected if path not in {found.path for found in factored}]
    shifts = {path: tap for path in rest if (tap := _shifted(closed, taps, variables[path], matrices)) is not None}
    direct = tuple(path for path in rest if path not in shifts)
    size = sum(math.prod(shape_of(var).shape) for var in closed.jaxpr.outvars if isinstance(var, Var))
    return Plan(closed, tuple(arrays), tuple(factored), shifts, direct, size)


def layer_of(path: str) -> str:
    """The layer that a parameter belongs to: its path without the last name."""
    name = match[1] if (match := re.fullmatch(r".*\['([^']+)'\]", path)) and "." in match[1] else path
    return name.rpartition(".")[0] or name


class _Taps:
    """Where the cotangent of a value is read: behind the additions that leave it as it is."""

    def __init__(self, closed: ClosedJaxpr):
        self.uses: dict[Var, list[Any]] = defaultdict(list)
        self.counts: Counter[Var] = Counter(var for var in closed.jaxpr.outvars if isinstance(var, Var))
        for eqn in closed.jaxpr.eqns:
            for atom in eqn.invars:
                if isinstance(atom, Var):
                    self.uses[atom].append(eqn)
                    self.counts[atom] += 1

    def __call__(self, var: Var) -> Var:
        while self.counts[var] == 1 and self.uses[var]:
            (eqn,) = self.uses[var]
            name = eqn.primitive.name
            if name not in ("add", "add_any") and not (name == "sub" and eqn.invars[0] is var):
                break
            (out,) = eqn.outvars
            if shape_of(out) != shape_of(var):
                break
            var = out
        return var


def _follow(closed: ClosedJaxpr, taps: _Taps, path: str, var: Var) -> Factored | None:
    """The contractions that consume a parameter; None where something else does."""
    views: dict[Var, tuple[tuple[str, ...], float]] = {var: ((), 1.0)}
    uses: list[Use] = []
    seen: set[tuple[tuple[str, ...], float, str]] = set()
    for eqn in closed.jaxpr.eqns:
        positions = [i for i, atom in enumerate(eqn.invars) if isinstance(atom, Var) and atom in views]
        if not positions:
            continue
        if len(positions) > 1:
            return None
        (position,) = positions
        steps, scale = views[eqn.invars[position]]
        if (moved := _moved(eqn, position)) is not None:
            views[eqn.outvars[0]] = ((*steps, moved[0]), scale * moved[1])
            continue
        use = _use(eqn, position, taps)
        if use is None:
            return None
        uses.append(use)
        # Gradients of several uses add up entry by entry only where the parameter lies alike in all of them.
        axes = eqn.params["dimension_numbers"]
        seen.add((steps, scale, f"{position} {axes}"))
    if not uses or len(seen) > 1:
        return None
    return Factored(path, tuple(uses), seen.pop()[1])


def _moved(eqn: Any, position: int) -> tuple[str, float] | None:
    """An operation that keeps the entries of its operand up to order and a factor: what it does, and the factor."""
    name, (out, *_) = eqn.primitive.name, eqn.outvars
    before = shape_of(eqn.invars[position])
    if name in _SAME_ENTRIES or (name == "broadcast_in_dim" and out.aval.size == math.prod(before.shape)):
        return f"{name} {eqn.params}", 1.0
    if name == "convert_element_type" and out.aval.dtype == before.dtype:
        return name, 1.0
    if name == "neg":
        return name, -1.0
    if name == "mul" and (factor := literal_value(eqn.invars[1 - position])) is not None:
        return name, float(factor)
    if name == "div" and position == 0 and (factor := literal_value(eqn.invars[1])) is not None:
        return name, 1 / float(factor)
    return None


def _use(eqn: Any, position: int, taps: _Taps) -> Use | None:
    name = eqn.primitive.name
    if name == "conv_general_dilated" and position == 1:
        return window_use(eqn, taps(eqn.outvars[0]))
    if name != "dot_general" or not isinstance(eqn.invars[1 - position], Var):
        return None
    contracted, batch = eqn.params["dimension_numbers"]
    if batch[0]:
        return None
    other, out = eqn.invars[1 - position], eqn.outvars[0]
    shape, made = shape_of(other).shape, shape_of(out).shape
    summed = tuple(contracted[1 - position])
    free = tuple(axis for axis in range(len(shape)) if axis not in summed)
    # The free axes of the left operand come first in the output.
    first = len(free) if position == 1 else len(made) - len(free)
    left, right = tuple(range(first)), tuple(range(first, len(made)))
    positions, outputs = (left, right) if position == 1 else (right, left)
    return MatrixUse(
        other=other,
        output=taps(out),
        before=(*free, *summed),
        after=(*positions, *outputs),
        num_positions=math.prod(shape[axis] for axis in free),
        num_inputs=math.prod(shape[axis] for axis in summed),
        num_outputs=math.prod(made[axis] for axis in outputs),
    )


def _shifted(closed: ClosedJaxpr, taps: _Taps, var: Var, matrices: dict[Var, MatrixUse]) -> Var | None:
    """The product of one position that a bias is added to, entry by entry."""
    views = {var}
    found: Var | None = None
    for eqn in closed.jaxpr.eqns:
        mine = [atom for atom in eqn.invars if isinstance(atom, Var) and atom in views]
        if not mine:
            continue
        (out, *_) = eqn.outvars
        if (moved := _moved(eqn, eqn.invars.index(mine[0]))) is not None and moved[1] == 1.0:
            views.add(out)
            continue
        if eqn.primitive.name not in ("add", "add_any") or len(mine) > 1 or found is not None:
            return None
        use = matrices.get(taps(out))
        if use is None or use.num_positions > 1 or shape_of(mine[0]).shape != shape_of(out).shape:
            return None
        found = taps(out)
    return found
