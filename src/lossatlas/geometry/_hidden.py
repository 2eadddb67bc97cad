"""The hidden states of a dense network over the data, in batches on the host."""

from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


class HiddenState(NamedTuple):
    """One hidden layer on a batch.

    `entering` (b, e) are the outputs of the layer before (or the inputs), `before` and `after` (b, m) the neurons
    before and after the activation, `following` (b, o) what the next layer reads: its
    pre-activations, then its linear units.
    """

    entering: Array | np.ndarray
    before: Array | np.ndarray
    after: Array | np.ndarray
    following: Array | np.ndarray


def require_dense(network: Network, what: str) -> Dense:
    """Raise unless the network has the layers whose hidden states are known."""
    if not isinstance(network, Dense):
        msg = f"{what} needs a lossatlas.networks.Dense, whose pre-activations are known; got {type(network).__name__}."
        raise InputError(msg)
    return network


def hidden_states(network: Dense, inputs: Float[Array, "n d"]) -> list[HiddenState]:
    """All hidden layers on the given inputs; pure JAX."""

    def of_example(x):
        outputs = network.features(x)[:-1]
        before = [layer.preactivation(f) for layer, f in zip(network.layers, outputs, strict=True)]
        entering_next = [
            z if layer.linear is None else jnp.concatenate([z, layer.linear @ f])
            for layer, f, z in zip(network.layers, outputs, before, strict=True)
        ]
        return [
            HiddenState(f, z, g[: z.shape[0]], following)
            for f, z, g, following in zip(outputs[:-1], before[:-1], outputs[1:], entering_next[1:], strict=True)
        ]

    return jax.vmap(of_example)(inputs)


_jitted_states = eqx.filter_jit(hidden_states)


def state_batches(network: Dense, landscape: Landscape) -> Iterator[list[HiddenState]]:
    """The hidden states in batches of the landscape's size, as float64 arrays of numpy.

    **Raises:** `InputError` for inputs that do not fit the network, and for states that are not finite.
    """
    inputs = landscape.inputs
    width = network.widths[0]
    if inputs.ndim != 2 or inputs.shape[1] != width:
        msg = f"The network takes inputs of shape ({width},), the landscape has inputs of shape {inputs.shape[1:]}."
        raise InputError(msg)
    step = landscape.batch_size or landscape.size
    for start in range(0, landscape.size, step):
        states = _jitted_states(network, inputs[start : start + step])
        states = [HiddenState(*(np.asarray(a, float) for a in state)) for state in states]
        for i, state in enumerate(states):
            if not np.isfinite(state.following).all() or not np.isfinite(state.before).all():
                msg = f"The states of hidden layer {i} are not finite; check the parameters for NaN and overflow."
                raise InputError(msg)
        yield states


def triangular_factor(factor: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
    """The R of the QR decomposition of all rows so far, updated by more rows: least squares without squaring."""
    stacked = rows if factor is None else np.concatenate([factor, rows])
    return np.asarray(np.linalg.qr(stacked, mode="r"))
