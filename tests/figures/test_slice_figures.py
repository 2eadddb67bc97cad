import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lossatlas import figures


def plane(values, x=None, y=None, **others):
    """A data set like that of a slice; `values[i, j]` stands at (x_i, y_j)."""
    values = np.asarray(values, float)
    x = np.linspace(-1, 1, values.shape[0]) if x is None else x
    y = np.linspace(-1, 1, values.shape[1]) if y is None else y
    dims = ("direction_1", "direction_2")
    columns = {"loss": values, **others}
    axes = {
        name: (name, axis, {"long_name": f"along {i}"}) for i, (name, axis) in enumerate(zip(dims, (x, y), strict=True))
    }
    return xr.Dataset({name: (dims, column) for name, column in columns.items()}, coords=axes)


def path(steps=5, loss=0.5):
    columns = {"step": np.arange(steps, dtype=float), "loss": np.full(steps, loss), "off_plane": np.zeros(steps)}
    columns |= {"direction_1": np.linspace(1, 0, steps), "direction_2": np.zeros(steps), "distance": np.ones(steps)}
    return xr.Dataset({name: ("snapshot", column) for name, column in columns.items()}, attrs={"captured": 0.9876})


def traces(figure) -> list[Any]:
    return list(figure.data)


def named(figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_a_plane_has_its_rows_upwards_and_the_network_at_zero():
    x, y = np.array([-1.0, 0.0, 1.0, 2.0]), np.array([0.0, 1.0])
    values = np.add.outer(x, 10 * y)
    contour, network = traces(figures.plane_figure(plane(values, x, y), scale="linear"))
    assert np.array_equal(contour.x, x)
    assert np.array_equal(contour.y, y)
    assert np.array_equal(contour.z, values.T)
    assert (network.x, network.y) == ((0,), (0,))
    layout: Any = figures.plane_figure(plane(values, x, y)).layout
    assert (layout.xaxis.title.text, layout.yaxis.title.text) == ("along 0", "along 1")


def test_colours_are_logarithmic_where_the_loss_spans_much_and_their_ticks_are_losses():
    figure = figures.plane_figure(plane(np.geomspace(0.01, 10, 16).reshape(4, 4)))
    contour = traces(figure)[0]
    np.testing.assert_allclose((contour.zmin, contour.zmax), (-2, 1))
    assert "log scale" in contour.colorbar.title.text
    ticks = dict(zip(contour.colorbar.ticktext, contour.colorbar.tickvals, strict=True))
    assert ticks["0.1"] == pytest.approx(-1)
    np.testing.assert_allclose(np.max(contour.customdata), 10)  # what shows under the pointer is the loss
    narrow = traces(figures.plane_figure(plane(np.linspace(1, 3, 16).reshape(4, 4))))[0]
    assert (narrow.zmin, narrow.zmax) == (1, 3)
    assert narrow.colorbar.title.text == "training loss"


def test_logarithmic_colours_end_at_the_interpolation_error_and_say_so():
    dataset = plane(np.geomspace(1e-4, 10, 16).reshape(4, 4))
    dataset["loss"].attrs["error"] = 0.02
    contour = traces(figures.plane_figure(dataset))[0]
    np.testing.assert_allclose((contour.zmin, contour.zmax), (np.log10(0.02), 1))
    assert contour.colorbar.title.text == "training loss, log scale, below 0.02 alike"
    np.testing.assert_allclose(np.min(contour.customdata), 1e-4)  # under the pointer is what was drawn
    dataset["loss"].attrs["error"] = 1.0  # less than a factor of 20 is left: that is no reason for a logarithm
    assert traces(figures.plane_figure(dataset))[0].colorbar.title.text == "training loss"
    dataset["loss"].attrs["error"] = 1e-5
    assert traces(figures.plane_figure(dataset))[0].zmin == pytest.approx(-4)
    zero = plane(np.array([[0.0, 1e-3], [0.5, 1.0]]))
    assert traces(figures.plane_figure(zero))[0].colorbar.title.text == "training loss"
    zero["loss"].attrs["error"] = 0.01
    assert traces(figures.plane_figure(zero))[0].zmin == pytest.approx(-2)


def test_all_networks_are_marked_and_named_on_planes_and_lines():
    places = {"the network": [0.0, 0.0], "network 2": [1.0, 0.0], "network 3": [0.0, 1.0]}
    dataset = plane(np.eye(3)).assign_attrs(networks=json.dumps(places))
    found = named(figures.plane_figure(dataset))
    assert {name: [*found[name].x, *found[name].y] for name in places} == places
    assert len({found[name].marker.symbol for name in places}) == 3
    axis = ("direction_1", np.linspace(-0.5, 1.5, 5), {"long_name": "along it"})
    line = xr.Dataset({"loss": ("direction_1", [100.0, 1.0, 5.0, 3.0, 9.0])}, coords={"direction_1": axis})
    line.attrs["networks"] = json.dumps({"the network": [0.0], "the other network": [1.0], "a third": [0.25]})
    line["loss"].attrs["error"] = 2.0
    drawn: Any = figures.line_figure(line)
    found = named(drawn)
    assert (tuple(found["the network"].y), tuple(found["the other network"].y)) == ((1.0,), (3.0,))
    assert tuple(found["the other network"].x) == (1.0,)
    assert tuple(found["a third, between points"].y) == (3.0,)  # on the drawn line, which was not computed there
    (band,) = [shape for shape in drawn.layout.shapes if shape.type == "rect"]
    assert (band.y0 < 1.0, band.y1) == (True, 2.0)


def test_a_few_cells_far_above_do_not_take_the_colours_and_the_bar_says_so():
    values = np.linspace(-1, 1, 121).reshape(11, 11)
    values[0, 0] = 1e6
    contour = traces(figures.plane_figure(plane(values)))[0]
    assert contour.zmax < 2
    assert "alike" in contour.colorbar.title.text
    assert np.nanmax(contour.z) == 1e6  # nothing is altered


def test_masked_cells_are_white_with_crosses_and_counted():
    values = np.ones((5, 5))
    values[0, 1], values[3, 4] = np.inf, np.nan
    found = named(figures.plane_figure(plane(values)))
    crosses = found["not finite: 2 of 25 cells"]
    assert sorted(zip(crosses.x, crosses.y, strict=True)) == [(-1, -0.5), (0.5, 1)]
    assert np.isnan(found["training loss"].z).sum() == 2
    many = np.full((90, 90), np.nan)
    many[:2] = 1
    crosses = named(figures.plane_figure(plane(many)))["not finite: 7,920 of 8,100 cells"]
    assert 100 < len(crosses.x) <= 900


def test_a_trajectory_minima_and_samples_lie_where_they_are():
    minima = xr.Dataset(
        {
            name: ("minimum", np.array(column))
            for name, column in {
                "minimum_1": [0.1, 0.5],
                "minimum_2": [0.2, 0.6],
                "saddle_1": [np.nan, 0.3],
                "saddle_2": [np.nan, 0.4],
                "loss": [0.0, 0.1],
                "saddle_loss": [np.inf, 0.2],
            }.items()
        }
    )
    samples = xr.Dataset(coords={"direction_1": ("sample", [0.7]), "direction_2": ("sample", [0.8])})
    drawn = figures.plane_figure(plane(np.eye(3)), trajectory=path(), minima=minima, samples=samples)
    found = named(drawn)
    assert (tuple(found["saddles between them"].x), tuple(found["saddles between them"].y)) == ((0.3,), (0.4,))
    assert tuple(found["minima of the plane"].x) == (0.1, 0.5)
    assert tuple(found["computed"].y) == (0.8,)
    training = found["training (98.8 % of it in the plane)"]
    assert tuple(training.x) == (1, 0.75, 0.5, 0.25, 0)
    assert training.text[1] == "step 1<br>loss 0.5<br>off the plane 0"


def test_an_animation_grows_the_path_frame_by_frame_and_is_plain_json():
    figure: Any = figures.training_animation(plane(np.eye(3)), path(5))
    (at,) = {frame.traces for frame in figure.frames}
    assert traces(figure)[at[0]].name.startswith("training")
    assert [len(frame.data[0].x) for frame in figure.frames] == [1, 2, 3, 4, 5]
    steps = figure.layout.sliders[0].steps
    assert [step.args[0][0] for step in steps] == [frame.name for frame in figure.frames]
    assert steps[2].label == "step 2, loss 0.5"
    assert all(step.args[1]["frame"]["redraw"] for step in steps)  # else plotly loses the plane
    assert len(json.loads(str(figure.to_json()))["frames"]) == 5
    assert (
        len(json.loads(str(figures.training_animation(plane(np.eye(3)), path(500, np.nan)).to_json()))["frames"]) == 60
    )


def test_a_line_has_a_gap_and_crosses_where_it_is_not_finite():
    x = np.linspace(-1, 1, 5)
    axis = ("direction_1", x, {"long_name": "along it"})
    dataset = xr.Dataset({"loss": ("direction_1", [1, np.nan, 2, 3, np.inf])}, coords={"direction_1": axis})
    found = named(figures.line_figure(dataset))
    assert np.isnan(found["training loss"].y).tolist() == [False, True, False, False, True]
    assert tuple(found["not finite"].x) == (-0.5, 1.0)
    assert tuple(found["not finite"].y) == (1.0, 1.0)


def test_a_surface_has_holes_and_the_scale_of_the_colours():
    values = np.geomspace(0.01, 10, 16).reshape(4, 4)
    values[0, 0] = np.nan
    (surface,) = traces(figures.surface_figure(plane(values)))
    assert np.isnan(surface.z).sum() == 1
    np.testing.assert_allclose(np.nanmax(surface.z), 1)


def test_a_merge_tree_stands_on_its_minima_and_joins_at_saddles():
    columns = {
        "loss": [0.0, 1.0, 2.0],
        "saddle_loss": [np.inf, 3.0, 2.5],
        "parent": [-1, 0, 1],
        "num_cells": [9, 3, 1],
    }
    tree = xr.Dataset({k: ("minimum", np.array(v)) for k, v in columns.items()}, attrs={"quantity": "loss"})
    found = named(figures.merge_tree_figure(tree))
    place = dict(zip(found["minima"].y, found["minima"].x, strict=True))
    assert sorted(place.values()) == [0, 1, 2]
    saddles = dict(zip(found["saddles"].y, found["saddles"].x, strict=True))
    assert saddles == {3.0: place[0.0], 2.5: place[1.0]}
    lines = [y for y in found["basins that merge"].y if y is not None]
    assert max(lines) > 3.0  # the lowest minimum has no saddle: its line goes on upwards


def test_a_persistence_diagram_puts_what_never_ends_on_its_line():
    births, deaths = {0: np.array([0.0, 1.0]), 1: np.array([2.0])}, {0: np.array([np.inf, 3.0]), 1: np.array([4.0])}
    found = named(figures.persistence_figure(births, deaths, quantity="test_loss"))
    basins = found["basins (dimension 0)"]
    assert basins.y[0] > 4.0
    assert basins.y[1] == 3.0
    assert tuple(found["closed ridges (dimension 1)"].y) == (4.0,)
