"""A block Krylov basis on the device, several steps a visit of the host."""

import functools as ft
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from lossatlas.geometry._krylov import KrylovBasis
from lossatlas.geometry._products import not_finite


_STEPS = 8  # block steps a visit: the small eigenproblem is solved on the host after each
_AHEAD = 8  # rows kept for the block that comes next, at least
_PAD = 32  # locked rows, and those that leave the device, are padded to a multiple of this

# Accelerators multiply single precision in fewer bits unless told otherwise, which would cost the orthogonality.
_matmul = ft.partial(jnp.matmul, precision="highest")


class DeviceBasis:
    r"""The basis of [`lossatlas.geometry._krylov.KrylovBasis`][], held and extended on the device.

    The same rows, images and relation $A V^\top = V^\top H + W^\top B$, from one compiled program that runs up to 8
    block steps: products, reorthogonalisation in two passes, replacement of directions in which the space ends. The
    blocks are taken row by row: row i is multiplied, its image is orthonormalised against all rows that there are and
    becomes the row `ahead` places on. The host solves the small eigenproblem between visits. Buffers have a fixed
    number of rows, those not filled are zero, so blocks, restarts and verification runs share their programs.

    It is meant for accelerators, which would wait for the host between products. That it is faster there was not
    measured; on a CPU it is slower than the basis on the host, since it multiplies the empty rows too.

    **Arguments:**
    - `product`: a pytree that is called on a vector in a compiled program; its arrays are arguments of the program.
    - The others are those of the basis on the host.
    """

    def __init__(
        self, product: Callable, size: int, limit: int, block: np.ndarray, locked: np.ndarray, rng: np.random.Generator
    ):
        self.product, self.dtype = product, block.dtype
        self.free = size - len(locked)  # dimension of the complement
        self.limit = min(limit, self.free)
        first = KrylovBasis(product, size, 0, block, locked, rng)  # for its orthonormal rows, found without a product
        self.locked = jnp.asarray(_padded(locked, _PAD))
        rows = jnp.zeros((limit + max(len(block), _AHEAD), size), block.dtype)
        self.images = jnp.zeros_like(rows)
        begin = _padded(first.rows[: first.ahead], _AHEAD)
        self.rows = rows.at[: len(begin)].set(begin)
        self.scale = jnp.zeros((), block.dtype)  # largest norm of an image so far
        self.table = np.zeros((len(self.rows), limit))  # column i: the coefficients of image i in the rows
        self.noise = jnp.asarray(rng.standard_normal(size).astype(block.dtype))
        self.known, self.ahead = 0, first.ahead
        self.num_steps = self.num_products = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether V spans the whole complement: its Ritz pairs are then exact."""
        return self.ahead == 0

    @property
    def is_full(self) -> bool:
        """Whether a further block does not fit without a restart."""
        return self.known + self.ahead > self.limit

    @property
    def projected(self) -> np.ndarray:
        """H, as `KrylovBasis` has it."""
        corner = self.table[: self.known, : self.known]
        return 0.5 * (corner + corner.T)

    @property
    def coupling(self) -> np.ndarray:
        """B, as `KrylovBasis` has it."""
        return self.table[self.known : self.known + self.ahead, : self.known]

    def expand(self, left: int) -> None:
        """Take up to 8 blocks into V: to the next check, while there is room, and in about `left` products."""
        due = _STEPS - self.num_steps % _STEPS
        steps = min(due, (self.limit - self.known) // self.ahead, -(-left // self.ahead))
        start, stop = self.known, self.known + steps * self.ahead
        numbers = np.array([start, stop, self.ahead, self.free, self.num_products - start], np.int32)
        fixed = (self.product, self.locked, self.noise, jnp.asarray(numbers))  # no constants, so no further program
        self.rows, self.images, self.scale, table = _multiply(fixed, self.rows, self.images, self.scale)
        self.table[:, start:stop] = np.asarray(table)[:, start:stop]
        if not np.isfinite(self.table[:, start:stop]).all():
            raise not_finite()
        self.num_steps += steps
        self.num_products += stop - start
        # Every product appends one row, until the rows span the complement.
        self.known, self.ahead = stop, min(self.ahead, self.free - stop)

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values in ascending order, their coefficients (columns) and residual norms."""
        values, columns = np.linalg.eigh(self.projected)
        return values, columns, np.linalg.norm(self.coupling @ columns, axis=0)

    def vectors(self, columns: np.ndarray) -> np.ndarray:
        """The vectors (rows) of some coefficient columns, on the host."""
        return self._combined(columns, self.rows)

    def vector_images(self, columns: np.ndarray) -> np.ndarray:
        """What the whole operator, locked part included, makes of these vectors; without a product; on the host."""
        return self._combined(columns, self.images)

    def restart(self, values: np.ndarray, columns: np.ndarray) -> None:
        """Keep only some Ritz pairs; the Krylov relation stays exact."""
        kept, known, ahead = len(values), self.known, self.ahead
        turn = np.zeros((len(self.rows), len(self.rows)), self.dtype)
        turn[:kept, :known] = columns.T
        self.images = _combine(jnp.asarray(turn), self.images)
        turn[np.arange(kept, kept + ahead), np.arange(known, known + ahead)] = 1.0
        self.rows = _combine(jnp.asarray(turn), self.rows)
        coupling = self.coupling @ columns
        self.table[:] = 0.0
        self.table[np.arange(kept), np.arange(kept)] = values
        self.table[kept : kept + ahead, :kept] = coupling
        self.known = kept

    def _combined(self, columns: np.ndarray, rows: jax.Array) -> np.ndarray:
        coefficients = np.zeros((columns.shape[1], len(rows)), self.dtype)
        coefficients[:, : len(columns)] = columns.T
        return np.asarray(_combine(jnp.asarray(_padded(coefficients, _PAD)), rows))[: columns.shape[1]]


