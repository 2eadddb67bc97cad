"""The unit spaces of an arbitrary function, found in its operations."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, path_name
from lossatlas._show import shown
from lossatlas.embedding._axes import Layout
from lossatlas.embedding._axis_rules import follow
from lossatlas.embedding._axis_trace import EXTERNAL, Trace
from lossatlas.embedding._discovered import Discovered, Shape, Units, placed
from lossatlas.embedding._roles import COPIED, SHARED, Roles
from lossatlas.embedding._unit_facts import Facts, parameters_of
from lossatlas.embedding._verify_units import UNKNOWN, Verifier, impure
from lossatlas.networks import UnitSpace
from lossatlas.numerics import flat_jaxpr, literal_value


@shown
class Discovery(eqx.Module):
    """What was found in a function.

    - `network`: the function with its parameters, a network that states its unit spaces: `split`, `widen`,
      `replicate`, `match` and all other maps work on it. Parameter paths begin with `params`.
    - `spaces`: the unit spaces by name, those that are closed too (`closed` says why).

    `print(discovery)` shows them as a table.
    """

    network: Discovered

    @property
    def spaces(self) -> dict[str, UnitSpace]:
        """The unit spaces by name, in the order in which the function uses them."""
        return self.network.unit_spaces()

    def __str__(self) -> str:
        rows = [("space", "kind", "units", "shares", "written by", "read by", "closed")]
        for space in self.spaces.values():
            written, read = (
                ", ".join(dict.fromkeys(_inner(axis.path) for axis in axes)) for axes in (space.writers, space.readers)
            )
            rows.append(
                (space.name, space.kind, str(space.size), space.shares, written, read or "-", space.closed or "no")
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def discover_units(fn: Callable[[Any, Any], Any], params: PyTree, example: PyTree) -> Discovery:
    r"""Find the hidden units of any JAX function: which parameter axes write them, and which read them.

    The function is traced once and its operations are followed axis by axis. A class of parameter axes that are one
    and the same is a unit space when its units may be copied: contractions join a copied value (rows of weights,
    biases, activations) and a shared one (columns that read it, with coefficients that sum to one), nonlinear
    operations see copied ones only. Everything found is then tested on random parameters, in float64: outputs stay
    when units are exchanged, and when a unit that nothing reads is changed; outputs stay and
    $\nabla_{wide} = B \nabla_{narrow}$ when units are copied. What fails is closed, with the reason.

    **Arguments:**
    - `fn`: `fn(params, example)`, pure, any pytree of arrays out; for an Equinox module
      `lambda network, x: network(x)`.
    - `params`: any pytree; its floating-point arrays are the parameters, all else stays as it is.
    - `example`: one example (any pytree of arrays), of the shapes that the network will see.

    **Returns:**
    A [`lossatlas.embedding.Discovery`][]. A space is closed where an operation without a rule touches it (it is
    named), where something tells its units apart (a sort, a cumulative sum, a constant array), where a parameter
    both makes and reads it (tied weights), and with "width fixed in code" where the function does not trace at
    another size. `shares="equal"` where units enter a mean (LayerNorm). All branches of a `jax.lax.cond` are followed,
    and the one that the example takes is tested; what units that go through it put out at all times is not known.

    Cost: two traces, one more for each space, and four compiled programs (outputs and gradient, narrow and wide), each
    run a few times; where they find a fault, two more programs for each space.
    A function that casts to float32 is tested to the precision of float32.

    **Raises:** `InputError` for parameters without floating-point arrays, a function that fails on the example, is
    random or keeps a state, and outputs that are not finite.

    !!! example
        >>> def fn(params, x):
        ...     return params["out"] @ jnp.tanh(params["in"] @ x)
        >>> params = {"in": jnp.ones((4, 3)), "out": jnp.ones((2, 4))}
        >>> list(discover_units(fn, params, jnp.ones(3)).spaces)
        ['in']

    !!! cite
        The legal maps are those of Zhang et al. 2021, arXiv 2105.14573, carried to any architecture.
    """
    _check(fn, params)
    with jax.enable_x64(True):
        wide, rest = eqx.partition(jax.tree.map(_in_float64, params), eqx.is_inexact_array)
        example = jax.tree.map(_in_float64, example)
        closed = _traced(fn, wide, rest, example)
        found = _analyse(closed, wide)
        network = Discovered(eqx.combine(wide, rest), fn, found.spaces, found.shapes)
        spaces = _verified(network, example, _tolerance(closed))
    return Discovery(Discovered(params, fn, spaces, found.shapes))


@dataclasses.dataclass(frozen=True)
class _Found:
    spaces: tuple[UnitSpace, ...]
    shapes: tuple[tuple[str, Shape], ...]


def _check(fn: Any, params: PyTree) -> None:
    try:
        hash(fn)
    except TypeError as error:
        msg = "fn must be a plain function of (params, example); put its arrays into params: fn=lambda net, x: net(x)."
        raise InputError(msg) from error
    if not named_arrays(params):
        msg = "params hold no floating-point array; convert them with .astype(float)."
        raise InputError(msg)


def _in_float64(leaf: Any) -> Any:
    if not eqx.is_array_like(leaf) or not eqx.is_inexact_array(jnp.asarray(leaf)):
        return leaf
    array = np.asarray(leaf)
    return jnp.asarray(array, jnp.complex128 if np.iscomplexobj(array) else jnp.float64)


def _traced(fn: Any, wide: PyTree, rest: PyTree, example: PyTree) -> Any:
    def trace() -> Any:
        # A new function every time, since JAX remembers traces.
        return flat_jaxpr(lambda arrays, x: fn(eqx.combine(arrays, rest), x), wide, example)

    try:
        first, second = trace(), trace()
    except Exception as error:
        msg = (
            f"fn(params, example) fails on the example: {type(error).__name__}: {error} Give one example as fn takes "
            "it, and fn in inference mode if it has random layers."
        )
        raise InputError(msg) from error
    if _signature(first) != _signature(second):
        raise impure("The function does something else every time it is called.")
    return first


def _signature(closed: Any) -> list[Any]:
    """What two traces of a pure function have in common."""
    consts = [np.asarray(c).tobytes() if np.issubdtype(c.dtype, np.number) else None for c in closed.consts]
    steps = [
        (eqn.primitive.name, [str(literal_value(v)) for v in eqn.invars], [str(v.aval) for v in eqn.outvars])
        for eqn in closed.jaxpr.eqns
    ]
    return [consts, steps]


def _tolerance(closed: Any) -> float:
    """How far equal results may differ: by the lowest precision on the way."""
    dtypes = [var.aval.dtype for eqn in closed.jaxpr.eqns for var in eqn.outvars]
    lowest = max((float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.inexact)), default=2e-16)
    return 3e5 * lowest if lowest < 1e-10 else min(1e3 * lowest, 0.1)


def _analyse(closed: Any, wide: PyTree) -> _Found:
    """Follow the operations, colour the roles, and write spaces and parameter shapes down."""
    trace, jaxpr = Trace(), closed.jaxpr
    paths = [f"params{_dotted(path)}" for path, _ in jax.tree_util.tree_leaves_with_path(wide)]
    params = jaxpr.invars[: len(paths)]
    names = dict(zip(params, paths, strict=True))
    for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
        trace.add_constant(var, value)
    for var in jaxpr.invars:
        mark = None if var in names else EXTERNAL
        trace.write(var, [trace.atoms.axis(size, mark) for size in var.aval.shape])
    trace.from_data.update(jaxpr.invars[len(paths) :])
    follow(trace, jaxpr)
    for var in jaxpr.outvars:
        for layout in trace.read(var):
            trace.atoms.add_mark(layout, EXTERNAL)
    roles = Roles(trace, params)
    facts = Facts(trace, roles, names)
    return _written_down(trace, roles, facts, names)


def _dotted(path: tuple[Any, ...]) -> str:
    name = path_name(path)
    return name if not name or name.startswith("[") else f".{name}"


def _written_down(trace: Trace, roles: Roles, facts: Facts, names: dict[Any, str]) -> _Found:
    places: dict[int, list[tuple[Any, int, int]]] = {}
    order = {node: i for i, node in enumerate(roles.order)}
    for place in sorted(parameters_of(roles, trace, list(names)), key=lambda place: order[place[2]]):
        places.setdefault(roles.atom(place[2]), []).append(place)
    tied, summed = _tied(roles, facts, names), {found.atom: found.name for found in roles.sums}
    spaces: dict[int, UnitSpace] = {}
    for atom, touched in places.items():
        mark = trace.atoms.mark(atom)
        written = [(var, axis) for var, axis, node in touched if roles.colour[node] == COPIED]
        read = [(var, axis) for var, axis, node in touched if roles.colour[node] == SHARED]
        reason = mark.reason or tied.get(atom) or roles.conflicts.get(atom)
        if written and not read and atom in summed and atom not in tied:
            reason = reason or f"{summed[atom]} sums its units without coefficients that could be shared out"
        elif not (written and read) and not (reason and (mark.is_strong or atom in tied)):
            continue
        kind = facts.kind(atom)
        act = None if kind in ("head", "dimension", "gated", "linear", "stream") else facts.activation(atom)
        if facts.is_branched(atom):
            act = UNKNOWN
        bias = facts.bias(atom) if act is not None else None
        if act is not None and act.name == "identity" and bias is None:
            act = None
        base = _base_name(names[(written or read)[0][0]], kind)
        spaces[atom] = UnitSpace(
            base,
            trace.atoms.size((atom,)),
            kind,
            (),
            (),
            act,
            shares="equal" if atom in summed else "any",
            closed=reason,
            bias=bias,
            is_normalised=facts.is_normalised(atom),
        )
    labels = _distinct({atom: (space.name, names[(places[atom])[0][0]]) for atom, space in spaces.items()})
    shapes = tuple(
        (path, tuple(_shape_axis(trace, roles, labels, var, axis) for axis in range(len(trace.axes[var]))))
        for var, path in names.items()
    )
    sizes = {labels[atom]: space.size for atom, space in spaces.items()}
    made = [placed(dataclasses.replace(space, name=labels[atom]), shapes, sizes) for atom, space in spaces.items()]
    readers = {names[var]: var for var in names}
    made = [
        dataclasses.replace(
            space,
            readers=tuple(
                dataclasses.replace(axis, bias=held[0], feeds=held[1])
                for axis in space.readers
                for held in (facts.reader_bias(atom, readers[axis.path], axis.axis),)
            ),
        )
        for atom, space in zip(spaces, made, strict=True)
    ]
    return _Found(tuple(made), shapes)


def _tied(roles: Roles, facts: Facts, names: dict[Any, str]) -> dict[int, str]:
    """The spaces that a parameter both makes and reads."""
    found = {}
    for event in roles.sums:
        for operand in event.operands:
            source = facts.origin.get(operand)
            if source is not None and event.name in ("dot_general", "conv_general_dilated"):
                found[event.atom] = f"{_inner(names[source])} makes its units and reads them too (tied weights)"
    return found


def _inner(path: str) -> str:
    """A path as it is inside the parameters, `['a']['b'].value` as `a.b`; PyTorch and Flax put all into `params`."""
    inner = re.sub(r"\['(\w+(?:[./]\w+)*)'\]", r".\1", path.removeprefix("params")).lstrip(".")
    return inner.removesuffix(".value").removeprefix("params.") or path


def _base_name(path: str, kind: str) -> str:
    """The module that a parameter belongs to."""
    inner = _inner(path)
    base = re.sub(r"([./]\w+|\[[^][]*\])$", "", inner) or inner
    return f"{base}.heads" if kind == "head" else base


def _distinct(names: dict[int, tuple[str, str]]) -> dict[int, str]:
    """Names that tell spaces apart: the module, else the parameter, else with a number."""
    short = [name for name, _ in names.values()]
    labels: dict[int, str] = {}
    for atom, (name, path) in names.items():
        label = name if short.count(name) == 1 else _inner(path)
        number, wanted = 1, label
        while wanted in labels.values():
            number += 1
            wanted = f"{label}#{number}"
        labels[atom] = wanted
    return labels


def _shape_axis(trace: Trace, roles: Roles, labels: dict[int, str], var: Any, axis: int) -> Any:
    nodes = iter(roles.nodes((var, axis)))

    def written(layout: Layout) -> Any:
        blocks = []
        for block in trace.atoms.resolve(layout):
            factors = []
            for atom in block:
                parts = trace.atoms.parts(atom)
                if parts is not None:
                    factors.append(written(parts))
                    continue
                node = next(nodes)
                if atom in labels:
                    factors.append(Units(labels[atom], node is not None and roles.colour[node] == SHARED))
                else:
                    factors.append(trace.atoms.size((atom,)))
            blocks.append(tuple(factors))
        return tuple(blocks)

    return written(trace.axes[var][axis] or ())


def _verified(network: Discovered, example: PyTree, tolerance: float) -> tuple[UnitSpace, ...]:
    """The spaces, closed where a test fails."""
    closed = {space.name: space.closed for space in network.spaces}
    opened = tuple(dataclasses.replace(space, closed=None) for space in network.spaces)
    verifier = Verifier(Discovered(network.params, network.fn, opened, network.shapes), example, tolerance)

    def close(failing: dict[str, str]) -> list[UnitSpace]:
        closed.update({name: reason for name, reason in failing.items() if closed[name] is None})
        return [space for space in opened if closed[space.name] is None]

    left = close({})
    left = close(verifier.not_permutable(left))
    # Means over all units see each of them.
    left = close(verifier.not_maskable([space for space in left if space.shares == "any"]))
    left = close(verifier.not_resizable(left))
    left = close(verifier.not_splittable(left))
    left = close(verifier.not_even(left))
    left = close(verifier.not_reached([space for space in left if space.activation is UNKNOWN]))
    tested = verifier.with_null_units(left)
    return tuple(
        dataclasses.replace(tested.get(space.name, space), closed=closed[space.name]) for space in network.spaces
    )
