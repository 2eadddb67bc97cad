"""How much the loss and the error rise under noise on the parameters."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._noise import Noise, NoisyPoint, SignedPermutation, check_noise
from lossatlas.landscape import Landscape


if TYPE_CHECKING:
    import xarray as xr

DEFAULT_SIGMAS = {
    "additive": (0.005, 0.01, 0.02, 0.05, 0.1),
    "multiplicative": (0.05, 0.1, 0.2, 0.3, 0.5),
    "filter": (0.05, 0.1, 0.2, 0.3, 0.5),
}


@shown
class LocalEnergy(eqx.Module):
    """The rise of loss and error at several sizes of noise.

    - `noise`: what is added, see [`lossatlas.geometry.local_energy`][]. `sigmas`: its sizes.
    - `loss_rise`, `error_rise`: of every draw and size; the error's is None where the data has no classes. Draw i of
      one key is the same noise at all sizes, and for all networks with as many parameters.
    - `loss`, `error`: without noise; means over the examples (the error NaN without classes).
    """

    noise: str = eqx.field(static=True)
    sigmas: Float[np.ndarray, " s"]
    loss_rise: Float[np.ndarray, "draws s"]
    error_rise: Float[np.ndarray, "draws s"] | None
    loss: float
    error: float
    stats: dict[str, Any]
    settings: dict[str, Any]

    def rise(self, of: str = "loss") -> Float[np.ndarray, "draws s"]:
        """The rise of the `"loss"` or the `"error"`, draw by draw.

        **Raises:** `InputError` for the error of data without classes.
        """
        if of == "loss":
            return self.loss_rise
        if of != "error" or self.error_rise is None:
            msg = f"of must be 'loss', or 'error' where the data has classes, got {of!r}."
            raise InputError(msg)
        return self.error_rise

    def mean(self, of: str = "loss") -> Float[np.ndarray, " s"]:
        """The local energy at each size."""
        return self.rise(of).mean(0)

    def standard_error(self, of: str = "loss") -> Float[np.ndarray, " s"]:
        """Of the mean over the draws."""
        rise = self.rise(of)
        return rise.std(0, ddof=1) / np.sqrt(len(rise))

    def quantile(self, q: float, of: str = "loss") -> Float[np.ndarray, " s"]:
        """A quantile over the draws at each size, q between 0 and 1; the mean may be that of a few large draws."""
        return np.quantile(self.rise(of), q, axis=0)

    def to_xarray(self) -> "xr.Dataset":
        """The draws over `draw` and `sigma`."""
        import xarray as xr

        parts = {"loss_rise": self.loss_rise, "error_rise": self.error_rise}
        return xr.Dataset(
            {name: (("draw", "sigma"), part) for name, part in parts.items() if part is not None},
            coords={"sigma": self.sigmas},
            attrs={"noise": self.noise, "loss": self.loss, "error": self.error, **self.settings},
        )

    def _figure(self) -> Any:
        from lossatlas.figures import local_energy_figure

        band = {"": (self.sigmas, self.mean(), self.standard_error())}
        return local_energy_figure(band, noise=self.noise, of="loss")


def local_energy(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    noise: Noise | str = "multiplicative",
    sigmas: Sequence[float] | np.ndarray | None = None,
    num_draws: int = 100,
    only: Only = None,
    progress: ProgressLike = "none",
    transport: SignedPermutation | None = None,
) -> LocalEnergy:
    r"""The mean rise of loss and error when Gaussian noise is added to the parameters.

    $E_z R(\theta + \sigma\,\delta(z)) - R(\theta)$ with $z \sim N(0, 1)$ and

    - `"additive"`: $\delta = z$. It changes with the scale in which the same function is written.
    - `"multiplicative"`: $\delta_i = z_i \theta_i$. A change of the scale of homogeneous units leaves every draw as
      it is.
    - `"filter"`: $\delta_f = z_f |\theta_f| / |z_f|$ for every filter f (a slice along the first axis of a parameter
      of two axes or more, weights being stored (out, in, ...)), and zero for biases and scales of norms.

    At a minimum with Hessian H the additive one is $\frac{\sigma^2}2 \operatorname{tr} H$ to leading order, the
    multiplicative one $\frac{\sigma^2}2 \sum_i \theta_i^2 H_{ii}$. The worst draws and examples govern the loss; the
    error is zero while margins are larger than what the noise does: look at both. Buffers (running statistics) are
    left alone. Cost: `num_draws * len(sigmas)` forward passes over the data, streamed where the landscape streams.

    **Arguments:**
    - `noise`: as above. `sigmas`: sizes; default five, to 0.1 (additive) or 0.5.
    - `num_draws`: at least 2; the same draws at every size.
    - `only`: a parameter filter; the others get no noise.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.
    - `transport`: an order and signs of the coordinates of the noise, for a network with its units rearranged; see
      [`lossatlas.geometry.rewrite`][].

    **Returns:**
    A [`lossatlas.geometry.LocalEnergy`][] with every draw.

    **Raises:** `InputError` for negative sizes, fewer than 2 draws, and a loss that is not finite without noise.

    !!! cite
        Pittorino et al. 2021, arXiv 2006.07897 (local energy); Li et al. 2018, arXiv 1712.09913 (filters).
    """
    began = time.perf_counter()
    sizes = check_noise(noise, DEFAULT_SIGMAS.get(noise, ()) if sigmas is None else sigmas, num_draws)
    point = NoisyPoint(network, landscape, only, transport)
    values = np.zeros((num_draws, len(sizes), 2))
    with as_meter(progress).task(f"local energy, {noise}", num_draws) as task:
        for draw in range(num_draws):
            direction = point.direction(key, draw, noise)
            values[draw] = [point.at(direction, sigma) for sigma in sizes]
            task.update(draw + 1)
    rise = values - np.array([point.loss, point.error])
    return LocalEnergy(
        noise=noise,
        sigmas=sizes,
        loss_rise=rise[:, :, 0],
        error_rise=None if point.kind is None else rise[:, :, 1],
        loss=point.loss,
        error=point.error,
        stats={"forwards": point.count, "seconds": time.perf_counter() - began},
        settings={"num_draws": num_draws, "convention": "mean over examples"},
    )
