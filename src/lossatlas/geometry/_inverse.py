"""Solve with a curvature matrix, matrix-free: Newton steps, influence, natural gradients."""

import time
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import num_parameters, select
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Only, Vector
from lossatlas.geometry._products import CURVATURES, Curvature, curvature_operator
from lossatlas.landscape import Landscape


_AHEAD = 10


@shown
class CurvatureSolution(eqx.Module):
    r"""The solution of $(H + \lambda I) x = b$, in the least-squares sense with LSMR.

    - `value`: x, in `ravel_pytree` order of the selected parameters.
    - `residual`: $\|(H + \lambda I) x - b\| / \|b\|$, measured. LSMR leaves what lies outside of the range, too.
    - `num_steps`: of the solver.
    """

    value: Vector
    residual: Float[Array, ""]
    num_steps: int = eqx.field(static=True)
    status: Status = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]


def curvature_solve(
    network: Network,
    landscape: Landscape,
    vector: Vector,
    *,
    damping: float = 0.0,
    only: Only = None,
    curvature: Curvature = "hessian",
    method: Literal["cg", "lsmr"] = "cg",
    rtol: float = 1e-6,
    max_steps: int = 1000,
    key: PRNGKeyArray | None = None,
    throw: bool = True,
) -> CurvatureSolution:
    r"""Apply the inverse, or the pseudo-inverse, of a curvature matrix of the mean loss to a vector.

    $x = (H + \lambda I)^{-1} b$: a Newton step for b the gradient, a natural gradient with a Fisher matrix, an
    influence function for b the gradient of one example. One compiled program of lineax; one product a step of
    conjugate gradients, two a step of LSMR.

    **Arguments:**
    - `vector`: b, in `ravel_pytree` order of the selected parameters.
    - `damping`: $\lambda$, at least 0.
    - `method`: `"cg"`, conjugate gradients, for matrices that are positive definite with the damping (Gauss-Newton and
      Fisher matrices with any; a Hessian with more than its most negative eigenvalue); `"lsmr"` for any matrix: the
      least-squares solution of least norm.
    - `rtol`: relative tolerance of the solver; CG has converged where the measured residual is at most ten times as
      large. `max_steps`: where it ends.
    - `only`, `curvature`: see [`lossatlas.geometry.spectrum`][]. `key`: of a sampled Fisher matrix.
    - `throw`: whether to raise where the solver does not reach the tolerance; else the status says so.

    **Returns:**
    A [`lossatlas.geometry.CurvatureSolution`][].

    **Raises:** `InputError` for a vector of another size, a negative damping, and, with `throw`, where the tolerance is
    not reached: with CG the matrix may be indefinite.
    """
    begin = time.perf_counter()
    size = num_parameters(network, only)
    if vector.shape != (size,):
        msg = f"vector must have one number for each of the {size} selected parameters, got shape {vector.shape}."
        raise InputError(msg)
    if not damping >= 0:
        msg = f"damping must be at least 0, got {damping}."
        raise InputError(msg)
    if method not in ("cg", "lsmr"):
        raise unknown_name("method", method, ("cg", "lsmr"))
    if curvature not in CURVATURES:
        raise unknown_name("curvature", curvature, CURVATURES)
    slopes = None
    if curvature in ("sampled_fisher", "empirical_fisher"):
        slopes = landscape._slopes(network, curvature, key, 1)
    value, residual, steps = _solve(
        network, landscape, select(network, only), curvature, slopes, vector, damping, method, rtol, max_steps
    )
    # CG's own flag says nothing of an indefinite matrix, on which it wanders; the measured residual does. The solver
    # looks at a residual that it updates, which may be a little ahead of the measured one.
    done = bool(residual <= _AHEAD * rtol) if method == "cg" else int(steps) < max_steps
    if throw and not done:
        hint = "; the matrix may be indefinite: add damping, or take method='lsmr'" if method == "cg" else ""
        msg = f"{method} stopped after {int(steps)} steps at a relative residual of {float(residual):.2g}{hint}."
        raise InputError(msg)
    return CurvatureSolution(
        value=value,
        residual=residual,
        num_steps=int(steps),
        status=Status.CONVERGED if done else Status.MAX_STEPS,
        stats={"seconds": time.perf_counter() - begin, "size": size},
        settings={
            "method": method,
            "damping": damping,
            "curvature": curvature,
            "rtol": rtol,
            "convention": "mean over examples",
        },
    )


@eqx.filter_jit
def _solve(network, landscape, selected, kind, slopes, vector, damping, method, rtol, max_steps):
    operator = curvature_operator(network, landscape, selected, kind, slopes)
    shifted = lambda v: operator.mv(v) + damping * v  # noqa: E731
    structure = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
    if method == "cg":
        solver = lx.CG(rtol=rtol, atol=0.0, max_steps=max_steps)
        matrix = lx.FunctionLinearOperator(shifted, structure, lx.positive_semidefinite_tag)
    else:
        solver = lx.LSMR(rtol=rtol, atol=rtol, max_steps=max_steps)
        matrix = lx.FunctionLinearOperator(shifted, structure, lx.symmetric_tag)
    found = lx.linear_solve(matrix, vector, solver, throw=False)
    left, length = jnp.linalg.norm(shifted(found.value) - vector), jnp.linalg.norm(vector)
    residual = jnp.where(length > 0, left / jnp.where(length > 0, length, 1.0), left)
    return found.value, residual, found.stats["num_steps"]
