import pytest

from lossatlas.figures import format_number, format_steps
from lossatlas.figures._numbers import log_ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2100, "2,100"),
        (1234567890, "1,234,567,890"),
        (-3, "−3"),
        (0.1716879676, "0.1717"),
        (0.3333333, "0.3333"),
        (0.0500, "0.05"),
        (2952.6, "2,953"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (1.2e-9, "1.2 × 10⁻⁹"),
        (-3.45678e12, "−3.457 × 10¹²"),
        (0.99999999, "1"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_numbers_read_as_people_write_them(value, text):
    assert format_number(value) == text


def test_digits_are_significant_digits():
    assert format_number(0.012345, 2) == "0.012"
    assert format_number(123.456, 2) == "123"


def test_one_step_is_not_an_interval():
    assert format_steps(2400, 2400) == "step 2,400"
    assert format_steps(2100, 3300) == "steps 2,100–3,300"


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.15, 0.45), (1e-3, 1.0), (1e-12, 10.0), (0.2343, 0.5), (1e-30, 1.0), (0.299, 0.356), (1.0, 1.00003)],
)
def test_log_ticks_are_few_and_inside(low, high):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks["tickvals"]) <= 10
    assert all(low <= v <= high for v in ticks["tickvals"])
    assert len(set(ticks["ticktext"])) == len(ticks["tickvals"])
