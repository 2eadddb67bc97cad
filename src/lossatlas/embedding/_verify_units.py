"""The self-test of discovered unit spaces: what does not hold on random parameters is closed."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, named_parameters, replace_parameters
from lossatlas.embedding._discovered import Discovered, placed
from lossatlas.networks import Activation, Axis, UnitSpace


Arrays = dict[str, np.ndarray]
Map = tuple[np.ndarray, np.ndarray]
"""What writers and readers of a space are multiplied by, each of shape (new, old)."""

FIXED = "width fixed in code"

# A null unit whose output is not zero, and not known either.
UNKNOWN = Activation("unknown", lambda x: jnp.full_like(x, jnp.nan))

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
        self._program: Any = _gradient_and_outputs
        self._no_gradient: str | None = None
        try:
            eqx.filter_eval_shape(_with_gradient, self._network, self._example)
        except Exception as error:  # noqa: BLE001 - loops and callbacks of users without a derivative
            self._program, self._no_gradient = _only_outputs, f"the function has no gradient ({str(error).split('. ')[0]})"
        self._outputs, self._gradient = self._run(self._network)
        if not np.isfinite(self._outputs).all():
            self._network, self._example = network, example
            self._outputs, self._gradient = self._run(network)
        if not np.isfinite(self._outputs).all():
            msg = "The outputs of the function on the example are not finite; give finite parameters and example."
            raise InputError(msg)
        if not np.array_equal(self._outputs, self._run(self._network)[0]):
            raise impure("Two evaluations of the function on the same parameters and example differ.")
        self._arrays: Arrays = {path: np.asarray(array) for path, array in named_arrays(self._network).items()}

    def not_permutable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose units cannot be exchanged, with the reason."""

        def fault(some: list[UnitSpace]) -> str | None:
            arrays = dict(self._arrays)
            for space in some:
                swap = np.roll(np.eye(space.size), 1, axis=0)
                arrays = _mapped(arrays, space, (swap, swap))
            return "outputs change when its units are exchanged" if self._changes(arrays) else None

        return _failing(spaces, fault)

    def not_maskable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose units are seen by something else than their readers, with the reason."""

        def fault(some: list[UnitSpace]) -> str | None:
            silent, changed = dict(self._arrays), dict(self._arrays)
            for space in some:
                mute, other = np.eye(space.size), np.eye(space.size)
                mute[0, 0], other[0, 0] = 0.0, 1.7
                silent = _mapped(silent, space, (np.eye(space.size), mute))
                changed = _mapped(changed, space, (other, mute))
            same = self._same(self._run_at(changed)[0], self._run_at(silent)[0])
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
            outputs, gradient = self._run(wide)
            if not self._same(outputs, self._outputs):
                means = any(space.shares == "equal" for space in some)
                return "outputs change when its units are copied" + (", which enter a sum" if means else "")
            # The duals of copies and shares are the roles exchanged.
            duals = {name: (readers, writers) for name, (writers, readers) in maps.items()}
            carried = self._map_all(some, duals, self._gradient)
            scale = max(float(np.abs(value).max(initial=0.0)) for value in self._gradient.values())
            kept = all(np.abs(gradient[p] - carried[p]).max(initial=0.0) <= self.tolerance * (1 + scale) for p in carried)
            return None if kept else "gradients do not follow when its units are copied"

        return _failing(spaces, fault)

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
                keep = np.eye(space.size + 1, space.size)
                maps[space.name] = keep, keep
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
                    total = constant * weights.reshape(len(weights), -1).sum(axis=1)
                    held[old.bias] = held[old.bias] + total
        for space, wide in grown:  # null units themselves read nothing
            for axis in wide.writers:
                value = _null_bias(space) if axis.path == space.bias else 0.0
                for arrays in (read, held):
                    arrays[axis.path] = _with_last(arrays[axis.path], axis, wide.size, value)
        first, second = (
            self._run(replace_parameters(network, {path: jnp.asarray(array) for path, array in arrays.items()}))[0]
            for arrays in (read, held)
        )
        return self._same(first, second)

    def _copies(self, space: UnitSpace) -> Map:
        """One unit split, or all of them doubled."""
        n = space.size
        if space.shares == "equal":
            copies = np.tile(np.eye(n), (2, 1))
            return copies, copies / 2
        unit, share = int(self._rng.integers(n)), float(self._rng.uniform(0.2, 0.8))
        writers, readers = np.eye(n + 1, n), np.eye(n + 1, n)
        writers[n, unit], readers[n, unit], readers[unit, unit] = 1.0, share, 1.0 - share
        return writers, readers

    def _shapes(self, sizes: dict[str, int]) -> Discovered | None:
        """The network of other sizes without values; None where the function does not trace there."""
        try:
            wide = eqx.filter_eval_shape(lambda network: network.with_sizes(sizes), self._network)
            outputs = eqx.filter_eval_shape(_outputs_of, wide, self._example)
        except Exception:  # noqa: BLE001 - the user's function may fail in any way at another shape
            return None
        return wide if outputs.shape == self._outputs.shape else None

    def _wide(self, spaces: list[UnitSpace], maps: Mapping[str, Map], arrays: Arrays) -> Discovered | None:
        wide = self._shapes({space.name: len(maps[space.name][0]) for space in spaces})
        if wide is None:
            return None
        values: dict[str, Any] = {path: jnp.asarray(a) for path, a in self._map_all(spaces, maps, arrays).items()}
        return replace_parameters(wide, values)

    def _map_all(self, spaces: list[UnitSpace], maps: Mapping[str, Map], arrays: Arrays) -> Arrays:
        """The arrays with one space after the other mapped."""
        sizes = {space.name: space.size for space in self._network.spaces}
        for space in spaces:
            arrays = _mapped(arrays, placed(space, self._network.shapes, sizes), maps[space.name])
            sizes[space.name] = len(maps[space.name][0])
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

    def _run(self, network: Discovered) -> tuple[np.ndarray, Arrays]:
        gradient, outputs = self._program(network, self._example)
        return np.asarray(outputs), {path: np.asarray(value) for path, value in named_parameters(gradient).items()}

    def _run_at(self, arrays: Arrays) -> tuple[np.ndarray, Arrays]:
        values: dict[str, Any] = {path: jnp.asarray(array) for path, array in arrays.items()}
        return self._run(replace_parameters(self._network, values))

    def _changes(self, arrays: Arrays) -> bool:
        return not self._same(self._run_at(arrays)[0], self._outputs)

    def _same(self, outputs: np.ndarray, wanted: np.ndarray) -> bool:
        """Whether two results agree up to rounding."""
        scale = 1.0 + float(np.abs(wanted).max(initial=0.0))
        return outputs.shape == wanted.shape and bool(np.abs(outputs - wanted).max(initial=0.0) <= self.tolerance * scale)


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


def _mapped(arrays: Arrays, space: UnitSpace, matrices: Map) -> Arrays:
    """The arrays with the units of one space mapped; of two blocks in one array the latter goes first."""
    roles = itertools.chain(zip(space.writers, itertools.repeat(matrices[0])), zip(space.readers, itertools.repeat(matrices[1])))
    made = dict(arrays)
    for axis, matrix in _from_the_end(roles):
        if axis.path in made:  # gradients have no buffers
            block = np.einsum("wn,...ni->...wi", matrix, _taken(made[axis.path], axis, space.size))
            made[axis.path] = _put(made[axis.path], axis, space.size, block)
    return made


def _from_the_end(roles: Iterable[tuple[Axis, np.ndarray]]) -> list[tuple[Axis, np.ndarray]]:
    return sorted(roles, key=lambda role: -role[0].offset)


def _with_last(array: np.ndarray, axis: Axis, size: int, value: Any) -> np.ndarray:
    """The array with what belongs to the last unit replaced."""
    block = _taken(array, axis, size).copy()
    block[..., -1, :] = value
    return _put(array, axis, size, block)


def _outputs_of(network: Discovered, example: PyTree) -> Any:
    """All outputs as one vector."""
    leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.leaves(network(example))]
    wide = jnp.result_type(*(leaf.dtype for leaf in leaves), jnp.float32)
    return jnp.concatenate([leaf.astype(wide) for leaf in leaves])


def _with_gradient(network: Discovered, example: PyTree) -> tuple[Discovered, Any]:
    """The gradient of a loss without symmetry in the outputs, and the outputs."""

    def loss(network: Discovered) -> tuple[Any, Any]:
        outputs = _outputs_of(network, example)
        weights = jnp.asarray(np.random.default_rng(1).standard_normal(outputs.shape), outputs.dtype)
        return jnp.sum(jnp.real(weights * outputs) + 0.5 * jnp.abs(outputs) ** 2), outputs

    return eqx.filter_grad(loss, has_aux=True)(network)


def _without_gradient(network: Discovered, example: PyTree) -> tuple[None, Any]:
    return None, _outputs_of(network, example)


_gradient_and_outputs = eqx.filter_jit(_with_gradient, compiler_options=_QUICK)
_only_outputs = eqx.filter_jit(_without_gradient, compiler_options=_QUICK)
