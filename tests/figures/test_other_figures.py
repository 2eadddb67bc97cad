from typing import Any

import numpy as np
import pytest

from lossatlas import figures
from survey_examples import EXAMPLES, entry, iris


# Plotly's own types know little of what a figure holds.
distance_figure: Any = figures.distance_figure
selection_figure: Any = figures.selection_figure
tree_figure: Any = figures.tree_figure
reduction_figure: Any = figures.reduction_figure


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("compact", [False, True])
def test_all_axes_are_named(name, compact):
    tables, arrays = EXAMPLES[name]()
    for figure in (
        distance_figure(tables, arrays, compact=compact),
        selection_figure(tables, compact=compact),
        tree_figure(tables, compact=compact),
        reduction_figure(tables, compact=compact),
    ):
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text


def _names(figure):
    return {t.name for t in figure.data if t.name}


def test_distances_are_those_of_the_shown_run():
    tables, arrays = iris()
    figure = distance_figure(tables, arrays)
    curve = next(t for t in figure.data if t.name == "(0,1) a linear model")
    distance = arrays["training"].to_dataset().sel(seed=1, entry="(0,1)")["distance"].to_numpy()
    np.testing.assert_array_equal(curve.y, distance[1:])
    assert [s.y0 for s in figure.layout.shapes] == [0.15]


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_two_distance_curves_look_alike(name):
    styles = [(t.line.color, t.line.dash) for t in distance_figure(*EXAMPLES[name]()).data if t.mode == "lines"]
    assert len(set(styles)) == len(styles)


def test_the_line_of_a_visit_is_that_of_the_atlas():
    from lossatlas.atlas._visits import VISIT_DISTANCE

    assert [s.y0 for s in distance_figure(*iris()).layout.shapes] == [VISIT_DISTANCE]


def test_entries_of_the_same_function_have_no_distance_curve():
    assert not any(n.startswith("(2,1)a") for n in _names(distance_figure(*iris())))


def test_the_nearest_are_drawn_where_none_was_approached():
    tables, arrays = iris()
    for visit in tables["trainings"][1]["visits"]:
        visit |= {"distance": 0.7 + 0.01 * visit["entry"], "verdict": "no match"}
    assert {n.split(" ")[0] for n in _names(distance_figure(tables, arrays))} == {"(0,0)", "(0,1)", "(1,0)"}


def test_selection_marks_the_recommended_and_the_big_network():
    tables, _ = iris()
    figure = selection_figure(tables)
    star = next(t for t in figure.data if t.name == "recommended")
    assert (list(star.x), list(star.y)) == ([18], [0.0291])
    big = next(t for t in figure.data if t.name == "the big network")
    assert (list(big.x), list(big.y), list(big.error_y.array)) == ([2953], [0.060], [0.025])
    good = next(t for t in figure.data if t.name == "as good as the best")
    assert sorted(good.x) == [18, 19]
    others = next(t for t in figure.data if t.name == "small network")
    assert len(others.x) + len(good.x) + len(big.x) == len(tables["selection"]["rows"])


def test_error_bars_stay_above_zero_on_a_logarithmic_axis():
    tables, _ = iris()
    tables["selection"]["rows"][4]["standard_error"] = 1.0
    figure = selection_figure(tables)
    assert figure.layout.yaxis.type == "log"
    for t in figure.data:
        assert all(y - e > 0 for y, e in zip(t.y, t.error_y.arrayminus, strict=True))


def test_close_losses_have_a_linear_axis():
    tables, _ = EXAMPLES["diabetes"]()
    assert selection_figure(tables).layout.yaxis.type == "linear"


def test_the_recommended_big_network_is_the_star():
    tables, _ = EXAMPLES["nothing visited"]()
    star = next(t for t in selection_figure(tables).data if t.name == "recommended")
    assert list(star.x) == [2953]


def test_tree_has_a_point_for_each_entry_and_a_line_for_each_pair():
    tables, _ = iris()
    figure = tree_figure(tables)
    edges = next(t for t in figure.data if t.name == "leads to")
    assert list(edges.x).count(None) == len(tables["leads_to"])
    points = [t for t in figure.data if t.mode == "markers"]
    assert sum(len(t.x) for t in points) == len(tables["catalogue"])
    infinite = next(t for t in points if t.name == "level at infinity")
    assert sorted(infinite.y) == [0.0064999, 1 / 6]
    for t in points:
        assert all(y > 0 for y in t.y)


def test_tree_names_every_entry_once():
    tables, _ = iris()
    tables["catalogue"] += [
        entry(f"(3,0){letter}", "three neurons", 0.004 + 1e-5 * i, 27) for i, letter in enumerate("abcd")
    ]
    texts = [a.text for a in tree_figure(tables).layout.annotations]
    assert "(3,0)a–d" in texts
    assert len(texts) == len(tables["catalogue"]) - 3


def test_tree_names_what_training_found_by_its_own_name():
    tables, _ = iris()
    found = entry("(2,1)b", "two neurons beside one linear unit", 0.02, 26)
    tables["catalogue"] += [found | {"name": "T1"}, found | {"name": "T2", "loss": 0.0201}]
    assert "T1, T2" in [a.text for a in tree_figure(tables).layout.annotations]


def test_tree_puts_a_loss_of_zero_at_its_lower_end():
    tables, _ = iris()
    tables["catalogue"][-1]["loss"] = 0.0
    figure = tree_figure(tables)
    assert figure.layout.yaxis.ticktext[0] == "lower"
    least = min(y for t in figure.data if t.mode == "markers" for y in t.y)
    assert least == figure.layout.yaxis.tickvals[0]


def test_reduction_bars_are_the_units_left():
    tables, _ = iris()
    figure = reduction_figure(tables)
    bars = {t.name: t for t in figure.data}
    assert list(bars["neurons"].y) == [6, 3, 4, 2, 2, 1, 2]
    assert list(bars["linear units"].y) == [1, 2, 1, 1, 1, 1, 0]
    assert list(bars["neurons"].x[0]) == ["1 %"] * 2 + ["3 %"] * 2 + ["10 %"] * 2 + ["30 %"]
    assert figure.layout.barmode == "stack"
    assert "of 50, 50" in figure.layout.yaxis.title.text


def test_a_network_reduced_to_an_affine_map_is_drawn_as_such():
    tables, _ = EXAMPLES["diabetes"]()
    bars = reduction_figure(tables).data[0]
    assert set(bars.x[1]) == {"none left"}
    assert set(bars.y) == {0}
