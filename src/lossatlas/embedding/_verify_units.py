"""The self-test of discovered unit spaces: what is not proved on random parameters is closed."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, ravel, replace_parameters
from lossatlas.embedding._discovered import Discovered
from lossatlas.embedding._unit_map import UnitMap
from lossatlas.networks import Axis, UnitSpace


FIXED = "width fixed in code"


class Verifier:
    """A network at random parameters in float64, an example, and how far two results may differ.

    - `network`: all its spaces, closed or not. `example`: random where it is of floating point.
    - `tolerance`: relative; by the lowest precision that the function computes in.
    """

    def __init__(self, network: Discovered, example: PyTree, tolerance: float):
        self.tolerance = tolerance
        self._rng = np.random.default_rng(0)
        self.network = replace_parameters(
            network, {path: self._random(array) for path, array in named_arrays(network).items()}
        )
        self.example = jax.tree.map(self._random_input, example)
        self.outputs, self.gradient = _outputs(self.network, self.example), None
        if not bool(jnp.isfinite(self.outputs).all()):
            self.network, self.example = network, example
            self.outputs = _outputs(network, example)
        _check_outputs(self.outputs, _outputs(self.network, self.example))

    def _random(self, array: Array) -> Array:
        """Normal numbers of the same size; positive where all are positive, as variances and scales are."""
        given = np.asarray(array)
        draw = self._rng.standard_normal(given.shape)
        size = float(np.sqrt(np.mean(np.abs(given) ** 2))) if given.size else 0.0
        if given.size and (given > 0).all():
            return jnp.asarray(size * np.exp(0.3 * draw), array.dtype)
        return jnp.asarray((size if size > 1e-3 else 0.3) * draw, array.dtype)

    def _random_input(self, leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        size = float(np.sqrt(np.mean(np.abs(np.asarray(leaf)) ** 2))) if leaf.size else 0.0
        return leaf + (0.5 * size if size > 0 else 1.0) * self._rng.standard_normal(leaf.shape).astype(leaf.dtype)

    def differs(self, outputs: Array, wanted: Array) -> bool:
        """Whether two results differ by more than rounding."""
        if outputs.shape != wanted.shape:
            return True
        scale = 1.0 + float(jnp.max(jnp.abs(wanted), initial=0.0))
        return not float(jnp.max(jnp.abs(outputs - wanted), initial=0.0)) <= self.tolerance * scale

    def not_permutable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose units cannot be exchanged, with the reason."""

        def holds(some: list[UnitSpace]) -> bool:
            arrays = self._arrays()
            for space in some:
                order = np.roll(np.arange(space.size), 1)
                for axis in (*space.writers, *space.readers):
                    arrays[axis.path] = arrays[axis.path].take(_entries(axis, space.size, order, arrays), axis.axis)
            return not self.differs(self._outputs_at(arrays), self.outputs)

        return _failing(spaces, holds, "outputs change when its units are exchanged")

    def not_maskable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces whose units are seen by something else than their readers, with the reason."""

        def holds(some: list[UnitSpace]) -> bool:
            arrays = self._arrays()
            for space in some:
                for axis in space.readers:
                    _fill(arrays, axis, space.size, 0.0)
            silent = self._outputs_at(arrays)
            for space in some:
                for axis in space.writers:
                    _scale(arrays, axis, space.size, 1.7)
            for space in some:
                for axis in space.readers:
                    _fill(arrays, axis, space.size, 0.0)
            return not self.differs(self._outputs_at(arrays), silent)

        return _failing(spaces, holds, "outputs see its units without its readers")

    def not_resizable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces of which the function cannot be traced at another size, with the reason."""
        found = {}
        wanted = jax.eval_shape(_outputs_of, self.network, self.example)
        for space in spaces:
            try:
                wide = self.network.with_sizes({space.name: _wider(space)})
                made = eqx.filter_eval_shape(_outputs_of, wide, self.example)
            except Exception:  # noqa: BLE001 - the user's function may fail in any way at another shape
                made = None
            if made is None or made.shape != wanted.shape:
                found[space.name] = FIXED
        return found

    def not_splittable(self, spaces: list[UnitSpace]) -> dict[str, str]:
        """The spaces of which split (or replicated) units change outputs or gradients, with the reason."""
        failing: dict[str, str] = {}

        def holds(some: list[UnitSpace]) -> bool:
            plan = tuple(self._split(space) for space in some)
            if self.gradient is None:
                self.gradient = _gradient(self.network, self.example)
            wide, carried = _carried(plan, self.network, self.gradient)
            try:
                outputs, gradient = _outputs(wide, self.example), _gradient(wide, self.example)
            except Exception:  # noqa: BLE001 - as above; spaces that trace alone need not trace together
                failing.update((space.name, FIXED) for space in some)
                return False
            if self.differs(outputs, self.outputs):
                failing.update((space.name, "outputs change when its units are copied") for space in some)
                return False
            failing.update((space.name, "gradients do not follow when its units are copied") for space in some)
            return not self.differs(ravel(gradient)[0], ravel(carried)[0])

        found = _failing(spaces, holds, "")
        return {name: failing[name] for name in found}

    def _split(self, space: UnitSpace) -> UnitMap:
        """One unit split, or all of them doubled."""
        n = space.size
        if space.shares == "equal":
            copies = np.tile(np.eye(n), (2, 1))
            return UnitMap(space.name, copies, copies / 2, copies / 2, copies)
        unit, share = int(self._rng.integers(n)), float(self._rng.uniform(0.2, 0.8))
        writers, readers = np.eye(n + 1, n), np.eye(n + 1, n)
        writers[n, unit], readers[n, unit], readers[unit, unit] = 1.0, share, 1.0 - share
        return UnitMap(space.name, writers, readers, readers, writers)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {path: np.array(array) for path, array in named_arrays(self.network).items()}

    def _outputs_at(self, arrays: dict[str, np.ndarray]) -> Array:
        values: dict[str, Any] = {path: jnp.asarray(array) for path, array in arrays.items()}
        return _outputs(replace_parameters(self.network, values), self.example)