def _padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """With zero rows up to a multiple of some number, so that few programs are compiled."""
    length = -(-max(len(rows), 1) // multiple) * multiple
    return np.concatenate([rows, np.zeros((length - len(rows), rows.shape[1]), rows.dtype)])


@eqx.filter_jit(donate="all-except-first")
def _multiply(fixed, rows, images, scale):
    """Multiply the rows from `start` to `stop`, each with the row that follows from it, and their coefficients."""
    product, locked, noise, numbers = fixed
    start, stop, ahead, free, before = numbers

    def step(i, held):
        rows, images, scale, table = held
        image = product(rows[i])
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        rest, coefficients = _clean(locked, rows, image)
        norm = jnp.linalg.norm(rest)
        is_lost = norm <= 100 * jnp.finfo(rows.dtype).eps * scale
        # Where the space ends, noise takes its place, each time by another shift of the same noise.
        row = jnp.where(is_lost, jnp.roll(noise, before + i), rest)
        # What is left after strong cancellation is no longer orthogonal to rounding, so it is cleaned again.
        row, _ = _clean(locked, rows, row / jnp.linalg.norm(row))
        place, is_new = i + ahead, i + ahead < free
        rows = rows.at[place].set(jnp.where(is_new, row / jnp.linalg.norm(row), 0.0))
        column = coefficients.at[place].set(jnp.where(is_new & ~is_lost, norm, 0.0))
        return rows, images.at[i].set(image), scale, table.at[:, i].set(column)

    table = jnp.zeros((len(rows), len(images)), rows.dtype)
    return jax.lax.fori_loop(start, stop, step, (rows, images, scale, table))


def _clean(locked, rows, vector):
    """Two passes of classical Gram-Schmidt, with the coefficients; rows that are not filled are zero."""
    total = jnp.zeros(len(rows), rows.dtype)
    for _ in range(2):
        vector = vector - _matmul(_matmul(locked, vector), locked)
        part = _matmul(rows, vector)
        vector = vector - _matmul(part, rows)
        total = total + part
    return vector, total


@eqx.filter_jit
def _combine(coefficients, rows):
    return _matmul(coefficients, rows)
