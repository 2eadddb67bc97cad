from typing import Any

import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.theory import expected_layer_traces


WIDTHS, VARIANCES = [64, 200, 50, 120, 10], [2 / 64, 2 / 100, 2 / 80, 1 / 120]


def test_expected_traces_have_the_numbers_of_the_formula():
    found = expected_layer_traces(WIDTHS, VARIANCES, input_square=14.784, loss_trace=10.0)
    np.testing.assert_allclose(found, [92.4, 144.4, 115.5, 346.5], rtol=1e-3)


def test_curvature_times_variance_is_the_same_in_all_layers():
    found = expected_layer_traces(WIDTHS, VARIANCES, input_square=1.0, loss_trace=1.0, slope_square=0.3)
    np.testing.assert_allclose(found * VARIANCES, found[0] * VARIANCES[0], rtol=1e-12)


def test_depth_multiplies_and_dropout_divides():
    options: dict[str, Any] = {"input_square": 1.0, "loss_trace": 1.0}
    deep = [8] * 10
    wide = expected_layer_traces(deep, [2 / 8] * 9, **options)
    np.testing.assert_allclose(wide, 1.0)
    np.testing.assert_allclose(expected_layer_traces(deep, [4 / 8] * 9, **options), 2.0**8)
    np.testing.assert_allclose(expected_layer_traces(deep, [1 / 8] * 9, keep_rate=0.5, **options), 1.0)
    np.testing.assert_allclose(expected_layer_traces(deep, [4 / 8] * 9, keep_rate=0.5, inverted=False, **options), 1.0)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="has 1 layers, got 2 variances"):
        expected_layer_traces([3, 2], [1.0, 1.0], input_square=1.0, loss_trace=1.0)
    with pytest.raises(InputError, match="must be positive"):
        expected_layer_traces([3, 2], [1.0], input_square=0.0, loss_trace=1.0)
