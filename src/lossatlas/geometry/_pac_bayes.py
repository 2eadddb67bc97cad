"""How much noise the parameters bear, and the PAC-Bayes bound that follows from it."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import ravel
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._noise import Noise, NoisyPoint, SignedPermutation, check_noise
from lossatlas.landscape import Landscape


_MAX_DOUBLINGS = 40
_MAX_HALVINGS = 30
_QUANTILE = 1.96  # of a Gaussian: the interval is one of 95 %


@shown
class PacBayesSigma(eqx.Module):
    r"""The largest noise that raises the error, or the loss, by no more than a threshold.

    - `sigma`: its size. `low`, `high`: the 95 % interval from the error of the mean over the draws, that is where
      the mean plus, or minus, 1.96 standard errors reaches the threshold; infinite where it never does.
    - `flatness`: $1/\sigma^2$, the measure of Jiang et al. (large means sharp).
    - `of`, `noise`, `threshold`: what was asked.
    - `sizes`, `rises`, `errors`: every size that was tried, with mean and standard error of the rise.
    """

    sigma: float
    low: float
    high: float
    of: str = eqx.field(static=True)
    noise: str = eqx.field(static=True)
    threshold: float = eqx.field(static=True)
    sizes: Float[np.ndarray, " k"]
    rises: Float[np.ndarray, " k"]
    errors: Float[np.ndarray, " k"]
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def flatness(self) -> float:
        """One over the square of sigma; large means sharp."""
        return 1 / self.sigma**2 if self.sigma > 0 else math.inf


def pac_bayes_sigma(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    noise: Noise | str = "additive",
    of: Literal["error", "loss"] | str = "error",
    threshold: float = 0.1,
    num_draws: int = 100,
    only: Only = None,
    transport: SignedPermutation | None = None,
) -> PacBayesSigma:
    r"""The largest $\sigma$ with $E_z\,\mathrm{err}(\theta + \sigma\,\delta(z)) - \mathrm{err}(\theta) \le \tau$.

    The measure "PAC-Bayes flatness" of Jiang et al., with additive noise; multiplicative noise gives its
    magnitude-aware relative, which does not change with the scale of homogeneous units. Bisection on
    $\log\sigma$ with the same draws at every size, so that what is bisected is one curve; it ends when the bracket is
    narrower than the Monte-Carlo error of the curve, at most 30 halvings. On a quadratic
    loss $\sigma = \sqrt{2\tau/\operatorname{tr} H}$. Cost: `num_draws` forward passes a size, about 40 sizes.

    **Arguments:**
    - `noise`: as for [`lossatlas.geometry.local_energy`][]. `transport`: as there.
    - `of`: the `"error"` of classes, or the `"loss"`.
    - `threshold`: $\tau$, positive. `num_draws`: at least 2.
    - `only`: a parameter filter; the others get no noise.

    **Returns:**
    A [`lossatlas.geometry.PacBayesSigma`][]; sigma is infinite where no noise raises the error by so much.

    **Raises:** `InputError` for a threshold that is not positive, fewer than 2 draws, and the error of data without
    classes.

    !!! cite
        Jiang et al. 2020, arXiv 1912.02178, appendix C; Dziugaite and Roy 2017, arXiv 1703.11008.
    """
    began = time.perf_counter()
    check_noise(noise, 1.0, num_draws)
    if not (threshold > 0 and math.isfinite(threshold)):
        msg = f"threshold must be finite and positive, got {threshold}."
        raise InputError(msg)
    point = NoisyPoint(network, landscape, only, transport)
    if of not in ("error", "loss") or (of == "error" and point.kind is None):
        msg = f"of must be 'loss', or 'error' where the data has classes, got {of!r}."
        raise InputError(msg)
    curve = _Curve(point, key, noise, num_draws, of)
    middle, low, high = (_crossing(curve, threshold, z) for z in (0.0, _QUANTILE, -_QUANTILE))
    sizes = np.asarray(sorted(curve.known))
    values = np.asarray([curve.known[size] for size in sizes])
    return PacBayesSigma(
        sigma=middle,
        low=low,
        high=high,
        of=of,
        noise=noise,
        threshold=threshold,
        sizes=sizes,
        rises=values[:, 0],
        errors=values[:, 1],
        stats={"forwards": point.count, "seconds": time.perf_counter() - began},
        settings={"num_draws": num_draws, "convention": "mean over examples"},
    )


class _Curve:
    """Mean and standard error of the rise at each size, every size once."""

    def __init__(self, point: NoisyPoint, key: PRNGKeyArray, noise: str, num_draws: int, of: str):
        self.point, self.key, self.noise, self.num_draws, self.of = point, key, noise, num_draws, of
        self.known: dict[float, tuple[float, float]] = {}

    def __call__(self, sigma: float) -> tuple[float, float]:
        if sigma not in self.known:
            directions = (self.point.direction(self.key, i, self.noise) for i in range(self.num_draws))
            pairs = np.asarray([self.point.at(direction, sigma) for direction in directions])
            rise = pairs[:, 1] - self.point.error if self.of == "error" else pairs[:, 0] - self.point.loss
            rise = np.where(np.isfinite(rise), rise, np.finfo(float).max ** 0.25)  # an overflow is a large rise
            self.known[sigma] = float(rise.mean()), float(rise.std(ddof=1) / np.sqrt(len(rise)))
        return self.known[sigma]


def _crossing(curve: _Curve, threshold: float, z: float) -> float:
    """The size at which the mean plus z standard errors reaches the threshold; infinite where it never does."""
    above = lambda sigma: curve(sigma)[0] + z * curve(sigma)[1] > threshold  # noqa: E731
    low = high = 0.1
    for _ in range(_MAX_DOUBLINGS):
        if above(high):
            break
        low, high = high, 2 * high
    else:
        return math.inf
    while low == high or above(low):
        low, high = low / 2, low
        if low < 1e-12:
            return 0.0
    for _ in range(_MAX_HALVINGS):
        middle = math.sqrt(low * high)
        if above(middle):
            high = middle
        else:
            low = middle
        mean, error = curve(middle)
        if curve(high)[0] - curve(low)[0] <= 0.1 * error or (error == 0 and abs(mean - threshold) < 1e-9 * threshold):
            break
    return math.sqrt(low * high)


@shown
class PacBayesBound(eqx.Module):
    r"""A bound of the error on new data of the network with noise on its parameters.

    - `bound`: holds with probability `1 - delta`; 1 or more says nothing (`is_vacuous`).
    - `error`: the mean training error of the noisy network (its Monte-Carlo estimate); `error_bound`: what it is at
      most. `sigma`: the noise, of those tried the one with the best bound.
    - `divergence`: $KL(Q\,\|\,P)$ in nats. `prior_sigma`: of the prior.
    - `delta`: the probability with which the bound may fail.
    - `sigmas`, `bounds`: all that were tried.
    """

    bound: float
    error: float
    error_bound: float
    sigma: float
    divergence: float
    prior_sigma: float
    delta: float = eqx.field(static=True)
    sigmas: Float[np.ndarray, " k"]
    bounds: Float[np.ndarray, " k"]
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def is_vacuous(self) -> bool:
        """Whether the bound is no better than 1."""
        return self.bound >= 1


def pac_bayes_bound(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    prior: Network | None = None,
    sigmas: Sequence[float] | np.ndarray = (0.005, 0.01, 0.02, 0.05, 0.1),
    num_draws: int = 100,
    delta: float = 0.05,
    only: Only = None,
    transport: SignedPermutation | None = None,
) -> PacBayesBound:
    r"""A PAC-Bayes bound of the error of the Gibbs classifier $Q = N(\theta, \sigma^2 I)$.

    With n i.i.d. training examples and $\delta' = \delta/2$ (Maurer 2004, the form of McAllester's bound in the binary
    relative entropy $kl$): with probability $1 - \delta'$, for all Q at once,
    $kl(\hat e_Q \| e_Q) \le (KL(Q\|P) + \log(2\sqrt n/\delta_P)) / n$. The prior is $P = N(\theta_0, s^2 I)$ with
    $s = e^{-j/20}$, j = 1, 2, ...; a union bound over j gives it $\delta_P = 6\delta'/(\pi^2 j^2)$, so that s may be
    chosen after seeing the data. $\hat e_Q$ is estimated by draws; Chernoff's bound
    $kl(\bar e \| \hat e_Q) \le \log(K/\delta')/m$ for m draws and K sizes tried holds with $1 - \delta'$ too,
    both together with $1 - \delta$. It bounds the noisy network, not the network itself, and holds only for a `prior`
    that the data had no part in. Cost: `len(sigmas) * num_draws` forward passes.

    **Arguments:**
    - `prior`: a network of the same shape at $\theta_0$, such as the initialisation; default all zeros.
    - `sigmas`: posterior sizes to try, positive. `num_draws`: m. `delta`: between 0 and 1.
    - `only`: a parameter filter; the others get no noise and must equal those of the prior's function.
    - `transport`: as for [`lossatlas.geometry.local_energy`][].

    **Returns:**
    A [`lossatlas.geometry.PacBayesBound`][].

    **Raises:** `InputError` for data without classes, a prior of another shape, and numbers out of range.

    !!! cite
        Maurer 2004, arXiv cs/0411099; Langford and Caruana 2002; Dziugaite and Roy 2017, arXiv 1703.11008.
    """
    began = time.perf_counter()
    sizes = check_noise("additive", sigmas, num_draws)
    if (sizes == 0).any() or not 0 < delta < 1:
        msg = f"sigmas must be positive and delta between 0 and 1, got {sigmas!r} and {delta}."
        raise InputError(msg)
    point = NoisyPoint(network, landscape, only, transport)
    if point.kind is None:
        raise InputError("The bound is one of an error between 0 and 1, and this data has no classes.")
    vector = np.asarray(point.vector, float)
    centre = prior_centre(prior, vector, only)
    directions = [point.direction(key, i, "additive") for i in range(num_draws)]
    tried = []
    for sigma in sizes:
        error = float(np.mean([point.at(direction, float(sigma))[1] for direction in directions]))
        largest = inverse_kl(error, math.log(2 * len(sizes) / delta) / num_draws)
        bound, divergence, width = _best_prior(largest, sigma, vector - centre, landscape.size, delta / 2)
        tried.append((bound, error, largest, float(sigma), divergence, width))
    best = min(tried)
    return PacBayesBound(
        *best,
        delta=delta,
        sigmas=sizes,
        bounds=np.asarray([row[0] for row in tried]),
        stats={"forwards": point.count, "seconds": time.perf_counter() - began},
        settings={"num_draws": num_draws, "prior": "zero" if prior is None else "given"},
    )


def prior_centre(prior: Network | None, vector: Float[np.ndarray, " p"], only: Only) -> Float[np.ndarray, " p"]:
    """The centre of the prior beside the parameters of the network, zero without one.

    **Raises:** `InputError` for a prior with another number of parameters.
    """
    centre = np.zeros_like(vector) if prior is None else np.asarray(ravel(prior, only)[0], float)
    if centre.shape != vector.shape:
        msg = f"The prior has {centre.size} parameters and the network {vector.size}; they need the same shape."
        raise InputError(msg)
    return centre


def gaussian_divergence(distance: float, sigma: float, prior_sigma: float, size: int) -> float:
    r"""$KL(N(\theta, \sigma^2 I) \| N(\theta_0, s^2 I))$ in nats, in `size` dimensions at a Euclidean distance."""
    ratio = (sigma / prior_sigma) ** 2
    return float(0.5 * (size * (ratio - 1 - math.log(ratio)) + (distance / prior_sigma) ** 2))


def inverse_kl(p: float, limit: float) -> float:
    """The largest q with kl(p || q) at most `limit`, for Bernoulli variables."""

    def fits(q: float) -> bool:
        first = p * math.log(p / q) if p > 0 else 0.0
        second = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0
        return first + second <= limit

    return _bisect(fits, p, 1.0)


def _bisect(fits: Callable[[float], bool], low: float, high: float) -> float:
    """The upper end of the numbers that fit; `low` does."""
    for _ in range(100):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return high


def _best_prior(error: float, sigma: float, shift: np.ndarray, n: int, delta: float) -> tuple[float, float, float]:
    """The best bound over the grid of priors, with its divergence and prior size."""
    distance, size = float(np.linalg.norm(shift)), shift.size
    best = -20 * math.log(math.sqrt(sigma**2 + distance**2 / size))  # where the divergence is least
    found = []
    for j in {max(1, math.floor(best)), max(1, math.ceil(best))}:
        width = math.exp(-j / 20)
        divergence = gaussian_divergence(distance, sigma, width, size)
        penalty = divergence + math.log(2 * math.sqrt(n) * math.pi**2 * j**2 / (6 * delta))
        found.append((inverse_kl(error, penalty / n), divergence, width))
    return min(found)
