"""What every operation does to the axes of its operands: one rule for each, and one for all unknown ones."""

import functools as ft
from collections.abc import Callable
from typing import Any

from lossatlas.embedding._axes import Axes, Mark
from lossatlas.embedding._axis_trace import EXTERNAL, Trace
from lossatlas.embedding._shape_rules import (
    broadcast,
    concatenate,
    dynamic_slice,
    gather,
    pad,
    positions,
    reshape,
    slice_,
    split,
    squeeze,
    stack,
    tile,
    transpose,
)
from lossatlas.embedding._update_rules import dynamic_update_slice, scatter
from lossatlas.numerics import flat_body, literal_value


Rule = Callable[[Trace, Any], None]

_LINEAR = "neg copy copy_p convert_element_type stop_gradient reduce_precision real imag name device_put"
_NONLINEAR = (
    "tanh logistic exp exp2 log log1p expm1 sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh erf erfc "
    "erf_inv sqrt rsqrt cbrt abs sign floor ceil round is_finite integer_pow pow square max min rem clamp eq ne lt le "
    "gt ge eq_to le_to lt_to and or xor not lgamma digamma nextafter population_count shift_left shift_right_logical "
    "shift_right_arithmetic"
)
NONLINEAR = frozenset(_NONLINEAR.split())
ELEMENTWISE = frozenset([*_LINEAR.split(), *NONLINEAR, "add", "sub", "add_any", "mul", "div", "select_n"])
"""Operations that treat every entry alike."""


def follow(trace: Trace, jaxpr: Any, *, in_scan: bool = False) -> None:
    """Go through the operations of a flat jaxpr whose variables have their axes."""
    for eqn in jaxpr.eqns:
        if any(trace.is_from_data(operand) for operand in eqn.invars):
            trace.from_data.update(eqn.outvars)
        RULES.get(eqn.primitive.name, unknown)(trace, eqn)
        if eqn.primitive.name != "scan":
            trace.eqns.append(eqn)
            if in_scan:
                trace.in_scan.add(id(eqn))


def unknown(trace: Trace, eqn: Any) -> None:
    """An operation without a rule closes every axis that it touches and makes."""
    reason = f"the operation {eqn.primitive.name} is unknown to discovery"
    layouts = [layout for operand in eqn.invars for layout in trace.read(operand)]
    marks = [trace.atoms.mark(atom) for layout in layouts for atom in trace.atoms.leaves(layout)]
    is_hidden = not all(mark.is_external for mark in marks)
    mark = Mark(reason=reason, is_strong=is_hidden)
    for layout in layouts:
        trace.atoms.add_mark(layout, mark)
    made = mark if is_hidden or not marks else EXTERNAL
    for var in eqn.outvars:
        trace.write(var, [trace.atoms.axis(n, made) for n in var.aval.shape])
        trace.link_copied(var)


def _elementwise(trace: Trace, eqn: Any, kind: str = "copied", among: list[Any] | None = None) -> None:
    """One axis of the result is that axis of every operand which does not broadcast."""
    operands: list[Any] = eqn.invars if among is None else among
    (out,) = eqn.outvars
    name, axes = eqn.primitive.name, []
    for axis, size in enumerate(out.aval.shape):
        full = [v for v in operands if len(v.aval.shape) > axis and v.aval.shape[axis] == size]
        axes.append(trace.unify([trace.read(v)[axis] for v in full], name))
    trace.write(out, axes)
    for axis in range(len(axes)):
        carriers = [(v, axis) for v in operands if _carries(trace, v, axis, out)]
        others = [v for v in operands if not _carries(trace, v, axis, out)]
        # What is the same for all units, and added, goes through copied units only.
        offset = kind == "equal" and any(not trace.is_zero(v) for v in others)
        trace.link("copied" if offset else kind, carriers, [(out, axis)], name)
    if operands and all(trace.is_zero(v) for v in operands) and kind in ("equal", "product"):
        trace.zeros.add(out)


def _carries(trace: Trace, operand: Any, axis: int, out: Any) -> bool:
    shape = operand.aval.shape
    return len(shape) > axis and shape[axis] == out.aval.shape[axis] and trace.has_units(operand, axis)


def _linear(trace: Trace, eqn: Any) -> None:
    _elementwise(trace, eqn, "equal")


def _divide(trace: Trace, eqn: Any) -> None:
    _elementwise(trace, eqn, "product")
    (out,) = eqn.outvars
    over, under = eqn.invars
    for axis in range(len(out.aval.shape)):
        if _carries(trace, under, axis, out):
            trace.link("copied", [(under, axis)], [], "div")
            if not _carries(trace, over, axis, out):
                trace.link("copied", [], [(out, axis)], "div")


