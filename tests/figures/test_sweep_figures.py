"""What the figures of sweeps show."""

import numpy as np
import pytest
import xarray as xr

from lossatlas import figures


def measured(*sizes, seeds=2):
    names = ("rate", "width", "depth")[: len(sizes)]
    coordinates = {name: np.arange(1, size + 1) * 0.5 for name, size in zip(names, sizes, strict=True)}
    values = np.arange(np.prod(sizes, dtype=int) * seeds, dtype=float).reshape(*sizes, seeds)
    return xr.DataArray(values, coordinates | {"seed": np.arange(seeds)}, (*names, "seed"), name="final_loss")


def test_one_setting_is_a_curve_of_means_with_a_band_and_gaps_that_show():
    array = measured(4)
    array[1] = np.nan
    array[2, 0] = np.inf
    figure = figures.sweep_figure(array)
    traces = {trace.name: trace for trace in figure.data}
    assert traces["mean"].y == pytest.approx([0.5, np.nan, 5.0, 6.5], nan_ok=True)
    band = traces["lowest to highest of 2 seeds"]
    assert (list(band.x), list(band.y)) == ([0.5, 1.5, 2.0], [1.0, 5.0, 7.0])
    assert list(traces["no finite number"].x) == [1.0]
    layout = figure.to_dict()["layout"]
    assert (layout["xaxis"]["title"]["text"], layout["yaxis"]["title"]["text"]) == ("rate", "final loss")


def test_two_settings_are_a_map_of_means_with_what_is_missing_crossed_out():
    array = measured(3, 2)
    array[2, 0] = np.nan
    heat, crosses = figures.sweep_figure(array, compact=True).data
    assert np.asarray(heat.z) == pytest.approx(np.array([[0.5, 4.5, np.nan], [2.5, 6.5, 10.5]]), nan_ok=True)
    assert (list(crosses.x), list(crosses.y)) == (["1.5"], ["0.5"])


def test_more_settings_are_a_map_for_each_value_of_the_others():
    array = measured(3, 2, 2)
    figure = figures.sweep_figure(array)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [trace.z[0][0] for trace in maps] == [0.5, 2.5]
    assert {(trace.zmin, trace.zmax) for trace in maps} == {(0.5, 22.5)}
    assert [annotation["text"] for annotation in figure.to_dict()["layout"]["annotations"]] == ["depth 0.5", "depth 1"]


def test_no_setting_is_a_point_for_each_seed():
    (points,) = figures.sweep_figure(measured(seeds=3)).data
    assert list(points.y) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("sizes", [(), (3,), (3, 2), (2, 2, 2)])
def test_statuses_show_the_worst_of_the_seeds(sizes):
    status = xr.full_like(measured(*sizes), "done", dtype=object)
    status[(0,) * len(sizes) + (1,)] = "non-finite"
    status[(-1,) * len(sizes) + (0,)] = "timed out"
    figure = figures.sweep_status_figure(status)
    worst = np.concatenate([np.ravel(trace.z) for trace in figure.data])
    assert sorted({float(value) for value in worst} - {0.0}) == ([3.0] if not sizes else [2.0, 3.0])
    assert list(figure.data[0].colorbar.ticktext) == ["done", "waiting", "non-finite", "failed"]


def test_nothing_finite_is_no_error():
    array = measured(3, 2) * np.nan
    assert figures.sweep_figure(array).data
    assert figures.sweep_figure(array[:, 0]).data
