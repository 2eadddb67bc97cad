"""How a point was made: the plan, its linear operators and its certificate."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.landscape import Landscape


Data = Landscape | Float[Array, "n ..."] | None
"""What a map is certified on: a landscape, inputs alone (then nothing about gradients), or nothing."""


@runtime_checkable
class Step(Protocol):
    """One step of a plan."""

    def apply(self, network: Network) -> Network:
        """The network after the step."""
        ...

    def apply_gradient(self, network: Network, gradient: Network) -> Network:
        """The gradient after the step, from the gradient before it."""
        ...

    def apply_inverse(self, network: Network) -> Network:
        """The network before the step, from the one after it."""
        ...


@shown
class MapCertificate(eqx.Module):
    """What a map did to the function and to the gradient on the given data; None where there was no data.

    - `output_change`: the largest change of any output on the data.
    - `gradient_before`, `gradient_after`: max-norms of the gradient of the mean loss.
    - `intertwiner_defect`: the max-norm of `grad_after - B grad_before`; 0 up to rounding at every point when the
      map carries critical points to critical points.
    """

    output_change: float | None = None
    gradient_before: float | None = None
    gradient_after: float | None = None
    intertwiner_defect: float | None = None


@shown
class Record(eqx.Module):
    """How an embedding was made.

    - `start`: the network before the map.
    - `plan`: the steps, in order.
    - `certificate`: what was measured on the data.
    - `caution`: why critical points may not stay critical, None when the theorem holds.
    """

    start: Network
    plan: tuple[Any, ...]
    certificate: MapCertificate
    caution: str | None = eqx.field(static=True, default=None)

    def __repr__(self) -> str:
        notes = "; ".join(step.note for step in self.plan) or "nothing to do"
        change = self.certificate.output_change
        return f"Record({notes}{'' if change is None else f'; outputs changed by {change:.1e}'})"

    def replay(self, network: Network) -> Network:
        """The plan carried out on a network of the same sizes as `start`."""
        # Not one program: what a step leaves alone is shared, not copied.
        return _replay(_bare(self.plan), network)

    def inverse(self, network: Network) -> Network:
        """The network before the map, from one after it: exact on the range of the map (for a lift: near it)."""
        for step in reversed(_bare(self.plan)):
            network = step.apply_inverse(network)
        return network

    @property
    def tangent_map(self) -> lx.AbstractLinearOperator:
        """A: tangents at the start to tangents at the end, on flat vectors (`ravel_pytree` order)."""
        return _operator(_push, _bare(self.plan), self.start)

    @property
    def gradient_map(self) -> lx.AbstractLinearOperator:
        """B: the gradient at the start to the gradient at the end, on flat vectors; `A^T B = I`."""
        return _operator(_pull, _bare(self.plan), self.start)


def _replay(plan: tuple[Any, ...], network: Network) -> Network:
    for step in plan:
        network = step.apply(network)
    return network


@eqx.filter_jit
def _push(plan: tuple[Any, ...], start: Network, tangent: Array) -> Array:
    vector, unravel = ravel(start)
    return jax.jvp(lambda v: ravel(_replay(plan, unravel(v)))[0], (vector,), (tangent,))[1]


@eqx.filter_jit
def _pull(plan: tuple[Any, ...], start: Network, vector: Array) -> Array:
    network, carried = start, ravel(start)[1](vector)
    for step in plan:
        network, carried = step.apply(network), step.apply_gradient(network, carried)
    return ravel(carried)[0]


def _bare(plan: tuple[Any, ...]) -> tuple[Any, ...]:
    """The plan without its notes, so that plans that differ in numbers alone share one compiled program."""
    return tuple(dataclasses.replace(step, note="") for step in plan)


def _operator(product, plan: tuple[Any, ...], start: Network) -> lx.AbstractLinearOperator:
    vector, _ = ravel(start)
    structure = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
    return lx.FunctionLinearOperator(lambda v: product(plan, start, v), structure)


def make_record(start: Network, plan: tuple[Any, ...], data: Data, caution: str | None) -> tuple[Network, Record]:
    """Carry out a plan and certify it on the data."""
    record = Record(start, plan, MapCertificate(), caution)
    end = record.replay(start)
    if data is None:
        return end, record
    change = float(jnp.max(jnp.abs(outputs(end, data) - outputs(start, data))))
    certificate = MapCertificate(change)
    if isinstance(data, Landscape):
        first, second = gradient(data, start), gradient(data, end)
        defect = second - record.gradient_map.mv(first)
        certificate = MapCertificate(change, max_norm(first), max_norm(second), max_norm(defect))
    return end, Record(start, plan, certificate, caution)


def pull_back(step: Step, network: Network, gradient: Network) -> Network:
    r"""$D\Phi^\top$ of a gradient, for steps whose inverse $\Phi$ holds around the new point (lifts)."""
    vector, unravel = ravel(step.apply(network))
    _, pull = jax.vjp(lambda v: ravel(step.apply_inverse(unravel(v)))[0], vector)
    return unravel(pull(ravel(gradient)[0])[0])


def outputs(network: Network, data: "Landscape | Array") -> Array:
    """The outputs on the data, shape (n, ...)."""
    if isinstance(data, Landscape):
        return _predictions(data, network)
    return _outputs(network, data)


def inputs_of(data: Data, what: str) -> Array:
    """The inputs of a landscape, or the inputs themselves, shape (n, ...).

    **Raises:** `InputError` when they are missing, empty or not finite.
    """
    if data is None:
        msg = f"{what} needs the data: give a Landscape, or the inputs as an array of shape (n, ...)."
        raise InputError(msg)
    inputs = data.inputs if isinstance(data, Landscape) else jnp.asarray(data)
    if inputs.ndim < 2 or inputs.shape[0] == 0:
        msg = f"{what} needs inputs of shape (n, ...) with n at least 1, got shape {inputs.shape}."
        raise InputError(msg)
    if not bool(jnp.isfinite(inputs).all()):
        msg = f"{what} needs finite inputs; they contain NaN or infinity. Remove or impute those rows."
        raise InputError(msg)
    return inputs


def max_norm(vector: Array) -> float:
    """The largest absolute entry, 0 for none."""
    return float(jnp.max(jnp.abs(vector))) if vector.size else 0.0


@eqx.filter_jit
def gradient(landscape: Landscape, network: Network) -> Array:
    """The flat gradient, compiled."""
    return landscape.gradient(network)


@eqx.filter_jit
def _predictions(landscape: Landscape, network: Network) -> Array:
    return landscape.predictions(network)


@eqx.filter_jit
def _outputs(network: Network, inputs: Array) -> Array:
    return jax.vmap(network)(inputs)
