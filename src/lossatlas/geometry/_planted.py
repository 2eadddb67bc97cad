"""Planted critical points: data made so that a given network is one, exactly and without training."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._precision import require_float64
from lossatlas._types import Network
from lossatlas.landscape import Landscape


@eqx.filter_jit
def _linearized(landscape: Landscape, network: Network) -> tuple[Array, Array]:
    return landscape.predictions(network), landscape.jacobian(network)


def plant_landscape(
    key: PRNGKeyArray,
    network: Network,
    inputs: Float[Array, "n *d"],
    *,
    amplitude: float = 0.02,
    loss: Literal["mse", "cross_entropy"] | str = "mse",
) -> Landscape:
    r"""A landscape on which the given network is an exact critical point.

    A random residual e is projected onto the orthogonal complement of the range of the Jacobian of all predictions;
    the targets are $f - e$ for squared error (rms of e: `amplitude`) and $\mathrm{softmax}(f) - e$ for cross-entropy
    (each row of e sums to 0, and e is made smaller where a probability would leave (0, 1)). The gradient is then
    $\frac1n J^\top e = 0$ to about 1e-17. Small amplitudes tend to give minima, larger ones saddles. The construction
    is our own: one projection leaves a relative 1e-15 of what was there, so e is projected three times.

    **Arguments:**
    - `key`: PRNG key of the residual.
    - `network`: any callable module in float64, pure on one example.
    - `inputs`: shape (n, ...); n times outputs must exceed the rank of the Jacobian, by more than n for
      cross-entropy, whose residuals sum to 0 in each row.
    - `amplitude`: rms of the residual, in units of the predictions (probabilities for cross-entropy).
    - `loss`: `"mse"` (1/2 |f - y|^2) or `"cross_entropy"` (soft labels).

    **Returns:** A [`lossatlas.landscape.Landscape`][]. Cost: a Jacobian and its singular value decomposition,
    O(n o p min(n o, p)).

    **Raises:** `InputError` when the predictions have no room for a residual (too few examples), for a non-positive
    amplitude and an unknown loss.
    """
    require_float64((network, inputs), "A planted critical point")
    if loss not in ("mse", "cross_entropy"):
        raise unknown_name("loss", loss, ["mse", "cross_entropy"])
    if not 0 < amplitude < np.inf:
        msg = f"amplitude must be positive and finite, got {amplitude}."
        raise InputError(msg)
    dummy = Landscape(inputs, jnp.zeros((inputs.shape[0],)))
    predictions, jacobian = (np.asarray(a) for a in _linearized(dummy, network))
    jacobian = jacobian.reshape(predictions.size, -1)
    forbidden = [jacobian]
    if loss == "cross_entropy":
        n, classes = predictions.shape
        forbidden.append(np.repeat(np.eye(n), classes, axis=0))
    u, s, _ = np.linalg.svd(np.concatenate(forbidden, axis=1), full_matrices=False)
    u = u[:, s > 1e-10 * max(s[0], 1e-300)]
    if u.shape[1] >= predictions.size:
        msg = (
            f"{inputs.shape[0]} examples give {predictions.size} predictions, and the Jacobian (with the "
            f"constraints of {loss}) has rank {u.shape[1]}: no residual is left. Give more inputs than parameters."
        )
        raise InputError(msg)
    residual = np.asarray(jax.random.normal(key, (predictions.size,), jnp.float64))
    for _ in range(3):
        residual = residual - u @ (u.T @ residual)
    residual = residual * (amplitude / np.sqrt(np.mean(residual**2)))
    residual = residual.reshape(predictions.shape)
    if loss == "mse":
        return Landscape(inputs, jnp.asarray(predictions - residual))
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(predictions), axis=-1))
    room = np.where(residual > 0, probabilities, 1 - probabilities)
    shrink = min(1.0, 0.9 * float(np.min(room / np.maximum(np.abs(residual), 1e-300))))
    return Landscape(inputs, jnp.asarray(probabilities - shrink * residual), loss="cross_entropy")
