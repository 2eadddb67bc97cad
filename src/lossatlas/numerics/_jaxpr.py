"""Functions as flat lists of operations. The one file that walks a jaxpr."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jaxtyping import Array


# Operations that only call another jaxpr, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",  # what checkpoint is called since JAX 0.10
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


_CUSTOM = ("custom_jvp_call", "custom_vjp_call")


def flat_jaxpr(
    fn: Callable[..., Any], *args: Any, unroll: int = 0, keep_custom_derivatives: bool = False
) -> ClosedJaxpr:
    """Trace a function, with the calls inside it (`jit`, `checkpoint`, custom derivatives) written out.

    **Arguments:**
    - `fn`, `args`: as for `jax.make_jaxpr`; the variables of the result are the leaves of the arguments, in order.
    - `unroll`: loops of a fixed number of steps (`lax.scan`) are written out up to this length.
    - `keep_custom_derivatives`: functions with derivatives of their own stay single operations, so that
      differentiating the result gives what differentiating `fn` gives (the slope of `jax.nn.relu` at 0, say).

    **Returns:** a closed jaxpr without calls. Longer scans, `while` and `cond` stay single operations.
    """
    closed = jax.make_jaxpr(fn)(*args)
    calls = {name: held for name, held in _CALLS.items() if not (keep_custom_derivatives and name in _CUSTOM)}
    flat = jax.make_jaxpr(lambda *leaves: _run(closed.jaxpr, closed.consts, leaves, unroll, {}, {}, calls))
    return flat(*jax.tree.leaves(args))


def shape_of(var: Var) -> jax.ShapeDtypeStruct:
    """Shape and type of the value of a variable."""
    aval: Any = var.aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def flat_body(body: ClosedJaxpr) -> ClosedJaxpr:
    """The body of a loop without calls; its variables are new ones at every call."""
    structs = [shape_of(var) for var in body.jaxpr.invars]
    return jax.make_jaxpr(lambda *leaves: _run(body.jaxpr, body.consts, leaves, 0, {}, {}, _CALLS))(*structs)


def literal_value(atom: Var | Literal) -> Any:
    """The value of a number written into a jaxpr; None for a variable."""
    return atom.val if isinstance(atom, Literal) else None


Change = Callable[[Array, Mapping[Var, Array]], Array]
"""What a variable holds in place of its value, from that value and those of all variables before it."""


def evaluate(
    closed: ClosedJaxpr,
    leaves: Sequence[Array],
    taps: Sequence[Var] = (),
    nudges: Sequence[Array] = (),
    changes: Mapping[Var, Change] | None = None,
) -> tuple[list[Array], list[Array]]:
    """Run a flat jaxpr and return values from within.

    **Arguments:**
    - `leaves`: the values of its variables; it runs under `jit`, `vmap` and derivatives.
    - `taps`: variables whose values are wanted too.
    - `nudges`: what is added to the taps (each of them once) before they are used: at zero, a derivative in a nudge is
      that in the variable. None by default.
    - `changes`: by variable, what stands in for its value before it is used.

    **Returns:** the outputs, and the values of the taps (nudges and changes included).
    """
    seen: dict[Var, Array] = {}
    made: dict[Var, Change] = {tap: _nudged(nudge) for tap, nudge in zip(taps, nudges, strict=False)}
    outputs = _run(closed.jaxpr, closed.consts, leaves, 0, made | dict(changes or {}), seen, {})
    return outputs, [seen[tap] for tap in taps]


def _nudged(nudge: Array) -> Change:
    return lambda value, _: value + nudge


def _run(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    leaves: Sequence[Any],
    unroll: int,
    changes: Mapping[Var, Change],
    seen: dict[Var, Any],
    calls: Mapping[str, str],
) -> list[Any]:
    """The outputs of a jaxpr; the values of its own variables are left in `seen`, the `calls` are written out."""

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else seen[atom]

    def write(var: Var, value: Any) -> None:
        seen[var] = changes[var](value, seen) if var in changes else value

    for var, value in zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *leaves), strict=True):
        write(var, value)
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in calls:
            inner = _closed(eqn.params[calls[name]])
            results = _run(inner.jaxpr, inner.consts, values, unroll, {}, {}, calls)
        elif name == "scan" and eqn.params["length"] <= unroll:
            results = _unrolled(eqn.params, values, unroll, calls)
        else:
            bound = eqn.primitive.get_bind_params(eqn.params)
            functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.10
            results = eqn.primitive.bind(*functions, *values, **params)
            results = results if eqn.primitive.multiple_results else [results]
        for var, value in zip(eqn.outvars, results, strict=True):
            write(var, value)
    return [read(atom) for atom in jaxpr.outvars]


def _unrolled(params: Mapping[str, Any], values: list[Any], unroll: int, calls: Mapping[str, str]) -> list[Any]:
    """The results of a scan, its body written out for every step."""
    body: ClosedJaxpr = params["jaxpr"]
    num_consts, num_carry, length = params["num_consts"], params["num_carry"], params["length"]
    consts, carry, stacked = (
        values[:num_consts],
        values[num_consts : num_consts + num_carry],
        values[num_consts + num_carry :],
    )
    steps = range(length)
    made: list[list[Any]] = []
    for i in reversed(steps) if params["reverse"] else steps:
        slices = [jax.lax.index_in_dim(array, i, keepdims=False) for array in stacked]
        results = _run(body.jaxpr, body.consts, [*consts, *carry, *slices], unroll, {}, {}, calls)
        carry = results[:num_carry]
        made.append(results[num_carry:])
    if params["reverse"]:
        made.reverse()
    return [*carry, *(jnp.stack(column) for column in zip(*made, strict=True))]


def _closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())
