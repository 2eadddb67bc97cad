"""The largest rise of the loss in a small ball, plain (SAM) and in units of the parameters (ASAM)."""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import ravel, select
from lossatlas._show import shown
from lossatlas._types import Network, Only, Vector
from lossatlas.geometry._noise import SignedPermutation
from lossatlas.landscape import Landscape


@shown
class Sharpness(eqx.Module):
    r"""How far the loss rises within a ball around the parameters.

    - `value`: the largest rise that was found, a lower bound of the maximum; the mean over the shards.
    - `standard_error`: over the shards; 0 when all data are one shard, since nothing is random then but a start.
    - `starts`: the largest rise found from each start, the mean over the shards: from the step of SAM, from a random
      point, and from the mirror image of the better end. Where they end at different rises, the ball has several local
      maxima, and there may be more.
    - `one_step`: the rise after the single step of SAM, mean over the shards. `gap`: `value` minus `one_step`: what the
      linear model of the loss misses.
    - `first_order`: the rise of the linear model, the radius times the (dual) norm of the gradient. At a minimum it is
      zero, and sharpness is curvature.
    - `rises`: the largest rise found on each shard. `radius`, `eta`: of the ball; `eta` is None for the Euclidean one.
    """

    value: float
    standard_error: float
    starts: Float[np.ndarray, " starts"]
    one_step: float
    first_order: float
    rises: Float[np.ndarray, " shards"]
    radius: float = eqx.field(static=True)
    eta: float | None = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def gap(self) -> float:
        """What one step misses of the largest rise that was found."""
        return self.value - self.one_step


def sharpness(
    network: Network,
    landscape: Landscape,
    *,
    radius: float = 0.05,
    num_steps: int = 20,
    shard_size: int | None = None,
    key: PRNGKeyArray | None = None,
    only: Only = None,
    transport: SignedPermutation | None = None,
) -> Sharpness:
    r"""The largest rise of the mean loss within $|\delta| \le \rho$: the sharpness that SAM minimises.

    One step is that of SAM, $\delta = \rho\, g / |g|$. More steps iterate
    $\delta \leftarrow \rho\, g(\theta + \delta) / |g(\theta + \delta)|$, from there and from a random point of the
    sphere: the power method, which near a minimum converges to the top eigenvector, with the rise $\rho^2 \lambda_{max}
    / 2$. Both directions of that vector are local maxima, and far from the quadratic model one rises more than the
    other (twice as much, in our examples), so a third run starts opposite to the better end. The best point on the way
    counts, so the value is a lower bound. It changes with the scale in which the same function is written; see
    [`lossatlas.geometry.adaptive_sharpness`][].

    Cost: `3 * num_steps + 1` gradients, on all data however many shards there are.

    **Arguments:**
    - `radius`: $\rho$, at least 0. `num_steps`: iterations from each start; 0 for SAM's single step alone.
    - `shard_size`: m of m-sharpness: the mean over disjoint shards of m examples of the rise that each finds on its own
      loss (the last n mod m examples of the shuffled data are left out); None: all data at once.
    - `key`: of the random start and the order of the examples; default `jax.random.key(0)`.
    - `only`: a parameter filter; the others stay.
    - `transport`: an order and signs of the coordinates of the start, see [`lossatlas.geometry.rewrite`][].

    **Returns:**
    A [`lossatlas.geometry.Sharpness`][].

    **Raises:** `InputError` for a negative radius or number of steps, a shard size out of range, and a loss that is not
    finite.

    !!! cite
        Foret et al. 2021, arXiv 2010.01412 (one step, m-sharpness); Journée et al. 2010 (the power method for convex
        functions, whose rise never falls).
    """
    return _measured(network, landscape, radius, None, num_steps, shard_size, key, only, transport)


def adaptive_sharpness(
    network: Network,
    landscape: Landscape,
    *,
    radius: float = 0.5,
    eta: float = 0.01,
    num_steps: int = 20,
    shard_size: int | None = None,
    key: PRNGKeyArray | None = None,
    only: Only = None,
    transport: SignedPermutation | None = None,
) -> Sharpness:
    r"""The largest rise of the mean loss within $|T^{-1}\delta| \le \rho$, $T = |\theta| + \eta$: that of ASAM.

    With `eta=0` it is the same for all weights that write one function by positive factors of its units.
    Steps, cost and arguments as for [`lossatlas.geometry.sharpness`][]: one step is $\rho\, T^2 g / |T g|$.

    **Arguments:**
    - `radius`: $\rho$, in units of the parameters. `eta`: added to their absolute values.
    - `num_steps`, `shard_size`, `key`, `only`, `transport`: as for `sharpness`.

    **Returns:**
    A [`lossatlas.geometry.Sharpness`][].

    **Raises:** `InputError` as `sharpness` does, and for a negative `eta`.

    !!! cite
        Kwon et al. 2021, arXiv 2102.11600, the elementwise operator, on all parameters.
    """
    if not (eta >= 0 and np.isfinite(eta)):
        msg = f"eta must be finite and not negative, got {eta}."
        raise InputError(msg)
    return _measured(network, landscape, radius, eta, num_steps, shard_size, key, only, transport)


