import gzip
import os
import pathlib
import struct

import numpy as np
import pytest
import sklearn.datasets

from lossatlas import data
from lossatlas._errors import InputError


def _idx(array) -> bytes:
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


_IMAGES = np.arange(5 * 2 * 3).reshape(5, 2, 3) * 8
_LABELS = np.array([7, 2, 7, 0, 2])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("LOSSATLAS_DATA", raising=False)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(_IMAGES)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(_LABELS)))
    return tmp_path


def _add_training_part(folder):
    (folder / "train-images.idx3-ubyte").write_bytes(_idx(_IMAGES[:4] + 1))
    (folder / "train-labels.idx1-ubyte").write_bytes(_idx(_LABELS[:4]))


def test_test_part_alone_suffices(folder, monkeypatch):
    made = data.load("mnist", folder=folder)
    np.testing.assert_array_equal(made.features, _IMAGES.reshape(5, 6))
    assert made.y.tolist() == _LABELS.tolist()
    assert made.columns[:4] == ("pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0")
    np.testing.assert_array_equal(made.arrays()[0], _IMAGES.reshape(5, 6) / 255)
    monkeypatch.setenv("LOSSATLAS_DATA", str(folder))
    assert data.load("mnist").fingerprint() == made.fingerprint()
    monkeypatch.setenv("LOSSATLAS_DATA", str(folder.parent / "nowhere"))
    assert data.load("mnist", folder=folder).fingerprint() == made.fingerprint()


def test_training_part_comes_first_where_it_is(folder):
    _add_training_part(folder)
    assert data.load("mnist", folder=folder).features[0, 0] == 1
    assert data.load("mnist", folder=folder, part="test").num_rows == 5
    assert data.load("mnist", folder=folder, part="all").num_rows == 9
    assert data.load("mnist", folder=folder, part="all", limit=3).num_rows == 3


def test_what_is_missing_is_said(folder):
    with pytest.raises(InputError, match="lacks the train part of MNIST: train-images-idx3-ubyte"):
        data.load("mnist", folder=folder, part="train")
    with pytest.raises(InputError, match="There is no folder"):
        data.load("mnist", folder=folder / "nowhere")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="lacks the test part of MNIST"):
        data.load("mnist", folder=folder)
    with pytest.raises(InputError, match="Unknown part 'tests'. Did you mean 'test'"):
        data.load("mnist", folder=folder, part="tests")
    with pytest.raises(InputError, match="limit must be at least 1"):
        data.load("mnist", folder=folder, limit=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(_idx(_IMAGES)[:-1]), "is damaged: 29 values for shape"),
        (gzip.compress(_idx(_LABELS)), "no IDX file of unsigned bytes with 3 axes"),
        (gzip.compress(b"\0\0"), "no IDX file"),
        (gzip.compress(_idx(_IMAGES))[:-9], "cannot be read"),
        (_idx(_IMAGES), "cannot be read"),
        (gzip.compress(_idx(_IMAGES[:4])), "4 images and 5 labels"),
    ],
    # The compressed bytes hold the time, and parallel workers must collect the same names.
    ids=["short", "labels", "empty", "cut", "not compressed", "too few"],
)
def test_damaged_files_are_refused(folder, content, message):
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        data.load("mnist", folder=folder)


def test_openml_without_network_says_what_to_do(monkeypatch):
    monkeypatch.delenv("LOSSATLAS_DATA", raising=False)

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    with pytest.raises(InputError, match=r"could not be fetched from OpenML .* LOSSATLAS_DATA"):
        data.load("mnist")


def test_openml_parts_are_cut_as_in_the_files(monkeypatch):
    monkeypatch.delenv("LOSSATLAS_DATA", raising=False)
    labels = np.array(["1", "2"] * 30_000 + ["3", "4"] * 10)
    images = np.zeros((len(labels), 784), np.uint8)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda *_, **__: (images, labels))
    assert data.load("mnist", part="test").class_counts == {3: 10, 4: 10}
    assert data.load("mnist", limit=100).classes == (1, 2)


def test_real_images():
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist"
    folder = os.environ.get("LOSSATLAS_DATA") or (beside if beside.is_dir() else None)
    if folder is None:
        pytest.skip("LOSSATLAS_DATA names no folder with the MNIST files")
    made = data.load("mnist", folder=folder, part="test")
    assert made.features.shape == (10_000, 784)
    # The published class counts of the test part, and its mean grey value.
    assert list(made.class_counts.values()) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_allclose(made.arrays()[0].mean(), 0.1325, atol=1e-4)
