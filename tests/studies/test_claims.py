"""Claims say what was expected, what was measured, and what follows."""

import json
import math

import numpy as np
import pytest

from lossatlas.studies import Verdict, claim_equal, claim_most, claim_near


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(1.0, Verdict.HOLDS), (1.09, Verdict.HOLDS), (1.11, Verdict.FAILS), (math.nan, Verdict.UNDECIDED)],
)
def test_a_number_holds_within_its_tolerance(measured, verdict):
    claim = claim_near("c", "text", "source", expected=1.0, measured=measured, tolerance=0.1)
    assert claim.verdict is verdict


def test_small_is_small_and_counts_are_equal():
    assert claim_most("c", "t", "s", measured=1e-13, most=1e-12).verdict is Verdict.HOLDS
    assert claim_most("c", "t", "s", measured=1e-11, most=1e-12).verdict is Verdict.FAILS
    assert claim_equal("c", "t", "s", expected=[0, 1], measured=np.array([0, 1])).verdict is Verdict.HOLDS
    assert claim_equal("c", "t", "s", expected=[0, 1], measured=[0, 2]).verdict is Verdict.FAILS
    assert claim_equal("c", "t", "s", expected=[0, 1], measured=None).verdict is Verdict.UNDECIDED


def test_a_claim_is_strict_json_with_its_deviation():
    row = claim_near("c", "t", "s", expected=1.0, measured=1.25, tolerance=0.1, figure="f").as_row()
    assert row["deviation"] == 0.25
    assert row["verdict"] == "fails"
    assert row["figure"] == "f"
    row = claim_near("c", "t", "s", expected=1.0, measured=math.nan, tolerance=0.1).as_row()
    assert json.loads(json.dumps(row, allow_nan=False))["measured"] is None
    assert row["deviation"] is None