def _measured(network, landscape: Landscape, radius, eta, num_steps, shard_size, key, only, transport) -> Sharpness:
    began = time.perf_counter()
    if not (radius >= 0 and np.isfinite(radius)):
        msg = f"radius must be finite and not negative, got {radius}."
        raise InputError(msg)
    if num_steps < 0:
        msg = f"num_steps must be at least 0, got {num_steps}."
        raise InputError(msg)
    if shard_size is not None and not 1 <= shard_size <= landscape.size:
        msg = f"shard_size must be between 1 and the number of examples, {landscape.size}; got {shard_size}."
        raise InputError(msg)
    key = jax.random.key(0) if key is None else key
    start_key, order_key = jax.random.split(key)
    selected = select(network, only)
    vector, _ = ravel(network, selected)
    random = jax.random.normal(start_key, vector.shape, vector.dtype)
    if transport is not None:
        random = random[transport.order] * transport.signs.astype(vector.dtype)
    random = radius * random / jnp.linalg.norm(random)
    rows = _shards(order_key, landscape.size, shard_size)
    found = []
    for i in range(len(rows)):
        part = landscape if shard_size is None else landscape.subset(rows[i])
        found.append(_climb(network, part, selected, radius, eta, num_steps, random))
    best, one_step, first_order, *starts = np.asarray(found).T
    return Sharpness(
        value=float(best.mean()),
        standard_error=float(best.std(ddof=1) / np.sqrt(len(best))) if len(best) > 1 else 0.0,
        starts=np.array([rises.mean() for rises in starts]),
        one_step=float(one_step.mean()),
        first_order=float(first_order.mean()),
        rises=best,
        radius=float(radius),
        eta=eta,
        stats={"gradients": 1 + max(3 * num_steps, 1), "seconds": time.perf_counter() - began},
        settings={
            "num_steps": num_steps,
            "shard_size": shard_size or landscape.size,
            "convention": "mean over examples",
        },
    )


def _climb(network, landscape, selected, radius, eta, num_steps, random) -> tuple[float, ...]:
    """The largest rise found, that of one step, the slope times the radius, and the largest rise from each start."""
    size = jnp.asarray(radius, random.dtype)
    floor = None if eta is None else jnp.asarray(eta, random.dtype)
    loss, slope, following = _ascend(network, landscape, selected, jnp.zeros_like(random), size, floor)
    base = float(loss)
    if not np.isfinite(base):
        raise InputError("The loss is not finite at this network; check its parameters and the data for NaN.")

    def run(at: Vector) -> tuple[float, Vector, float]:
        """The largest finite rise on the way from a start (minus infinity without one), where it is, and the first."""
        best, where, rises = -np.inf, at, []
        for _ in range(max(num_steps, 1)):
            loss, _, following = _ascend(network, landscape, selected, at, size, floor)
            rises.append(float(loss) - base)
            if np.isfinite(rises[-1]) and rises[-1] > best:
                best, where = rises[-1], at
            at = following
        return best, where, rises[0]

    runs = [run(following)]
    if num_steps:
        runs.append(run(random))
        runs.append(run(-max(runs, key=lambda found: found[0])[1]))
    largest = [best if np.isfinite(best) else float("nan") for best, _, _ in runs]
    return float(np.fmax.reduce(largest)), runs[0][2], radius * float(slope), *largest


@eqx.filter_jit
def _ascend(network, landscape, selected, at: Vector, radius: Array, eta: Array | None):
    """Loss and norm of the scaled gradient at a scaled shift, and the shift to which the power method goes on."""
    vector, unravel = ravel(network, selected)
    scale = jnp.ones_like(vector) if eta is None else jnp.abs(vector) + eta

    def of_batch(batch, weights):
        moved = vector + scale * at
        return jax.value_and_grad(landscape._weighted_loss)(moved, unravel, batch, weights)

    loss, gradient = landscape._mean(of_batch)
    scaled = scale * gradient
    norm = jnp.linalg.norm(scaled)
    return loss, norm, jnp.where(norm > 0, radius * scaled / jnp.where(norm > 0, norm, 1.0), at)


def _shards(key: PRNGKeyArray, size: int, shard_size: int | None) -> np.ndarray:
    if shard_size is None:
        return np.zeros((1, 0), int)
    order = np.asarray(jax.random.permutation(key, size))
    number = size // shard_size
    return order[: number * shard_size].reshape(number, shard_size)
