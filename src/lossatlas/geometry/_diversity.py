"""The effective number of neurons: a similarity-sensitive diversity."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.geometry._neurons import neuron_spaces, neuron_weights, orientation_and_amplitude, pair_angles, parity


def active_masses(amplitudes: Float[Array, " m"], keep: float) -> Float[Array, " m"]:
    """Shares of the total amplitude; the smallest neurons that hold less than 1 - keep of it get 0."""
    order = jnp.argsort(-amplitudes)
    ordered = amplitudes[order]
    total = ordered.sum()
    kept = (jnp.cumsum(ordered) - ordered < keep * total) & (ordered > 0)
    masses = jnp.zeros_like(amplitudes).at[order].set(jnp.where(kept, ordered, 0.0))
    return masses / jnp.where(total > 0, masses.sum(), 1.0)


def similarity_number(
    angles: Float[Array, "m m"], masses: Float[Array, " m"], theta: Float[Array, ""] | float
) -> Float[Array, ""]:
    r"""$\exp(-\sum_j p_j \log (Zp)_j)$ with $Z_{jk} = \exp(-(\text{angle}_{jk}/\theta)^2)$; 0 without any mass.

    Leinster and Cobbold 2012, order 1. Angles and theta in radians.
    """
    ordinary = jnp.exp(-jnp.square(angles / theta)) @ masses
    entropy = -jnp.sum(masses * jnp.log(jnp.where(masses > 0, ordinary, 1.0)))
    return jnp.where(masses.sum() > 0, jnp.exp(entropy), 0.0)


def effective_neurons(network: Network, *, theta: float = 15.0, keep: float = 0.99) -> Float[Array, " layers"]:
    r"""The effective number of neurons of each hidden layer; cheap, for use along training.

    Neurons count by their amplitude |a| |(w, b)|, and those whose weight vectors point the same way within `theta`
    count together: $N = \exp(-\sum_j p_j \log \sum_k e^{-(\text{angle}_{jk}/\theta)^2} p_k)$. It is the number of
    groups when they are equally heavy, tighter than theta and further apart than 2 to 3 theta. Opposite vectors are
    the same neuron when the activation is odd or even. Pure JAX: use it under `jit`, `lax.map` and `vmap`. Cost and
    memory per layer of m neurons: $m^2$ angles. [`lossatlas.geometry.condensation`][] gives the same number with its
    curve, null model and clusters.

    **Arguments:**
    - `network`: states its unit spaces; the spaces of kind `"neuron"` are measured, in their order.
    - `theta`: the angle in degrees below which neurons count together.
    - `keep`: the share of the amplitude that is kept; the smallest neurons beyond it are dropped.

    **Returns:**
    One number a layer; 0 for a layer without neurons or whose amplitudes are all 0.

    **Raises:** `InputError` for theta <= 0, keep outside (0, 1], or a network without unit spaces.

    !!! cite
        Leinster and Cobbold 2012, Ecology 93; amplitude and orientation as in Zhou et al. 2022, arXiv 2105.11686.
    """
    check_theta(theta)
    check_keep(keep)
    numbers = []
    for space in neuron_spaces(network):
        writers, readers = neuron_weights(network, space)
        units, amplitudes = orientation_and_amplitude(writers, readers)
        angles = pair_angles(units, lines=parity(space.activation) != "none")
        numbers.append(similarity_number(angles, active_masses(amplitudes, keep), float(np.deg2rad(theta))))
    return jnp.stack(numbers) if numbers else jnp.zeros(0)


def null_numbers(
    key: PRNGKeyArray, masses: Float[Array, " m"], dimension: int, theta: float, *, lines: bool, num_draws: int
) -> Float[Array, " draws"]:
    """The effective numbers of isotropic directions with the same masses; theta in radians."""

    def draw(key):
        vectors = jax.random.normal(key, (masses.shape[0], dimension), masses.dtype)
        units = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = jnp.clip(units @ units.T, -1.0, 1.0)
        # Digits near 0 do not matter among random directions, so the cheap arc cosine serves.
        cosines = jnp.where(jnp.eye(masses.shape[0], dtype=bool), 1.0, jnp.abs(cosines) if lines else cosines)
        return similarity_number(jnp.arccos(cosines), masses, theta)

    return jax.lax.map(draw, jax.random.split(key, num_draws))


def hill_numbers(masses: np.ndarray) -> tuple[float, float, float]:
    """Hill numbers of order 0 (count), 1 (exponential of the entropy) and 2 (inverse Simpson)."""
    p = masses[masses > 0] / masses.sum()
    return float(len(p)), float(np.exp(-(p * np.log(p)).sum())), float(1 / (p**2).sum())


def check_theta(theta: float) -> None:
    """Raise unless an angle in degrees is positive and finite."""
    if not 0 < theta < np.inf:
        msg = f"theta must be a positive angle in degrees, got {theta}."
        raise InputError(msg)


def check_keep(keep: float) -> None:
    """Raise unless a share lies in (0, 1]."""
    if not 0 < keep <= 1:
        msg = f"keep must lie in (0, 1], the share of the total amplitude that is kept; got {keep}."
        raise InputError(msg)
