"""The map of a sweep: which place was clicked, which runs stand behind it, and the table of its cells."""

import numpy as np
import pytest

from lossatlas.workbench.sweeps import cells_table
from lossatlas.workbench.sweeps._outcome import Outcome
from lossatlas.workbench.sweeps._results import sweep_results


pytest.importorskip("nicegui", reason="needs the extra app")


@pytest.mark.parametrize(
    ("clicked", "sizes", "place"),
    [
        ((0, 0, 0), [], []),
        ((0, 3, 0), [5], [3]),
        ((2, 3, 0), [5, 4], [3, 2]),
        ((2, 3, 1), [5, 4, 2], [3, 2, 1]),
        ((0, 1, 5), [2, 2, 2, 3], [1, 0, 1, 2]),
    ],
)
def test_the_place_of_a_click_is_column_row_and_panel(clicked, sizes, place):
    from lossatlas.app._sweep import place_of

    assert place_of(dict(zip(("row", "column", "panel"), clicked, strict=True)), sizes) == place


def test_the_cells_of_a_place_are_a_row_a_seed_also_before_all_are_measured():
    outcomes = [
        Outcome(2, "done", {"loss": np.array(0.5), "word": np.array("holds")}, seconds=1.5),
        Outcome(3, "failed", error="ArithmeticError: broke", seconds=0.1),
    ]
    results = sweep_results([("width", [10, 20])], 2, outcomes)
    table = cells_table(results, [1])
    assert table.caption == "The cells at width 20"
    assert [head.text for head in table.heads] == ["seed", "status", "seconds", "loss", "word"]
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["0", "done", "1.5", "0.5", "holds"],
        ["1", "failed", "0.1", "–", ""],
    ]
    assert table.rows[1][1].remark == "ArithmeticError: broke"
    assert [row[1].text for row in cells_table(results, [0]).rows] == ["waiting", "waiting"]
