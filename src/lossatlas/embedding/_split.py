"""Width embeddings: copy a unit and share out what reads it."""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.embedding._kinks import kink_caution
from lossatlas.embedding._record import Data, Record, make_record
from lossatlas.embedding._selection import Selection
from lossatlas.embedding._unit_map import (
    UnitMap,
    compose,
    find_space,
    reader_biases_hold,
    reader_norms,
    require_unit_spaces,
)
from lossatlas.landscape import Landscape
from lossatlas.networks import UnitSpace, take_units
from lossatlas.theory import split_inertia


Policy = Literal["largest", "random", "null", "curvature"]

_SHARES_RTOL = 1e-10


def split(
    network: Network,
    space: str,
    unit: int,
    shares: float | int | Sequence[float] | Float[Array | np.ndarray, " k"] = 0.5,
    *,
    landscape: Data = None,
    homogeneous: bool = False,
) -> tuple[Network, Record]:
    r"""Split one unit into copies: the function stays, and a critical point stays critical.

    The copies share what makes the unit; what reads copy i is $\gamma_i$ times what read the unit, with one coefficient
    for the whole copy and $\sum_i \gamma_i = 1$. Output and gradients obey
    $f_{wide} = f_{narrow}$ and $\nabla_{wide} = B \nabla_{narrow}$ at every point, for every data set and loss.

    **Arguments:**
    - `network`: any network with unit spaces.
    - `space`: its unit space, e.g. `"hidden[0]"`.
    - `unit`: zero-based index in the space. The first copy keeps this place; the others are appended, in order.
    - `shares`: a number $\alpha$ for two copies with $(1-\alpha, \alpha)$, or k numbers that sum to one; any sign.
    - `landscape`: what the certificate is measured on: a `Landscape`, inputs alone, or None (no certificate).
      Of a `Dense` the record also warns where a share is not positive and data lies on a kink of the unit: gradients
      there are one-sided, and such a copy may open a descent.
    - `homogeneous`: give copy i the weights $\sqrt{\gamma_i}\,w$ and the readers $\sqrt{\gamma_i}\,a$. For activations
      of degree 1 (ReLU) this keeps the penalty $\|\theta\|^2$ too, so critical points with weight decay stay
      critical, which plain splits break.

    **Returns:**
    The wide network and its [`lossatlas.embedding.Record`][]. Cost: the size of the wide network.

    **Raises:** `InputError` for an unknown space, a unit out of range, shares that are not finite or do not sum to
    one, a space that cannot be split, or a homogeneous split where the activation has not degree 1.

    !!! cite
        Zhang et al. 2021, arXiv 2105.14573, Definition 1, Proposition 1 and Theorem 1.
    """
    found = _splittable(network, space)
    given = _check_shares(shares)
    step = _split_map(found, _check_unit(found, unit), given, homogeneous=homogeneous)
    caution = kink_caution(network, space, unit, landscape) if given.min() <= 0 else None
    return make_record(network, (step,), landscape, caution)


def add_null_unit(
    network: Network,
    space: str,
    *,
    incoming: Float[Array, "..."] | Sequence[float] | None = None,
    bias: float | int = 0.0,
    landscape: Data = None,
) -> tuple[Network, Record]:
    r"""Append a unit that nothing reads: the function stays.

    With zero incoming weights the unit puts out the constant $\sigma(b)$, and a critical point stays critical when
    what reads the unit has a bias (or when the constant is 0). It is then a strict saddle unless
    $E[e\,(f, 1)^\top] = 0$: see [`lossatlas.theory.null_unit_inertia`][].

    **Arguments:**
    - `network`, `space`, `landscape`: as for [`lossatlas.embedding.split`][].
    - `incoming`: weights that make the unit, shape of one unit's slice of the weight; default zeros. Other weights
      keep the function but not criticality (linear units: likewise).
    - `bias`: its bias, default 0.

    **Returns:** the wide network and its record; `record.caution` says when criticality is not kept.

    **Raises:** `InputError` for an unknown space, a wrong shape, or a bias where the unit has none.
    """
    found = _splittable(network, space)
    step, caution = _null_map(network, found, incoming, bias)
    return make_record(network, (step,), landscape, caution)


def replicate(network: Network, space: str, times: int, *, landscape: Data = None) -> tuple[Network, Record]:
    r"""Copy every unit of a space `times` times, and give each reader the share 1 / times.

    The one way to widen a space that is normalised as a whole (the stream under LayerNorm or RMSNorm): mean and
    variance stay. Legal for every space. Copies of unit i stand at i, i + n, i + 2n, ...

    **Arguments:**
    - `times`: how many copies, at least 2.
    - all others: as for [`lossatlas.embedding.split`][].

    **Returns:** the wide network and its record.

    **Raises:** `InputError` for an unknown or closed space and fewer than two copies.
    """
    require_unit_spaces(network)
    found = find_space(network, space)
    if found.closed is not None:
        msg = f"{space} cannot be resized: {found.closed}"
        raise InputError(msg)
    if times < 2:
        msg = f"times must be at least 2, got {times}."
        raise InputError(msg)
    units = jnp.tile(jnp.arange(found.size), times)
    copies = Selection(units, jnp.ones(units.shape, float), found.size, is_in_place=True)
    shared = Selection(units, jnp.full(units.shape, 1 / times, float), found.size, is_in_place=True)
    step = UnitMap(space, copies, shared, shared, copies, note=f"every unit copied {times} times")
    return make_record(network, (step,), landscape, None)


