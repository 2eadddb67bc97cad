"""Random changes of the parameters, in three scales, and what the loss and the error become under them."""

import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import Unravel, ravel, ravel_tangent, select
from lossatlas._types import Network, Only, Vector
from lossatlas.geometry._classes import class_kind, loss_and_error
from lossatlas.geometry._filters import filter_axes, scaled
from lossatlas.landscape import Landscape


Noise = Literal["additive", "multiplicative", "filter"]
NOISES = ("additive", "multiplicative", "filter")


class SignedPermutation(eqx.Module):
    """How the coordinates of noise move with a change of the parameters: `noise[order] * signs`.

    So a network whose units stand in another order, or with other signs, gets the same noise unit by unit.
    """

    order: Int[Array, " p"]
    signs: Float[Array, " p"]


class NoisyPoint:
    """A network and its landscape, seen from the host: loss and error at randomly changed parameters.

    One compiled program, whatever the noise and its size. `count` counts forward passes over the data.
    """

    def __init__(self, network: Network, landscape: Landscape, only: Only, transport: SignedPermutation | None = None):
        self.network, self.landscape, self.transport = network, landscape, transport
        self.selected = select(network, only)
        self.kind = class_kind(landscape)
        self.count = 0
        self.vector, _ = ravel(network, only)
        self.loss, self.error = self.at(jnp.zeros_like(self.vector), 0.0)
        if not np.isfinite(self.loss):
            raise InputError("The loss is not finite at this network; check its parameters and the data for NaN.")

    def at(self, direction: Vector, sigma: float) -> tuple[float, float]:
        """Mean loss and error (NaN without classes) at the parameters plus `sigma` times a direction."""
        self.count += 1
        size = jnp.asarray(sigma, direction.dtype)
        loss, error = _changed(self.network, self.landscape, self.selected, self.kind, direction, size)
        return float(loss), float(error)

    def direction(self, key: PRNGKeyArray, draw: int, noise: str) -> Vector:
        """The direction of one draw: the same for the same key, whatever its size sigma and the network."""
        number = jnp.asarray(draw, jnp.int32)
        axes = self.filters if noise == "filter" else ()
        return _direction(self.network, self.selected, key, number, noise, axes, self.transport)

    @functools.cached_property
    def filters(self) -> tuple[int | None, ...]:
        """The axis that counts the filters of every selected parameter, None for biases and norms."""
        return tuple(axis for axis, _ in filter_axes(self.network, self.selected).values())


@eqx.filter_jit
def _changed(network, landscape, selected, kind, direction, sigma):
    vector, unravel = ravel(network, selected)
    return loss_and_error(landscape, kind, unravel(vector + sigma * direction))


@eqx.filter_jit
def _direction(network, selected, key, draw, noise: str, axes, transport: SignedPermutation | None) -> Vector:
    vector, unravel = ravel(network, selected)
    normal = jax.random.normal(jax.random.fold_in(key, draw), vector.shape, vector.dtype)
    if transport is not None:
        normal = normal[transport.order]
    if noise == "multiplicative":
        return normal * vector
    if transport is not None:
        normal = normal * transport.signs.astype(vector.dtype)
    return normal if noise == "additive" else filter_normalised(normal, vector, unravel, axes)


def filter_normalised(direction: Vector, vector: Vector, unravel: Unravel, axes: tuple[int | None, ...]) -> Vector:
    """A direction whose filters have the norms of the network's own; zero for biases and norms.

    What a filter is, `filter_axes` says, for slices of the landscape as for noise.

    **Arguments:**
    - `axes`: of every parameter, the axis that counts its filters; None for what stands still.

    !!! cite
        Li et al. 2018, arXiv 1712.09913, section 4.
    """
    directions, structure = jax.tree.flatten(unravel.tangent(direction))
    parameters = jax.tree.leaves(unravel.tangent(vector))
    moved = [
        jnp.zeros_like(d) if axis is None else scaled(d, w, axis)
        for d, w, axis in zip(directions, parameters, axes, strict=True)
    ]
    return ravel_tangent(jax.tree.unflatten(structure, moved))


def check_noise(noise: str, sigmas: Any, num_draws: int) -> np.ndarray:
    """The sizes as an array, after everything was looked at.

    **Raises:** `InputError` for an unknown noise, sizes that are negative, not finite or none, and fewer than 2 draws.
    """
    if noise not in NOISES:
        raise unknown_name("noise", noise, NOISES)
    array = np.atleast_1d(np.asarray(sigmas, float))
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all() or (array < 0).any():
        msg = f"sigmas must be finite numbers of at least 0, and at least one, got {sigmas!r}."
        raise InputError(msg)
    if num_draws < 2:
        msg = f"num_draws must be at least 2, since one has no error bar; got {num_draws}."
        raise InputError(msg)
    return array
