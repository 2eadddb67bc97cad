"""Is one network flatter than another? The same random numbers for both, measure by measure."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.geometry._flatness import FlatnessReport, flatness_report
from lossatlas.geometry._flatness_measures import FlatnessMeasure
from lossatlas.landscape import Landscape


_EQUAL = 1e-13  # differences of draws that are one number but for rounding, relative to the draws
_ROUNDING = 1e-9  # relative: two values without an error are one number below
_ERROR_GAP = 0.01  # of the training error, above which curvature compares progress and not flatness


@shown
class FlatnessDifference(eqx.Module):
    """One measure at two networks.

    - `measure`: its name, with the size of the noise where there are several. `first`, `second`: names of the networks.
    - `value`: the measure at the second minus at the first. `standard_error`: of it, from paired draws where
      `is_paired`. `low`, `high`: the interval at the level of the comparison.
    - `p_value`: of no difference. Where all n paired draws differ by one number Student's t has no spread to go by, so
      it is that of the sign test, $2^{1-n}$ (1 where the number is 0), and the interval is NaN where that decides
      nothing. 0 only where both values are computed without error and differ. NaN, as are error and interval, where
      the measure has no interval: a bound, or the largest rise that a search found, ranks nothing.
    - `flatter`: the flatter network at that level, or None.
    """

    measure: str = eqx.field(static=True)
    first: str = eqx.field(static=True)
    second: str = eqx.field(static=True)
    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    is_paired: bool = eqx.field(static=True)
    flatter: str | None = eqx.field(static=True)


@shown
class FlatnessComparison(eqx.Module):
    """Which of several networks is flatter, by which measure.

    - `reports`: a [`lossatlas.geometry.FlatnessReport`][] for each network.
    - `differences`: of each measure and pair of networks. `profile`: of local energy at every size of noise.
    - `level`: the level of the tests; each is read alone, without a correction for their number.
    - `warnings`: measures that disagree, training errors that differ, and the warnings of the reports.
    """

    reports: dict[str, FlatnessReport]
    differences: tuple[FlatnessDifference, ...]
    profile: tuple[FlatnessDifference, ...]
    level: float
    warnings: tuple[str, ...]

    def flatter_at(self, noise: str, of: str = "loss") -> dict[float, str | None]:
        """The flatter of the first two networks by local energy at each size of noise, None where it is not decided."""
        first, second = list(self.reports)[:2]
        found = {}
        for row in self.profile:
            kind, what, size = row.measure.removeprefix("local energy, ").split(", ")
            if (row.first, row.second, kind, what) == (first, second, noise, of):
                found[float(size.removeprefix("sigma "))] = row.flatter
        return found

    def _figure(self) -> Any:
        from lossatlas.figures import flatness_figure

        return flatness_figure({name: report.rows() for name, report in self.reports.items()})


def compare_flatness(
    key: PRNGKeyArray, networks: Mapping[str, Network], landscape: Landscape, *, level: float = 0.01, **options: Any
) -> FlatnessComparison:
    r"""Compare the flatness of two or more networks on the same data, with common random numbers.

    Every network gets a [`lossatlas.geometry.flatness_report`][] with the same key. Networks with as many parameters
    get the same noise, draw by draw, and the differences of their local energies are tested in pairs (Student's t),
    which needs several times fewer draws where the networks are alike; everything else is tested with the errors of
    both added in squares. Measures without an interval (sharpness, which is what a search found, and the PAC-Bayes
    bound) are listed and not tested.

    A warning says when two measures rank two networks in opposite order, when training errors differ by more than one
    per cent (curvature then says how far training has come), and when a gradient is not small. What the audit labels
    scale dependent ranks networks only as far as they are written alike. Cost: that of the reports.

    **Arguments:**
    - `networks`: two or more by name; they may differ in shape.
    - `level`: of the tests, between 0 and 1.
    - `options`: of `flatness_report`, the same for all.

    **Returns:**
    A [`lossatlas.geometry.FlatnessComparison`][].

    **Raises:** `InputError` for fewer than two networks, a level out of range, and whatever the reports refuse.
    """
    if len(networks) < 2:
        msg = f"A comparison needs at least two networks by name, got {list(networks)}."
        raise InputError(msg)
    if not 0 < level < 1:
        msg = f"level must lie between 0 and 1, got {level}."
        raise InputError(msg)
    reports = {name: flatness_report(key, network, landscape, **options) for name, network in networks.items()}
    differences, profile = [], []
    for first, second in itertools.combinations(reports, 2):
        one, other = reports[first], reports[second]
        for name, measure in one.measures.items():
            if name in other.measures:
                differences.append(_difference(name, first, second, measure, other.measures[name], level))
        profile.extend(_profile(first, second, one, other, level))
    rows = tuple(differences)
    return FlatnessComparison(reports, rows, tuple(profile), level, tuple(_warnings(reports, rows)))


def _difference(
    name: str, first: str, second: str, one: FlatnessMeasure, other: FlatnessMeasure, level: float
) -> FlatnessDifference:
    is_paired = one.samples is not None and other.samples is not None and len(one.samples) == len(other.samples)
    if is_paired:
        assert one.samples is not None
        assert other.samples is not None
        return _paired(name, first, second, one.samples, other.samples, level, is_small_flat=one.is_small_flat)
    from scipy import stats

    value = other.value - one.value
    if not (one.has_interval and other.has_interval):
        nan = math.nan
        return FlatnessDifference(name, first, second, value, nan, nan, nan, nan, False, None)
    error = float(np.hypot(one.standard_error, other.standard_error))
    # Half intervals of what has no standard error, such as the residual of an eigenvalue.
    halves = 0.5 * ((one.high - one.low) + (other.high - other.low))
    slack = max(halves, _ROUNDING * max(abs(one.value), abs(other.value))) if error == 0 else 0.0
    p_value = float(2 * stats.norm.sf(abs(value) / error)) if error > 0 else float(abs(value) <= slack)
    half = float(stats.norm.isf(level / 2)) * error if error > 0 else slack
    flatter = _flatter(value, p_value, level, first, second, is_small_flat=one.is_small_flat)
    return FlatnessDifference(name, first, second, value, error, value - half, value + half, p_value, False, flatter)


def _paired(
    name: str, first: str, second: str, one: np.ndarray, other: np.ndarray, level: float, *, is_small_flat: bool
) -> FlatnessDifference:
    from scipy import stats

    pairs = other - one
    count, value, error = len(pairs), float(pairs.mean()), float(pairs.std(ddof=1) / np.sqrt(len(pairs)))
    if np.ptp(pairs) <= _EQUAL * max(np.abs(one).max(), np.abs(other).max()):
        error, p_value = 0.0, 1.0 if (pairs == 0).all() else 2.0 ** (1 - count)
        half = 0.0 if value == 0 or p_value < level else math.nan
    else:
        p_value = float(2 * stats.t.sf(abs(value) / error, count - 1))
        half = float(stats.t.isf(level / 2, count - 1)) * error
    flatter = _flatter(value, p_value, level, first, second, is_small_flat=is_small_flat)
    return FlatnessDifference(name, first, second, value, error, value - half, value + half, p_value, True, flatter)


def _flatter(value: float, p_value: float, level: float, first: str, second: str, *, is_small_flat: bool) -> str | None:
    if not p_value < level or not math.isfinite(value) or value == 0:
        return None
    return first if (value > 0) == is_small_flat else second


def _profile(
    first: str, second: str, one: FlatnessReport, other: FlatnessReport, level: float
) -> list[FlatnessDifference]:
    """The difference of the local energies at every size."""
    found = []
    for noise, curve in one.curves.items():
        for of in ("loss", "error") if curve.error_rise is not None else ("loss",):
            mine, theirs = curve.rise(of), other.curves[noise].rise(of)
            for i, sigma in enumerate(curve.sigmas):
                name = f"local energy, {noise}, {of}, sigma {sigma:g}"
                found.append(_paired(name, first, second, mine[:, i], theirs[:, i], level, is_small_flat=True))
    return found


def _warnings(reports: Mapping[str, FlatnessReport], differences: tuple[FlatnessDifference, ...]) -> list[str]:
    found = []
    for first, second in itertools.combinations(reports, 2):
        gap = reports[second].error - reports[first].error
        if abs(gap) > _ERROR_GAP:
            found.append(
                f"The training errors of {first} ({reports[first].error:.2%}) and {second} "
                f"({reports[second].error:.2%}) differ by more than 1 %: curvature then compares how far training "
                "has come."
            )
        sides = {
            name: [row.measure for row in differences if (row.first, row.second, row.flatter) == (first, second, name)]
            for name in (first, second)
        }
        if sides[first] and sides[second]:
            found.append(
                f"The measures disagree: {first} is flatter by {', '.join(sides[first])}; {second} by "
                f"{', '.join(sides[second])}."
            )
    for name, report in reports.items():
        found.extend(f"{name}: {warning}" for warning in report.warnings)
    return found
