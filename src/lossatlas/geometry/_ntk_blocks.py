"""Kernels tile by tile: features of batches of examples on the host, blocks between them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from lossatlas.geometry._ntk_features import Convention, Features, Pair, Rows


_BLOCK_BYTES = 2**28
_FEATURE_BYTES = 2**30
_MOST_ROWS = 1024
_SMALL, _TILES = 200, 4


@dataclasses.dataclass(frozen=True)
class Tile:
    """A block of a kernel: where its rows and columns of examples start, and its values by layer."""

    row: int
    column: int
    values: dict[str, np.ndarray]  # each (rows, k, columns, k)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Examples in batches of one size; the last is filled up with copies of the first example."""

    examples: PyTree[Array]
    size: int
    rows: int

    def __len__(self) -> int:
        return -(-self.size // self.rows)

    def __getitem__(self, number: int) -> PyTree[Array]:
        if self.rows == self.size:
            return self.examples
        index = np.arange(number * self.rows, (number + 1) * self.rows)
        index = np.where(index < self.size, index, 0)
        return jax.tree.map(lambda a: a[index], self.examples)

    def kept(self, number: int) -> int:
        """How many examples of a batch are real."""
        return min(self.rows, self.size - number * self.rows)


def tile_rows(features: Any, rows: Rows, batch_size: int | None, size: int) -> int:
    """How many examples a tile has: what is asked for, or what keeps a block within a quarter of a gigabyte.

    **Arguments:**
    - `features`: the shapes of the features of one example.
    """
    widest = max([rows.k * rows.k, *((f.inputs.shape[1] * rows.k) ** 2 for f in features if isinstance(f, Pair))])
    most = int(np.sqrt(_BLOCK_BYTES / (8 * 3 * widest)))
    most = min(most, max(1, _BLOCK_BYTES // max(example_bytes(features), 1)), _MOST_ROWS)
    if batch_size is not None:
        return min(batch_size, size)
    # Of a symmetric kernel in a few tiles only the blocks above the diagonal are computed.
    num = max(-(-size // most), _TILES if size >= _SMALL else 1)
    return -(-size // num)


def example_bytes(features: Any) -> int:
    """How many bytes the features of one example take."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(features))


def tiles(
    features_of: Callable[[PyTree[Array]], Features],
    block_of: Callable[[Features, Features], dict[str, Array]],
    first: Batches,
    second: Batches | None,
    bytes_each: int,
    is_done: Callable[[int, int], bool] = lambda row, column: False,  # noqa: ARG005
) -> Iterator[Tile]:
    """All blocks of a kernel, or those on and above the diagonal where `second` is None.

    Features of as many rows as fit into a gigabyte are kept at a time; those of columns beyond them are made anew for
    each such panel.

    **Arguments:**
    - `features_of`, `block_of`: of a batch, and between the features of two.
    - `bytes_each`: of the features of one example. `is_done`: tiles (by numbers of batches) that are left out.
    """
    columns = first if second is None else second
    panel = max(1, _FEATURE_BYTES // max(1, bytes_each * first.rows))
    for start in range(0, len(first), panel):
        members = range(start, min(start + panel, len(first)))
        if all(is_done(i, j) for i in members for j in range(start if second is None else 0, len(columns))):
            continue
        held = {i: features_of(first[i]) for i in members}
        for j in range(start if second is None else 0, len(columns)):
            wanted = [i for i in members if (second is not None or j >= i) and not is_done(i, j)]
            if not wanted:
                continue
            column = held[j] if second is None and j in held else features_of(columns[j])
            for i in wanted:
                found = block_of(held[i], column)
                cut = {name: np.asarray(v)[: first.kept(i), :, : columns.kept(j)] for name, v in found.items()}
                yield Tile(i, j, cut)


def convention_words(convention: Convention) -> str:
    """A convention as results name it."""
    return {
        "full": "full: K[(i, c), (j, d)] = <grad f_c(x_i), grad f_d(x_j)>",
        "trace": "trace: K[i, j] = mean over c of <grad f_c(x_i), grad f_c(x_j)>",
        "sum_logits": "sum_logits: K[i, j] = <grad g(x_i), grad g(x_j)>, g = sum of f_c / sqrt(C)",
    }[convention]
