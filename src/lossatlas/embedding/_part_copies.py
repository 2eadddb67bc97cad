"""Move equal copies of a unit apart, so that training can tell them from each other."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import named_parameters, replace_parameters
from lossatlas._types import Network
from lossatlas.embedding._record import Data, MapCertificate, Record, gradient, max_norm, outputs
from lossatlas.embedding._selection import on_units
from lossatlas.embedding._unit_map import UnitMap, find_space
from lossatlas.landscape import Landscape
from lossatlas.networks import put_units, take_units


def part_copies(
    key: PRNGKeyArray, network: Network, record: Record, *, noise: float, landscape: Data = None
) -> tuple[Network, MapCertificate]:
    r"""Add noise to the writers of units that a map has copied: copies with equal shares have equal gradients for ever.

    Of copies i of a unit with shares $s_i$ the noise fulfils $\sum_i s_i \epsilon_i = 0$, so that the outputs change in
    second order of it only. Critical points do not stay critical.

    **Arguments:**
    - `key`: PRNG key of the noise.
    - `network`: after the map. `record`: of the map, by [`lossatlas.embedding.widen`][], `split` or `replicate`.
    - `noise`: its standard deviation, relative to the root mean square of each parameter array; a few hundredths.
    - `landscape`: a `Landscape`, or inputs alone, on which the change is measured.

    **Returns:** the network, and what the noise changed: outputs, and the gradient before and after it.

    **Raises:** `InputError` for a noise that is not positive, and a network that the map has not made.
    """
    if not 0 < noise < np.inf:
        msg = f"noise must be a positive number, relative to the size of the parameters, got {noise}."
        raise InputError(msg)
    parted = network
    maps = [step for step in record.plan if isinstance(step, UnitMap)]
    for step_key, step in zip(jax.random.split(key, max(len(maps), 1)), maps, strict=False):
        parted = _with_noise(step_key, parted, step, noise)
    if landscape is None:
        return parted, MapCertificate()
    change = float(jnp.max(jnp.abs(outputs(parted, landscape) - outputs(network, landscape))))
    if not isinstance(landscape, Landscape):
        return parted, MapCertificate(change)
    gradients = [max_norm(gradient(landscape, net)) for net in (network, parted)]
    return parted, MapCertificate(change, *gradients)


def _with_noise(key: PRNGKeyArray, network: Network, step: UnitMap, noise: float) -> Network:
    space, values = find_space(network, step.space), named_parameters(network)
    if space.size != step.writers.shape[0]:
        msg = f"{space.name} has {space.size} units; the map ({step.note}) made {step.writers.shape[0]}."
        raise InputError(msg)
    balanced = _balanced(np.asarray(step.writers), np.asarray(step.readers))
    written = [axis for axis in space.writers if axis.path in values]  # running statistics stay
    for axis_key, axis in zip(jax.random.split(key, len(written)), written, strict=True):
        array = values[axis.path]
        block = take_units(array, axis, space.size)
        scale = noise * jnp.sqrt(jnp.mean(array**2))
        added = on_units(balanced, scale * jax.random.normal(axis_key, block.shape, block.dtype), block.ndim - 2)
        values[axis.path] = put_units(array, axis, space.size, block + added)
    return replace_parameters(network, values)


def _balanced(
    writers: Float[np.ndarray, "new old"], readers: Float[np.ndarray, "new old"]
) -> Float[np.ndarray, "new new"]:
    """What makes the noise of the copies of each unit cancel in their readers, and leaves single units without any."""
    matrix = np.zeros((len(writers), len(writers)))
    for unit in range(writers.shape[1]):
        copies = np.flatnonzero(writers[:, unit])
        shares = readers[copies, unit]
        if len(copies) > 1:
            matrix[np.ix_(copies, copies)] = np.eye(len(copies)) - shares / shares.sum()
    return matrix
