"""Operations that write into a part of an array: what becomes of the axes."""

from typing import Any

from lossatlas.embedding._axes import Axes, Layout
from lossatlas.embedding._axis_trace import Trace
from lossatlas.embedding._shape_rules import positions


def dynamic_update_slice(trace: Trace, eqn: Any) -> None:
    """A range is overwritten; axes that it takes whole stay."""
    operand, update = eqn.invars[:2]
    pairs = {axis: axis for axis in range(len(operand.aval.shape))}
    _written_into(trace, eqn, operand, update, pairs, "equal")


def scatter(trace: Trace, eqn: Any) -> None:
    """Rows are put, or added, where their numbers say; axes that they take whole stay."""
    operand, indices, update = eqn.invars
    numbers, name = eqn.params["dimension_numbers"], eqn.primitive.name
    batch, batch_indices = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
    gone = {*map(int, numbers.inserted_window_dims), *map(int, batch)}
    windows = [axis for axis in range(len(operand.aval.shape)) if axis not in gone]
    pairs = dict(zip(windows, map(int, numbers.update_window_dims), strict=True))
    rows = [axis for axis in range(len(update.aval.shape)) if axis not in pairs.values()]
    for axis, along in zip(map(int, batch), map(int, batch_indices), strict=True):
        pairs[axis] = rows[along]
        layouts = [trace.read(update)[rows[along]], trace.read(indices)[along]]
        trace.unify(layouts, name)
        trace.link("copied", [(indices, along)], [], name)
    for along, row in enumerate(rows):  # each row has a place of its own
        if along not in map(int, batch_indices):
            for operand_of in ((update, row), (indices, along)):
                positions(trace, *operand_of, update.aval.shape[row], name)
    _written_into(trace, eqn, operand, update, pairs, "equal" if name in ("scatter", "scatter-add") else "copied")


def _written_into(trace: Trace, eqn: Any, operand: Any, update: Any, pairs: dict[int, int], kind: str) -> None:
    """The axes of the result are those of the operand; `pairs` are the axes of the update that run along them."""
    (out,) = eqn.outvars
    name, axes, links = eqn.primitive.name, [], []
    made: Axes = axes
    for axis, size in enumerate(operand.aval.shape):
        other = pairs.get(axis)
        if other is not None and update.aval.shape[other] == size:
            made.append(trace.unify([trace.read(operand)[axis], trace.read(update)[other]], name))
            links.append((axis, other))
            continue
        placed: list[Layout] = [positions(trace, operand, axis, size, name)]
        if other is not None:
            placed.append(positions(trace, update, other, size, name))
        made.append(trace.unify(placed, name))
    trace.write(out, made)
    for axis, other in links:
        places = [(operand, axis), (update, other)]
        trace.join(kind, places, (out, axis), name)
    if kind == "equal" and trace.is_zero(operand) and trace.is_zero(update):
        trace.zeros.add(out)
