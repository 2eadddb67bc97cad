import pytest

from lossatlas.embedding._axes import Atoms, Mark, RegroupError


def test_refining_an_axis_refines_it_wherever_it_occurs():
    atoms = Atoms()
    first, second = atoms.axis(12), atoms.axis(12)
    atoms.unify(first, second)
    atoms.unify(second, ((atoms.fresh(3), atoms.fresh(4)),))
    assert atoms.leaves(first) == atoms.leaves(second)
    assert [atoms.size((atom,)) for atom in atoms.leaves(first)] == [3, 4]


def test_concatenations_are_cut_where_either_side_is():
    atoms = Atoms()
    joined, weight = atoms.axis(4) + atoms.axis(2), atoms.axis(6)
    atoms.unify(joined, weight)
    left, right = atoms.cut(weight, 4)
    assert atoms.leaves(left) + atoms.leaves(right) == atoms.leaves(joined)
    assert [atoms.length(left), atoms.length(right)] == [4, 2]


def test_a_sum_inside_a_product_keeps_its_parts():
    atoms = Atoms()
    heads, each = atoms.fresh(2), atoms.fresh(6)
    weight = ((heads, each),)
    left, right = atoms.cut(((each,),), 2)
    assert atoms.leaves(weight) == [heads, *atoms.leaves(left), *atoms.leaves(right)]
    halves = atoms.cut(weight, 6)  # between the heads
    assert [atoms.length(half) for half in halves] == [6, 6]


def test_a_cut_outer_factor_leaves_all_its_blocks():
    """The packed queries, keys and values of PyTorch: rows of (3, heads), cut along the 3."""
    atoms = Atoms()
    packed, outer, inner = atoms.axis(6), atoms.fresh(3), atoms.fresh(2)
    atoms.unify(packed, ((outer, inner),))
    first, rest = atoms.cut(((outer,),), 1)
    assert [atoms.size(block) for block in atoms.resolve(packed)] == [2, 4]
    atoms.cut(rest, 1)
    assert [atoms.size(block) for block in atoms.resolve(packed)] == [2, 2, 2]
    assert atoms.leaves(packed)[:2] == [*atoms.leaves(first), atoms.find(inner)]


def test_blocks_that_do_not_fit_are_refused():
    atoms = Atoms()
    with pytest.raises(RegroupError):
        atoms.unify(((atoms.fresh(2), atoms.fresh(3)),), ((atoms.fresh(3), atoms.fresh(2)),))
    with pytest.raises(RegroupError):
        atoms.cut(((atoms.fresh(2), atoms.fresh(3)),), 2)


def test_what_is_known_of_an_axis_goes_to_its_parts():
    atoms = Atoms()
    hidden, outer = atoms.axis(6), atoms.axis(6)
    atoms.unify(hidden, ((atoms.fresh(2), atoms.fresh(3)),))
    atoms.add_mark(outer, Mark(is_external=True))
    atoms.unify(hidden, outer)
    assert all(atoms.mark(atom).is_external for atom in atoms.leaves(hidden))
