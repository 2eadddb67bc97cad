"""Numbers as people read them."""

import math
from typing import Any


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_number(value: int | float | None, digits: int = 4) -> str:
    """`2100` as 2,100; `0.17168797` as 0.1717; `1.2e-9` as 1.2 × 10⁻⁹; what is missing or not finite as a dash.

    **Arguments:**
    - `value`: whole numbers of Python's `int` keep all digits. `digits`: significant digits of the others.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 <= power < 6:
        text = f"{value:,.{max(digits - 1 - power, 0)}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    mantissa = (mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa).replace("-", "−")
    return f"{mantissa} × 10{str(power).translate(_SUPERSCRIPT)}"


def format_steps(first: int, last: int) -> str:
    """`steps 2,100–3,300`, or `step 2,400`."""
    return f"step {first:,}" if first == last else f"steps {first:,}–{last:,}"


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Settings of a logarithmic axis from `low` to `high`: round numbers, about four to nine of them, in words."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [(1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,)]
    values: list[float] = []
    for factors in choices:
        values = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(values) <= 9:
            break
    values = values[:: 1 + len(values) // 10]
    if len(values) < 3:  # less than a power of two
        return even_ticks(low, high)
    return {"tickmode": "array", "tickvals": values, "ticktext": [format_number(v, 2) for v in values]}


def even_ticks(low: float, high: float) -> dict[str, Any]:
    """Settings of an axis from `low` to `high`: equal steps of 1, 2 or 5, between two and seven of them, in words."""
    size = 10.0 ** math.floor(math.log10((high - low) / 2))
    step = size * next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * size) <= 7)
    values = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    digits = max(4, 1 + math.ceil(math.log10(max(abs(low), abs(high)) / step)))
    return {"tickmode": "array", "tickvals": values, "ticktext": [format_number(v, digits) for v in values]}
