"""Matrices between the units of one space with one entry in each row, kept as indices."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Selection(eqx.Module):
    """A matrix of shape (k, size): row i holds `factors[i]` at column `units[i]` and else zeros; or its transpose.

    Splits, null units and prunings are such matrices, merges are transposes of them: applied at the cost of a copy.

    - `size`: the number of columns. `is_transposed`: that the transpose is meant, of shape (size, k).
    - `is_in_place`: that the first `size` rows select 0 to `size - 1` in order, so that only the rest are added up.
    """

    units: Int[Array | np.ndarray, " k"]
    factors: Float[Array | np.ndarray, " k"]
    size: int = eqx.field(static=True)
    is_transposed: bool = eqx.field(static=True, default=False)
    is_in_place: bool = eqx.field(static=True, default=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        count = self.units.shape[0]
        return (self.size, count) if self.is_transposed else (count, self.size)

    @property
    def dtype(self) -> Any:
        """Of the entries."""
        return self.factors.dtype

    @property
    def T(self) -> "Selection":  # noqa: N802
        """The transpose."""
        return Selection(self.units, self.factors, self.size, not self.is_transposed, self.is_in_place)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """All entries, as numpy sees them."""
        del copy
        dense = np.zeros((self.units.shape[0], self.size), dtype or self.dtype)
        if self.size:  # the first unit of a space that has none
            dense[np.arange(len(dense)), np.asarray(self.units)] = self.factors
        return dense.T if self.is_transposed else dense


UnitMatrix = Float[Array | np.ndarray, "new old"] | Selection
"""What maps n units to n' units."""


def on_units(matrix: UnitMatrix, block: Any, axis: int = 0) -> Any:
    """The units along one axis of a block mapped by a matrix, in the precision of the block; numpy stays numpy.

    **Arguments:**
    - `axis`: which one, of a JAX array; 0 for numpy.
    """
    if isinstance(block, np.ndarray):
        return _on_arrays(matrix, block)
    if not isinstance(matrix, Selection):
        return jnp.moveaxis(jnp.tensordot(jnp.asarray(matrix, block.dtype), block, (1, axis)), 0, axis)
    units = jnp.asarray(matrix.units)
    column = (*[1] * axis, -1, *[1] * (block.ndim - axis - 1))
    factors = jnp.asarray(matrix.factors, block.dtype).reshape(column)
    if matrix.is_transposed or matrix.size == 0:
        lead = (slice(None),) * axis
        if matrix.is_transposed and matrix.is_in_place:
            first, rest = (*lead, slice(matrix.size)), (*lead, slice(matrix.size, None))
            head, tail = factors[first], factors[rest]
            return (block[first] * head).at[(*lead, units[matrix.size :])].add(block[rest] * tail)
        shape = (*block.shape[:axis], matrix.shape[0], *block.shape[axis + 1 :])
        new = jnp.zeros(shape, block.dtype)
        return new.at[(*lead, units)].add(block * factors) if matrix.is_transposed else new
    return jnp.take(block, units, axis=axis, mode="clip") * factors


def _on_arrays(matrix: UnitMatrix, block: np.ndarray) -> np.ndarray:
    if not isinstance(matrix, Selection):
        return np.asarray(matrix, block.dtype) @ block
    factors = np.asarray(matrix.factors, block.dtype).reshape(-1, *([1] * (block.ndim - 1)))
    if not matrix.is_transposed:
        return block[matrix.units] * factors
    # The first of each group is copied, the few that follow are added one by one.
    heads, first = np.unique(matrix.units, return_index=True)
    new = np.zeros((matrix.size, *block.shape[1:]), block.dtype)
    new[heads] = block[first] * factors[first]
    for i in np.setdiff1d(np.arange(len(matrix.units)), first):
        new[matrix.units[i]] += block[i] * factors[i]
    return new


def product(outer: UnitMatrix, inner: UnitMatrix) -> UnitMatrix:
    """The matrix of `inner`, then `outer`."""
    if isinstance(outer, Selection) and isinstance(inner, Selection) and not outer.is_transposed | inner.is_transposed:
        units = jnp.asarray(outer.units)
        factors = outer.factors * jnp.asarray(inner.factors)[units]
        is_in_place = outer.is_in_place and inner.is_in_place
        return Selection(jnp.asarray(inner.units)[units], factors, inner.size, is_in_place=is_in_place)
    return on_units(outer, inner if not isinstance(inner, Selection) else jnp.asarray(np.asarray(inner)))
