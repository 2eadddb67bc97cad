"""Critical points of any index: found, polished, and told apart from levels at infinity."""

import time
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError, NotCertifiedError, unknown_name
from lossatlas._parameters import Unravel, num_parameters, ravel
from lossatlas._precision import require_float64
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network, Only
from lossatlas.geometry._infinity import Runaway, classify_escape, has_run_away, has_stayed
from lossatlas.geometry._search import Method, Phase, Search, advance, begin
from lossatlas.landscape import Landscape


MethodName = Literal["auto", "newton", "levenberg_marquardt", "trust_region"]
_METHODS = {
    "auto": Method.LEVENBERG_MARQUARDT,
    "newton": Method.NEWTON,
    "levenberg_marquardt": Method.LEVENBERG_MARQUARDT,
    "trust_region": Method.TRUST_REGION,
}
_CHUNK_SECONDS = 1.0
_STANDS = 1e-3  # polishing that moves a point further, relative to its norm, says that it does not stand still


@shown
class CriticalPoint(eqx.Module):
    """What a search for a critical point ended with.

    - `network`: the point. `loss`: the mean loss there.
    - `gradient_norm`, `gradient_norm_1`: maximum norm and 1-norm of the gradient.
    - `status`: CONVERGED for a finite critical point: gradient below `atol` *and* the point stands still under further
      polishing. AT_INFINITY where the gradient vanishes because weights run away. MAX_STEPS, STALLED (no step makes
      the gradient, or the loss, smaller), DIVERGED.
    - `drift`: how far further polishing moved the point after the gradient first fell below `atol`, relative to
      the norm of the parameters (NaN when it never did).
    - `norm_by_decade`: the norm of the parameters when the gradient fell below 10^0, ..., 10^-16 (NaN where it
      never did): constant in the end at a finite critical point, growing at a level at infinity.
    - `runaway`: which units run away and how, for a level at infinity; empty otherwise.
    - `stats`: steps (tried), hessians, seconds. `settings`: how it was run.
    """

    network: Network
    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    gradient_norm_1: Float[Array, ""]
    drift: float = eqx.field(static=True)
    norm_by_decade: tuple[float, ...] = eqx.field(static=True)
    status: Status = eqx.field(static=True)
    runaway: tuple[Runaway, ...] = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]


def find_critical_point(
    network: Network,
    landscape: Landscape,
    *,
    method: MethodName | str = "auto",
    only: Only = None,
    atol: float = 1e-12,
    max_steps: int = 200,
    max_size: int = 1500,
    throw: bool = False,
) -> CriticalPoint:
    r"""Go from a network to a critical point of the mean loss near it, of any index.

    All methods work with the eigendecomposition $H = V \Lambda V^\top$ of the exact Hessian:

    - `"newton"`: $-V \Lambda^{-1} V^\top g$ over $|\lambda| > 10^{-9} \max|\lambda|$, length-limited; goes to the
      nearest critical point from close by.
    - `"levenberg_marquardt"`: $-(H^2 + \mu)^{-1} H g$, accepted when $|g|$ falls; from anywhere, saddles included.
    - `"trust_region"`: exact trust-region steps on the loss; finds minima only (points without negative curvature),
      also from a small random network, in a few tens of Hessians.
    - `"auto"`: Levenberg-Marquardt; where $|g|$ has a minimum that is not zero, the trust region from there.

    A point is CONVERGED only if its gradient is below `atol` and further polishing leaves it where it is; see
    [`lossatlas.geometry.CriticalPoint`][].

    **Arguments:**
    - `network`, `landscape`: a point in float64; any pytree that the landscape accepts.
    - `only`: a parameter filter; the others stay fixed.
    - `atol`: the maximum norm of the gradient below which polishing begins.
    - `max_steps`: how many Hessians may be computed. Each costs about n p^2 / 2 multiplications for `Dense`, p
      Hessian products otherwise, and an eigendecomposition of 10 p^3.
    - `max_size`: the largest number of parameters; p^2 numbers are held about six times.
    - `throw`: raise instead of returning a status that is not CONVERGED.

    **Returns:** A [`lossatlas.geometry.CriticalPoint`][].

    **Raises:** `InputError` for lower precision, unknown methods, too many parameters; `NotCertifiedError` with
    `throw`.

    !!! cite
        Zhang, Zhang, Luo, Xu, Embedding Principle of Loss Landscape of Deep Neural Networks, arXiv 2105.14573, Fig. 3;
        Moré and Sorensen, Computing a trust region step, 1983.
    """
    (point,) = find_critical_points(
        [network], landscape, method=method, only=only, atol=atol, max_steps=max_steps, max_size=max_size
    )
    if throw and point.status is not Status.CONVERGED:
        msg = f"No critical point was reached: {point.status} (gradient {float(point.gradient_norm):.1e})."
        raise NotCertifiedError(msg)
    return point


