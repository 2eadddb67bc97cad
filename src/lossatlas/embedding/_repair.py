"""Give the hidden units of an interpolated network the statistics that lie between those of its ends."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._types import Network
from lossatlas.embedding._alignment import common_spaces
from lossatlas.embedding._record import Data, inputs_of
from lossatlas.geometry import Path, find_taps
from lossatlas.geometry._unit_activations import Stage, UnitStages, find_stages
from lossatlas.geometry._unit_outputs import batch_rows
from lossatlas.networks import Axis, UnitSpace, put_units, take_units
from lossatlas.numerics import evaluate


_EXAMPLES = "examples"
_LEAST = 1e-12  # a standard deviation below this share of the root mean square is zero

Statistics = dict[str, Float[Array, "2 units"]]
"""By space, mean and standard deviation of the pre-activation of every unit."""


class Repair(eqx.Module):
    r"""The refresh of a path that repairs the statistics of hidden units.

    Every unit of the network at t gets the pre-activation mean $(1-t)\mu_A + t\mu_B$ and standard deviation
    $(1-t)s_A + t s_B$, layer after layer.

    Statistics are over examples and positions, those of the network at t with its earlier layers repaired already, in
    one pass. What is found is fused into the weights: $W \leftarrow cW$, $b \leftarrow c(b - \mu) + \mu^*$ with
    $c = s^*/s$; so the result is a network of the same shape, and at t = 0 and 1 it is the end, to rounding.

    - `inputs`: what statistics are taken on. `start`, `end`: the statistics of the ends.
    - `stages`: where the units of the repaired spaces bend. `spaces`: these spaces.
    - `left`: the spaces that are left alone, and why.

    !!! cite
        Jordan et al. 2023, arXiv 2211.08403.
    """

    inputs: Array
    start: Statistics
    end: Statistics
    stages: UnitStages = eqx.field(static=True)
    spaces: tuple[UnitSpace, ...] = eqx.field(static=True)
    left: tuple[tuple[str, str], ...] = eqx.field(static=True)

    def __call__(self, network: Network, t: Float[Array, ""]) -> Network:
        """The network with the statistics that belong to t."""
        wanted = jax.tree.map(lambda a, b: (1 - t).astype(a.dtype) * a + t.astype(a.dtype) * b, self.start, self.end)
        found = _statistics(self.stages, self.spaces, network, self.inputs, wanted)
        arrays = named_arrays(network)
        for space in self.spaces:
            (mean, deviation), (new_mean, _) = found[space.name], wanted[space.name]
            factor = _factor(deviation, mean, wanted[space.name][1])
            for axis in space.writers:
                block = take_units(arrays[axis.path], axis, space.size)
                change = block * jnp.expand_dims(factor.astype(block.dtype), (*range(block.ndim - 2), -1))
                if axis.path == space.bias:
                    shift = (new_mean - factor * mean).astype(block.dtype)
                    change = change + jnp.expand_dims(shift, (*range(block.ndim - 2), -1))
                arrays[axis.path] = put_units(arrays[axis.path], axis, space.size, change)
        return replace_parameters(network, arrays)


def repair(path: Path, landscape: Data, *, num_examples: int | None = None) -> Path:
    """The same path with the statistics of its hidden units repaired at every point.

    Interpolated networks have too little variance in their units, the more the deeper; this gives it back. Networks
    with BatchNorm need only their statistics anew, see [`lossatlas.geometry.BatchStatistics`][].

    **Arguments:**
    - `path`: without a refresh of its own; its ends give the statistics.
    - `landscape`: whose inputs statistics are taken on; training data, or the inputs alone.
    - `num_examples`: how many of them, evenly spaced; default as many as fit into a quarter of a gigabyte at once.

    **Returns:** a path whose `refresh` is a [`lossatlas.embedding.Repair`][]. Cost: one more forward pass a point.

    **Raises:** `InputError` for a path that has a refresh, networks without unit spaces, and where no space has a
    pre-activation with a bias of its own.
    """
    if path.refresh is not None:
        msg = "The path has a refresh of its own; repair a path of parameters alone."
        raise InputError(msg)
    if num_examples is not None and num_examples < 2:
        msg = f"num_examples must be at least 2, got {num_examples}."
        raise InputError(msg)
    inputs = inputs_of(landscape, "repair")
    first, last = path.vertices[0], path.vertices[-1]
    spaces, closed = common_spaces(first, last)
    stages = find_stages(find_taps(first, inputs[0]), first)
    left = dict(closed)
    chosen = []
    for name, space in spaces.items():
        reason = _reason(space, stages)
        if reason is None:
            chosen.append(space)
        else:
            left[name] = reason
    if not chosen:
        listed = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        msg = f"No unit space has statistics that weights could repair. {listed}"
        raise InputError(msg)
    most = batch_rows(stages.variables) if num_examples is None else num_examples
    rows = np.unique(np.linspace(0, len(inputs) - 1, min(most, len(inputs))).astype(int))
    few = inputs[rows]
    nothing: Statistics = {}
    return repair_like(path, Repair(few, nothing, nothing, stages, tuple(chosen), tuple(left.items())))


def repair_like(path: Path, template: Repair) -> Path:
    """The path repaired as another of the same network shape was, by the same compiled programs."""
    ends = (path.vertices[0], path.vertices[-1])
    start, end = (_measured(template.stages, template.spaces, network, template.inputs) for network in ends)
    refresh = Repair(template.inputs, start, end, template.stages, template.spaces, template.left)
    return Path(path.vertices, path.kind, refresh)


def _reason(space: UnitSpace, stages: UnitStages) -> str | None:
    """Why the statistics of a space cannot be put into its writers."""
    found = stages.stages.get(space.name)
    if found is None:
        return stages.missing.get(space.name, "its readers cannot be seen")
    if len(found) > 1:
        return "its units bend at several steps, which share their weights"
    if space.is_normalised:
        return "a normalisation follows, which takes the statistics away"
    if space.activation is None and space.bias is None:
        return "its activation, or the bias before it, was not found"
    made = {kernel.axis.path for stage in found for kernel in stage.kernels}
    if space.bias is None or {axis.path for axis in space.writers} != made | {space.bias}:
        return "its writers are no weights with one bias"
    return None


@eqx.filter_jit
def _measured(stages: UnitStages, spaces: tuple[UnitSpace, ...], network: Network, inputs: Array) -> Statistics:
    return _statistics(stages, spaces, network, inputs, None)


def _statistics(
    stages: UnitStages, spaces: Sequence[UnitSpace], network: Network, inputs: Array, wanted: Statistics | None
) -> Statistics:
    """Mean and deviation of every unit; with `wanted`, those of each space after the earlier ones were repaired."""
    leaves = list(named_arrays(network).values())

    def of_example(x: Array) -> Statistics:
        found: Statistics = {}

        def change(space: UnitSpace, axis: Axis) -> Any:
            def changed(value: Array, _: Any) -> Array:
                block = take_units(value, axis, space.size)
                units = jnp.moveaxis(block, -2, -1).reshape(-1, space.size)
                mean = jax.lax.pmean(jnp.mean(units, 0), _EXAMPLES)
                variance = jax.lax.pmean(jnp.mean((units - mean[None]) ** 2, 0), _EXAMPLES)
                found[space.name] = jnp.stack([mean, jnp.sqrt(variance)])
                if wanted is None:
                    return value
                new_mean, deviation = wanted[space.name]
                factor = _factor(jnp.sqrt(variance), mean, deviation)
                wide = lambda a: jnp.expand_dims(a.astype(block.dtype), (*range(block.ndim - 2), -1))  # noqa: E731
                return put_units(value, axis, space.size, wide(factor) * (block - wide(mean)) + wide(new_mean))

            return changed

        changes = {}
        for space in spaces:
            stage: Stage = next(iter(stages.stages[space.name]))
            changes[stage.before] = change(space, stage.axis)
        evaluate(stages.taps.closed, [*leaves, x], changes=changes)
        return found

    return jax.vmap(of_example, axis_name=_EXAMPLES, out_axes=None)(inputs)


def _factor(deviation: Array, mean: Array, wanted: Array) -> Array:
    """What a unit is multiplied by; a constant one stays constant."""
    varies = deviation > _LEAST * jnp.sqrt(deviation**2 + mean**2)
    return jnp.where(varies, wanted / jnp.where(varies, deviation, 1), 1)
