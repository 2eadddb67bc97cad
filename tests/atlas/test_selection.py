import numpy as np
import pytest

from lossatlas.atlas._selection import HeldOut, smallest_within_error


def _candidate(name, parameters, losses, folds=(), overlap=0.0):
    return HeldOut(name, parameters, np.asarray(losses, float), None, folds or (len(losses),), overlap)


def test_smallest_within_one_paired_standard_error_is_taken():
    noise = np.array([1.0, -1.0, 1.0, -1.0])
    best = _candidate("big", 1000, [1.0, 2.0, 3.0, 4.0])
    # Paired gaps: mean 0.1, standard error 1 * sqrt(4/3) / 2 = 0.577: within. Mean 0.7: not within.
    near = _candidate("(1,0)", 10, best.losses + 0.1 + noise)
    far = _candidate("(0,1)", 5, best.losses + 0.7 + noise)
    assert smallest_within_error([far, near, best], best).name == "(1,0)"


def test_pairing_matters():
    best = _candidate("big", 1000, [0.0, 10.0, 20.0, 30.0])
    # The spread over rows is large, but the gap is the same on every row: never within the error.
    worse = _candidate("(1,0)", 10, best.losses + 0.5)
    assert smallest_within_error([worse, best], best).name == "big"


def test_standard_error_and_mean_in_closed_form():
    candidate = _candidate("(1,0)", 10, [1.0, 3.0])
    assert candidate.loss == 2.0
    assert candidate.standard_error == pytest.approx(1.0)
    assert candidate.accuracy is None


def test_over_folds_the_shared_training_rows_are_counted():
    # Five folds of two rows, means 1, 2, 3, 4, 5: variance 2.5, times 1/5 + 1/4.
    losses = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 2) + np.tile([1.0, -1.0], 5)
    candidate = _candidate("(1,0)", 10, losses, (2,) * 5, 0.25)
    assert candidate.standard_error == pytest.approx(np.sqrt(2.5 * (1 / 5 + 1 / 4)))
    gap, error = candidate.behind(_candidate("big", 20, np.ones(10), (2,) * 5, 0.25))
    assert (gap, error) == (2.0, pytest.approx(candidate.standard_error))


def test_rounding_is_no_error():
    assert _candidate("(0,0)", 3, 0.1 * np.arange(1, 4) / np.arange(1, 4) + 1e-17).standard_error == 0.0


def test_folds_of_several_sizes_are_told_apart():
    losses = [0.0, 0.0, 0.0, 3.0, 3.0]
    candidate = _candidate("(1,0)", 10, losses, (3, 2), 1.0)
    assert candidate.standard_error == pytest.approx(np.sqrt(4.5 * 1.5))
