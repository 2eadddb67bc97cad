from typing import Any

import numpy as np
import pytest
import xarray as xr

from lossatlas import figures
from survey_examples import EXAMPLES, entry, iris, visit


# Plotly's own types know little of what a figure holds.
atlas_figure: Any = figures.atlas_figure


def lines(figure):
    return {s.name: s for s in figure.layout.shapes if s.type == "line"}


def texts(figure):
    return [a.text for a in figure.layout.annotations]


def trace(figure, name):
    return next(t for t in figure.data if t.name == name)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("compact", [False, True])
def test_every_level_in_range_is_a_line_at_its_loss(name, compact):
    tables, arrays = EXAMPLES[name]()
    figure = atlas_figure(tables, arrays, compact=compact)
    low, high = 10 ** np.array(figure.layout.yaxis.range)
    drawn = lines(figure)
    for row in tables["catalogue"]:
        if low <= row["loss"] <= high:
            assert drawn[row["name"]].y0 == drawn[row["name"]].y1 == row["loss"]
            assert (drawn[row["name"]].line.dash == "dash") == (row["kind"] == "level at infinity")
        else:
            assert row["name"] not in drawn


@pytest.mark.parametrize("name", EXAMPLES)
def test_axes_are_named_and_logarithmic(name):
    figure = atlas_figure(*EXAMPLES[name]())
    layout = figure.layout
    assert layout.xaxis.type == layout.yaxis.type == "log"
    assert layout.xaxis.title.text == "training step"
    assert "training loss" in layout.yaxis.title.text
    assert "neurons" in layout.yaxis2.title.text
    assert "linear units" in layout.yaxis3.title.text


def test_the_normalisation_of_the_loss_is_said():
    assert "½ |f − y|²" in atlas_figure(*iris()).layout.yaxis.title.text
    assert "nats" in atlas_figure(*EXAMPLES["digits"]()).layout.yaxis.title.text


@pytest.mark.parametrize("compact", [False, True])
def test_levels_stand_at_the_margin_in_their_order_without_touching(compact):
    figure = atlas_figure(*EXAMPLES["digits"](), compact=compact)
    layout = figure.layout
    high, low = layout.yaxis.range[1], layout.yaxis.range[0]
    panel = (layout.height - layout.margin.t - layout.margin.b) * (layout.yaxis.domain[1] - layout.yaxis.domain[0])
    names = [a for a in layout.annotations if a.xref == "x domain"]
    places = [((high - a.y) / (high - low) * panel + a.ay, (high - a.y) / (high - low) * panel) for a in names]
    places.sort()
    assert np.all(np.diff([place for place, _ in places]) > 13.5)
    assert np.all(np.diff([level for _, level in places]) >= -1e-6)
    shown = " ".join(a.hovertext for a in names)
    for row in EXAMPLES["digits"]()[0]["catalogue"]:
        assert f"<b>{row['name']}</b>" in shown


def test_visits_are_marked_on_the_curve_and_named_with_words():
    tables, arrays = iris()
    figure = atlas_figure(tables, arrays)
    marks = trace(figure, "visit")
    assert list(marks.x) == [1, 2400, 9500, 60000]
    assert list(marks.y) == [0.3334, 0.1709, 0.0346, 0.0066]
    assert any("a linear model (0,1)" in t for t in texts(figure))
    assert any("one neuron</b><br><b>beside one linear unit (1,1)b" in t for t in texts(figure))
    assert any(t.startswith("near ") and "(0,2)" in t for t in texts(figure))


def test_steps_of_visits_are_shaded_and_those_of_near_misses_not():
    figure = atlas_figure(*iris())
    shaded = sorted((s.x0, s.x1) for s in figure.layout.shapes if s.type == "rect")
    assert shaded == [(1, 1400), (2100, 3300), (8000, 13000), (38000, 60000)]


def test_slow_downs_say_what_they_are_at():
    marks = trace(atlas_figure(*iris()), "slow-down")
    assert list(marks.x) == [600, 2400, 26000, 48000]
    assert marks.text[1] == "at (0,1)"
    assert marks.text[2] == "at no entry of the catalogue"


def test_the_shown_seed_is_that_of_the_tables():
    tables, arrays = iris()
    figure = atlas_figure(tables, arrays)
    expected = arrays["training"].to_dataset().sel(seed=tables["best_seed"])
    keep = expected["step"].to_numpy() >= 1
    np.testing.assert_array_equal(trace(figure, "the big network").y, expected["loss"].to_numpy()[keep])
    assert sum(t.name in ("seed 0", "seed 2") for t in figure.data) == 2


def test_layers_are_drawn_below_on_the_same_axis():
    tables, arrays = iris()
    figure = atlas_figure(tables, arrays)
    training = arrays["training"].to_dataset().sel(seed=tables["best_seed"])
    for axis, variable in (("y2", "effective_neurons"), ("y3", "linear_units")):
        curves = [t for t in figure.data if t.yaxis == axis]
        assert [t.name for t in curves] == ["layer 1", "layer 2"]
        assert all(t.xaxis in (None, "x") for t in curves)
        np.testing.assert_array_equal(curves[1].y, training[variable].to_numpy()[1:, 1])


def test_a_diverged_seed_ends_at_a_cross():
    tables, arrays = EXAMPLES["diabetes"]()
    figure = atlas_figure(tables, arrays)
    crosses = [t for t in figure.data if t.marker.symbol == "x"]
    assert len(crosses) == 1
    last = int(np.flatnonzero(np.isfinite(arrays["training"]["loss"].to_numpy()[2]))[-1])
    assert crosses[0].x[0] == arrays["training"]["step"].to_numpy()[2, last]
    assert "seed 2 ends here: the loss became non-finite" in crosses[0].text[0]


def test_a_level_of_zero_is_named_below_the_picture():
    tables, arrays = iris()
    tables["catalogue"].append(entry("(3,0)", "three neurons", 0.0, 27))
    tables["trainings"][1]["visits"].append(visit("(3,0)", 60000, 0.0066, 0.4, None, "no match", entry=9))
    figure = atlas_figure(tables, arrays)
    below = [a for a in figure.layout.annotations if "↓" in a.text]
    assert len(below) == 1
    assert "(3,0)" in below[0].hovertext
    assert "(3,0)" not in lines(figure)


def test_a_survey_without_visits_draws_no_marks():
    figure = atlas_figure(*EXAMPLES["nothing visited"]())
    assert not [t for t in figure.data if t.name in ("visit", "near", "slow-down")]
    assert not [s for s in figure.layout.shapes if s.type == "rect"]


def test_a_run_without_finite_losses_still_gives_a_figure():
    tables, arrays = iris()
    training = arrays["training"].to_dataset()
    training["loss"] = training["loss"] * np.nan
    figure = atlas_figure(tables, xr.DataTree.from_dict({"/training": training}))
    assert np.isfinite(figure.layout.yaxis.range).all()


def test_markup_in_names_is_shown_not_interpreted():
    tables, arrays = iris()
    tables["catalogue"][1]["words"] = "<a href='http://evil'>x</a>"
    assert "<a " not in atlas_figure(tables, arrays).to_json().replace("\\u003c", "<")