def _wider(space: UnitSpace) -> int:
    return 2 * space.size if space.shares == "equal" else space.size + 1


def _failing(spaces: list[UnitSpace], holds: Any, reason: str) -> dict[str, str]:
    """All at once; where that fails, one by one, and then the rest together."""
    if not spaces or holds(spaces):
        return {}
    alone = {space.name: reason for space in spaces if not holds([space])}
    return alone or {space.name: reason for space in spaces}


def _entries(axis: Axis, size: int, order: np.ndarray, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The indices along a parameter axis after its units were put in another order."""
    index = np.arange(arrays[axis.path].shape[axis.axis])
    block = index[axis.offset : axis.offset + axis.outer * size * axis.inner].reshape(axis.outer, size, axis.inner)
    index[block.reshape(-1)] = block[:, order].reshape(-1)
    return index


def _unit(axis: Axis, size: int, unit: int) -> np.ndarray:
    block = np.arange(axis.outer * size * axis.inner).reshape(axis.outer, size, axis.inner)
    return axis.offset + block[:, unit].reshape(-1)


def _fill(arrays: dict[str, np.ndarray], axis: Axis, size: int, value: float) -> None:
    np.moveaxis(arrays[axis.path], axis.axis, 0)[_unit(axis, size, 0)] = value


def _scale(arrays: dict[str, np.ndarray], axis: Axis, size: int, factor: float) -> None:
    np.moveaxis(arrays[axis.path], axis.axis, 0)[_unit(axis, size, 0)] *= factor


def _check_outputs(outputs: Array, again: Array) -> None:
    if not bool(jnp.isfinite(outputs).all()):
        msg = "The outputs of the function on the example are not finite; give finite parameters and example."
        raise InputError(msg)
    if not bool((outputs == again).all()):
        raise impure("Two evaluations of the function on the same parameters and example differ.")


def impure(what: str) -> InputError:
    """The error for a function that is random or keeps a state."""
    return InputError(
        f"{what} It must be a pure function: switch dropout and other randomness off and use running statistics "
        "(inference mode: equinox.nn.inference_mode, model.eval(), training=False)."
    )


def _outputs_of(network: Discovered, example: PyTree) -> Array:
    """All outputs as one vector."""
    leaves = [jnp.ravel(jnp.asarray(leaf)) for leaf in jax.tree.leaves(network(example))]
    wide = jnp.result_type(*leaves) if leaves else jnp.float64
    return jnp.concatenate([leaf.astype(wide) for leaf in leaves] or [jnp.zeros(0)])


_outputs = eqx.filter_jit(_outputs_of)


@eqx.filter_jit
def _gradient(network: Discovered, example: PyTree) -> Discovered:
    """The gradient of a loss without symmetry in the outputs."""

    def loss(network):
        outputs = _outputs_of(network, example)
        outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        weights = jnp.asarray(np.random.default_rng(1).standard_normal(outputs.shape), outputs.dtype)
        return jnp.sum(weights * outputs + 0.5 * jnp.abs(outputs) ** 2)

    return eqx.filter_grad(loss)(network)


@eqx.filter_jit
def _carried(plan: tuple[UnitMap, ...], network: Discovered, gradient: Discovered) -> tuple[Discovered, Discovered]:
    """The network and its gradient after the steps of a plan."""
    for step in plan:
        network, gradient = step.apply(network), step.apply_gradient(network, gradient)
    return network, gradient
