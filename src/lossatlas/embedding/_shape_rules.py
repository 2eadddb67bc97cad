"""Operations that move entries: what becomes of the axes."""

from typing import Any

from lossatlas.embedding._axes import Axes, Mark, RegroupError
from lossatlas.embedding._axis_trace import EXTERNAL, Trace


def broadcast(trace: Trace, eqn: Any) -> None:
    """New axes, constant along them."""
    operand, (out,) = eqn.invars[0], eqn.outvars
    axes: Axes = [None] * len(out.aval.shape)
    links = []
    for source, target in enumerate(map(int, eqn.params["broadcast_dimensions"])):
        if operand.aval.shape[source] == out.aval.shape[target]:
            axes[target] = trace.read(operand)[source]
            links.append((source, target))
    trace.write(out, axes)
    for source, target in links:
        trace.link("equal", [(operand, source)], [(out, target)], "broadcast_in_dim")
    if trace.is_zero(operand):
        trace.zeros.add(out)


def transpose(trace: Trace, eqn: Any) -> None:
    """The axes in another order."""
    _permute(trace, eqn, list(eqn.params["permutation"]))


def squeeze(trace: Trace, eqn: Any) -> None:
    """The axes without some of length one."""
    gone = eqn.params["dimensions"]
    _permute(trace, eqn, [axis for axis in range(len(eqn.invars[0].aval.shape)) if axis not in gone])


def _permute(trace: Trace, eqn: Any, order: list[int]) -> None:
    operand, (out,) = eqn.invars[0], eqn.outvars
    given = trace.read(operand)
    trace.write(out, [given[axis] for axis in order])
    for target, source in enumerate(order):
        trace.link("equal", [(operand, source)], [(out, target)], eqn.primitive.name)
    if trace.is_zero(operand):
        trace.zeros.add(out)


def reshape(trace: Trace, eqn: Any) -> None:
    """The factors of all axes, in order, are grouped anew."""
    operand, (out,) = eqn.invars[0], eqn.outvars
    old, new = operand.aval.shape, out.aval.shape
    layouts = trace.read(operand)
    if trace.is_zero(operand):
        trace.zeros.add(out)
    if all(layout is None for layout in layouts):
        trace.write(out, [None] * len(new))
        return
    axes: Axes | None = _matching(trace, old, new, layouts) or _grouped(trace, operand, new)
    if axes is None:
        mark = Mark(reason="a reshape regroups its units", is_strong=True)
        for layout in layouts:
            trace.atoms.add_mark(layout, mark)
        axes = [trace.atoms.axis(n, mark) for n in new]
    trace.write(out, axes)
    trace.link("moved", [(operand, a) for a in range(len(old))], [(out, a) for a in range(len(new))], "reshape")


def _matching(trace: Trace, old: tuple[int, ...], new: tuple[int, ...], layouts: Axes) -> Axes | None:
    """The axes of a reshape that only adds or drops axes of one, so that constant ones stay constant."""
    if [n for n in old if n != 1] != [n for n in new if n != 1]:
        return None
    rest = iter([layout for n, layout in zip(old, layouts, strict=True) if n != 1])
    ones = [layout for n, layout in zip(old, layouts, strict=True) if n == 1]
    # Where axes of one go, those that may be a space of one unit stay.
    hidden = [any(not trace.atoms.mark(atom).is_external for atom in trace.atoms.leaves(one)) for one in ones]
    small = iter([one for one, known in zip(ones, hidden, strict=True) if known or len(ones) <= list(new).count(1)])
    return [next(small, None) if n == 1 else next(rest) for n in new]


