"""Expectations of an activation over pairs of Gaussian pre-activations: what infinitely wide layers do."""

import functools as ft
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas.networks import Activation


Moments = tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]
r"""$E[\phi(u) \phi(v)]$ and $E[\phi'(u) \phi'(v)]$."""

_PAIRS = 256  # whose nodes are evaluated at once


def dual_activation(
    act: Activation,
    variances: tuple[np.ndarray, np.ndarray],
    covariance: Float[np.ndarray, "..."],
    num_nodes: int,
) -> Moments:
    r"""$E[\phi(u) \phi(v)]$ and $E[\phi'(u) \phi'(v)]$ for $(u, v)$ Gaussian with mean zero.

    In closed form for activations that are linear on both sides of zero (Cho and Saul 2009) and for erf (Williams
    1997), by Gauss-Hermite quadrature with `num_nodes` squared nodes otherwise.

    **Arguments:**
    - `variances`: of u and of v. `covariance`: of the two. They broadcast.
    """
    first, second = variances
    slopes = _slopes(act)
    if slopes is not None:
        return _piecewise_linear(*slopes, first, second, covariance)
    if act.name == "erf":
        inner = (1 + 2 * first) * (1 + 2 * second)
        value = 2 / np.pi * np.arcsin(np.clip(2 * covariance / np.sqrt(inner), -1.0, 1.0))
        return value, 4 / np.pi / np.sqrt(inner - 4 * covariance**2)
    return _quadrature(act.fn, first, second, covariance, num_nodes)


def has_closed_form(act: Activation) -> bool:
    """Whether no quadrature is needed."""
    return act.name == "erf" or _slopes(act) is not None


def _slopes(act: Activation) -> tuple[float, float] | None:
    """The slopes above and below zero of an activation that is linear on both sides."""
    if act.degree != 1.0 or any(segment.offset for segment in act.segments) or not act.segments:
        return None
    above = next(segment.slope for segment in act.segments if segment.upper > 0)
    below = next(segment.slope for segment in act.segments if segment.lower < 0)
    return above, below


def _piecewise_linear(
    above: float, below: float, first: np.ndarray, second: np.ndarray, covariance: np.ndarray
) -> Moments:
    r"""Arc-cosine kernels of $\phi(u) = p\, \mathrm{relu}(u) - q\, \mathrm{relu}(-u)$ with the slopes p and q."""
    scale = np.sqrt(first * second)
    safe = np.where(scale > 0, scale, 1.0)
    cosine = np.clip(covariance / safe, -1.0, 1.0)
    angle = np.arccos(cosine)
    sine = np.sqrt(1 - cosine**2)
    same = scale / (2 * np.pi) * (sine + (np.pi - angle) * cosine)  # E[relu(u) relu(v)]
    opposite = scale / (2 * np.pi) * (sine - angle * cosine)  # E[relu(u) relu(-v)]
    squares, product = above**2 + below**2, 2 * above * below
    return (
        squares * same - product * opposite,
        squares * (np.pi - angle) / (2 * np.pi) + product * angle / (2 * np.pi),
    )


def _quadrature(
    fn: Callable[[Array], Array], first: np.ndarray, second: np.ndarray, covariance: np.ndarray, num_nodes: int
) -> Moments:
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    pairs = [np.broadcast_to(x, covariance.shape).reshape(-1) for x in (first, second, covariance)]
    found = _at_nodes(fn, jnp.asarray(nodes), jnp.asarray(weights / np.sqrt(2 * np.pi)), *map(jnp.asarray, pairs))
    value, slope = (np.asarray(x, float).reshape(covariance.shape) for x in found)
    return value, slope


@ft.partial(jax.jit, static_argnums=0)
def _at_nodes(fn: Callable[[Array], Array], z: Array, weights: Array, first: Array, second: Array, covariance: Array):
    r"""$u = \sqrt a\, z$, $v = \sqrt b\, (\rho z + \sqrt{1 - \rho^2}\, z')$ at the nodes of a product rule."""
    slope = jax.vmap(jax.grad(lambda t: fn(t[None])[0]))

    def of_pair(pair):
        a, b, c = pair
        scale = jnp.sqrt(a * b)
        rho = jnp.clip(c / jnp.where(scale > 0, scale, 1.0), -1.0, 1.0)
        u = jnp.sqrt(a) * z
        v = jnp.sqrt(b) * (rho * z[:, None] + jnp.sqrt(1 - rho**2) * z[None])
        flat = v.reshape(-1)
        mean = lambda left, right: weights * left @ (right.reshape(v.shape) @ weights)  # noqa: E731
        return mean(fn(u), fn(flat)), mean(slope(u), slope(flat))

    return jax.lax.map(of_pair, (first, second, covariance), batch_size=_PAIRS)
