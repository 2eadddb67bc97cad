import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from lossatlas._errors import InputError
from lossatlas._parameters import Unravel, ravel_tangent
from lossatlas._show import shown
from lossatlas.training._optimizer import Optimizer


@shown
class TrainingState(eqx.Module):
    """Where a run is, complete: with the key of the run, what follows depends on nothing else.

    Of an ensemble everything has a leading member axis.

    - `step`: how many steps were made.
    - `code`: how the run stands: 0 goes on, 1 converged, 2 diverged.
    - `vector`: the parameters, flattened in `ravel_pytree` order.
    - `memory`: what the optimiser keeps: momentum, moments, the place in its schedules.
    - `loss`, `gradient`: those of `vector` on all data; with minibatches the loss is that of the last batch and there
      is no gradient.
    """

    step: Int[Array, "*m"]
    code: Int[Array, "*m"]
    vector: Float[Array, "*m p"]
    memory: PyTree
    loss: Float[Array, "*m"]
    gradient: Float[Array, "*m p"] | None


def adopt(start: TrainingState, unravel: Unravel, optimizer: Optimizer) -> TrainingState:
    """The state of one run for a network and an optimiser that go on from it.

    The memory of an optimiser is carried leaf by leaf, so that it fits whatever has the same parameters in the same
    order: the network itself, and its [`lossatlas.networks.Expansion`][].

    **Raises:** `InputError` for a network with other parameters and an optimiser with another memory.
    """
    own = ravel_tangent(unravel.like)
    if own.shape != start.vector.shape or not np.array_equal(own, ravel_tangent(unravel.tangent(start.vector))):
        msg = (
            "start is the state of other parameters than those of the network. Give network=run.network (or its "
            "Expansion) with start=run.state."
        )
        raise InputError(msg)
    wanted = jax.eval_shape(optimizer.init, start.vector, unravel)
    given = jax.tree.leaves(start.memory)
    if [(a.shape, a.dtype) for a in given] != [(a.shape, a.dtype) for a in jax.tree.leaves(wanted)]:
        msg = (
            f"The optimizer keeps memory of shapes {_shapes(jax.tree.leaves(wanted))}, and start comes from one that "
            f"keeps {_shapes(given)}. Go on with the same optimizer, and with a schedule where it had one."
        )
        raise InputError(msg)
    memory = jax.tree.unflatten(jax.tree.structure(wanted), given)
    return TrainingState(start.step, start.code, start.vector, memory, start.loss, start.gradient)


def check_end(num_steps: int, start: TrainingState) -> int:
    """The first step of a run that goes on (of an ensemble the earliest).

    **Raises:** `InputError` for an end before it.
    """
    first, latest = int(np.min(start.step)), int(np.max(start.step))
    if num_steps < latest:
        msg = f"num_steps counts from step 0, and start is at step {latest} already; got num_steps = {num_steps}."
        raise InputError(msg)
    return first


def _shapes(leaves: list) -> str:
    return ", ".join(str(leaf.shape) for leaf in leaves) or "none"
