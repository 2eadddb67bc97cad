import pytest

from lossatlas._errors import InputError
from lossatlas.theory import critical_set_dimension


@pytest.mark.parametrize(
    ("widths", "wider", "dimension"),
    [
        ([2, 2, 2, 1], [2, 3, 4, 1], 3 + 1 * 2),
        ([2, 2, 2, 2], [2, 4, 3, 2], 3 + 2 * 1),
        ([1, 2, 1], [1, 5, 1], 3),
        ([3, 4, 2], [3, 4, 2], 0),
    ],
)
def test_dimension_is_what_the_wide_hessians_were_measured_to_have(widths, wider, dimension):
    assert critical_set_dimension(widths, wider) == dimension


@pytest.mark.parametrize(
    ("widths", "wider"), [([1, 2, 1], [1, 1, 1]), ([1, 2, 1], [2, 3, 1]), ([1, 2, 1], [1, 2, 2, 1])]
)
def test_what_is_no_widening_is_refused(widths, wider):
    with pytest.raises(InputError, match=r"\[1, 2, 1\]"):
        critical_set_dimension(widths, wider)
