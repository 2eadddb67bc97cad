"""Precision is explicit: what certifies works in float64 only, and says how to enable it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lossatlas._errors import InputError


def require_float64(tree: PyTree, what: str) -> None:
    """Raise unless every floating array in `tree` is float64.

    **Raises:** `InputError` when an array is of lower precision; the message says how to enable float64.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, Array) and jnp.issubdtype(leaf.dtype, jnp.inexact) and leaf.dtype != jnp.float64:
            msg = (
                f"{what} is certified in float64 only, got {leaf.dtype}. Make the network and the data under "
                "`with jax.enable_x64(True):` or after `jax.config.update('jax_enable_x64', True)`."
            )
            raise InputError(msg)
