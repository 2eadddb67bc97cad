import importlib.util
import itertools
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.geometry import Slice, as_directions, merge_tree, persistence


def surface(values, error=None):
    """A slice with given values; its axes count from 0."""
    values = np.asarray(values, float)
    point = jnp.zeros(values.ndim)
    directions = as_directions(point, list(np.eye(values.ndim)))
    axes = tuple(np.arange(size, dtype=float) for size in values.shape)
    return Slice({"loss": values}, axes, directions, np.asarray(point), "", error, {}, {})


def test_a_line_has_the_minima_saddles_and_gaps_that_one_reads_off():
    found = merge_tree(surface([3, 1, 2, 0, 5, 4, 6]))
    assert found.minima[:, 0].tolist() == [3, 1, 5]
    assert found.losses.tolist() == [0, 1, 4]
    assert found.saddle_losses.tolist() == [np.inf, 2, 5]
    assert found.saddles[1:, 0].tolist() == [2, 4]
    assert np.isnan(found.saddles[0]).all()
    assert found.persistence.tolist() == [np.inf, 1, 1]
    assert found.parents.tolist() == [-1, 0, 0]
    assert found.num_cells.tolist() == [7, 1, 1]
    assert found.basins.tolist() == [0, 1, 0, 0, 0, 2, 0]
    assert merge_tree(surface([3, 1, 2, 0, np.nan, 4, 6]), min_persistence=1.0).basins.tolist() == [0] * 4 + [-1, 1, 1]


def test_the_gaps_are_the_persistence_of_gudhi_on_random_surfaces_with_masked_cells():
    pytest.importorskip("gudhi")
    rng = np.random.default_rng(0)
    for shape in ((40,), (9, 11), (4, 5, 6)):
        for masked in (0.0, 0.3):
            values = rng.normal(size=shape)
            values[rng.random(shape) < masked] = rng.choice([np.nan, np.inf])
            tree, pairs = merge_tree(surface(values)), persistence(surface(values))
            ours = sorted(zip(tree.losses, tree.saddle_losses, strict=True))
            theirs = sorted(zip(pairs.births[0], pairs.deaths[0], strict=True))
            assert len(ours) == len(theirs) > 1
            np.testing.assert_array_equal(ours, theirs)
            assert tree.num_masked == pairs.num_masked == (~np.isfinite(values)).sum()
            minima = {tuple(row) for row in tree.minima.tolist()}
            assert minima == {tuple(row) for row in pairs.birth_points[0].tolist()}
            place = tuple(pairs.birth_points[0].astype(int).T)
            np.testing.assert_array_equal(values[place], pairs.births[0])


def test_a_valley_along_the_diagonal_is_one_valley():
    # The valley (a - b)^2 + c^2 falls along a + b: its floor touches itself in corners alone.
    for k in (2, 3):
        along = np.indices((9,) * k)
        across = sum((along[i] - along[0]) ** 2 for i in range(1, k))
        values = across - 0.01 * sum(along)
        tree = merge_tree(surface(values))
        assert tree.losses.tolist() == [pytest.approx(-0.01 * 8 * k)]
        assert tree.minima.tolist() == [[8] * k]
        if importlib.util.find_spec("gudhi"):
            assert persistence(surface(values)).births[0].tolist() == tree.losses.tolist()


def test_a_minimum_is_lower_than_all_around_it_diagonal_ones_included():
    values = np.random.default_rng(4).normal(size=(12, 13))
    padded = np.pad(values, 1, constant_values=np.inf)
    around = np.stack(
        [padded[1 + i : 13 + i, 1 + j : 14 + j] for i, j in itertools.product((-1, 0, 1), repeat=2) if (i, j) != (0, 0)]
    )
    wanted = {tuple(place) for place in np.argwhere(values < around.min(axis=0)).tolist()}
    assert {tuple(map(int, row)) for row in merge_tree(surface(values)).minima} == wanted


def test_a_peak_with_a_closed_ridge_lives_in_dimension_one():
    pytest.importorskip("gudhi")
    values = np.array([[0, 0, 0, 0], [0, 9, 5, 0], [0, 0, 0, 0]])
    found = persistence(surface(values))
    assert (found.births[1].tolist(), found.deaths[1].tolist()) == ([0], [9])
    assert found.death_points[1].tolist() == [[1, 1]]
    hole = persistence(surface(np.where(values == 9, np.nan, values)))
    assert hole.deaths[1].tolist() == [np.inf]  # what masked cells fill does not end
    assert np.isnan(hole.death_points[1]).all()


def test_shallow_basins_are_merged_away_and_parents_are_those_that_are_left():
    values = [0, 5, 3, 3.5, 2, 6, 1, 7]
    full = merge_tree(surface(values))
    assert full.losses.tolist() == [0, 1, 2, 3]
    assert full.parents.tolist() == [-1, 0, 0, 2]
    cut = merge_tree(surface(values), min_persistence=3.0)
    assert cut.losses.tolist() == [0, 1]
    assert cut.num_dropped == 2
    between = merge_tree(surface([0, 9, 4, 5, 4.5, 8, 3.9, 10]), min_persistence=0.7)
    assert between.parents.tolist() == [-1, 0, 1]


def test_gaps_that_interpolation_may_have_made_do_not_count():
    values = [0, 0.3, 0.2, 5, 1]
    assert merge_tree(surface(values, {"loss": 0.1})).losses.tolist() == [0, 1]
    assert merge_tree(surface(values, {"loss": 0.01})).losses.tolist() == [0, 1, 0.2]


def test_a_constant_surface_is_one_basin():
    found = merge_tree(surface(np.ones((3, 4))))
    assert (len(found.losses), found.num_cells.tolist()) == (1, [12])


def test_parts_that_masked_cells_cut_off_never_merge():
    found = merge_tree(surface([1, 2, np.nan, 0, 3]))
    assert found.saddle_losses.tolist() == [np.inf, np.inf]
    assert found.parents.tolist() == [-1, -1]


def test_a_surface_is_symmetric_under_reflection_and_transposition():
    values = np.random.default_rng(3).normal(size=(7, 8))
    gaps = np.sort(merge_tree(surface(values)).persistence)
    for other in (values[::-1], values.T, values[:, ::-1]):
        assert np.array_equal(np.sort(merge_tree(surface(other)).persistence), gaps)


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(InputError, match="Unknown quantity 'los'. Did you mean 'loss'"):
        merge_tree(surface([1, 2]), quantity="los")
    with pytest.raises(InputError, match="at least 0"):
        merge_tree(surface([1, 2]), min_persistence=-1.0)
    with pytest.raises(InputError, match="Every cell of loss is masked"):
        merge_tree(surface([np.nan, np.inf]))
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(InputError, match=r"pip install 'lossatlas\[topology\]'"):
        persistence(surface([1, 2]))