def _select(trace: Trace, eqn: Any) -> None:
    """Cases are told apart by a predicate, and else added up."""
    chooser, *cases = eqn.invars
    (out,) = eqn.outvars
    _elementwise(trace, eqn, "equal", cases)
    if chooser.aval.shape != out.aval.shape:
        return
    for axis, layout in enumerate(trace.read(out)):
        trace.axes[out][axis] = trace.unify([layout, trace.read(chooser)[axis]], "select_n")
        is_made = layout is None and trace.has_units(chooser, axis)
        trace.link("copied", [(chooser, axis)], [(out, axis)] if is_made else [], "select_n")


def _barrier(trace: Trace, eqn: Any) -> None:
    """Values go through unchanged."""
    for operand, out in zip(eqn.invars, eqn.outvars, strict=True):
        trace.write(out, list(trace.read(operand)))
        for axis in range(len(out.aval.shape)):
            trace.link("equal", [(operand, axis)], [(out, axis)], "optimization_barrier")
        if trace.is_zero(operand):
            trace.zeros.add(out)


def _fourier(trace: Trace, eqn: Any) -> None:
    """The last axes are mixed; along the others it is linear."""
    (operand,), (out,) = eqn.invars, eqn.outvars
    num_kept = len(out.aval.shape) - len(eqn.params["fft_lengths"])
    given = trace.read(operand)
    mixed = [positions(trace, operand, axis, out.aval.shape[axis], "fft") for axis in range(num_kept, len(given))]
    trace.write(out, [*given[:num_kept], *mixed])
    for axis in range(num_kept):
        trace.link("equal", [(operand, axis)], [(out, axis)], "fft")


def _top_k(trace: Trace, eqn: Any) -> None:
    """The largest entries along one axis, and their numbers."""
    (operand,), along = eqn.invars, eqn.params["axis"]
    for out in eqn.outvars:
        axes = list(trace.read(operand))
        axes[along] = positions(trace, operand, along, out.aval.shape[along], "top_k")
        trace.write(out, axes)
        for axis in range(len(axes)):
            if axis != along:
                trace.link("copied", [(operand, axis)], [(out, axis)], "top_k")


def _iota(trace: Trace, eqn: Any) -> None:
    (out,) = eqn.outvars
    axes: Axes = [None] * len(out.aval.shape)
    along = eqn.params["dimension"]
    mark = Mark(reason="the function counts along it (iota), so its units are not alike")
    axes[along] = trace.atoms.axis(out.aval.shape[along], mark)
    trace.write(out, axes)
    trace.link_copied(out)


def _dot_general(trace: Trace, eqn: Any) -> None:
    left, right = eqn.invars
    (out,) = eqn.outvars
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    axes: Axes = []
    links = []
    for i, j in zip(left_batch, right_batch, strict=True):
        links.append(("product", [(left, i), (right, j)], [(out, len(axes))]))
        axes.append(trace.unify([trace.read(left)[i], trace.read(right)[j]], "dot_general"))
    for operand, taken in ((left, (*left_sum, *left_batch)), (right, (*right_sum, *right_batch))):
        for axis, layout in enumerate(trace.read(operand)):
            if axis not in taken:
                links.append(("equal", [(operand, axis)], [(out, len(axes))]))
                axes.append(layout)
    for i, j in zip(left_sum, right_sum, strict=True):
        _contract(trace, (left, i), (right, j), "dot_general")
    trace.write(out, axes)
    for kind, ins, outs in links:
        trace.link(kind, ins, outs, "dot_general")


def _contract(trace: Trace, first: Any, second: Any, name: str) -> None:
    """A sum over an axis of two operands; one that is constant along it leaves a sum of the other."""
    layouts = [trace.read(v)[axis] for v, axis in (first, second)]
    trace.unify(layouts, name)
    full = [place for place, layout in zip((first, second), layouts, strict=True) if layout is not None]
    trace.link("contract" if len(full) == 2 else "sum", full, [], name)


