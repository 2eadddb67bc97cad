"""The self-test of discovered unit spaces: what does not hold on random parameters is closed."""

import dataclasses
import functools as ft
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters, num_parameters, replace_parameters
from lossatlas.embedding._discovered import Discovered, placed
from lossatlas.networks import Activation, Axis, UnitSpace
from lossatlas.numerics import evaluate, flat_jaxpr, literal_value


Arrays = dict[str, np.ndarray]


class Map(NamedTuple):
    """New unit j is made of the old unit `source[j]`, times a factor for its writers and one for its readers."""

    source: np.ndarray
    writers: np.ndarray
    readers: np.ndarray


FIXED = "width fixed in code"

# A null unit whose output is not zero, and not known either.
UNKNOWN = Activation("unknown", lambda x: jnp.full_like(x, jnp.nan))

_STEPS = {"eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "argmax", "argmin"}

# Below this number of parameters one program that makes gradients too is cheaper than compiling two.
_SMALL = 100_000

# The programs run a few times only, so compiling them well would cost more than it gains.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Verifier:
    """A network at random parameters, a random example, and how far two results may differ.

    - `network`: all its spaces open. `example`: random where it is of floating point.
    - `tolerance`: relative; by the lowest precision that the function computes in.
    """

    def __init__(self, network: Discovered, example: PyTree, tolerance: float):
        self.tolerance = tolerance
        self._rng = np.random.default_rng(0)
        values: dict[str, Any] = {path: self._random(array) for path, array in named_arrays(network).items()}
        self._network, self._example = replace_parameters(network, values), jax.tree.map(self._random_input, example)
        self._no_gradient: str | None = None
        try:
            eqx.filter_eval_shape(_with_gradient, self._network, self._example)
        except Exception as error:  # noqa: BLE001 - loops and callbacks of users without a derivative
            self._no_gradient = f"the function has no gradient ({str(error).split('. ')[0]})"
        self._is_small = self._no_gradient is None and num_parameters(network) < _SMALL
        self._outputs = self._run(self._network)
        if not np.isfinite(self._outputs).all():
            self._network, self._example = network, example
            self._outputs = self._run(network)
        if not np.isfinite(self._outputs).all():
            msg = "The outputs of the function on the example are not finite; give finite parameters and example."
            raise InputError(msg)
        if not np.array_equal(self._outputs, self._run(self._network)):
            raise impure("Two evaluations of the function on the same parameters and example differ.")
        self._arrays: Arrays = {path: np.asarray(array) for path, array in named_arrays(self._network).items()}

    def not_permutable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose units cannot be exchanged, with the reason."""

        def fault(some: list[UnitSpace]) -> str | None:
            arrays = dict(self._arrays)
            for space in some:
                one = np.ones(space.size)
                arrays = _mapped(arrays, space, Map(np.roll(np.arange(space.size), 1), one, one))
            return "outputs change when its units are exchanged" if self._changes(arrays) else None

        return _failing(spaces, fault)

    def not_maskable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose units are seen by something else than their readers, with the reason."""

        def fault(some: list[UnitSpace]) -> str | None:
            silent, changed = dict(self._arrays), dict(self._arrays)
            for space in some:
                one, mute, other = np.ones((3, space.size))
                mute[0], other[0] = 0.0, 1.7
                silent = _mapped(silent, space, Map(np.arange(space.size), one, mute))
                changed = _mapped(changed, space, Map(np.arange(space.size), other, mute))
            same = self._same(self._outputs_at(changed), self._outputs_at(silent))
            return None if same else "outputs see its units without its readers"

        return _failing(spaces, fault)

    def not_resizable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces at another size of which the function cannot be traced, with the reason."""
        return {space.name: FIXED for space in spaces if self._shapes({space.name: _wider(space)}) is None}

    def not_splittable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose copied units change outputs or gradients, with the reason."""
        if self._no_gradient is not None:
            return {space.name: self._no_gradient for space in spaces}

        def fault(some: list[UnitSpace]) -> str | None:
            maps = {space.name: self._copies(space) for space in some}
            wide = self._wide(some, maps, self._arrays)
            if wide is None:
                return FIXED
            outputs, gradient = self._outputs_and_gradient(wide)
            if not self._same(outputs, self._outputs):
                means = any(space.shares == "equal" for space in some)
                return "outputs change when its units are copied" + (", which enter a sum" if means else "")
            # The duals of copies and shares are the roles exchanged.
            duals = {name: Map(step.source, step.readers, step.writers) for name, step in maps.items()}
            narrow = self._outputs_and_gradient(self._network)[1]
            carried = self._map_all(some, duals, narrow)
            scale = max(float(np.abs(value).max(initial=0.0)) for value in narrow.values())
            kept = all(
                np.abs(gradient[p] - carried[p]).max(initial=0.0) <= self.tolerance * (1 + scale) for p in carried
            )
            return None if kept else "gradients do not follow when its units are copied"

        return _failing(spaces, fault)

    def not_even(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces of which a step function sees a sum: outputs may jump when that sum grows, on other examples."""

        def fault(some: list[UnitSpace]) -> str | None:
            wide = self._wide(some, {space.name: self._copies(space) for space in some}, self._arrays)
            if wide is None:
                return FIXED
            found, doubled = self._stepped(self._network), self._stepped(wide)
            pairs = zip(found, doubled, strict=False)
            wrong = [name for (name, a), (_, b) in pairs if a.shape == b.shape and not self._same(b, a)]
            return f"{wrong[0]} sees a sum over its units" if wrong else None

        return _failing([space for space in spaces if space.shares == "equal"], fault)

    def _stepped(self, network: Discovered) -> list[tuple[str, np.ndarray]]:
        """What comparisons and roundings read, in order."""
        arrays, static = eqx.partition(network, eqx.is_inexact_array)
        closed = flat_jaxpr(lambda some, x: eqx.combine(some, static)(x), arrays, self._example)
        variable = set(closed.jaxpr.invars)  # numbers of units, as in a variance, are compared with zero too
        read = []
        for eqn in closed.jaxpr.eqns:
            operands = [v for v in eqn.invars if literal_value(v) is None and v in variable]
            if operands:
                variable.update(eqn.outvars)
            if eqn.primitive.name in _STEPS:
                read += [(eqn.primitive.name, var) for var in operands]
        taps = list(dict.fromkeys(var for _, var in read))
        if not taps:
            return []
        leaves = jax.tree.leaves((arrays, self._example))
        values = jax.jit(lambda leaves: evaluate(closed, leaves, taps)[1], compiler_options=_QUICK)(leaves)
        seen = dict(zip(taps, values, strict=True))
        finite = {var: np.asarray(np.where(np.isfinite(value), value, 0), complex) for var, value in seen.items()}
        return [(name, finite[var]) for name, var in read]

    def not_reached(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces in branches of a `cond` that the example does not take, so that nothing was tested."""
        gradient = self._outputs_and_gradient(self._network)[1] if spaces and self._no_gradient is None else {}
        paths = {space.name: {axis.path for axis in (*space.writers, *space.readers)} for space in spaces}
        return {
            name: "the example does not reach its units"
            for name, touched in paths.items()
            if not any(np.any(gradient[path]) for path in touched & gradient.keys())
        }

    def with_null_units(self, spaces: list[UnitSpace]) -> dict[str, UnitSpace]:
        """The spaces with what a null unit puts out tested: a constant that biases hold, zero, or unknown."""
        singles = [space for space in spaces if space.shares == "any"]

        def fault(some: list[UnitSpace]) -> str | None:
            return None if self._null_holds(spaces, {space.name for space in some}) else "wrong"

        wrong = _failing(singles, fault)
        made = {space.name: space for space in spaces}
        for name in wrong:
            space = made[name]
            readers = tuple(dataclasses.replace(axis, bias=None) for axis in space.readers)
            act = UNKNOWN if space.activation is None else space.activation
            made[name] = dataclasses.replace(space, readers=readers, activation=act)
        return made

    def _null_holds(self, spaces: list[UnitSpace], tested: set[str]) -> bool:
        """Whether null units in all spaces keep outputs, where those of the tested ones are read."""
        maps = {space.name: self._copies(space) for space in spaces}
        for space in spaces:
            if space.shares == "any":
                keep = np.append(np.ones(space.size), 0.0)
                maps[space.name] = Map(np.append(np.arange(space.size), 0), keep, keep)
        network = self._wide(spaces, maps, self._arrays)
        if network is None:
            return False
        read: Arrays = {path: np.asarray(array) for path, array in named_arrays(network).items()}
        held, made = dict(read), network.unit_spaces()
        grown = [(space, made[space.name]) for space in spaces if space.shares == "any"]
        for space, wide in grown:
            if space.name not in tested:
                continue
            constant = _constant(space)
            for axis, old in zip(wide.readers, space.readers, strict=True):
                if constant and old.bias is None:
                    continue
                last = _taken(read[axis.path], axis, wide.size)[..., -1, :]
                weights = 0.5 * self._rng.standard_normal(last.shape)
                read[axis.path] = _with_last(read[axis.path], axis, wide.size, weights)
                if constant and old.bias is not None:
                    fed = np.moveaxis(weights, axis.fed, 0)
                    total = constant * fed.reshape(len(fed), -1).sum(axis=1)
                    held[old.bias] = held[old.bias] + total
        for space, wide in grown:  # null units themselves read nothing
            for axis in wide.writers:
                value = _null_bias(space) if axis.path == space.bias else 0.0
                for arrays in (read, held):
                    arrays[axis.path] = _with_last(arrays[axis.path], axis, wide.size, value)
        first, second = (
            self._run(replace_parameters(network, {path: jnp.asarray(array) for path, array in arrays.items()}))
            for arrays in (read, held)
        )
        return self._same(first, second)

    def _copies(self, space: UnitSpace) -> Map:
        """One unit split, or all of them doubled."""
        n = space.size
        if space.shares == "equal":
            return Map(np.tile(np.arange(n), 2), np.ones(2 * n), np.full(2 * n, 0.5))
        unit, share = int(self._rng.integers(n)), float(self._rng.uniform(0.2, 0.8))
        readers = np.ones(n + 1)
        readers[[unit, n]] = 1.0 - share, share
        return Map(np.append(np.arange(n), unit), np.ones(n + 1), readers)

    def _shapes(self, sizes: dict[str, int]) -> Discovered | None:
        """The network of other sizes without values; None where the function does not trace there."""
        try:
            wide = eqx.filter_eval_shape(lambda network: network.with_sizes(sizes), self._network)
            outputs = eqx.filter_eval_shape(_outputs_of, wide, self._example)
        except Exception:  # noqa: BLE001 - the user's function may fail in any way at another shape
            return None
        return wide if outputs.shape == self._outputs.shape else None

    def _wide(self, spaces: list[UnitSpace], maps: Mapping[str, Map], arrays: Arrays) -> Discovered | None:
        sizes = {space.name: len(maps[space.name].source) for space in spaces}
        if self._shapes(sizes) is None:
            return None
        values: dict[str, Any] = {path: jnp.asarray(a) for path, a in self._map_all(spaces, maps, arrays).items()}
        return replace_parameters(self._network.with_sizes(sizes), values)  # integer arrays have values too

    def _map_all(self, spaces: list[UnitSpace], maps: Mapping[str, Map], arrays: Arrays) -> Arrays:
        """The arrays with one space after the other mapped."""
        sizes = {space.name: space.size for space in self._network.spaces}
        for space in spaces:
            arrays = _mapped(arrays, placed(space, self._network.shapes, sizes), maps[space.name])
            sizes[space.name] = len(maps[space.name].source)
        return arrays

    def _random(self, array: Any) -> Any:
        """Normal numbers of the same size; positive where all are positive, as variances and scales are."""
        given = np.asarray(array)
        draw = self._rng.standard_normal(given.shape)
        size = float(np.sqrt(np.mean(np.abs(given) ** 2))) if given.size else 0.0
        if given.size and not np.iscomplexobj(given) and (given > 0).all():
            return jnp.asarray(size * np.exp(0.3 * draw), array.dtype)
        return jnp.asarray((size if size > 1e-3 else 0.3) * draw, array.dtype)

    def _random_input(self, leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        given = np.asarray(leaf)
        size = float(np.sqrt(np.mean(np.abs(given) ** 2))) if given.size else 0.0
        return jnp.asarray(given + (size or 1.0) * self._rng.standard_normal(given.shape), leaf.dtype)

    def _run(self, network: Discovered) -> np.ndarray:
        if self._is_small:
            return self._outputs_and_gradient(network)[0]
        return np.asarray(_only_outputs(network, self._example))

    def _outputs_and_gradient(self, network: Discovered) -> tuple[np.ndarray, Arrays]:
        gradient, outputs = _gradient_and_outputs(network, self._example)
        return np.asarray(outputs), {path: np.asarray(value) for path, value in named_parameters(gradient).items()}

    def _outputs_at(self, arrays: Arrays) -> np.ndarray:
        values: dict[str, Any] = {path: jnp.asarray(array) for path, array in arrays.items()}
        return self._run(replace_parameters(self._network, values))

    def _changes(self, arrays: Arrays) -> bool:
        return not self._same(self._outputs_at(arrays), self._outputs)

    def _same(self, outputs: np.ndarray, wanted: np.ndarray) -> bool:
        """Whether two results agree up to rounding."""
        scale = 1.0 + float(np.abs(wanted).max(initial=0.0))
        return outputs.shape == wanted.shape and bool(
            np.abs(outputs - wanted).max(initial=0.0) <= self.tolerance * scale
        )


def impure(what: str) -> InputError:
    """The error for a function that is random or keeps a state."""
    return InputError(
        f"{what} It must be a pure function: switch dropout and other randomness off and use running statistics "
        "(inference mode: equinox.nn.inference_mode, model.eval(), training=False)."
    )


def _null_bias(space: UnitSpace) -> float:
    return 0.0 if space.bias is None or space.activation is None else 0.7


def _constant(space: UnitSpace) -> float:
    """What a null unit of that bias puts out."""
    return 0.0 if space.activation is None else float(space.activation(jnp.asarray(_null_bias(space))))


def _wider(space: UnitSpace) -> int:
    return 2 * space.size if space.shares == "equal" else space.size + 1


def _failing(spaces: list[UnitSpace], fault: Callable[[list[UnitSpace]], str | None]) -> dict[str, str]:
    """The spaces with a fault: all are tested at once, and the halves of those that fail."""
    found = fault(spaces) if spaces else None
    if found is None:
        return {}
    if len(spaces) == 1:
        return {spaces[0].name: found}
    half = len(spaces) // 2
    return _failing(spaces[:half], fault) | _failing(spaces[half:], fault)


def _taken(array: np.ndarray, axis: Axis, size: int) -> np.ndarray:
    """As [`lossatlas.networks.take_units`][], on the host."""
    moved = np.moveaxis(array, axis.axis, -1)
    block = moved[..., axis.offset : axis.offset + axis.outer * size * axis.inner]
    return block.reshape(*moved.shape[:-1], axis.outer, size, axis.inner)


def _put(array: np.ndarray, axis: Axis, size: int, block: np.ndarray) -> np.ndarray:
    """As [`lossatlas.networks.put_units`][], on the host."""
    moved = np.moveaxis(array, axis.axis, -1)
    stop = axis.offset + axis.outer * size * axis.inner
    flat = block.reshape(*moved.shape[:-1], -1)
    return np.moveaxis(np.concatenate([moved[..., : axis.offset], flat, moved[..., stop:]], axis=-1), -1, axis.axis)


def _mapped(arrays: Arrays, space: UnitSpace, step: Map) -> Arrays:
    """The arrays with the units of one space mapped; of two blocks in one array the latter goes first."""
    roles = [(axis, step.writers) for axis in space.writers] + [(axis, step.readers) for axis in space.readers]
    made = dict(arrays)
    for axis, factors in sorted(roles, key=lambda role: -role[0].offset):
        if axis.path in made:  # gradients have no buffers
            block = _taken(made[axis.path], axis, space.size)[..., step.source, :] * factors[:, None]
            made[axis.path] = _put(made[axis.path], axis, space.size, block)
    return made


def _with_last(array: np.ndarray, axis: Axis, size: int, value: Any) -> np.ndarray:
    """The array with what belongs to the last unit replaced."""
    block = _taken(array, axis, size).copy()
    block[..., -1, :] = value
    return _put(array, axis, size, block)


def _outputs_of(network: Discovered, example: PyTree) -> Any:
    """All outputs as one vector."""
    leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.leaves(network(example))]
    is_complex = any(jnp.iscomplexobj(leaf) for leaf in leaves)
    wide = jnp.complex128 if is_complex else jnp.float64
    return jnp.concatenate([leaf.astype(wide) for leaf in leaves])


def _with_gradient(network: Discovered, example: PyTree) -> tuple[Discovered, Any]:
    """The gradient of a loss without symmetry in the outputs, and the outputs."""

    def loss(network: Discovered) -> tuple[Any, Any]:
        outputs = _outputs_of(network, example)
        weights = jnp.asarray(np.random.default_rng(1).standard_normal(outputs.shape), outputs.dtype)
        return jnp.sum(jnp.real(weights * outputs) + 0.5 * jnp.abs(outputs) ** 2), outputs

    return eqx.filter_grad(loss, has_aux=True)(network)


# Equinox passes what it does not know on to jax.jit; its types do not say so.
_quick_jit: Any = ft.partial(eqx.filter_jit, compiler_options=_QUICK)  # pyright: ignore[reportCallIssue]
_gradient_and_outputs = _quick_jit(_with_gradient)
_only_outputs = _quick_jit(_outputs_of)
