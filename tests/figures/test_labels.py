import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from lossatlas.figures._labels import Box, Offset, place_labels, spread, text_size


def test_positions_that_do_not_touch_stay():
    assert spread([10, 60, 30], 15, 0, 100) == [10, 60, 30]


def test_two_that_touch_share_the_way():
    assert spread([50, 50], 20, 0, 100) == pytest.approx([40, 60])


def test_bounds_hold_and_push_the_others():
    assert spread([1, 2, 3], 10, 0, 100) == pytest.approx([0, 10, 20])
    assert spread([99, 98], 10, 0, 100) == pytest.approx([100, 90])


def test_too_many_share_the_room_evenly():
    assert spread([5] * 5, 100, 0, 40) == pytest.approx([0, 10, 20, 30, 40])


def test_nothing_gives_nothing():
    assert spread([], 10, 0, 100) == []


def test_positions_are_the_least_squares_ones():
    wanted = np.array([5.0, 12.0, 13.0, 40.0, 44.0, 47.0, 90.0])
    gap = 9.0
    constraints = [{"type": "ineq", "fun": lambda p, i=i: p[i + 1] - p[i] - gap} for i in range(6)]
    best = minimize(
        lambda p: np.sum((p - wanted) ** 2), np.arange(7) * 14.0, bounds=[(0, 100)] * 7, constraints=constraints
    )
    assert spread(wanted.tolist(), gap, 0, 100) == pytest.approx(best.x, abs=1e-4)


@given(st.lists(st.floats(-50, 400), min_size=1, max_size=20), st.floats(1, 18))
def test_labels_never_touch_and_keep_their_order(wanted, gap):
    places = np.array(spread(wanted, gap, 0, 350))
    order = np.argsort(wanted, kind="stable")
    room = min(gap, 350 / max(len(wanted) - 1, 1))
    assert np.all(np.diff(places[order]) >= room - 1e-6)
    assert places.min() >= -1e-6
    assert places.max() <= 350 + 1e-6


def test_boxes_overlap_by_their_common_area():
    assert Box(0.0, 0.0, 10.0, 10.0).overlap(Box(5.0, 8.0, 20.0, 20.0)) == 10
    assert Box(0.0, 0.0, 10.0, 10.0).overlap(Box(10.0, 0.0, 20.0, 10.0)) == 0


def test_markup_has_no_width():
    assert text_size("<b>abc</b>", 12) == text_size("abc", 12)
    assert text_size("abc<br>de", 12)[1] > text_size("abc", 12)[1]


def _place(points, texts, size=(400.0, 300.0), obstacles=None):
    curve = np.empty((0, 2)) if obstacles is None else obstacles
    places = place_labels(points, texts, 12, [lambda x, y: (x, y)], [size], curve)
    pairs = zip(points, texts, places, strict=True)
    return [offset.box(x, y, text_size(text, 12)) for (x, y), text, offset in pairs if offset is not None]


def test_names_of_neighbours_do_not_overlap_and_stay_inside():
    points = [(100.0, 100.0), (104.0, 102.0), (98.0, 110.0), (390.0, 290.0)]
    boxes = _place(points, ["one neuron (1,0)"] * 4)
    assert len(boxes) == 4
    for i, box in enumerate(boxes):
        assert box.overlap(Box(0.0, 0.0, 400.0, 300.0)) == pytest.approx(box.area)
        assert all(box.overlap(other) == 0 for other in boxes[:i])


def test_a_name_stays_off_the_curve():
    curve = np.stack([np.linspace(0, 400, 400), np.linspace(0, 300, 400)], axis=1)
    (box,) = _place([(200.0, 150.0)], ["one neuron (1,0)"], obstacles=curve)
    assert not any(box.left < x < box.right and box.top < y < box.bottom for x, y in curve)


def test_a_name_without_room_is_left_out():
    assert _place([(10.0, 10.0)], ["far too long for such a small picture"], size=(20.0, 20.0)) == []


def test_an_offset_stands_on_its_side():
    assert Offset(5, 0, "left", "middle").box(100, 100, (40, 10)) == Box(105, 95, 145, 105)
    assert Offset(-5, -3, "right", "bottom").box(100, 100, (40, 10)) == Box(55, 87, 95, 97)
