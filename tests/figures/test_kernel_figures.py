"""Figures of kernels show the numbers that they are given."""

from typing import Any

import numpy as np

from lossatlas.figures import (
    kernel_evolution_figure,
    kernel_matrix_figure,
    kernel_spectrum_figure,
    kernel_velocity_figure,
)


def traces(figure: Any) -> Any:
    """What a figure draws."""
    return figure.data


def layout(figure: Any) -> Any:
    """Its axes and lines."""
    return figure.layout


def test_kernel_matrix_is_ordered_by_class_and_scaled_to_cosines():
    matrix = np.array([[4.0, 2.0, 0.0], [2.0, 4.0, 1.0], [0.0, 1.0, 1.0]])
    figure = kernel_matrix_figure(matrix, np.array([1, 0, 1]))
    shown = np.asarray(traces(figure)[0].z)
    np.testing.assert_allclose(shown, [[1, 0.5, 0.5], [0.5, 1, 0], [0.5, 0, 1]], atol=1e-6)
    assert list(layout(figure).xaxis.ticktext) == ["0", "1"]
    assert list(layout(figure).xaxis.tickvals) == [0.0, 1.5]
    assert len(layout(figure).shapes) == 2  # a line between the classes in each direction
    large = kernel_matrix_figure(np.eye(600), None, limits=(-0.5, 1.0), compact=True)
    assert (traces(large)[0].zmin, traces(large)[0].zmax) == (-0.5, 1.0)
    assert np.asarray(traces(large)[0].z).shape == (250, 250)


def test_spectrum_leaves_out_what_is_rounding():
    figure = kernel_spectrum_figure(np.array([3.0, 1.0, -1e-17]))
    np.testing.assert_allclose(traces(figure)[0].y[:2], [3, 1])
    assert np.isnan(traces(figure)[0].y[2]) and layout(figure).yaxis.type == "log"
    both = kernel_spectrum_figure({"first": np.array([3.0, 1.0]), "second": np.array([2.0])})
    assert {trace.name: list(trace.y) for trace in traces(both)} == {"first": [3, 1], "second": [2]}


def test_evolution_shows_the_measures_that_are_there():
    times = np.array([0.0, 1.0, 2.0])
    measures = {"distance_from_first": np.array([0, 0.1, 0.2]), "hamming_from_first": np.full(3, np.nan)}
    figure = kernel_evolution_figure(times, measures)
    assert [trace.name for trace in traces(figure)] == ["kernel, distance from the first"]
    velocity = kernel_velocity_figure(times, np.array([np.nan, 0.1, 0.01]))
    np.testing.assert_allclose(traces(velocity)[0].y[1:], [0.1, 0.01])
    assert layout(velocity).yaxis.type == "log"
