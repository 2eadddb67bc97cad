"""Steps towards a critical point, written in the eigenbasis of the Hessian.

Everywhere `lam` are the eigenvalues (ascending), `c = V^T g` the gradient in the eigenbasis, and the step is
returned in the eigenbasis too.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


NOISE = 1e-14
"""Eigenvalues below `NOISE * max|lam|` are rounding errors."""


def signed_newton(lam: Float[Array, " p"], c: Float[Array, " p"], cut: float | Array, radius: float | Array) -> Array:
    r"""$-\lambda / (\lambda^2 + \text{cut}^2 \max\lambda^2)\, c$, at most `radius` long.

    Newton's step to the stationary point of the quadratic model, whatever its index; directions of eigenvalues below
    the cut are damped continuously, so a degenerate Hessian does not explode.
    """
    size = jnp.max(jnp.abs(lam))
    step = -lam / (lam**2 + (cut * size) ** 2 + _tiny(size)) * c
    return step * jnp.minimum(1.0, radius / (jnp.linalg.norm(step) + _tiny(size)))


def levenberg_marquardt(lam: Float[Array, " p"], c: Float[Array, " p"], damping: Array, radius: float | Array) -> Array:
    r"""$-(H^2 + \mu)^{-1} H g$: least squares on the gradient, at most `radius` long."""
    size = jnp.max(jnp.abs(lam))
    step = -lam / (lam**2 + damping + (NOISE * size) ** 2 + _tiny(size)) * c
    return step * jnp.minimum(1.0, radius / (jnp.linalg.norm(step) + _tiny(size)))


def trust_region(lam: Float[Array, " p"], c: Float[Array, " p"], radius: Array) -> tuple[Array, Array]:
    r"""The minimiser of $c\cdot s + \frac12 \sum \lambda_i s_i^2$ over $|s| \le$ `radius`, and its predicted decrease.

    Exact, by bisection on the multiplier, the hard case included (Moré and Sorensen 1983). Eigenvalues within
    rounding of zero are not followed when the gradient has nothing there.
    """
    size = jnp.max(jnp.abs(lam)) + _tiny(1.0)
    noise = NOISE * size
    lowest = lam[0]
    is_convex = lowest > -negative_threshold(lam)
    # In the convex case, eigenvalues at the noise level are damped rather than divided by, and the gradient is
    # followed down where the curvature is negative, but not beyond doubt.
    convex = signed_newton(jnp.abs(lam), c, NOISE, jnp.inf)
    fits = is_convex & (jnp.linalg.norm(convex) <= radius)

    floor = jnp.maximum(-lowest, 0.0) + noise
    ceiling = floor + jnp.linalg.norm(c) / radius + size

    def length(shift):
        return jnp.linalg.norm(c / (lam + shift))

    def halve(_, bounds):
        low, high = bounds
        # The multiplier spans many orders of magnitude above its floor: bisect its logarithm.
        middle = floor + jnp.sqrt(low * high)
        too_long = length(middle) > radius
        return jnp.where(too_long, middle - floor, low), jnp.where(too_long, high, middle - floor)

    _, above = jax.lax.fori_loop(0, 60, halve, (noise * 1e-6, ceiling - floor))
    bounded = -c / (lam + floor + above)
    # Hard case: the gradient has (almost) no part along the lowest eigenvector; go along it up to the boundary.
    missing = jnp.sqrt(jnp.maximum(radius**2 - jnp.sum(bounded**2), 0.0))
    towards = jnp.where(bounded[0] < 0, -1.0, 1.0)
    hard = bounded.at[0].add(towards * missing)
    is_hard = ~is_convex & (missing > 1e-3 * radius)
    step = jnp.where(fits, convex, jnp.where(is_hard, hard, bounded))
    return step, -(c @ step + 0.5 * jnp.sum(lam * step**2))


def negative_threshold(lam: Float[Array, " p"]) -> Array:
    """An eigenvalue below minus this counts as a way down."""
    return 1e-9 * jnp.max(jnp.abs(lam)) + _tiny(1.0)


def _tiny(like: float | Array) -> Array:
    return jnp.full_like(jnp.asarray(like), 1e-300)
