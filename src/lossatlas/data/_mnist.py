"""MNIST from IDX files in a folder, or from OpenML."""

import gzip
import os
import pathlib

import numpy as np

from lossatlas._errors import InputError, unknown_name
from lossatlas.data._arrays import from_arrays
from lossatlas.data._dataset import DataSet
from lossatlas.data._preprocessing import Scaling


VARIABLE = "LOSSATLAS_DATA"
_PREFIXES = {"train": "train", "test": "t10k"}
_NUM_TRAIN = 60_000


def load_mnist(
    *,
    folder: str | pathlib.Path | None = None,
    part: str = "auto",
    limit: int | None = None,
    scaling: Scaling = 255.0,
) -> DataSet:
    """The handwritten digits of LeCun, Cortes and Burges, 28 x 28 grey values in 0..255.

    **Arguments:**
    - `folder`: where the IDX files lie (`train-images-idx3-ubyte`, `t10k-images-idx3-ubyte` and their labels, plain
      or `.gz`; either pair suffices); default the environment variable LOSSATLAS_DATA; without both, OpenML.
    - `part`: `"train"`, `"test"`, `"all"`; `"auto"` is the training part where its files are there, else the test part.
    - `limit`: only the first rows.
    - `scaling`: default divides by 255 (standardising would blow up pixels that are almost always 0).

    **Raises:** `InputError` for a folder without these files, damaged files, and when OpenML cannot be reached.
    """
    if part not in ("auto", "train", "test", "all"):
        raise unknown_name("part", part, ("auto", "train", "test", "all"))
    if limit is not None and limit < 1:
        msg = f"limit must be at least 1 row, got {limit}."
        raise InputError(msg)
    given = folder if folder is not None else os.environ.get(VARIABLE)
    if given is not None:
        images, labels, source = _from_folder(pathlib.Path(given), part)
    else:
        images, labels, source = _from_openml(part)
    images, labels = images[:limit], labels[:limit]
    height, width = images.shape[1:]
    columns = [f"pixel_{i}_{j}" for i in range(height) for j in range(width)]
    return from_arrays(
        images.reshape(len(images), -1).astype(np.float64),
        labels.astype(np.int64),
        columns=columns,
        name="mnist",
        source=source,
        kind="classification",
        scaling=scaling,
    )


def _from_folder(folder: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray, str]:
    if not folder.is_dir():
        msg = f"There is no folder {str(folder)!r}; give the folder of the MNIST files with folder= or {VARIABLE}."
        raise InputError(msg)
    found = {}
    for name, prefix in _PREFIXES.items():
        pair = (_find(folder, f"{prefix}-images", "idx3"), _find(folder, f"{prefix}-labels", "idx1"))
        if all(pair):
            found[name] = pair
    wanted = {"auto": [next(iter(found), "test")], "all": ["train", "test"]}.get(part, [part])
    missing = [name for name in wanted if name not in found]
    if missing:
        prefix = _PREFIXES[missing[0]]
        msg = (
            f"The folder {str(folder)!r} lacks the {missing[0]} part of MNIST: {prefix}-images-idx3-ubyte and "
            f"{prefix}-labels-idx1-ubyte, plain or .gz."
        )
        raise InputError(msg)
    images = np.concatenate([read_idx(found[name][0], 3) for name in wanted])
    labels = np.concatenate([read_idx(found[name][1], 1) for name in wanted])
    if len(images) != len(labels):
        msg = f"The MNIST files in {str(folder)!r} hold {len(images)} images and {len(labels)} labels."
        raise InputError(msg)
    return images, labels, f"IDX files, part {' + '.join(wanted)}"


def _find(folder: pathlib.Path, stem: str, kind: str) -> pathlib.Path | None:
    names = [f"{stem}{joint}{kind}-ubyte{end}" for joint in "-." for end in ("", ".gz")]
    # MNIST mirrors lay the files directly there, or in a folder of their own.
    places = [folder / name for name in names] + [folder / "mnist" / name for name in names]
    return next((path for path in places if path.is_file()), None)


def read_idx(path: pathlib.Path, num_axes: int) -> np.ndarray:
    """The array of bytes in an IDX file, plain or gzip.

    The format: two zero bytes, type 8 (unsigned byte), the number of axes, their sizes as big-endian 32-bit
    integers, then the values.

    **Raises:** `InputError` for a damaged file or another type.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        msg = f"The file {path.name!r} cannot be read: {error}."
        raise InputError(msg) from None
    start = 4 + 4 * num_axes
    if len(data) < start or data[:4] != bytes([0, 0, 8, num_axes]):
        msg = f"The file {path.name!r} is no IDX file of unsigned bytes with {num_axes} axes."
        raise InputError(msg)
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", num_axes, 4))
    if len(data) - start != int(np.prod(shape)):
        msg = f"The file {path.name!r} is damaged: {len(data) - start} values for shape {shape}."
        raise InputError(msg)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _from_openml(part: str) -> tuple[np.ndarray, np.ndarray, str]:
    from sklearn.datasets import fetch_openml

    try:
        images, labels = fetch_openml("mnist_784", version=1, return_X_y=True, as_frame=False)
    except (OSError, ValueError) as error:
        msg = (
            f"MNIST could not be fetched from OpenML ({type(error).__name__}). Put the IDX files into a folder and "
            f"name it with folder= or the environment variable {VARIABLE}."
        )
        raise InputError(msg) from None
    rows = {"test": slice(_NUM_TRAIN, None), "all": slice(None)}.get(part, slice(_NUM_TRAIN))
    return np.asarray(images)[rows].reshape(-1, 28, 28), np.asarray(labels)[rows], "OpenML mnist_784, version 1"
