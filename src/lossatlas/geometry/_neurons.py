"""The weight vectors of the neurons of a layer, and the angles between them."""

import functools as ft
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.networks import Activation, Axis, HasUnitSpaces, UnitSpace, take_units


AnyArray = Any
"""An array of numpy or of JAX; the result is of the same kind."""

_BROADCAST = 2**20  # numbers; larger angle matrices are made row by row


def neuron_spaces(network: Network) -> list[UnitSpace]:
    """The unit spaces that hold neurons, from input to output.

    **Raises:** `InputError` for a network that does not state its unit spaces.
    """
    if not isinstance(network, HasUnitSpaces):
        msg = (
            f"{type(network).__name__} does not state its unit spaces, which this measure needs. Use a network of "
            "lossatlas.networks, or give the class a method unit_spaces()."
        )
        raise InputError(msg)
    return [space for space in network.unit_spaces().values() if space.kind == "neuron"]


def neuron_weights(network: Network, space: UnitSpace) -> tuple[Float[Array, "m d"], Float[Array, "m o"]]:
    """What writes each neuron (weights, then bias), and what reads it, as rows."""
    parameters = named_arrays(network)

    def rows(axes: tuple[Axis, ...]) -> Array:
        blocks = [jnp.moveaxis(take_units(parameters[a.path], a, space.size), -2, 0) for a in axes]
        return jnp.concatenate([b.reshape(space.size, math.prod(b.shape[1:])) for b in blocks], axis=1)

    return rows(space.writers), rows(space.readers)


@ft.lru_cache(maxsize=64)
def parity(activation: Activation | None) -> str:
    """`"odd"`, `"even"` or `"none"`, tested on [-3, 3] rather than believed by name."""
    if activation is None:
        return "odd"
    with jax.ensure_compile_time_eval():
        t = jnp.linspace(0.0, 3.0, 25)
        plus, minus = np.asarray(activation(t), float), np.asarray(activation(-t), float)
        tol = 50 * float(jnp.finfo(t.dtype).eps) * (1 + np.abs(plus).max())
    if np.abs(plus + minus).max() <= tol:
        return "odd"
    return "even" if np.abs(plus - minus).max() <= tol else "none"


def orientation_and_amplitude(writers: AnyArray, readers: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Unit vectors (m, d), zero stays zero, and the amplitudes |reader| |writer| (m,); numpy or JAX."""
    xp = writers.__array_namespace__()
    size = xp.linalg.norm(writers, axis=1)
    units = writers / xp.where(size > 0, size, 1.0)[:, None]
    return units, size * xp.linalg.norm(readers, axis=1)


def pair_angles(units: AnyArray, *, lines: bool) -> AnyArray:
    r"""The angles (m, m) in radians between unit vectors (m, d), or between the lines that they span.

    $2 \operatorname{atan2}(|u - v|, |u + v|)$: the arc cosine loses half of the digits near 0. Lines are at most
    $\pi/2$ apart. On numpy or JAX arrays; the report is made on the host, where nothing needs compiling.
    """
    xp = units.__array_namespace__()

    def between(left, right):
        apart, together = (xp.linalg.norm(v, axis=-1) for v in (left - right, left + right))
        return 2 * xp.arctan2(apart, together)

    if units.shape[0] * units.size <= _BROADCAST:
        angles = between(units[:, None], units[None])
    elif isinstance(units, np.ndarray):
        angles = np.stack([between(row[None], units) for row in units])
    else:
        angles = jax.lax.map(lambda row: between(row[None], units), units)
    return xp.minimum(angles, xp.pi - angles) if lines else angles