def widen(
    network: Network,
    widths: Mapping[str, int] | Sequence[int],
    policy: Policy = "largest",
    *,
    key: PRNGKeyArray | None = None,
    landscape: Data = None,
) -> tuple[Network, Record]:
    """Widen a network to given sizes by splits or null units: the function stays, critical points stay critical.

    **Arguments:**
    - `network`: any network with unit spaces.
    - `widths`: new sizes by space, `{"hidden[0]": 50}`, or one size for each space of neurons, from input to output.
    - `policy`: which unit is split, one unit at a time.
      `"largest"`: the one with the largest readers (2-norm), into equal halves.
      `"curvature"`: the one whose equal split adds the most negative curvature by
      [`lossatlas.theory.split_inertia`][] (needs a landscape; for Dense).
      `"random"`: any, with share uniform in (0.2, 0.8) (needs a key).
      `"null"`: none; null units are added.
    - `key`: PRNG key of the random policy.
    - `landscape`: as for [`lossatlas.embedding.split`][].

    **Returns:** the wide network and its record, one map for each widened space.

    **Raises:** `InputError` for a width below the present one, an unknown policy, a missing key or landscape.
    """
    spaces = require_unit_spaces(network)
    if policy not in ("largest", "random", "null", "curvature"):
        msg = f"policy must be 'largest', 'random', 'null' or 'curvature', got {policy!r}."
        raise InputError(msg)
    if policy == "random" and key is None:
        msg = "policy='random' needs key=jax.random.key(...)."
        raise InputError(msg)
    if policy == "curvature" and not isinstance(landscape, Landscape):
        msg = "policy='curvature' needs landscape=Landscape(inputs, targets)."
        raise InputError(msg)
    plan, point, cautions = [], network, []
    for index, (name, size) in enumerate(_target_sizes(spaces, widths).items()):
        step, total = None, 0
        wide = point
        space = _splittable(wide, name)
        if policy == "largest" and 0 < space.size < size:
            step = _largest_map(wide, space, size)
            wide = step.apply(wide)
        while (space := _splittable(wide, name)).size < size:
            if policy == "null" or space.size == 0:
                added, caution = _null_map(wide, space, None, 0.0)
                cautions += [caution] * (caution is not None and caution not in cautions)
            else:
                unit, share = 0, 0.5
                if policy == "largest":  # of the first unit of a space that had none
                    unit = int(np.argmax(reader_norms(wide, space)))
                elif policy == "curvature":
                    assert isinstance(landscape, Landscape)
                    lowest = [split_inertia(wide, landscape, name, s, 0.5).lowest for s in range(space.size)]
                    unit = int(np.argmin(lowest))
                else:
                    assert key is not None
                    draws = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, index), total))
                    unit = int(jax.random.randint(draws[0], (), 0, space.size))
                    share = float(jax.random.uniform(draws[1], (), minval=0.2, maxval=0.8))
                added = _split_map(space, unit, np.array([1 - share, share]))
            total += 1
            wide = added.apply(wide)
            step = added if step is None else compose(step, added, f"{total} units added ({policy})")
        if step is not None:
            plan.append(step)
        point = wide
    return make_record(network, tuple(plan), landscape, " ".join(cautions) or None)


def _split_map(space: UnitSpace, unit: int, shares: np.ndarray, *, homogeneous: bool = False) -> UnitMap:
    n, k = space.size, len(shares)
    scales = np.ones(k)
    outgoing = shares
    if homogeneous:
        is_linear = space.kind == "linear" or (space.activation is not None and space.activation.degree == 1.0)
        if not is_linear or space.is_normalised:
            name = space.activation.name if space.activation else space.kind
            msg = (
                f"A homogeneous split needs an activation of degree 1 such as relu and no normalisation before it; "
                f"{space.name} has {name}{' after a normalisation' if space.is_normalised else ''}."
            )
            raise InputError(msg)
        if shares.min() < 0:
            msg = f"A homogeneous split needs shares that are not negative, got {shares.tolist()}."
            raise InputError(msg)
        scales = outgoing = np.sqrt(shares)
    units = jnp.asarray(np.concatenate([np.arange(n), np.full(k - 1, unit)]))
    rows = np.array([unit, *range(n, n + k - 1)])
    wide, narrow = (
        Selection(units, jnp.ones(n + k - 1, float).at[rows].set(f), n, is_in_place=True) for f in (scales, outgoing)
    )
    note = f"unit {unit} split with shares {', '.join(f'{s:.6g}' for s in shares)}"
    return UnitMap(space.name, wide, narrow, narrow, wide, note=note)


