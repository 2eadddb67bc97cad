"""Unit spaces of any network: its own, or those that are discovered in it."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Shaped

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.networks import HasUnitSpaces


def with_unit_spaces(network: Network, example: Shaped[Array | np.ndarray, "..."]) -> Network:
    """The network itself where it states its unit spaces, else wrapped with those that are discovered in it.

    **Arguments:**
    - `example`: one input.

    **Raises:** `InputError` where nothing that could be resized is found, with the reasons.
    """
    if isinstance(network, HasUnitSpaces):
        return network
    from lossatlas.embedding import discover_units

    found = discover_units(_call, network, example)
    if all(space.closed is not None for space in found.spaces.values()):
        reasons = "; ".join(f"{name}: {space.closed}" for name, space in found.spaces.items()) or "no hidden units"
        msg = f"No unit space of this {type(network).__name__} can be resized ({reasons})."
        raise InputError(msg)
    return found.network


def as_float64(tree: Any) -> Any:
    """The arrays of floating-point numbers in double precision, all else as it is; under `jax.enable_x64(True)`."""
    return jax.tree.map(lambda a: a.astype(np.float64) if eqx.is_inexact_array_like(a) else a, tree)


def _call(network: Network, x: Any) -> Any:
    return network(x)
