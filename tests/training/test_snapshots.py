"""Log-spaced steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossatlas._errors import InputError
from lossatlas.training import log_spaced_steps


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 300))
def test_steps_are_distinct_and_reach_from_0_to_the_last(num_steps, num_snapshots):
    steps = log_spaced_steps(num_steps, num_snapshots)
    assert len(steps) == min(num_snapshots, num_steps + 1)
    assert steps[-1] == num_steps
    assert num_steps == 0 or steps[0] == 0
    assert (np.diff(steps) > 0).all()


def test_steps_grow_by_a_constant_ratio_where_whole_numbers_allow():
    steps = log_spaced_steps(10**6, 160)
    ratios = steps[60:] / steps[59:-1]
    assert ratios.max() / ratios.min() < 1.02
    assert log_spaced_steps(100, 8).tolist() == [0, 1, 2, 4, 9, 20, 45, 100]


def test_one_snapshot_is_refused():
    with pytest.raises(InputError, match="at least 2"):
        log_spaced_steps(10, 1)


def test_a_negative_number_of_steps_is_refused_and_none_is_one_snapshot():
    with pytest.raises(InputError, match="num_steps must be at least 0, got -3"):
        log_spaced_steps(-3)
    assert log_spaced_steps(0).tolist() == [0]