def _grouped(trace: Trace, operand: Any, new: tuple[int, ...]) -> Axes | None:
    """Factors taken in order until each new axis has its size; None where they do not fit."""
    atoms = trace.atoms
    if 0 in new:
        return [atoms.axis(n) for n in new]
    ndim = len(operand.aval.shape)
    factors = [atom for axis in range(ndim) for atom in atoms.as_factors(trace.materialised(operand, axis))]
    factors = [atom for atom in factors if atoms.size((atom,)) > 1]
    axes: Axes = []
    try:
        for size in new:
            block: tuple[int, ...] = ()
            while atoms.size(block) < size:
                missing, first = size // atoms.size(block), factors.pop(0)
                if atoms.size((first,)) > missing:
                    first, inner = atoms.split(first, missing)
                    factors.insert(0, inner)
                if missing % atoms.size((first,)):
                    return None
                block = (*block, first)
            axes.append((block,) if block else None)
    except RegroupError:
        return None
    return axes


def concatenate(trace: Trace, eqn: Any) -> None:
    """One axis after the other; all other axes are the same."""
    (out,) = eqn.outvars
    along, axes = eqn.params["dimension"], []
    for axis in range(len(out.aval.shape)):
        if axis == along:
            axes.append(sum((trace.materialised(v, axis) for v in eqn.invars), ()))
        else:
            axes.append(trace.unify([trace.read(v)[axis] for v in eqn.invars], "concatenate"))
    trace.write(out, axes)
    for axis in range(len(axes)):
        kind = "moved" if axis == along else "equal"
        trace.link(kind, [(v, axis) for v in eqn.invars], [(out, axis)], "concatenate")
    if all(trace.is_zero(v) for v in eqn.invars):
        trace.zeros.add(out)


def stack(trace: Trace, eqn: Any) -> None:
    """A new axis, one entry for each operand; all other axes are the same."""
    (out,) = eqn.outvars
    along, num_axes = eqn.params["axis"], len(out.aval.shape)
    old = [axis for axis in range(num_axes) if axis != along]
    axes: Axes = [trace.unify([trace.read(v)[axis] for v in eqn.invars], "stack") for axis in range(num_axes - 1)]
    axes.insert(along, sum((trace.atoms.axis(1) for _ in eqn.invars), ()))
    trace.write(out, axes)
    for source, target in enumerate(old):
        trace.join("equal", [(v, source) for v in eqn.invars], (out, target), "stack")
    if all(trace.is_zero(v) for v in eqn.invars):
        trace.zeros.add(out)


def tile(trace: Trace, eqn: Any) -> None:
    """Every axis again and again."""
    (operand,), (out,) = eqn.invars, eqn.outvars
    axes: Axes = [
        layout if layout is None or times == 1 else layout * times
        for layout, times in zip(trace.read(operand), eqn.params["reps"], strict=True)
    ]
    trace.write(out, axes)
    for axis in range(len(axes)):
        trace.link("moved", [(operand, axis)], [(out, axis)], "tile")
    if trace.is_zero(operand):
        trace.zeros.add(out)


def pad(trace: Trace, eqn: Any) -> None:
    """Values before and after an axis."""
    operand, value = eqn.invars
    (out,) = eqn.outvars
    axes: Axes = []
    for axis, padding in enumerate(eqn.params["padding_config"]):
        low, high, inner = map(int, padding)
        layout = trace.read(operand)[axis]
        if not (low or high or inner):
            axes.append(layout)
        elif inner or low < 0 or high < 0:
            axes.append(positions(trace, operand, axis, out.aval.shape[axis], "pad"))
        else:
            layout = trace.materialised(operand, axis)
            axes.append((*trace.atoms.axis(low), *layout, *trace.atoms.axis(high)))
    trace.write(out, axes)
    for axis in range(len(axes)):
        trace.link("equal" if trace.is_zero(value) else "copied", [(operand, axis)], [], "pad")
        trace.link("moved", [(operand, axis)], [(out, axis)], "pad")


def positions(trace: Trace, operand: Any, axis: int, size: int, name: str) -> Any:
    """The axis that an operation makes out of single entries along an axis."""
    layout = trace.read(operand)[axis]
    is_hidden = any(not trace.atoms.mark(atom).is_external for atom in trace.atoms.leaves(layout))
    # Rows of a table of parameters may be picked: they are no units.
    is_strong = is_hidden and trace.is_from_data(operand)
    mark = Mark(reason=f"{name} tells its units apart by their place", is_strong=is_strong)
    trace.atoms.add_mark(layout, mark)
    return trace.atoms.axis(size, mark if is_strong else EXTERNAL)


