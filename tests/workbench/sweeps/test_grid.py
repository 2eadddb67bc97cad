"""Which cells a sweep has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweep_studies
from lossatlas._errors import InputError
from lossatlas.studies import find_study
from lossatlas.workbench.sweeps import parse_axis
from lossatlas.workbench.sweeps._grid import make_grid


PLANE = find_study("toy-plane")


def grid(axes, seeds=1, **options):
    return make_grid(PLANE, axes, seeds, preset="quick", options=options)


def test_every_combination_comes_once_the_seed_fastest():
    assert PLANE.config is sweep_studies.ToyPlane
    found = grid({"width": (3, 4), "gamma": ("0.5", 1)}, seeds=2, wait=0.0)
    assert found.shape == (2, 2, 2)
    cells = found.cells()
    assert [cell.place for cell in cells] == list(range(8))
    assert [(*cell.values, cell.seed) for cell in cells[:3]] == [(3, 0.5, 0), (3, 0.5, 1), (3, 1.0, 0)]
    assert found.study(cells[-1]) == sweep_studies.ToyPlane(width=4, gamma=1.0)
    assert [found.program(cell) for cell in cells] == [(3,)] * 4 + [(4,)] * 4


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1,2, 3", ("1", "2", "3")),
        ("a=0.5:2:0.25", (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)),
        ("a=0.1:0.3:0.1", (0.1, 0.2, 0.3)),
        ("a=3:1:-1", (3, 2, 1)),
        ("a=1:2:4", (1,)),
        ("a=5,5;10,10", ("5,5", "10,10")),
        ("a=5,5;", ("5,5",)),
    ],
)
def test_an_axis_is_read_from_text(text, values):
    assert parse_axis(text) == ("a", values)


@given(st.integers(-50, 50), st.integers(1, 40), st.sampled_from([0.1, 0.25, 0.3, 1e-3, 7.0]))
def test_steps_reach_their_stop_despite_rounding(first, count, step):
    start = first * step
    values = parse_axis(f"a={start!r}:{start + (count - 1) * step!r}:{step!r}").values
    assert len(values) == count
    assert values[-1] == pytest.approx(start + (count - 1) * step, abs=1e-9)


@pytest.mark.parametrize("text", ["a", "=1", "a=", "a=1:2", "a=1:2:0", "a=2:1:1", "a=x:2:1", "a=0:1:1e-9"])
def test_text_that_is_no_axis_is_refused(text):
    with pytest.raises(InputError, match="start:stop:step"):
        parse_axis(text)


@pytest.mark.parametrize(
    ("axes", "options", "message"),
    [
        ({"witdh": (3,)}, {}, "Unknown setting of toy-plane on the grid 'witdh'. Did you mean 'width'"),
        ({"width": (3, 3)}, {}, "width needs values on the grid, each once, got 3, 3"),
        ({"width": ()}, {}, "got none"),
        ({"width": ("many",)}, {}, "width must be a whole number, got 'many'"),
        ({"width": (3,)}, {"width": 4}, "width is on the grid and set once more"),
        ({"width": (12, 13)}, {}, "toy-plane refuses the cell width=13: thirteen brings bad luck"),
        ({"width": (12, 14), "gamma": (-1.0,)}, {}, "toy-plane refuses the cell width=14, gamma=-1.0: too wide"),
        ({"gamma": range(2_000_000)}, {}, "2,000,000 cells; 1,000,000 are allowed"),
    ],
)
def test_a_grid_that_cannot_be_measured_is_refused_in_one_line(axes, options, message):
    with pytest.raises(InputError, match=message):
        grid(axes, **options)


@pytest.mark.parametrize("seeds", [0, -1, True])
def test_seeds_are_a_whole_number(seeds):
    with pytest.raises(InputError, match="seeds must be a whole number from 1"):
        grid({"width": (3,)}, seeds=seeds)
