"""What each example adds to a cross-entropy barrier, and why."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas.geometry._along import predictions
from lossatlas.geometry._path import Path, check_statistics
from lossatlas.landscape import Landscape


@shown
class BarrierAttribution(eqx.Module):
    r"""The cross-entropy barrier at one place of a path, example by example: `excess = spread - jensen - error`.

    With $z_{lin} = (1-t) z_A + t z_B$ and $E = z(t) - z_{lin}$, how far the logits are from going straight:

    - `excess`: $CE(z(t)) - ((1-t) CE_A + t CE_B)$; its mean is the rise of the loss at `t`.
    - `spread`: $LSE(z_{lin} + E) - LSE(z_{lin})$.
    - `jensen`: $(1-t) LSE(z_A) + t LSE(z_B) - LSE(z_{lin})$, never negative: what averaging logits gains.
    - `error`: $E_y$, the part of E at the label.
    - `logit_error`: the largest entry of E, absolute. Without it there is no barrier.
    - `defect`: how far the identity is from holding, at most; rounding.
    """

    t: float
    excess: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"]
    jensen: Float[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    logit_error: Float[np.ndarray, " n"]
    defect: float

    def to_xarray(self) -> Any:
        """All parts over `example`."""
        import xarray as xr

        names = ("excess", "spread", "jensen", "error", "logit_error")
        return xr.Dataset({name: ("example", getattr(self, name)) for name in names}, attrs={"t": self.t})

    def _figure(self) -> Any:
        from lossatlas.figures import curves_figure

        order = np.argsort(-self.excess)
        share = np.arange(1, len(order) + 1) / len(order)
        rise = np.cumsum(self.excess[order]) / len(order)
        return curves_figure(
            {"sum of the largest": (share, rise)},
            x="share of the examples, the largest rise first",
            y="rise of the loss",
        )


def attribute_barrier(path: Path, landscape: Landscape, *, t: float = 0.5) -> BarrierAttribution:
    """Split the rise of the cross-entropy at one place of a path into parts, for every example.

    **Arguments:**
    - `path`: its ends are A and B.
    - `landscape`: with cross-entropy loss; training or test data.
    - `t`: where, such as `t_barrier` of a [`lossatlas.geometry.Barrier`][].

    **Returns:** A [`lossatlas.geometry.BarrierAttribution`][]. Cost: three forward passes.

    **Raises:** `InputError` for other losses.
    """
    if landscape.loss is None or landscape.loss.name != "cross_entropy" or not landscape.has_predictions:
        name = "none" if landscape.loss is None else repr(landscape.loss.name)
        msg = f"The decomposition is of loss='cross_entropy', on a landscape with predictions; the loss is {name}."
        raise InputError(msg)
    check_statistics(path)
    first, last, here = (predictions(landscape, path(at)) for at in (0.0, 1.0, t))
    targets = landscape.targets
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets.reshape(-1), here.shape[-1], dtype=here.dtype)
    parts = _parts(first, last, here, targets.astype(here.dtype), jnp.asarray(t, here.dtype))
    excess, spread, jensen, error, largest = (np.asarray(part, float) for part in parts)
    defect = float(np.abs(excess - (spread - jensen - error)).max())
    return BarrierAttribution(float(t), excess, spread, jensen, error, largest, defect)


@jax.jit
def _parts(first: Array, last: Array, here: Array, targets: Array, t: Array) -> tuple[Array, ...]:
    lse = jax.nn.logsumexp

    def entropy(logits: Array) -> Array:
        return -jnp.sum(targets * jax.nn.log_softmax(logits, -1), -1)

    line = (1 - t) * first + t * last
    excess = entropy(here) - ((1 - t) * entropy(first) + t * entropy(last))
    spread = lse(here, -1) - lse(line, -1)
    jensen = (1 - t) * lse(first, -1) + t * lse(last, -1) - lse(line, -1)
    error = here - line
    return excess, spread, jensen, jnp.sum(targets * error, -1), jnp.max(jnp.abs(error), -1)