def slice_(trace: Trace, eqn: Any) -> None:
    """A range of an axis."""
    starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
    steps = eqn.params["strides"] or (1,) * len(starts)
    _cut(trace, eqn, eqn.outvars[0], list(zip(starts, stops, steps, strict=True)))


def split(trace: Trace, eqn: Any) -> None:
    """An axis in ranges."""
    operand = eqn.invars[0]
    start = 0
    for out, size in zip(eqn.outvars, map(int, eqn.params["sizes"]), strict=True):
        ranges = [(0, n, 1) for n in operand.aval.shape]
        ranges[eqn.params["axis"]] = (start, start + size, 1)
        _cut(trace, eqn, out, ranges)
        start += size


def _cut(trace: Trace, eqn: Any, out: Any, ranges: list[tuple[int, int, int]]) -> None:
    operand, name = eqn.invars[0], eqn.primitive.name
    axes: Axes = []
    links = []
    for axis, (start, stop, step) in enumerate(ranges):
        layout, size = trace.read(operand)[axis], operand.aval.shape[axis]
        if layout is None or (start, stop, step) == (0, size, 1):
            axes.append(layout)
            links.append((axis, ()))
            continue
        try:
            if step != 1:
                raise RegroupError  # noqa: TRY301
            before, rest = trace.atoms.cut(layout, start)
            axes.append(trace.atoms.cut(rest, stop - start)[0])
            links.append((axis, before))
        except RegroupError:
            axes.append(positions(trace, operand, axis, out.aval.shape[axis], name))
    trace.write(out, axes)
    for axis, before in links:
        trace.link("slice", [(operand, axis)], [(out, axis)], name, before)
    if trace.is_zero(operand):
        trace.zeros.add(out)


def dynamic_slice(trace: Trace, eqn: Any) -> None:
    """A range that is only known later; axes that are taken whole stay."""
    operand, (out,) = eqn.invars[0], eqn.outvars
    axes: Axes = []
    for axis, (old, new) in enumerate(zip(operand.aval.shape, out.aval.shape, strict=True)):
        layout = trace.read(operand)[axis]
        axes.append(layout if old == new or layout is None else positions(trace, operand, axis, new, "dynamic_slice"))
    trace.write(out, axes)
    for axis in range(len(axes)):
        if axes[axis] is trace.read(operand)[axis]:
            trace.link("equal", [(operand, axis)], [(out, axis)], "dynamic_slice")


def gather(trace: Trace, eqn: Any) -> None:
    """Rows of a table by their numbers; axes that are taken whole stay."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    operand, indices = eqn.invars
    (out,) = eqn.outvars
    axes: Axes = [None] * len(out.aval.shape)
    rows = [axis for axis in range(len(axes)) if axis not in numbers.offset_dims]
    for source, target in enumerate(rows):
        axes[target] = trace.read(indices)[source]
    batch = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    gone = {*numbers.collapsed_slice_dims, *batch}
    kept = [axis for axis in range(len(operand.aval.shape)) if axis not in gone]
    links = []
    for axis, layout in enumerate(trace.read(operand)):
        if axis in batch:
            target = rows[batch[axis]]
            axes[target] = trace.unify([axes[target], layout], "gather")
            links.append((axis, target))
        elif axis in kept and sizes[axis] == operand.aval.shape[axis]:
            target = int(numbers.offset_dims[kept.index(axis)])
            axes[target] = layout
            links.append((axis, target))
        else:
            made = positions(trace, operand, axis, sizes[axis], "gather")
            if axis in kept:
                axes[numbers.offset_dims[kept.index(axis)]] = made
    trace.write(out, axes)
    for source, target in links:
        trace.link("equal", [(operand, source)], [(out, target)], "gather")
    for source, target in enumerate(rows):
        trace.link("copied", [(indices, source)], [(out, target)], "gather")
