"""The same function written with other weights: scales, reflections, permutations and signs of its units."""

from collections.abc import Mapping
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, named_parameters, replace_parameters, select
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._noise import SignedPermutation
from lossatlas.geometry._products import host_generator
from lossatlas.geometry._scale_gauges import KEPT, along, change, outputs_of, random_factors, scale_gauges
from lossatlas.landscape import Landscape
from lossatlas.networks import Axis, UnitSpace, fed_constants


RewritingKind = Literal["scale", "reflection", "permutation", "sign"]
REWRITINGS = ("scale", "reflection", "sign", "permutation")
_KEPT = {8: 1e-9, 4: 1e-4}  # by bytes: how far outputs may move under what is exact
_Arrays = dict[str, np.ndarray]


@shown
class Rewriting(eqx.Module):
    """A network that computes what another does, with other weights.

    - `network`: the new one. `kind`: what was done: `"scale"`, `"reflection"`, `"permutation"` or `"sign"`.
    - `done`: what, by unit space; empty where the network has no such symmetry. `skipped`: why not, for the others.
    - `factors`: the factors c of scales, by unit space: one for each unit, or a single one where all share it.
    - `output_change`: the largest change of an output on the data, relative to their root mean square.
    - `transport`: how noise on the parameters has to move along; None for scales, which leave every coordinate in
      place.
    """

    network: Network
    kind: str = eqx.field(static=True)
    done: dict[str, str]
    skipped: dict[str, str]
    factors: dict[str, Float[np.ndarray, " units"]]
    output_change: float
    transport: SignedPermutation | None


def rewrite(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    kind: RewritingKind | str = "scale",
    most: float = 8.0,
    only: Only = None,
) -> Rewriting:
    r"""Write the same function with other weights, at random.

    - `"scale"`: the weights of each unit times powers of a random factor, where that
      keeps the outputs: homogeneous units (ReLU), what stands before a normalisation, queries against keys, values
      against the output of attention, gated units. Which powers is found from derivatives and tested on the data, so it
      works for every network that states its unit spaces, those of [`lossatlas.embedding.discover_units`][] too. Under
      batch statistics weights before the norm may be scaled up to the small constant that the norm adds to the
      variance. A factor or one over it lies between the cube root of `most` and `most`, evenly in the logarithm (2 to
      8), so that none is near 1; all are turned to one side of 1 where only that keeps the outputs.
    - `"reflection"`: random units with the opposite sign where $\sigma(-t) = c - \sigma(t)$, c not 0 (sigmoid): readers
      change sign too, and the biases that they feed take up the constants.
    - `"permutation"`: the units of each space in a random order.
    - `"sign"`: random units with the opposite sign, for odd activations (readers change sign too) and even ones.

    Measured on a rewritten network, a property of the function stays, and a property of the weights changes.
    Permutations and signs are isometries of the parameters, which even additive noise does not see. Reflections are
    none: noise on readers would have to reach the biases too.

    **Arguments:**
    - `kind`: as above. `most`: the largest factor of a scale, above 1.
    - `only`: the parameter filter for which `transport` is made.

    **Returns:**
    A [`lossatlas.geometry.Rewriting`][]; `done` is empty, and the network the same, where there is no such symmetry.

    **Raises:** `InputError` for an unknown kind, and a network without unit spaces.
    """
    if kind not in REWRITINGS:
        raise unknown_name("kind of rewriting", kind, REWRITINGS)
    if not most > 1:
        msg = f"most must be above 1, got {most}."
        raise InputError(msg)
    if not hasattr(network, "unit_spaces"):
        msg = (
            f"{type(network).__name__} states no unit spaces, so no symmetries of it are known. Find them with "
            "lossatlas.embedding.discover_units(fn, params, example) and use its .network."
        )
        raise InputError(msg)
    if kind == "scale":
        return _rescaled(key, network, landscape, most)
    return _rearranged(key, network, landscape, kind, only)


def _rescaled(key: PRNGKeyArray, network: Network, landscape: Landscape, most: float) -> Rewriting:
    gauges, skipped = scale_gauges(key, network, landscape)
    outputs = outputs_of(landscape)
    first = now = np.asarray(outputs(network, landscape))
    limit = KEPT[np.dtype(now.dtype).itemsize]
    spaces, changed, done, used = network.unit_spaces(), network, {}, {}
    for i, gauge in enumerate(gauges):
        drawn = random_factors(jax.random.fold_in(key, 1000 + i), spaces[gauge.space].size, most)
        # Beside the eps of a norm, weights before it may be scaled to one side only.
        for factors in (drawn, np.maximum(drawn, 1 / drawn), np.minimum(drawn, 1 / drawn)):
            made = gauge.apply(changed, factors)
            after = np.asarray(outputs(made, landscape))
            if change(after, now) <= limit:
                changed, now = made, after
                whole = " (all units by one)" if gauge.is_common else ""
                done[gauge.space] = "; ".join(part for part in (done.get(gauge.space), gauge.words + whole) if part)
                used.setdefault(gauge.space, []).append(factors[:1] if gauge.is_common else factors)
                break
    skipped |= {gauge.space: "factors away from 1 move the outputs" for gauge in gauges if gauge.space not in done}
    factors = {space: np.concatenate(parts) for space, parts in used.items()}
    return Rewriting(changed, "scale", done, skipped, factors, change(now, first), None)


