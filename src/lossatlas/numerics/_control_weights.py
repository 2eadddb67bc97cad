"""What each control point of a curve weighs at a place along it."""

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


CurveKind = Literal["polygon", "bezier"]
"""Straight pieces from control point to control point, or the Bezier curve that they control."""


def control_weights(kind: CurveKind, count: int, t: Float[Array, ""]) -> Float[Array, " count"]:
    r"""The weights of `count` control points at t in [0, 1]; they sum to one.

    Bezier: Bernstein's $\binom{d}{k} t^k (1 - t)^{d-k}$ with $d = count - 1$. Polygon: hat functions around
    $t_k = k / d$, so the corners are passed at equal distances in t. At t = 0 and 1 one weight is exactly 1.
    """
    degree = count - 1
    index = jnp.arange(count, dtype=t.dtype)
    if kind == "polygon":
        return jnp.clip(1 - jnp.abs(t * degree - index), 0, 1)
    binomial = jnp.asarray([math.comb(degree, k) for k in range(count)], t.dtype)
    return binomial * t**index * (1 - t) ** (degree - index)


def bezier_speed(gram: Float[np.ndarray, "d d"], t: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    r"""$|\varphi'(t)| = d\,|\sum_k B_{k,d-1}(t) (c_{k+1} - c_k)|$ from the inner products of these differences."""
    degree = len(gram)
    powers = np.arange(degree)
    binomial = np.asarray([math.comb(degree - 1, k) for k in powers], float)
    basis = binomial * t[:, None] ** powers * (1 - t[:, None]) ** (degree - 1 - powers)
    return degree * np.sqrt(np.maximum(np.einsum("nk,kl,nl->n", basis, gram, basis), 0.0))
