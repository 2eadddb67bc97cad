"""Who writes a unit and who reads it: every value is copied along with a unit, or shared out among its copies."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from lossatlas.embedding._axis_trace import Link, Place, Trace


COPIED: Literal[0] = 0
"""The value of a copy is the value of the unit."""

SHARED: Literal[1] = 1
"""The values of the copies sum to the value of the unit."""


@dataclasses.dataclass(frozen=True)
class Sum:
    """A sum over copied values: right only when it is a mean.

    - `atom`: the units. `name`: of the operation. `operands`: what is summed.
    """

    atom: int
    name: str
    operands: tuple[Any, ...]


class Roles:
    r"""The role of every occurrence of a unit axis in every value.

    Copying unit i k times and giving its copies the shares $\gamma_j$ is legal when all values can be coloured so that
    a contraction joins a copied and a shared one, a nonlinear operation sees copied ones only, linear operations keep
    the colour, and at most one factor of a product is shared. What the rules leave open (a linear unit, queries
    and keys) is decided in program order: the first is copied.

    - `sums`: sums over copied values. `conflicts`: unit atom to why no colouring exists.

    Cost: linear in the number of operations.
    """

    def __init__(self, trace: Trace, params: list[Any]):
        self._trace = trace
        self._nodes: dict[Place, list[int | None]] = {}
        self._atom: list[int] = []
        self.colour: list[int | None] = []
        self._touching: list[list[int]] = []
        self._rules: list[tuple[str, tuple[int, ...], int | None, Link]] = []
        self.sums: list[Sum] = []
        self.conflicts: dict[int, str] = {}
        is_param = set(params)
        first_used: list[int] = []
        for link in trace.links:
            self._expand(link)
            places = (place for place in link.ins if place[0] in is_param)
            first_used += [node for place in places for node in self.nodes(place) if node is not None]
        for var in params:
            for axis in range(len(var.aval.shape)):
                first_used += [node for node in self.nodes((var, axis)) if node is not None]
        self.order = list(dict.fromkeys(first_used))
        self._solve()

    def nodes(self, place: Place) -> list[int | None]:
        """The nodes of the finest atoms along an axis; None for those that number no units."""
        if place not in self._nodes:
            atoms = self._trace.atoms
            made: list[int | None] = []
            for atom in atoms.leaves(self._trace.axes[place[0]][place[1]]):
                if atoms.mark(atom).is_external:
                    made.append(None)
                    continue
                made.append(len(self._atom))
                self._atom.append(atom)
                self.colour.append(None)
                self._touching.append([])
            self._nodes[place] = made
        return self._nodes[place]

    def atom(self, node: int) -> int:
        """The units that a node stands for."""
        return self._atom[node]

    def _expand(self, link: Link) -> None:
        ins, out = [self.nodes(place) for place in link.ins], [self.nodes(place) for place in link.out]
        count = len(self._trace.atoms.leaves(link.before))
        if link.kind == "slice":
            for given, made in zip(ins, out, strict=False):
                self._add_each("equal", link, [given[count : count + len(made)]], made)
        elif link.kind == "moved":
            self._add_moved(link, sum(ins, []), sum(out, []))
        elif link.kind == "grouped" and len(ins) == 3:
            image, filters, entering = ins
            self._add_each("product", link, [image[:count], filters[:count]], out[0][:count])
            self._add_each("equal", link, [filters[count:]], out[0][count:])
            self._add_each("contract", link, [image[count:], entering])
        elif link.kind == "grouped":  # one filter for each channel
            self._add_each("product", link, [given[:count] for given in ins], out[0][:count])
            self._add_each("equal", link, [ins[-1][count:]], out[0][count:])
        else:
            self._add_each(link.kind, link, ins, *out)

    def _add_each(
        self, kind: str, link: Link, ins: list[list[int | None]], out: list[int | None] | None = None
    ) -> None:
        longest = max((len(nodes) for nodes in (*ins, out or [])), default=0)
        columns = [nodes for nodes in ins if len(nodes) == longest]
        result = out if out and len(out) == longest else [None] * longest
        for *nodes, made in zip(*columns, result, strict=True):
            self._add(kind, tuple(node for node in nodes if node is not None), made, link)

    def _add_moved(self, link: Link, ins: list[int | None], out: list[int | None]) -> None:
        """Nodes of the same units, in order; all of them where their numbers differ."""
        given, made = self._by_atom(ins), self._by_atom(out)
        for atom in given.keys() & made.keys():
            if len(given[atom]) == len(made[atom]):
                for node, other in zip(given[atom], made[atom], strict=True):
                    self._add("equal", (node,), other, link)
            else:
                self._add("equal", tuple(given[atom]), made[atom][0], link)
                for other in made[atom][1:]:
                    self._add("equal", (made[atom][0],), other, link)

    def _by_atom(self, nodes: list[int | None]) -> dict[int, list[int]]:
        found = collections.defaultdict(list)
        for node in nodes:
            if node is not None:
                found[self._atom[node]].append(node)
        return found

    def _add(self, kind: str, ins: tuple[int, ...], out: int | None, link: Link) -> None:
        if kind == "product" and len(ins) == 1:
            kind = "equal"
        if kind == "contract" and len(ins) == 1:
            kind = "sum"
        touched = (*ins, *([] if out is None else [out]))
        if not touched or (kind == "product" and out is None):
            return
        for node in touched:
            self._touching[node].append(len(self._rules))
        self._rules.append((kind, ins, out, link))

    def _solve(self) -> None:
        """What must be copied, then what contractions make of it, then what is left open."""
        forced = [
            n for kind, ins, out, _ in self._rules if kind == "copied" for n in (*ins, *([] if out is None else [out]))
        ]
        self._spread([(node, COPIED, None) for node in forced], contractions=False)
        known = [(node, colour, None) for node, colour in enumerate(self.colour) if colour is not None]
        self._spread(known, contractions=True)
        for kind, ins, _, link in self._rules:
            if kind == "sum" and self.colour[ins[0]] is None:
                self._spread([(ins[0], SHARED, link)], contractions=True)
        for node in self.order:
            if self.colour[node] is None:
                self._spread([(node, COPIED, None)], contractions=True)
        for kind, ins, _, link in self._rules:
            is_sum = kind in ("sum", "contract") and all(self.colour[node] == COPIED for node in ins)
            if is_sum:
                self.sums.append(Sum(self._atom[ins[0]], link.name, tuple(var for var, _ in link.ins)))

    def _spread(self, start: Sequence[tuple[int, int, Link | None]], *, contractions: bool) -> None:
        queue = collections.deque(start)
        while queue:
            node, colour, link = queue.popleft()
            if self.colour[node] is None:
                self.colour[node] = colour
            elif self.colour[node] != colour:
                name = link.name if link else "an operation"
                self.conflicts.setdefault(
                    self._atom[node], f"its units would have to be copied and shared out at once ({name})"
                )
                continue
            elif link is not None:
                continue
            for index in self._touching[node]:
                kind, ins, out, source = self._rules[index]
                queue.extend((n, c, source) for n, c in self._implied(kind, ins, out, contractions=contractions))

    def _implied(
        self, kind: str, ins: tuple[int, ...], out: int | None, *, contractions: bool
    ) -> list[tuple[int, int]]:
        """What follows from the colours that one rule already knows."""
        colours = [self.colour[node] for node in ins]
        result = None if out is None else self.colour[out]
        if kind == "equal":
            nodes = (*ins, *([] if out is None else [out]))
            known = [colour for node in nodes if (colour := self.colour[node]) is not None]
            return [(node, known[0]) for node in nodes if self.colour[node] != known[0]] if known else []
        if kind == "product":
            assert out is not None
            if result == COPIED:
                return [(node, COPIED) for node in ins if self.colour[node] != COPIED]
            shared = [i for i, colour in enumerate(colours) if colour == SHARED]
            if shared:
                rest = [(node, COPIED) for i, node in enumerate(ins) if i != shared[0] and colours[i] != COPIED]
                return rest + ([(out, SHARED)] if result != SHARED else [])
            open_ = [node for node, colour in zip(ins, colours, strict=True) if colour is None]
            if not open_:
                return [(out, COPIED)] if result != COPIED else []
            return [(open_[0], SHARED)] if result == SHARED and len(open_) == 1 else []
        if kind == "contract" and contractions:
            for i, colour in enumerate(colours):
                others = [(n, c) for j, (n, c) in enumerate(zip(ins, colours, strict=True)) if j != i]
                if colour == SHARED:
                    return [(node, COPIED) for node, other in others if other != COPIED]
                if colour == COPIED and any(other is None for _, other in others):
                    return [(node, SHARED) for node, other in others if other is None]
        return []