def _rearranged(key: PRNGKeyArray, network: Network, landscape: Landscape, kind: str, only: Only) -> Rewriting:
    outputs = outputs_of(landscape)
    now = np.asarray(outputs(network, landscape))
    limit = _KEPT[np.dtype(now.dtype).itemsize]
    arrays = {path: np.asarray(array) for path, array in named_arrays(network).items()}
    chosen = named_parameters(eqx.filter(network, select(network, only)))
    tracer = {path: np.ones(a.shape) for path, a in arrays.items()}
    if kind == "permutation":
        ends = np.cumsum([0, *(a.size for a in chosen.values())])
        for path, start in zip(chosen, ends, strict=False):
            tracer[path] = start + np.arange(arrays[path].size, dtype=float).reshape(arrays[path].shape)
    done, skipped = {}, {}
    for i, space in enumerate(network.unit_spaces().values()):
        rng = host_generator(jax.random.fold_in(key, i))
        for words, move, shift in _moves(kind, rng, space):
            moved = move(arrays) | shift(arrays)
            made = replace_parameters(network, _as_arrays(moved, network))
            if change(np.asarray(outputs(made, landscape)), now) <= limit:
                arrays, tracer = moved, move(tracer)
                done[space.name] = words
                break
        else:
            skipped[space.name] = "none of its units keeps the outputs"
    changed = replace_parameters(network, _as_arrays(arrays, network))
    flat = np.concatenate([tracer[path].ravel() for path in chosen])
    order = flat.astype(np.int64) if kind == "permutation" else np.arange(len(flat))
    signs = np.ones(len(flat)) if kind == "permutation" else flat
    transport = SignedPermutation(jnp.asarray(order), jnp.asarray(signs))
    return Rewriting(changed, kind, done, skipped, {}, _moved(network, changed, landscape), transport)


def _moved(network: Network, changed: Network, landscape: Landscape) -> float:
    outputs = outputs_of(landscape)
    return change(np.asarray(outputs(changed, landscape)), np.asarray(outputs(network, landscape)))


def _as_arrays(arrays: Mapping[str, np.ndarray], network: Network) -> dict:
    like = named_arrays(network)
    return {path: jnp.asarray(array, like[path].dtype) for path, array in arrays.items()}


def _moves(kind: str, rng: np.random.Generator, space: UnitSpace):
    """What may be done to a space: words, a function of named arrays, and one that gives the biases it changes."""
    nothing = lambda _: {}  # noqa: E731
    if kind == "permutation":
        if space.size == 1:
            return
        order = rng.permutation(space.size)
        order = np.roll(order, 1) if (order == np.arange(space.size)).all() else order
        axes = (*space.writers, *space.readers)
        yield "in another order", lambda arrays: _with(arrays, axes, lambda a, axis: _permuted(a, axis, order)), nothing
        return
    signs = rng.choice([-1.0, 1.0], space.size)
    if (signs > 0).all():
        signs[0] = -1.0
    both = (*space.writers, *space.readers)
    if kind == "reflection":
        constant = 0.0 if space.activation is None else space.activation.reflection or 0.0
        if constant and all(axis.bias is not None for axis in space.readers):
            held = np.where(signs < 0, constant, 0.0)
            turned = lambda arrays: _with(arrays, both, lambda a, axis: a * along(axis, a, signs))  # noqa: E731
            yield "units reflected, constants in biases", turned, lambda arrays: _shifted(arrays, space, held)
        return
    for words, axes in (("odd units turned round", both), ("even units turned round", space.writers)):
        turned = lambda arrays, axes=axes: _with(arrays, axes, lambda a, axis: a * along(axis, a, signs))  # noqa: E731
        yield words, turned, nothing


def _shifted(arrays: _Arrays, space: UnitSpace, constants: np.ndarray) -> _Arrays:
    """The biases after a space whose units put out constants more."""
    shifted: _Arrays = {}
    for axis in space.readers:
        assert axis.bias is not None
        added = fed_constants(jnp.asarray(arrays[axis.path]), axis, space.size, jnp.asarray(constants))
        shifted[axis.bias] = shifted.get(axis.bias, arrays[axis.bias]) + np.asarray(added)
    return shifted


def _with(arrays: _Arrays, axes: tuple[Axis, ...], move) -> _Arrays:
    moved = dict(arrays)
    for axis in axes:
        moved[axis.path] = move(moved[axis.path], axis)
    return moved


def _permuted(array: np.ndarray, axis: Axis, order: np.ndarray) -> np.ndarray:
    index = np.arange(array.shape[axis.axis])
    size = axis.outer * len(order) * axis.inner
    block = index[axis.offset : axis.offset + size].reshape(axis.outer, len(order), axis.inner)
    index[axis.offset : axis.offset + size] = block[:, order].ravel()
    return np.take(array, index, axis=axis.axis)
