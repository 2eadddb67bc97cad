"""Figures of flatness show what their rows say."""

from typing import Any

import numpy as np
import pytest

from lossatlas.figures import audit_figure, chains_figure, flatness_figure, local_energy_figure


def row(name, value, half):
    return {"measure": name, "value": value, "low": value - half, "high": value + half}


@pytest.mark.parametrize("compact", [False, True])
def test_one_network_is_shown_by_value_and_what_a_logarithm_lacks_as_a_number(compact):
    figure: Any = flatness_figure({"": [row("a", 2.0, 0.5), row("b", -1.5, 0.1)]}, compact=compact)
    (trace,) = figure.data
    assert list(trace.x) == [2.0]
    assert list(trace.y) == ["a"]
    assert list(trace.error_x.array) == [0.5]
    assert figure.layout.annotations[0].text.strip() in ("-1.5", "−1.5")
    assert not figure.layout.showlegend


def test_several_networks_are_relative_to_the_first():
    figure: Any = flatness_figure({"x": [row("a", 2.0, 0.5)], "y": [row("a", 3.0, 1.0), row("c", 1.0, 0.0)]})
    assert [list(trace.x) for trace in figure.data] == [[1.0], [1.5]]
    assert list(figure.data[1].error_x.array) == [0.5]
    assert figure.layout.xaxis.title.text == "relative to x"


def test_the_audit_has_a_colour_for_each_verdict_and_numbers_where_there_is_no_ratio():
    rows = [
        {"name": "a", "before": 2.0, "after": 6.0, "verdict": "scale dependent"},
        {"name": "b", "before": 1.0, "after": 1.0, "verdict": "unchanged"},
        {"name": "c", "before": 0.0, "after": 0.5, "verdict": "scale dependent"},
    ]
    figure: Any = audit_figure(rows)
    shown = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert shown == {"unchanged": ([1.0], ["b"]), "scale dependent": ([3.0], ["a"])}
    assert "0.5" in figure.layout.annotations[0].text


def test_the_audit_does_not_magnify_rounding():
    rows = [{"name": n, "before": 1.0, "after": 1.0 + 1e-9 * n, "verdict": "unchanged"} for n in range(3)]
    figure: Any = audit_figure(rows)
    low, high = 10 ** np.asarray(figure.layout.xaxis.range)
    assert low < 0.9
    assert high > 1.1
    assert len(figure.layout.xaxis.tickvals) >= 3


def test_local_energy_has_a_band_of_two_standard_errors():
    sizes = np.array([0.1, 0.2])
    figure: Any = local_energy_figure(
        {"net": (sizes, np.array([1.0, 2.0]), np.array([0.1, 0.3]))}, noise="filter", of="loss"
    )
    band, line = figure.data
    np.testing.assert_allclose(band.y, [1.2, 2.6, 1.4, 0.8])
    assert list(line.y) == [1.0, 2.0]
    assert figure.layout.xaxis.title.text == "size of the filter noise"


def test_chains_are_means_over_blocks_with_the_burn_in_marked():
    losses = np.tile(np.arange(1200.0), (8, 1))
    losses[0, -1] = np.nan
    figure: Any = chains_figure(losses, 300)
    assert len(figure.data) == 6
    np.testing.assert_allclose(figure.data[1].y[:2], [1.0, 4.0])  # means over three steps
    assert np.isnan(figure.data[0].y[-1])
    assert figure.layout.shapes[0].x0 == 300