def _largest_map(network: Network, space: UnitSpace, size: int) -> UnitMap:
    """Equal splits one after the other of the unit with the largest readers, as one map: each halves its readers."""
    norms = list(reader_norms(network, space))
    origins, shares = list(range(space.size)), [1.0] * space.size
    while len(origins) < size:
        unit = int(np.argmax(norms))
        norms[unit], shares[unit] = norms[unit] / 2, shares[unit] / 2
        norms.append(norms[unit])
        shares.append(shares[unit])
        origins.append(origins[unit])
    copies = jnp.asarray(np.eye(space.size)[origins])
    shared = jnp.asarray(shares)[:, None] * copies
    note = f"{size - space.size} units added (largest)"
    return UnitMap(space.name, copies, shared, shared, copies, note=note)


def _null_map(network: Network, space: UnitSpace, incoming, bias: float) -> tuple[UnitMap, str | None]:
    n = space.size
    if not np.isfinite(bias):
        msg = f"bias must be finite, got {bias}."
        raise InputError(msg)
    grown = network.with_sizes({space.name: n + 1})
    values = named_arrays(grown)
    made = grown.unit_spaces()[space.name]
    weights_of = [axis.path for axis in made.writers if values[axis.path].ndim > 1]
    if incoming is not None and len(weights_of) != 1:
        msg = f"The units of {space.name} are made by {len(weights_of)} weights, so incoming must be None."
        raise InputError(msg)
    offsets, zero_incoming = {}, True
    for axis in made.writers:
        block = take_units(values[axis.path], axis, n + 1)
        slot = np.zeros(block.shape)
        if axis.path == made.bias:
            slot[..., -1, :] = bias
        elif incoming is not None and axis.path in weights_of:
            weights = np.asarray(incoming, dtype=float)
            shape = slot[..., -1, :].shape
            if weights.size != slot[..., -1, :].size or not np.isfinite(weights).all():
                msg = f"incoming must be {slot[..., -1, :].size} finite numbers ({axis.path}), got {weights.shape}."
                raise InputError(msg)
            slot[..., -1, :] = weights.reshape(shape)
            zero_incoming = not weights.any()
        offsets[axis.path] = jnp.asarray(slot, block.dtype)
    if bias != 0 and made.bias is None:
        msg = f"The units of {space.name} have no bias, so bias must be 0, got {bias}."
        raise InputError(msg)
    output = 0.0 if space.activation is None else float(space.activation(jnp.asarray(bias, float)))
    keep = Selection(jnp.append(jnp.arange(n), 0), jnp.ones(n + 1, float).at[-1].set(0.0), n, is_in_place=True)
    constants, caution = None, None
    if not zero_incoming:
        caution = "The null unit has incoming weights: the gradient of its readers need not vanish."
    elif output != 0:
        constants = jnp.zeros(n + 1).at[-1].set(output)
        if not reader_biases_hold(network, space):
            caution = f"The null unit puts out {output:.6g} and no bias follows: critical points do not stay critical."
    note = f"null unit added with bias {bias:.6g}"
    return UnitMap(space.name, keep, keep, keep, keep, offsets, constants, note), caution


def _target_sizes(spaces: dict[str, UnitSpace], widths: Mapping[str, int] | Sequence[int]) -> dict[str, int]:
    if not isinstance(widths, Mapping):
        names = [name for name, space in spaces.items() if space.kind == "neuron"]
        if len(widths) != len(names):
            msg = f"widths must give one size for each of {', '.join(names)}, got {list(widths)}."
            raise InputError(msg)
        widths = dict(zip(names, widths, strict=True))
    for name, size in widths.items():
        present = spaces[name].size if name in spaces else 0
        if size < present:
            msg = f"{name} has {present} units and cannot be widened to {size}; use lossatlas.embedding.reduce."
            raise InputError(msg)
    return dict(widths)


def _splittable(network: Network, name: str) -> UnitSpace:
    require_unit_spaces(network)
    space = find_space(network, name)
    if space.closed is not None:
        msg = f"{name} cannot be resized: {space.closed}"
        raise InputError(msg)
    if space.shares != "any":
        msg = (
            f"One unit of {name} cannot be split or added alone: a normalisation over the whole space would change all "
            "units. Use lossatlas.embedding.replicate, which copies every unit."
        )
        raise InputError(msg)
    return space


def _check_unit(space: UnitSpace, unit: int) -> int:
    if not 0 <= unit < space.size:
        msg = f"unit must be 0 to {space.size - 1} in {space.name}, got {unit}."
        raise InputError(msg)
    return int(unit)


def _check_shares(shares) -> np.ndarray:
    given = np.asarray(shares, dtype=float)
    if given.ndim == 0:
        given = np.array([1 - given, given])
    if given.ndim != 1 or len(given) < 2 or not np.isfinite(given).all():
        msg = f"shares must be one finite number or at least two of them, got {shares}."
        raise InputError(msg)
    if abs(given.sum() - 1) > _SHARES_RTOL * max(1.0, np.abs(given).sum()):
        msg = f"shares must sum to one, got {given.tolist()} with sum {given.sum():.12g}."
        raise InputError(msg)
    return given
