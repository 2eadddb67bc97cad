"""The pictures of a diagnosis from plain tables."""

import numpy as np
import pytest
import xarray as xr

from lossatlas.figures import (
    eigenvalues_figure,
    groups_figure,
    monitor_figure,
    stall_figure,
    ways_figure,
    widths_figure,
)


def layer(name: str, **changes) -> dict:
    return {
        "name": name,
        "size": 3,
        "effective_number": 1.5,
        "effective": [1, 1],
        "constant": 1,
        "unread": 0,
        "groups": 2,
        "similarity": [[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]],
        "neurons_shown": [0, 1, 2],
    } | changes


def way(words: str, predicted: float, realised: float, after: float | None = None) -> dict:
    return {"words": words, "predicted": predicted, "realised": realised, "loss_after": after}


TABLES = {
    "layers": [layer("hidden[0]"), layer("hidden[1]", similarity=None, effective=[0, 0])],
    "small": {"words": "2 neurons"},
    "ways": [way("split unit 0 of hidden[0] (share 2)", 0.001, 0.03, 0.01), way("another way", 0.5, -0.1)],
    "control": 0.154,
    "standing": {
        "loss": 0.155,
        "is_near": True,
        "point": {"loss": 0.1548, "inertia": {"eigenvalues": [-0.1, 0.0, 2.0], "threshold": 1e-9}},
    },
}


@pytest.mark.parametrize("compact", [False, True])
def test_widths_show_what_is_left_of_each_layer(compact):
    bars = {bar.name: list(bar.y) for bar in widths_figure(TABLES, compact=compact).data}
    assert bars["units"] == [3, 3]
    assert bars["left"] == [1, 0]
    assert bars["left: linear units"] == [1, 0]
    assert bars["constant or unread"] == [1, 1]


def test_widths_leave_out_what_was_not_measured():
    unknown = layer("channels[0]", effective=None, effective_number=None, constant=None)
    assert [bar.name for bar in widths_figure({"layers": [unknown]}).data] == ["units"]


@pytest.mark.parametrize("compact", [False, True])
def test_ways_stand_beside_the_control(compact):
    figure = ways_figure(TABLES, compact=compact)
    bars = {bar.name: list(bar.x) for bar in figure.data}
    assert bars["measured"] == [-0.1, 0.03]
    assert bars["after a short run"][0] is None
    assert bars["after a short run"][1] == pytest.approx(0.145)
    layout = figure.to_plotly_json()["layout"]
    assert "the run without a step" in [note["text"] for note in layout["annotations"]]
    low, high = layout["xaxis"]["range"]
    assert low < -0.1
    assert high > 0.155


def test_eigenvalues_are_told_apart_by_the_threshold():
    names = [trace.name for trace in eigenvalues_figure(TABLES).data]
    assert names == ["positive: 1", "zero: 1", "negative: 1"]


def test_groups_show_one_map_a_layer_that_has_one():
    (heat,) = groups_figure(TABLES).data
    assert np.asarray(heat.z).shape == (3, 3)
    assert not groups_figure({"layers": []}).data


def test_stall_marks_the_level():
    figure = stall_figure((np.array([0, 1, 10, 100]), np.array([1.0, 0.5, 0.2, 0.155])), TABLES)
    assert [trace.name for trace in figure.data] == ["training loss", "the network here", "2 neurons"]
    assert list(figure.data[0].x) == [1, 10, 100]


def test_monitor_draws_every_layer():
    values = np.ones((2, 1))
    history = xr.Dataset(
        {
            "loss": ("step", [1.0, 0.5]),
            "words": ("step", ["a constant", "1 neuron"]),
            "effective_neurons": (("step", "layer"), values),
            "neurons": (("step", "layer"), values),
            "linear": (("step", "layer"), 0 * values),
        },
        coords={"step": [0, 10], "layer": ["hidden[0]"]},
    )
    traces = monitor_figure(history).data
    assert [trace.name for trace in traces] == ["loss", "hidden[0]", "hidden[0]", "hidden[0]"]
    assert [list(trace.y) for trace in traces[2:]] == [[1, 1], [0, 0]]
    assert sum(bool(trace.showlegend) for trace in traces[1:]) == 1


@pytest.mark.parametrize("compact", [False, True])
def test_axes_of_layers_are_named(compact):
    tables = {"layers": [layer("hidden[0]"), layer("hidden[1]")]}
    widths = widths_figure(tables, compact=compact).to_dict()["layout"]
    assert (widths["xaxis"]["title"]["text"], widths["yaxis"]["title"]["text"]) == ("layer", "units")
    groups = groups_figure(tables, compact=compact).to_dict()["layout"]
    assert groups["xaxis2"]["title"]["text"] == groups["yaxis"]["title"]["text"] == "units, by group"
