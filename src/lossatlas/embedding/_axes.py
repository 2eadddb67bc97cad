"""Axes as sums of products of atoms: which axes of a computation are one and the same."""

import dataclasses
import math
from collections.abc import Sequence


Block = tuple[int, ...]
"""A product of atoms, the outermost first; the empty product has size 1."""

Layout = tuple[Block, ...]
"""An axis: blocks one after the other (a concatenation); the empty sum has size 0."""

Axes = list[Layout | None]
"""The axes of an array; None where it is constant along the axis, as after a broadcast."""


class RegroupError(Exception):
    """Two axes of one length cannot be written as the same sums of products."""


@dataclasses.dataclass
class Mark:
    """What is known of an atom.

    - `is_external`: it numbers inputs, outputs or positions, so no parameter axis of it is a hidden unit.
    - `reason`: why the axis may not be resized. `is_strong`: whether it is worth saying even where no parameter
      reads the axis.
    """

    is_external: bool = False
    reason: str | None = None
    is_strong: bool = False

    def merge(self, other: "Mark") -> None:
        """Add what is known of an atom that turned out to be the same."""
        self.is_external |= other.is_external
        if self.reason is None or (other.is_strong and not self.is_strong):
            self.reason = other.reason or self.reason
        self.is_strong |= other.is_strong


