"""Examples of any shape in NPZ files."""

import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.data import read_npz


def test_inputs_of_any_shape_with_and_without_targets(tmp_path):
    images, labels = np.arange(24.0).reshape(3, 2, 2, 2), np.array([0, 1, 1])
    np.savez(tmp_path / "both.npz", inputs=images, targets=labels, other=np.zeros(2))
    found = read_npz(tmp_path / "both.npz")
    np.testing.assert_array_equal(found.inputs, images)
    np.testing.assert_array_equal(found.targets, labels)
    np.savez(tmp_path / "alone.npz", X=images)
    assert read_npz(tmp_path / "alone.npz").targets is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"inputs": np.array([{}, []], object)}, "array of Python objects, which only unpickling reads"),
        ({"inputs": np.array(["a", "b"])}, "inputs must hold real numbers"),
        ({"inputs": np.ones((2, 2)) * 1j}, "real numbers, got an array of complex128"),
        ({"inputs": np.array(3.0)}, "at least one example"),
        ({"inputs": np.zeros((0, 3))}, "at least one example"),
        ({"inputs": np.array([[1.0], [2.0], [np.nan]])}, "NaN or infinity, first in example 3"),
        ({"inputs": np.ones((2, 3)), "targets": np.ones(3)}, "as many examples, got 2 and 3"),
        ({"inputs": np.ones((2, 3)), "targets": np.array([1.0, np.inf])}, "targets holds NaN or infinity"),
        ({"images": np.ones((2, 3))}, "holds the arrays images; the examples are missing: inputs"),
    ],
)
def test_what_are_no_examples_is_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=said):
        read_npz(tmp_path / "d.npz")


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(InputError, match="cannot be read as NPZ|only unpickling"):
        read_npz(tmp_path / "text.npz")
    with pytest.raises(InputError, match="There is no file"):
        read_npz(tmp_path / "none.npz")
