"""Claims of papers as data: what is stated, where, what was expected, what was measured, and the verdict."""

import dataclasses
import enum
import math
from typing import Any

from lossatlas._show import shown


class Verdict(enum.Enum):
    """What the measurement says of a claim; the value is the readable text."""

    HOLDS = "holds"
    FAILS = "fails"
    UNDECIDED = "undecided"

    def __str__(self) -> str:
        return self.value


@shown
@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One statement of a paper beside what was measured.

    A claim that fails is a finding, not an error.

    - `name`: short, unique in its study, like `theorem-1`. `text`: the statement in plain words.
    - `source`: where it is stated: the paper's theorem, figure or section.
    - `expected`, `measured`: numbers, words or lists of them, as JSON knows them. `tolerance`: how far apart they may
      be, or in words what decides.
    - `verdict`: a [`lossatlas.studies.Verdict`][].
    - `figure`: the name of the figure that shows it. `note`: what explains a difference.
    """

    name: str
    text: str
    source: str
    expected: Any
    measured: Any
    verdict: Verdict
    tolerance: float | str | None = None
    figure: str | None = None
    note: str = ""

    @property
    def deviation(self) -> float | None:
        """Measured minus expected, where both are single numbers."""
        if _is_number(self.expected) and _is_number(self.measured):
            return float(self.measured) - float(self.expected)
        return None

    def as_row(self) -> dict[str, Any]:
        """The claim as JSON knows it; what is not finite is None."""
        row = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return row | {"verdict": str(self.verdict), "deviation": _plain(self.deviation)}


def claim_near(
    name: str, text: str, source: str, *, expected: float, measured: float, tolerance: float, **more: Any
) -> Claim:
    """A claim about a number: it holds within the tolerance, and is undecided where nothing finite was measured.

    **Arguments:**
    - `name`, `text`, `source`, `expected`, `measured`, `tolerance`: as in
      [`lossatlas.studies.Claim`][]. `more`: its other fields.
    """
    verdict = Verdict.HOLDS if abs(measured - expected) <= tolerance else Verdict.FAILS
    verdict = verdict if math.isfinite(measured) else Verdict.UNDECIDED
    return Claim(
        name=name,
        text=text,
        source=source,
        expected=expected,
        measured=measured,
        tolerance=tolerance,
        verdict=verdict,
        **more,
    )


def claim_most(name: str, text: str, source: str, *, measured: float, most: float, **more: Any) -> Claim:
    """A claim that something is zero, or small: it holds up to `most`.

    **Arguments:**
    - `name`, `text`, `source`, `measured`: as in [`lossatlas.studies.Claim`][]. `most`: what is allowed. `more`: its
      other fields.
    """
    verdict = Verdict.HOLDS if measured <= most else Verdict.FAILS
    verdict = verdict if math.isfinite(measured) else Verdict.UNDECIDED
    more = {"tolerance": most, "expected": 0.0} | more
    return Claim(name=name, text=text, source=source, measured=measured, verdict=verdict, **more)


def claim_equal(name: str, text: str, source: str, *, expected: Any, measured: Any, **more: Any) -> Claim:
    """A claim about counts or words: it holds when both are the same; None measured is undecided.

    **Arguments:**
    - `name`, `text`, `source`, `expected`, `measured`: as in
      [`lossatlas.studies.Claim`][]. `more`: its other fields.
    """
    same = _plain(expected) == _plain(measured)
    verdict = Verdict.UNDECIDED if measured is None else Verdict.HOLDS if same else Verdict.FAILS
    return Claim(name=name, text=text, source=source, expected=expected, measured=measured, verdict=verdict, **more)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, enum.Enum) else value