class Atoms:
    """Atoms in a union-find; an atom that was refined has `parts`, a layout of smaller ones.

    Refining an atom refines it wherever it occurs: axes keep the atom, and `resolve` writes it out.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._mark: list[Mark] = []
        self._parts: dict[int, Layout] = {}

    def fresh(self, size: int, mark: Mark | None = None) -> int:
        """A new atom."""
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._mark.append(dataclasses.replace(mark) if mark else Mark())
        return len(self._parent) - 1

    def axis(self, size: int, mark: Mark | None = None) -> Layout:
        """A new axis of one atom."""
        return ((self.fresh(size, mark),),) if size else ()

    def find(self, atom: int) -> int:
        """The representative of an atom."""
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom

    def mark(self, atom: int) -> Mark:
        """What is known of an atom."""
        return self._mark[self.find(atom)]

    def size(self, block: Block) -> int:
        """The number of entries of a block."""
        return math.prod(self._size[atom] for atom in block)

    def length(self, layout: Layout) -> int:
        """The number of entries of an axis."""
        return sum(self.size(block) for block in layout)

    def parts(self, atom: int) -> Layout | None:
        """The layout of a refined atom that still stands inside a product, None for others."""
        return self._parts.get(self.find(atom))

    def resolve(self, layout: Layout) -> Layout:
        """The layout in the finest atoms that a sum of products can show.

        A sum inside a product is written out where it stands outermost; elsewhere the atom stays, with `parts`.
        """
        return tuple(block for given in layout for block in self._resolve_block(given))

    def _resolve_block(self, block: Block) -> list[Block]:
        flat = [atom for given in block for atom in self._product(given)]
        if flat and flat[0] in self._parts:
            return [made for part in self._parts[flat[0]] for made in self._resolve_block((*part, *flat[1:]))]
        return [tuple(flat)]

    def leaves(self, layout: Layout | None) -> list[int]:
        """The finest atoms of an axis, in order."""
        found = []
        for block in self.resolve(layout or ()):
            for atom in block:
                parts = self._parts.get(atom)
                found += [atom] if parts is None else self.leaves(parts)
        return found

    def add_mark(self, layout: Layout | None, mark: Mark) -> None:
        """Mark every atom of an axis."""
        for atom in self.leaves(layout):
            self._mark[atom].merge(mark)

    def as_factors(self, layout: Layout) -> Block:
        """An axis as a product: a sum becomes one atom with parts."""
        resolved = self.resolve(layout)
        if len(resolved) == 1:
            return resolved[0]
        whole = self.fresh(self.length(resolved))
        if resolved:
            self._parts[whole] = resolved
        return (whole,)

    def split(self, atom: int, outer: int) -> Block:
        """An atom written as a product with an outer factor.

        **Raises:** `RegroupError` when the sizes or the parts of the atom forbid it.
        """
        atom = self.find(atom)
        size = self._size[atom]
        if size % outer:
            raise RegroupError
        made = self.fresh(outer, self._mark[atom]), self.fresh(size // outer, self._mark[atom])
        if atom in self._parts:
            self.unify((made,), self._parts[atom])
        else:
            self._parts[atom] = (made,)
        return made

    def cut(self, layout: Layout, at: int) -> tuple[Layout, Layout]:
        """The axis before and after an index.

        **Raises:** `RegroupError` when the index lies inside a unit of an outer factor.
        """
        left: list[Block] = []
        right: list[Block] = []
        for block in self.resolve(layout):
            size = self.size(block)
            if at >= size:
                left.append(block)
                at -= size
            elif at == 0:
                right.append(block)
            else:
                place = next(i for i, atom in enumerate(block) if self._size[atom] > 1)
                head, rest = block[: place + 1], block[place + 1 :]
                if at % self.size(rest):
                    raise RegroupError
                first, second = self._cut_atom(head[-1], at // self.size(rest))
                left.append((*head[:-1], first, *rest))
                right.append((*head[:-1], second, *rest))
                at = 0
        return tuple(left), tuple(right)

    def _cut_atom(self, atom: int, at: int) -> tuple[int, int]:
        if atom in self._parts:
            raise RegroupError
        mark = self._mark[atom]
        first, second = self.fresh(at, mark), self.fresh(self._size[atom] - at, mark)
        self._parts[atom] = ((first,), (second,))
        return first, second

    def unify(self, first: Layout, second: Layout) -> None:
        """Make two axes of one length the same.

        **Raises:** `RegroupError` when their blocks do not fit.
        """
        first, second = self.resolve(first), self.resolve(second)
        while first and second:
            a, b = self.size(first[0]), self.size(second[0])
            if a == b:
                self._unify_blocks(first[0], second[0])
                first, second = first[1:], second[1:]
            elif a < b:
                second = sum(self.cut(second[:1], a), ()) + second[1:]
            else:
                first = sum(self.cut(first[:1], b), ()) + first[1:]
            first, second = self.resolve(first), self.resolve(second)

    def _unify_blocks(self, first: Block, second: Block) -> None:
        if self.size(first) == 1:  # units of a space of one; broadcast axes have no atom
            if first and second:
                self._join(first[0], second[0])
            return
        a, b = self._large(first), self._large(second)
        while a and b:
            p, q = a[0], b[0]
            m, n = self._size[p], self._size[q]
            if m == n:
                self._join(p, q)
                a, b = self._large(a[1:]), self._large(b[1:])
            elif m > n:
                a = self._large((*self.split(p, n), *a[1:]))
            else:
                b = self._large((*self.split(q, m), *b[1:]))

    def _large(self, block: Sequence[int]) -> Block:
        """The block without factors of one, refined."""
        resolved = [atom for given in block for atom in self._product(given)]
        return tuple(atom for atom in resolved if self._size[atom] > 1)

    def _product(self, atom: int) -> Block:
        atom = self.find(atom)
        parts = self._parts.get(atom)
        if parts is None or len(parts) > 1:
            return (atom,)
        return tuple(made for block in parts for part in block for made in self._product(part))

    def _join(self, p: int, q: int) -> None:
        p, q = self.find(p), self.find(q)
        if p == q:
            return
        if p in self._parts and q in self._parts:
            self.unify(self._parts[p], self._parts[q])
            p, q = self.find(p), self.find(q)
            if p == q:
                return
        if q in self._parts:
            p, q = q, p
        self._parts.pop(q, None)
        self._parent[q] = p
        self.add_mark(((p,),), self._mark[q])
