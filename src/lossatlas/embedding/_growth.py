"""Where to add a unit: every split and null unit, ranked by the loss that it really saves."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, ravel, replace_parameters
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._selection import UnitMatrix
from lossatlas.embedding._split import add_null_unit, split
from lossatlas.embedding._unit_map import UnitMap, require_unit_spaces
from lossatlas.landscape import Landscape
from lossatlas.networks import UnitSpace, put_units, take_units


_STEPS = np.geomspace(1e-2, 10.0, 13)


@shown
class Growth(eqx.Module):
    """One way to add a unit, and what it saves.

    - `space`; `unit`: which one is split, None for a null unit; `share`: of the new copy, None for a null unit.
    - `curvature`: the most negative curvature that the unit opens, at unit length; 0 where it opens none.
    - `decrease`: of the mean loss, by the best step along that direction; `step`: its length, with its sign.
    - `network`: after that step; train it from there.
    """

    space: str = eqx.field(static=True)
    unit: int | None = eqx.field(static=True)
    share: float | None = eqx.field(static=True)
    curvature: float
    decrease: float
    step: float
    network: Network

    def __str__(self) -> str:
        what = "a null unit" if self.unit is None else f"unit {self.unit} split with share {self.share:g}"
        return f"{self.space}: {what}, loss falls by {self.decrease:.3g} (curvature {self.curvature:.2g})"


def plan_growth(
    network: Network,
    landscape: Landscape,
    *,
    spaces: Sequence[str] | None = None,
    shares: Sequence[float] = (0.5, 2.0, -1.0),
    max_size: int = 1000,
) -> list[Growth]:
    r"""Rank the ways to add one unit at a critical point by the loss that they save.

    A split or a null unit keeps the function and opens new directions, those of $\ker B^\top$. Along the one of
    most negative curvature the loss is followed both ways by a line search. Curvature alone misleads: the steepest way
    out often leads to a shallow valley, so the realised decrease decides.

    **Arguments:**
    - `network`: with unit spaces, at or near a critical point; float64.
    - `landscape`: data and loss.
    - `spaces`: where to add; default all whose units can be split one by one.
    - `shares`: of the new copy; 1/2 is the symmetric split, those outside [0, 1] turn other curvatures negative.
    - `max_size`: the most parameters of one new unit, whose Hessian is formed.

    **Returns:**
    One [`lossatlas.embedding.Growth`][] per candidate, the largest decrease first. Cost: per candidate a Hessian of the
    new unit's parameters and 26 evaluations of the loss; one compiled program per space.

    **Raises:** `InputError` for lower precision, unknown or closed spaces, and units larger than `max_size`.

    !!! cite
        Zhang et al. 2021, arXiv 2105.14573; splitting steepest descent (Liu, Wu, Wang 2019) ranks by curvature.
    """
    require_float64((network, landscape), "plan_growth")
    known = require_unit_spaces(network)
    if spaces is None:
        spaces = [name for name, space in known.items() if space.closed is None and space.shares == "any"]
    before = float(_loss(landscape, network))
    found = []
    for name in spaces:
        candidates: list[tuple[int | None, float | None]] = [(None, None)]
        if name in known:
            candidates += [(unit, float(share)) for unit in range(known[name].size) for share in shares]
        for unit, share in candidates:
            if unit is None or share is None:
                wide, record = add_null_unit(network, name)
            else:
                wide, record = split(network, name, unit, share)
            (step,) = record.plan
            found.append(_follow(wide, landscape, step, before, max_size, unit, share))
    return sorted(found, key=lambda growth: -growth.decrease)


def _follow(
    wide: Network,
    landscape: Landscape,
    step: UnitMap,
    before: float,
    max_size: int,
    unit: int | None,
    share: float | None,
) -> Growth:
    space = require_unit_spaces(wide)[step.space]
    writer, reader = _kernel(step.dual_writers), _kernel(step.dual_readers)
    size = _zero(wide, space)[0].size
    if size > max_size:
        msg = f"A unit of {step.space} has {size} parameters, more than max_size={max_size}; name other spaces."
        raise InputError(msg)
    curvature, direction, losses = _search(wide, landscape, space, writer, reader)
    losses = np.where(np.isfinite(losses), losses, np.inf)
    best = int(np.argmin(losses))
    length = float(np.concatenate([_STEPS, -_STEPS])[best])
    decrease = before - float(losses[best])
    if not (decrease > 0 and curvature < 0):
        return Growth(step.space, unit, share, min(float(curvature), 0.0), 0.0, 0.0, wide)
    moved = _moved(wide, space, writer, reader, length * direction)
    return Growth(step.space, unit, share, float(curvature), decrease, length, moved)


def _kernel(dual: UnitMatrix | None) -> Float[Array, " units"]:
    """The one direction among the units of a space that a map of one new unit does not reach."""
    assert dual is not None
    u, _, _ = np.linalg.svd(np.asarray(dual), full_matrices=True)
    return jnp.asarray(u[:, -1])


def _zero(wide: Network, space: UnitSpace):
    """The new directions as a flat vector of zeros, and the way back: a slice of one unit for each axis."""
    arrays = named_parameters(wide)
    slices: dict[str, list[Array]] = {}
    for role, axes in (("writers", space.writers), ("readers", space.readers)):
        blocks = [take_units(arrays[a.path], a, space.size)[..., 0, :] for a in axes if a.path in arrays]
        slices[role] = [jnp.zeros_like(block) for block in blocks]
    return ravel_pytree(slices)


def _moved(wide: Network, space: UnitSpace, writer: Array, reader: Array, vector: Array) -> Network:
    arrays = named_parameters(wide)
    slices = _zero(wide, space)[1](vector)
    roles: tuple[tuple[Literal["writers", "readers"], Array], ...] = (("writers", writer), ("readers", reader))
    for role, kernel in roles:
        axes = [a for a in getattr(space, role) if a.path in arrays]
        for axis, change in zip(axes, slices[role], strict=True):
            block = take_units(arrays[axis.path], axis, space.size)
            along = jnp.expand_dims(kernel.astype(block.dtype), (*range(block.ndim - 2), -1))
            arrays[axis.path] = put_units(
                arrays[axis.path], axis, space.size, block + along * jnp.expand_dims(change, -2)
            )
    return replace_parameters(wide, arrays)


@eqx.filter_jit
def _loss(landscape: Landscape, network: Network) -> Array:
    return landscape(network)


@eqx.filter_jit
def _search(wide: Network, landscape: Landscape, space: UnitSpace, writer: Array, reader: Array):
    """The most negative curvature among the new directions, its direction, and the loss along it both ways."""
    zero = _zero(wide, space)[0]

    def value(vector):
        return landscape(_moved(wide, space, writer, reader, vector))

    lowest, direction = _lowest(value, zero)
    steps = jnp.asarray(np.concatenate([_STEPS, -_STEPS]), zero.dtype)
    return lowest, direction, jax.lax.map(lambda t: value(t * direction), steps)


def opened_direction(wide: Network, landscape: Landscape, step: UnitMap) -> Float[Array, " p"]:
    r"""The direction of most negative curvature among those that one new unit opens, as a flat vector of unit length.

    **Arguments:**
    - `wide`: the network after `step`, a map that adds one unit.
    """
    space = require_unit_spaces(wide)[step.space]
    return _direction(wide, landscape, space, _kernel(step.dual_writers), _kernel(step.dual_readers))


@eqx.filter_jit
def _direction(wide: Network, landscape: Landscape, space: UnitSpace, writer: Array, reader: Array):
    zero = _zero(wide, space)[0]
    _, direction = _lowest(lambda v: landscape(_moved(wide, space, writer, reader, v)), zero)
    return jax.jvp(lambda v: ravel(_moved(wide, space, writer, reader, v))[0], (zero,), (direction,))[1]


def _lowest(value, zero: Array):
    values, vectors = jnp.linalg.eigh(jax.hessian(value)(zero))
    return values[0], vectors[:, 0]