def find_critical_points(
    networks: Sequence[Network],
    landscape: Landscape,
    *,
    method: MethodName | str = "auto",
    only: Only = None,
    atol: float = 1e-12,
    max_steps: int = 200,
    max_size: int = 1500,
    progress: ProgressLike = "none",
) -> list[CriticalPoint]:
    """[`lossatlas.geometry.find_critical_point`][] from many starts of one shape, by one compiled program.

    Starts run one after the other, so each result is that of a single run to the last bit.

    **Arguments:**
    - `networks`: starts with equal shapes. The other arguments are those of `find_critical_point`.
    - `progress`: a meter; never influences results.

    **Returns:** One result per start, in order.

    **Raises:** `InputError` as `find_critical_point`, and for starts of different shapes.
    """
    networks = list(networks)
    _check(networks, landscape, method, only, atol, max_steps, max_size)
    settings = {"method": method, "atol": atol, "max_steps": max_steps}
    results = []
    with as_meter(progress).task("critical points", float(len(networks))) as task:
        for i, network in enumerate(networks):
            begun = time.monotonic()
            vector, unravel = ravel(network, only)
            search = begin(landscape, unravel, vector, jnp.asarray(int(_METHODS[method]), jnp.int32))
            chunk = 0
            while int(search.phase) <= Phase.POLISH and int(search.hessians) < max_steps:
                # Chunks of about a second, for progress and Ctrl-C.
                took = (time.monotonic() - begun) / max(int(search.hessians), 1)
                chunk = 8 if chunk == 0 else max(1, int(_CHUNK_SECONDS / took))
                until = jnp.asarray(min(int(search.hessians) + chunk, max_steps), jnp.int32)
                auto = jnp.asarray(method == "auto")
                search = advance(landscape, unravel, search, jnp.asarray(atol), until, auto, only)
                done = 1.0 if int(search.phase) > Phase.POLISH else int(search.hessians) / max_steps
                task.update(i + done, f"loss {float(search.loss):.6g}")
            results.append(_result(search, unravel, landscape, atol, settings, time.monotonic() - begun))
            task.update(i + 1.0)
    return results


def _result(
    search: Search, unravel: Unravel, landscape: Landscape, atol: float, settings: dict, seconds: float
) -> CriticalPoint:
    network = unravel(search.vector)
    gradient = np.abs(np.asarray(search.gradient))
    gradient_norm = gradient.max()
    norms = np.asarray(search.norms)
    phase = Phase(int(search.phase))
    polished = phase in (Phase.POLISH, Phase.STILL, Phase.MOVING)
    norm = float(jnp.linalg.norm(search.vector))
    drift = float(jnp.linalg.norm(search.vector - search.anchor)) / max(norm, 1.0) if polished else float("nan")
    is_restless = polished and drift > _STANDS
    is_moving = is_restless or phase is Phase.MOVING or not has_stayed(norms)
    runaway = classify_escape(network, landscape, before=unravel(search.mark)) if is_moving else ()
    if phase is Phase.DIVERGED:
        status = Status.DIVERGED
    elif phase is Phase.MOVING or has_run_away(norms, runaway):
        status = Status.AT_INFINITY
    elif is_restless:
        is_growing = norm > float(jnp.linalg.norm(search.anchor))
        status = Status.AT_INFINITY if is_growing else Status.STALLED
    elif phase is Phase.STILL and gradient_norm <= atol:
        status = Status.CONVERGED
    elif phase is Phase.STALLED:
        status = Status.STALLED
    else:
        status = Status.MAX_STEPS
    return CriticalPoint(
        network=network,
        loss=search.loss,
        gradient_norm=jnp.asarray(gradient_norm),
        gradient_norm_1=jnp.asarray(gradient.sum()),
        drift=drift,
        norm_by_decade=tuple(float(a) for a in norms),
        status=status,
        runaway=runaway if status is Status.AT_INFINITY else (),
        stats={"steps": int(search.steps), "hessians": int(search.hessians), "seconds": seconds},
        settings=settings,
    )


def _check(
    networks: list[Network],
    landscape: Landscape,
    method: str,
    only: Only,
    atol: float,
    max_steps: int,
    max_size: int,
) -> None:
    if method not in _METHODS:
        raise unknown_name("method", method, _METHODS)
    if not atol > 0:
        msg = f"atol must be positive, got {atol}."
        raise InputError(msg)
    if max_steps < 1:
        msg = f"max_steps must be at least 1, got {max_steps}."
        raise InputError(msg)
    require_float64((networks, landscape), "A critical point")
    shapes = [[leaf.shape for leaf in jax.tree.leaves(eqx.filter(n, eqx.is_inexact_array))] for n in networks]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            msg = f"All starts need the same shapes: start 0 has {shapes[0]}, start {i} has {shape}."
            raise InputError(msg)
        size = num_parameters(networks[i], only)
        if size > max_size:
            msg = (
                f"A critical point needs the dense Hessian; {size} parameters are more than max_size={max_size}. "
                "Use a parameter filter such as only='layers[0].*', reduce the network first, or raise max_size."
            )
            raise InputError(msg)