def _convolution(trace: Trace, eqn: Any) -> None:
    params, (image, kernel), (out,) = eqn.params, eqn.invars, eqn.outvars
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1 or (groups > 1 and trace.read(image)[numbers.lhs_spec[1]] is None):
        unknown(trace, eqn)
        return
    (i_batch, i_feature, *i_places) = numbers.lhs_spec
    (k_out, k_in, *k_places) = numbers.rhs_spec
    (o_batch, o_feature, *o_places) = numbers.out_spec
    axes: Axes = [None] * len(out.aval.shape)
    axes[o_batch] = trace.read(image)[i_batch]
    name = "conv_general_dilated"
    for at, (i, k, o) in enumerate(zip(i_places, k_places, o_places, strict=True)):
        plain = kernel.aval.shape[k] == 1 and params["window_strides"][at] == 1 and params["lhs_dilation"][at] == 1
        if plain and tuple(params["padding"][at]) == (0, 0):
            axes[o] = trace.read(image)[i]
        else:
            axes[o] = positions(trace, image, i, out.aval.shape[o], "a convolution")
        trace.atoms.add_mark(trace.read(kernel)[k], EXTERNAL)
    filters, entering = trace.materialised(kernel, k_out), trace.materialised(kernel, k_in)
    axes[o_feature] = filters
    group = trace.atoms.fresh(groups)
    if groups == 1:
        _contract(trace, (image, i_feature), (kernel, k_in), name)
    else:
        each = trace.atoms.fresh(kernel.aval.shape[k_out] // groups)
        trace.unify([filters, ((group, each),)], name)
        trace.unify([trace.read(image)[i_feature], ((group, *trace.atoms.as_factors(entering)),)], name)
    trace.write(out, axes)
    trace.link("equal", [(image, i_batch)], [(out, o_batch)], name)
    for i, o in zip(i_places, o_places, strict=True):
        if axes[o] is trace.read(image)[i]:
            trace.link("equal", [(image, i)], [(out, o)], name)
    if groups == 1:
        trace.link("equal", [(kernel, k_out)], [(out, o_feature)], name)
        return
    ins = [(image, i_feature), (kernel, k_out), (kernel, k_in)]
    trace.link("grouped", ins, [(out, o_feature)], name, ((group,),))


def _reduce(trace: Trace, eqn: Any, kind: str = "copied") -> None:
    name, taken = eqn.primitive.name, [int(axis) for axis in eqn.params["axes"]]
    mark = Mark(reason=f"{name} is taken over its units", is_strong=True)
    for operand, out in zip(eqn.invars, eqn.outvars, strict=True):
        given = trace.read(operand)
        kept = [axis for axis in range(len(given)) if axis not in taken]
        trace.write(out, [given[axis] for axis in kept])
        for target, source in enumerate(kept):
            trace.link(kind, [(operand, source)], [(out, target)], name)
        for axis in taken:
            if kind == "equal":
                trace.link("sum", [(operand, axis)], [], name)
            else:
                trace.atoms.add_mark(given[axis], mark)


def _along(trace: Trace, eqn: Any, *, parameter: str) -> None:
    """The same shape; the entries along one axis are told apart."""
    name = eqn.primitive.name
    along = eqn.params[parameter]
    taken = along if isinstance(along, tuple) else (along,)
    mark = Mark(reason=f"{name} runs over its units", is_strong=True)
    for operand, out in zip(eqn.invars, eqn.outvars, strict=True):
        given = trace.read(operand)
        trace.write(out, list(given))
        for axis in range(len(given)):
            trace.link("copied", [(operand, axis)], [(out, axis)], name)
            if axis in taken:
                trace.atoms.add_mark(given[axis], mark)


def _window(trace: Trace, eqn: Any, kind: str = "copied") -> None:
    params, operand, (out,) = eqn.params, eqn.invars[0], eqn.outvars
    name, axes = eqn.primitive.name, []
    for axis, layout in enumerate(trace.read(operand)):
        plain = params["window_dimensions"][axis] == 1 and params["window_strides"][axis] == 1
        plain = plain and tuple(params["padding"][axis]) == (0, 0) and params["base_dilation"][axis] == 1
        axes.append(layout if plain else positions(trace, operand, axis, out.aval.shape[axis], name))
    trace.write(out, axes)
    for axis, layout in enumerate(trace.read(operand)):
        if axes[axis] is layout:
            trace.link(kind, [(operand, axis)], [(out, axis)], name)


def _scan(trace: Trace, eqn: Any) -> None:
    """The body once: its carry is what enters, what it returns and what leaves."""
    body = flat_body(eqn.params["jaxpr"])
    num_consts, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
    consts, starts = eqn.invars[:num_consts], eqn.invars[num_consts : num_consts + num_carry]
    stacked = eqn.invars[num_consts + num_carry :]
    inner = body.jaxpr.invars
    for var, value in zip(body.jaxpr.constvars, body.consts, strict=True):
        trace.add_constant(var, value)
    for var, outer in zip(inner, consts, strict=False):
        _enter(trace, var, outer, trace.read(outer), range(len(var.aval.shape)))
    carried = inner[num_consts : num_consts + num_carry]
    for var, start in zip(carried, starts, strict=True):
        axes: Axes = [trace.materialised(start, axis) for axis in range(len(var.aval.shape))]
        _enter(trace, var, start, axes, range(len(axes)))
        trace.zeros.discard(var)
        for axis in range(len(axes)):
            if trace.read(start)[axis] is None and not trace.is_zero(start):
                trace.link("copied", [(var, axis)], [], "scan")
    along = None
    for var, outer in zip(inner[num_consts + num_carry :], stacked, strict=True):
        first, *rest = trace.read(outer)
        trace.atoms.add_mark(first, Mark(reason="scan goes along it"))
        along = first if along is None else trace.unify([along, first], "scan")
        _enter(trace, var, outer, rest, range(1, len(rest) + 1))
    follow(trace, body.jaxpr, in_scan=True)
    results = body.jaxpr.outvars
    for result, out in zip(results, eqn.outvars, strict=True):
        if literal_value(result) is None:
            trace.same.setdefault(out, []).append(result)
    for var, result, out in zip(carried, results[:num_carry], eqn.outvars[:num_carry], strict=True):
        given = trace.read(result)
        trace.same[var] = [*trace.same.get(var, []), *([] if literal_value(result) is not None else [result])]
        trace.write(out, list(trace.axes[var]))
        for axis, layout in enumerate(given):
            trace.unify([trace.axes[var][axis], layout], "scan")
            trace.link("equal", [(result, axis), (var, axis)], [(out, axis)], "scan")
            if layout is None and not trace.is_zero(result):
                trace.link("copied", [(var, axis)], [], "scan")
    for result, out in zip(results[num_carry:], eqn.outvars[num_carry:], strict=True):
        length = trace.atoms.axis(eqn.params["length"], EXTERNAL) if along is None else along
        trace.write(out, [length, *trace.read(result)])
        for axis in range(len(result.aval.shape)):
            trace.link("equal", [(result, axis)], [(out, axis + 1)], "scan")


def _cond(trace: Trace, eqn: Any) -> None:
    """Every branch; what they put out is one and the same."""
    operands, results = eqn.invars[1:], []
    for branch in eqn.params["branches"]:
        body = flat_body(branch)
        for var, value in zip(body.jaxpr.constvars, body.consts, strict=True):
            trace.add_constant(var, value)
        for var, outer in zip(body.jaxpr.invars, operands, strict=True):
            _enter(trace, var, outer, trace.read(outer), range(len(var.aval.shape)), "cond")
        start = len(trace.eqns)
        follow(trace, body.jaxpr, in_scan=True)
        trace.in_branch.update(id(inner) for inner in (eqn, *trace.eqns[start:]))
        results.append(body.jaxpr.outvars)
    for out, *made in zip(eqn.outvars, *results, strict=True):
        axes = [trace.unify([trace.read(v)[axis] for v in made], "cond") for axis in range(len(out.aval.shape))]
        trace.write(out, axes)
        for axis in range(len(axes)):
            trace.join("equal", [(v, axis) for v in made], (out, axis), "cond")
        if all(trace.is_zero(v) for v in made):
            trace.zeros.add(out)


def _enter(trace: Trace, var: Any, outer: Any, axes: Axes, places: range, name: str = "scan") -> None:
    trace.write(var, list(axes))
    if literal_value(outer) is None:
        trace.same.setdefault(var, []).append(outer)
    if trace.is_from_data(outer):
        trace.from_data.add(var)
    for axis, place in enumerate(places):
        trace.link("equal", [(outer, place)], [(var, axis)], name)
    if trace.is_zero(outer):
        trace.zeros.add(var)


RULES: dict[str, Rule] = {
    **dict.fromkeys(NONLINEAR, _elementwise),
    **dict.fromkeys(_LINEAR.split(), _linear),
    **dict.fromkeys(["add", "sub", "add_any"], _linear),
    "mul": ft.partial(_elementwise, kind="product"),
    "div": _divide,
    "select_n": _select,
    "broadcast_in_dim": broadcast,
    "transpose": transpose,
    "squeeze": squeeze,
    "reshape": reshape,
    "concatenate": concatenate,
    "pad": pad,
    "slice": slice_,
    "split": split,
    "dynamic_slice": dynamic_slice,
    "gather": gather,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(["scatter", "scatter-add", "scatter-mul", "scatter-min", "scatter-max"], scatter),
    "stack": stack,
    "tile": tile,
    "fft": _fourier,
    "top_k": _top_k,
    "optimization_barrier": _barrier,
    "iota": _iota,
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "reduce_sum": ft.partial(_reduce, kind="equal"),
    "psum": ft.partial(_reduce, kind="equal"),
    **dict.fromkeys(["reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"], _reduce),
    **dict.fromkeys(["argmax", "argmin"], _reduce),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], ft.partial(_along, parameter="axis")),
    "rev": ft.partial(_along, parameter="dimensions"),
    "sort": ft.partial(_along, parameter="dimension"),
    "reduce_window_sum": ft.partial(_window, kind="equal"),
    **dict.fromkeys(["reduce_window_max", "reduce_window_min", "reduce_window"], _window),
    "scan": _scan,
    "cond": _cond,
}  # fmt: skip
