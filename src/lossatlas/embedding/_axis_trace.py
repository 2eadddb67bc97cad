"""The axes of every value of a computation, and what ties the values along them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from lossatlas.embedding._axes import Atoms, Axes, Layout, Mark, RegroupError
from lossatlas.numerics import literal_value


Place = tuple[Any, int]
"""A variable and one of its axes."""

EXTERNAL = Mark(is_external=True)


@dataclasses.dataclass(frozen=True)
class Link:
    """What an operation says of the units along axes that are the same.

    - `kind`: `"equal"` (linear in all together), `"copied"` (only copied units go through), `"product"` (linear in
      each), `"contract"` (a sum of products over the axis), `"sum"` (a sum over the axis), `"moved"` (entries in
      another grouping), `"slice"` (a range of them), `"grouped"` (a grouped convolution).
    - `ins`, `out`: places of the operands and of the result (none for what is summed over).
    - `name`: of the operation.
    - `before`: of a slice, what is cut off in front; of a grouped convolution, the groups.
    """

    kind: Literal["equal", "copied", "product", "contract", "sum", "moved", "slice", "grouped"]
    ins: tuple[Place, ...]
    out: tuple[Place, ...]
    name: str
    before: Layout = ()


class Trace:
    """What is known of a computation while its operations are gone through, in order.

    - `axes`: of every variable. `links`: between them, in program order. `zeros`: variables that are zero everywhere.
    - `eqns`: every operation, those inside scans too. `in_scan`: ids of the latter.
    - `from_data`: variables that depend on the example (inside scans: as far as is known on entering).
    - `same`: variables that only pass on others, into and out of scans.
    - `in_branch`: ids of every `cond` and of the operations in its branches.
    """

    def __init__(self) -> None:
        self.atoms = Atoms()
        self.axes: dict[Any, Axes] = {}
        self.links: list[Link] = []
        self.zeros: set[Any] = set()
        self.eqns: list[Any] = []
        self.from_data: set[Any] = set()
        self.same: dict[Any, list[Any]] = {}
        self.in_scan: set[int] = set()
        self.in_branch: set[int] = set()

    def read(self, operand: Any) -> Axes:
        """The axes of an operand; numbers have none."""
        if literal_value(operand) is not None:
            return [None] * len(operand.aval.shape)
        return self.axes[operand]

    def is_zero(self, operand: Any) -> bool:
        """Whether an operand is known to be zero everywhere."""
        value = literal_value(operand)
        return operand in self.zeros if value is None else not np.any(value)

    def is_from_data(self, operand: Any) -> bool:
        """Whether an operand depends on the example."""
        return literal_value(operand) is None and operand in self.from_data

    def write(self, var: Any, axes: Axes) -> None:
        """State the axes of a result."""
        self.axes[var] = axes

    def link(self, kind: Any, ins: Iterable[Place], out: Iterable[Place], name: str, before: Layout = ()) -> None:
        """Record a link between places that have units."""
        places = tuple(p for p in ins if self.has_units(*p)), tuple(p for p in out if self.has_units(*p))
        if any(places):
            self.links.append(Link(kind, *places, name, before))

    def join(self, kind: Any, places: Iterable[Place], out: Place, name: str) -> None:
        """Record a link of what is put together, entry by entry, with what is the same for all units."""
        places = list(places)
        carriers = [place for place in places if self.has_units(*place)]
        # What is the same for all units, and put beside them, goes with copied units only.
        offset = kind == "equal" and any(not self.has_units(*place) and not self.is_zero(place[0]) for place in places)
        self.link("copied" if offset else kind, carriers, [out], name)

    def link_copied(self, var: Any) -> None:
        """Say that what a variable holds is no share of anything."""
        for axis in range(len(var.aval.shape)):
            self.link("copied", [(var, axis)], [], "a constant")

    def has_units(self, operand: Any, axis: int) -> bool:
        """Whether an operand varies along an axis."""
        return literal_value(operand) is None and bool(self.axes[operand][axis])

    def unify(self, layouts: Sequence[Layout | None], name: str) -> Layout | None:
        """One axis out of several of the same length; those that are constant along it say nothing."""
        given = [layout for layout in layouts if layout is not None]
        # An axis of one that is a unit says more than one that only broadcasts.
        given.sort(key=lambda layout: not self.atoms.leaves(layout))
        for other in given[1:]:
            try:
                self.atoms.unify(given[0], other)
            except RegroupError:
                mark = Mark(reason=f"{name} joins axes whose blocks do not fit")
                self.atoms.add_mark(given[0], mark)
                self.atoms.add_mark(other, mark)
        return given[0] if given else None

    def materialised(self, operand: Any, axis: int) -> Layout:
        """The axis of an operand, a new one where the operand is constant along it."""
        layout = self.read(operand)[axis]
        return self.atoms.axis(operand.aval.shape[axis]) if layout is None else layout

    def add_constant(self, var: Any, value: Any) -> None:
        """State the axes of an array that the function holds itself."""
        array = np.asarray(value) if np.issubdtype(getattr(value, "dtype", None), np.number) else None
        mark = Mark(reason="a constant array of the function runs over it (its width is fixed in code)")
        axes: Axes = []
        for axis, size in enumerate(var.aval.shape):
            is_constant = array is not None and (array == array.take([0], axis)).all() if size else False
            axes.append(None if is_constant else self.atoms.axis(size, mark if size > 1 else None))
        self.axes[var] = axes
        self.link_copied(var)
        if array is not None and not array.any():
            self.zeros.add(var)
