"""Whether data can be used with a loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas.landscape._loss import Loss


_PROBABILITY = 1e-6  # how far the sum of a row of probabilities may be from one


def check_batch_size(batch_size: int | None, size: int) -> int | None:
    """The batch size to use, None for all examples at once; raises below 1."""
    if batch_size is None or batch_size >= size:
        return None
    if batch_size < 1:
        msg = f"batch_size must be at least 1, got {batch_size}."
        raise InputError(msg)
    return int(batch_size)


def check_data(inputs: Array, targets: Array, loss: Loss) -> int:
    """Raise for data that cannot be used; otherwise how many outputs integer labels need."""
    if inputs.ndim == 0 or inputs.shape[0] == 0:
        msg = f"The data is empty: inputs have shape {inputs.shape}."
        raise InputError(msg)
    if targets.ndim == 0 or targets.shape[0] != inputs.shape[0]:
        msg = f"inputs and targets must have as many examples, got shapes {inputs.shape} and {targets.shape}."
        raise InputError(msg)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        msg = f"inputs must be floating point, got {inputs.dtype}; convert with inputs.astype(float)."
        raise InputError(msg)
    try:
        values = {"inputs": np.asarray(inputs), "targets": np.asarray(targets)}
    except jax.errors.TracerArrayConversionError:
        return 0  # made inside a jitted function: the values are not known yet
    for name, array in values.items():
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            msg = f"{name} contain NaN or infinity (first in row {row}); remove or impute those rows."
            raise InputError(msg)
    if loss.name == "cross_entropy":
        return _check_classes(values["targets"])
    if loss.name == "logistic" and (float(targets.min()) < 0 or float(targets.max()) > 1):
        msg = f"logistic needs targets in [0, 1], got [{float(targets.min())}, {float(targets.max())}]."
        raise InputError(msg)
    return 0


def is_one_hot(targets: Array) -> bool:
    """Whether the shape is that of one-hot rows of whole numbers; the values are checked with other probabilities."""
    return targets.ndim == 2 and targets.shape[1] > 1 and not jnp.issubdtype(targets.dtype, jnp.inexact)


def _check_classes(targets: np.ndarray) -> int:
    """Raise for targets that cross-entropy cannot use; otherwise how many outputs integer labels need."""
    if np.issubdtype(targets.dtype, np.integer) and targets.size == len(targets):
        if targets.min() < 0:
            msg = f"Class labels must be 0, 1, ..., got {targets.min()}."
            raise InputError(msg)
        return int(targets.max()) + 1
    if targets.ndim != 2:
        msg = (
            "cross_entropy needs integer labels of shape (n,) or rows of probabilities of shape (n, classes), "
            f"got {targets.dtype} of shape {targets.shape}."
        )
        raise InputError(msg)
    rows = np.asarray(targets, dtype=float)
    bad = np.flatnonzero((rows.min(axis=1) < 0) | (np.abs(rows.sum(axis=1) - 1) > _PROBABILITY))
    if len(bad):
        msg = (
            f"Rows of probabilities must be non-negative and sum to one; row {bad[0]} has the smallest entry "
            f"{rows[bad[0]].min():g} and the sum {rows[bad[0]].sum():g}. Normalise the rows, or give integer labels "
            "of shape (n,)."
        )
        raise InputError(msg)
    return 0
