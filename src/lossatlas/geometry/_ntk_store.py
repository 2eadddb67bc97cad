"""Kernels larger than memory: written block by block into a file that numpy maps."""

import hashlib
import json
import os
import pathlib
import re
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._ntk import ALL, Method, Recipe, covered, kernel_tiles, make_recipe, put
from lossatlas.geometry._ntk_blocks import convention_words
from lossatlas.geometry._ntk_features import Convention
from lossatlas.geometry._ntk_source import Points, as_landscape, examples_of
from lossatlas.landscape import Landscape


_SECONDS = 5.0  # between two times that what is done is written down


@shown
class StoredKernel(eqx.Module):
    """A kernel in a `.npy` file; conventions as in [`lossatlas.geometry.Kernel`][].

    - `path`: of the file. `shape`: (n, m), or (n C, m C) for the convention `full`.
    - `convention`, `method`: as there.
    """

    path: pathlib.Path = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)
    convention: Convention = eqx.field(static=True)
    method: str = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def open(self) -> Float[np.ndarray, "n m"]:
        """The matrix, read from the file as it is used."""
        return np.load(self.path, mmap_mode="r")


def store_ntk(
    network: Network,
    landscape: Points,
    path: str | os.PathLike[str],
    other: Points | None = None,
    *,
    convention: Convention = "trace",
    method: Method = "auto",
    only: Only = None,
    batch_size: int | None = None,
    progress: ProgressLike = "none",
) -> StoredKernel:
    """The empirical neural tangent kernel of many examples, written to a file block by block.

    A file beside it, `PATH.json`, says of which network and data it is and which blocks are there, so that a call
    that was interrupted goes on where it stopped, and a finished one returns at once. Memory: features of at most
    about a gigabyte, and one block.

    **Arguments:**
    - `path`: of the file, ending in `.npy`.
    - `other`, `convention`, `method`, `batch_size`: as for [`lossatlas.geometry.ntk`][].

    **Returns:**
    A [`lossatlas.geometry.StoredKernel`][]; `np.load(path, mmap_mode="r")` reads it.

    **Raises:** `InputError` as [`lossatlas.geometry.ntk`][] does, for a path that does not end in `.npy`, and for a
    file that holds something else.
    """
    begin = time.perf_counter()
    path = check_store(path)
    first, second = as_landscape(landscape), None if other is None else as_landscape(other)
    recipe, leaves = make_recipe(network, first, second, convention, method, only, batch_size=batch_size)
    rows, columns, k = first.size, first.size if second is None else second.size, recipe.rows.k
    shape = (rows * k, columns * k)
    fingerprint = _fingerprint(recipe, leaves, first, second)
    record = _Record(path, fingerprint, len_of(rows, recipe), len_of(columns, recipe))
    known = record.read()
    if known:
        matrix = np.lib.format.open_memmap(path, mode="r+")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        matrix = np.lib.format.open_memmap(path, mode="w+", dtype=recipe.dtype, shape=shape)
        record.write(matrix)
    view = matrix.reshape(rows, k, columns, k)
    with as_meter(progress).task("kernel", rows * columns) as task:
        count, written = int(record.done.sum()) * recipe.tile**2, time.monotonic()
        for tile in kernel_tiles(recipe, leaves, first, second, record.is_done):
            put(view, recipe.tile, tile, tile.values[ALL], symmetric=second is None)
            record.mark(tile.row, tile.column, symmetric=second is None)
            if time.monotonic() - written > _SECONDS:
                record.write(matrix)
                written = time.monotonic()
            count += covered(tile, symmetric=second is None)
            task.update(min(count, rows * columns))
        record.write(matrix)
    return StoredKernel(
        path=path,
        shape=shape,
        convention=convention,
        method=recipe.method,
        stats={"seconds": time.perf_counter() - begin, "costs": dict(recipe.costs), "tile": recipe.tile},
        settings={"convention": convention_words(convention), "formed": recipe.formed},
    )


def check_store(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file that a kernel can be stored in.

    **Raises:** `InputError` where it does not end in `.npy`.
    """
    path = pathlib.Path(path)
    if path.suffix != ".npy":
        msg = f"A kernel is stored in a file ending in .npy, got {path.name!r}."
        raise InputError(msg)
    return path


def len_of(size: int, recipe: Recipe) -> int:
    """How many tiles so many examples make."""
    return -(-size // recipe.tile)


class _Record:
    """The file beside a kernel: of what it is, and the tiles that are done."""

    def __init__(self, path: pathlib.Path, fingerprint: str, rows: int, columns: int):
        self.path, self.fingerprint = path.with_name(path.name + ".json"), fingerprint
        self.file = path
        self.done = np.zeros((rows, columns), bool)

    def read(self) -> bool:
        """Whether the file holds a part of this kernel, which is then known.

        **Raises:** `InputError` for a file of something else.
        """
        if not self.file.exists():
            return False
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        if content.get("fingerprint") != self.fingerprint:
            msg = (
                f"{str(self.file)!r} holds something else than this kernel (another network, data or convention). "
                "Remove it, or store the kernel elsewhere."
            )
            raise InputError(msg)
        self.done = np.asarray(content["done"], bool)
        return True

    def is_done(self, row: int, column: int) -> bool:
        return bool(self.done[row, column])

    def mark(self, row: int, column: int, *, symmetric: bool) -> None:
        self.done[row, column] = True
        if symmetric:
            self.done[column, row] = True

    def write(self, matrix: np.memmap) -> None:
        """First the blocks, then that they are there."""
        matrix.flush()
        new = self.path.with_suffix(".part")
        new.write_text(json.dumps({"fingerprint": self.fingerprint, "done": self.done.astype(int).tolist()}))
        new.replace(self.path)


def _fingerprint(recipe: Recipe, leaves: list[Array], first: Landscape, second: Landscape | None) -> str:
    """What tells one kernel from another: the function, its arrays, the examples, the convention and the blocks."""
    source = recipe.source
    digest = hashlib.sha256()
    # Functions inside print with their addresses.
    digest.update(re.sub(r"0x[0-9a-f]+", "", str(source.plan.closed.jaxpr)).encode())
    digest.update(repr((source.selected, recipe.rows, recipe.method, recipe.tile, str(recipe.dtype))).encode())
    examples = [examples_of(first), None if second is None else examples_of(second)]
    for array in (*leaves, *jax.tree.leaves(examples)):
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
