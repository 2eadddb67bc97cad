from typing import Any

import equinox as eqx
import numpy as np

from lossatlas.figures import path_figure
from lossatlas.geometry import Barrier


def traces(figure) -> list[Any]:
    return list(figure.data)


def made(height, accuracy=True):
    t = np.linspace(0, 1, 11)
    loss = 0.1 + 0.2 * t + height * 4 * t * (1 - t)
    right = 0.9 - 0.5 * height * 4 * t * (1 - t) if accuracy else None
    drop = (0.5 * height, 0.5) if accuracy else (None, None)
    return Barrier(height, 0.5, height, 0.5, *drop, t, t, loss, right, 0.1, {}, {})


def test_paths_share_a_picture_with_a_colour_each_and_a_mark_for_each_barrier():
    figure = path_figure({"straight": {"train": made(1.0), "test": made(0.8)}, "matched": {"train": made(0.2)}})
    lines = [trace for trace in traces(figure) if trace.mode == "lines" and trace.showlegend is None]
    assert [line.name for line in lines] == ["straight, train", "straight, test", "matched, train"]
    assert [line.line.dash for line in lines] == ["solid", "dash", "solid"]
    assert lines[0].line.color == lines[1].line.color != lines[2].line.color
    marks = [trace for trace in traces(figure) if trace.text is not None]
    np.testing.assert_allclose(marks[0].y, [0.2, 0.7, 1.2])
    assert marks[0].text[1] == "1"
    assert len(marks) == 2


def test_differences_that_are_rounding_are_not_magnified():
    noise = 1e-16 * np.arange(11)
    same = eqx.tree_at(lambda b: (b.loss, b.barrier), made(0.0), (0.2 + noise, 1e-15))
    figure: Any = path_figure({"same": same})
    low, high = (figure.layout.yaxis.range[i] for i in (0, 1))
    assert low < 0.1
    assert high > 0.3
    assert not [trace for trace in traces(figure) if trace.text is not None]


def test_a_barrier_of_nothing_has_no_mark_and_accuracy_may_be_missing():
    assert not [trace for trace in traces(path_figure({"flat": made(0.0)})) if trace.text is not None]
    figure = path_figure({"one": made(1.0), "two": made(1.0, accuracy=False)}, value="accuracy")
    assert [trace.name for trace in traces(figure) if trace.showlegend is None] == ["one"]
