"""Figures that studies share: what their axes do."""

import numpy as np
import pytest

from lossatlas import figures


def layout_of(figure):
    """The layout as plain dictionaries, which the type checker knows."""
    return figure.to_dict()["layout"]


def test_places_that_look_like_numbers_stay_names():
    figure = figures.counts_figure({"bars": np.array([1, 2])}, ["0.3", "0.29"], x="level", y="count")
    assert layout_of(figure)["xaxis"]["type"] == "category"


@pytest.mark.parametrize(("scale", "height"), [("linear", 0.01), ("log", -2.0)])
def test_the_name_of_a_level_stands_at_its_line(scale, height):
    curve = {"curve": (np.array([1.0, 2.0]), np.array([0.1, 0.001]))}
    figure = figures.curves_figure(curve, x="x", y="y", y_scale=scale, levels={"level": 0.01})
    layout = layout_of(figure)
    (line,), (name,) = layout["shapes"], layout["annotations"]
    assert line["y0"] == line["y1"] == 0.01
    assert name["text"] == "level"
    assert name["y"] == pytest.approx(height)


@pytest.mark.parametrize(("lowest", "step"), [(1e-4, 1), (1e-16, 2)])
def test_ticks_of_long_logarithmic_axes_are_sparse(lowest, step):
    curve = {"curve": (np.array([1.0, 2.0]), np.array([1.0, lowest]))}
    figure = figures.curves_figure(curve, x="x", y="y", y_scale="log")
    assert layout_of(figure)["yaxis"]["dtick"] == step


@pytest.mark.parametrize(("lowest", "levels", "ticks"), [(0.31, {}, 0.5), (0.9, {"level": 0.02}, 0.02), (0.9, {}, 0.9)])
def test_short_logarithmic_axes_have_round_ticks_beside_their_values(lowest, levels, ticks):
    curve = {"curve": (np.array([1.0, 2.0]), np.array([0.95, lowest]))}
    axis = layout_of(figures.curves_figure(curve, x="x", y="y", y_scale="log", levels=levels))["yaxis"]
    assert any(tick == pytest.approx(ticks) for tick in axis["tickvals"])
    assert 2 <= len(axis["tickvals"]) <= 10


def test_few_whole_numbers_have_a_tick_each():
    points = {"points": (np.array([1, 2]), np.array([0.5, 1.0]), ["one", "two"])}
    layout = layout_of(figures.points_figure(points, x="neurons", y="loss"))
    assert layout["xaxis"]["dtick"] == 1
    assert "dtick" not in layout["yaxis"]


def test_points_that_coincide_all_show():
    one = (np.array([1.0]), np.array([1.0]), ["one"])
    sizes = [t.marker.size for t in figures.points_figure({"a": one, "b": one, "c": one}, x="x", y="y").data]
    assert sizes == sorted(set(sizes), reverse=True)


def test_a_long_legend_has_room_above_the_panel():
    one = (np.array([1.0]), np.array([1.0]))
    short, long = (
        layout_of(figures.curves_figure({f"{word} {i}": one for i in range(4)}, x="x", y="y", compact=True))
        for word in ("a", "a curve of that number")
    )
    more = long["margin"]["t"] - short["margin"]["t"]
    assert more >= 2 * 19
    assert long["height"] - short["height"] == more


def test_cells_without_a_value_have_a_cross():
    matrix = np.array([[0.0, np.nan, 1.0], [np.inf, 2.0, 3.0]])
    cells, crosses = figures.matrix_figure(matrix, x="x", y="y", colour="colour").data
    np.testing.assert_array_equal(np.isnan(np.asarray(cells.z, float)), ~np.isfinite(matrix))
    assert (cells.zmin, cells.zmax) == (0.0, 3.0)
    assert list(zip(crosses.y, crosses.x, strict=True)) == [(0, 1), (1, 0)]
    assert crosses.name == "no value"
    assert len(figures.matrix_figure(np.ones((2, 2)), x="x", y="y", colour="colour").data) == 1
    assert figures.matrix_figure(np.full((2, 2), np.nan), x="x", y="y", colour="colour").data[0].zmax == 1.0
