"""The effective number of neurons: a similarity-sensitive diversity."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._types import Network
from lossatlas.geometry._neurons import (
    AnyArray,
    neuron_spaces,
    neuron_weights,
    orientation_and_amplitude,
    pair_angles,
    parity,
)


def active_masses(amplitudes: AnyArray, keep: float) -> AnyArray:
    """Shares of the total amplitude (m,); the smallest neurons that hold less than 1 - keep of it get 0."""
    xp = amplitudes.__array_namespace__()
    order = xp.argsort(-amplitudes, stable=True)
    ordered = amplitudes[order]
    total = ordered.sum()
    kept = (xp.cumsum(ordered) - ordered < keep * total) & (ordered > 0)
    masses = xp.where(kept, ordered, 0.0)[xp.argsort(order, stable=True)]
    return masses / xp.where(total > 0, masses.sum(), 1.0)


def similarity_number(angles: AnyArray, masses: AnyArray, theta: float) -> AnyArray:
    r"""$\exp(-\sum_j p_j \log (Zp)_j)$ with $Z_{jk} = \exp(-(\text{angle}_{jk}/\theta)^2)$; 0 without any mass.

    Leinster and Cobbold 2012, order 1. Angles (m, m) and theta in radians, masses (m,); numpy or JAX.
    """
    xp = angles.__array_namespace__()
    ordinary = xp.exp(-xp.square(angles / theta)) @ masses
    entropy = -xp.sum(masses * xp.log(xp.where(masses > 0, ordinary, 1.0)))
    return xp.where(masses.sum() > 0, xp.exp(entropy), 0.0)


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
    return _effective_neurons(network, float(theta), float(keep))


@eqx.filter_jit
def _effective_neurons(network: Network, theta: float, keep: float) -> Float[Array, " layers"]:
    numbers = []
    for space in neuron_spaces(network):
        writers, readers = neuron_weights(network, space)
        units, amplitudes = orientation_and_amplitude(writers, readers)
        angles = pair_angles(units, lines=parity(space.activation) != "none")
        numbers.append(similarity_number(angles, active_masses(amplitudes, keep), float(np.deg2rad(theta))))
    return jnp.stack(numbers) if numbers else jnp.zeros(0)


def null_numbers(
    rng: np.random.Generator, masses: np.ndarray, dimension: int, theta: float, *, lines: bool, num_draws: int
) -> np.ndarray:
    """The effective numbers of isotropic directions with the same masses; theta in radians."""
    # Sorted, so that the order of the neurons does not matter.
    masses = np.sort(masses)[::-1]
    numbers = np.zeros(num_draws)
    for i in range(num_draws):
        vectors = rng.standard_normal((len(masses), dimension))
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = np.clip(units @ units.T, -1.0, 1.0)
        np.fill_diagonal(cosines, 1.0)
        # Digits near 0 do not matter among random directions, so the cheap arc cosine serves.
        numbers[i] = similarity_number(np.arccos(np.abs(cosines) if lines else cosines), masses, theta)
    return numbers


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
