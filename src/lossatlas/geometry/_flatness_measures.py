"""Every measure of flatness at one network, each with how sure it is, in one table."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import num_parameters, ravel
from lossatlas._progress import NoProgress, ProgressMeter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._classes import class_kind, loss_and_error
from lossatlas.geometry._learning_coefficient import LearningCoefficient, learning_coefficient
from lossatlas.geometry._local_energy import LocalEnergy, local_energy
from lossatlas.geometry._local_entropy import local_entropy
from lossatlas.geometry._noise import NOISES, SignedPermutation
from lossatlas.geometry._pac_bayes import pac_bayes_bound, pac_bayes_sigma, prior_centre
from lossatlas.geometry._relative import relative_point
from lossatlas.geometry._sharpness import Sharpness, adaptive_sharpness, sharpness
from lossatlas.geometry._spectrum import spectrum
from lossatlas.geometry._stationary import gradient_warning
from lossatlas.geometry._trace import trace
from lossatlas.landscape import Landscape


Group = Literal["local_energy", "hessian", "sharpness", "pac_bayes", "local_entropy", "learning_coefficient"]
FLATNESS_MEASURES = ("local_energy", "hessian", "sharpness", "pac_bayes", "local_entropy", "learning_coefficient")
_EXACT_TRACE = 300  # parameters, up to which the trace is summed exactly


@shown
class FlatnessMeasure(eqx.Module):
    """One number that is said to measure flatness.

    - `name`, `value`, `standard_error` (0 where nothing is random), `low` and `high`: the 95 % interval. All three NaN
      where none is known (`has_interval`): what a search found is at most the maximum, and a bound at least what it
      bounds, by an amount that nobody knows.
    - `samples`: the draws whose mean is `value`, in the order of the key, where two networks can be compared draw by
      draw; else None.
    - `is_small_flat`: whether a small value means flat; for PAC-Bayes sigma a large one does.
    - `convention`: what exactly it is.
    """

    name: str = eqx.field(static=True)
    value: float
    standard_error: float
    low: float
    high: float
    samples: Float[np.ndarray, " s"] | None
    is_small_flat: bool = eqx.field(static=True)
    convention: str = eqx.field(static=True)

    @property
    def has_interval(self) -> bool:
        """Whether it is known how far the value may be off."""
        return not (math.isnan(self.standard_error) or math.isnan(self.low) or math.isnan(self.high))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and how thoroughly."""

    groups: tuple[str, ...]
    num_draws: int
    num_probes: int
    num_steps: int
    num_chains: int
    radius: float
    adaptive_radius: float
    threshold: float
    localisation: float
    prior: Network | None
    only: Only


@dataclasses.dataclass
class Measured:
    """What was measured: the table, the curves and the chains; what was not, and why; what has to be said."""

    measures: dict[str, FlatnessMeasure]
    curves: dict[str, LocalEnergy]
    chains: LearningCoefficient | None
    missing: dict[str, str]
    warnings: list[str]
    loss: float
    error: float
    gradient_norm: float
    relative_gradient_norm: float


def check_groups(measures: Sequence[str] | None) -> tuple[str, ...]:
    """The groups of measures that were asked for.

    **Raises:** `InputError` for an unknown one, and for none.
    """
    chosen = FLATNESS_MEASURES if measures is None else tuple(measures)
    for name in chosen:
        if name not in FLATNESS_MEASURES:
            raise unknown_name("measure", name, FLATNESS_MEASURES)
    if not chosen:
        msg = f"measures is empty; choose from {', '.join(FLATNESS_MEASURES)}."
        raise InputError(msg)
    return chosen


def measure_all(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    plan: Plan,
    transport: SignedPermutation | None = None,
    meter: ProgressMeter | None = None,
) -> Measured:
    """All groups of a plan; the same key gives the same random numbers, whatever the network."""
    if "pac_bayes" in plan.groups:
        prior_centre(plan.prior, np.asarray(ravel(network, plan.only)[0], float), plan.only)  # refuse before long work
    loss, gradient = eqx.filter_jit(landscape.value_and_gradient)(network, plan.only)
    if not math.isfinite(float(loss)):
        raise InputError("The loss is not finite at this network; check its parameters and the data for NaN.")
    kind = class_kind(landscape)
    wrong = math.nan if kind is None else float(eqx.filter_jit(loss_and_error)(landscape, kind, network)[1])
    found = Measured({}, {}, None, {}, [], float(loss), wrong, float(np.linalg.norm(gradient)), math.nan)
    work = {
        "local_energy": _local_energies,
        "hessian": _curvatures,
        "sharpness": _sharpnesses,
        "pac_bayes": _pac_bayes,
        "local_entropy": _local_entropy,
        "learning_coefficient": _learning_coefficient,
    }
    chosen = [name for name in FLATNESS_MEASURES if name in plan.groups]
    with (meter or NoProgress()).task("flatness", len(chosen)) as task:
        for i, name in enumerate(chosen):
            task.update(i, name.replace("_", " "))
            work[name](key, network, landscape, plan, transport, found)
        task.update(len(chosen))
    return found


def _add(
    found: Measured,
    name: str,
    value: float,
    convention: str,
    *,
    error: float = 0.0,
    interval: tuple[float, float] | None = None,
    samples: np.ndarray | None = None,
    is_small_flat: bool = True,
) -> None:
    low, high = interval or (value - 1.96 * error, value + 1.96 * error)
    found.measures[name] = FlatnessMeasure(name, value, error, low, high, samples, is_small_flat, convention)


def _local_energies(key, network, landscape, plan: Plan, transport, found: Measured) -> None:
    for noise in NOISES:
        curve = local_energy(
            key, network, landscape, noise=noise, num_draws=plan.num_draws, only=plan.only, transport=transport
        )
        found.curves[noise] = curve
        middle = len(curve.sigmas) // 2
        for of in ("loss", "error"):
            if of == "error" and curve.error_rise is None:
                found.missing["local energy of the error"] = "the data has no classes"
                continue
            sigma = curve.sigmas[middle]
            name = f"local energy, {noise}, {of}"
            convention = f"mean rise of the {of} under {noise} noise of size {sigma:g}"
            error = float(curve.standard_error(of)[middle])
            _add(found, name, float(curve.mean(of)[middle]), convention, error=error, samples=curve.rise(of)[:, middle])


def _curvatures(key, network, landscape, plan: Plan, transport, found: Measured) -> None:
    del transport  # traces are exact or have an error of their own, and eigenvalues are certified
    moved = relative_point(network, landscape, only=plan.only)
    size = num_parameters(network, plan.only)
    # Named by what it is: the gradient in relative coordinates is w * g.
    found.relative_gradient_norm = float(np.linalg.norm(eqx.filter_jit(moved[1].gradient)(moved[0])))
    points = (
        ("Hessian trace", "top eigenvalue", (network, landscape), plan.only, "the Hessian H of the mean loss"),
        ("relative trace", "relative top eigenvalue", moved, None, "D H D, D = diag(parameters)"),
    )
    for trace_name, top_name, (point, data), only, words in points:
        method = "exact" if size <= _EXACT_TRACE else "auto"
        estimate = trace(key, point, data, num_probes=plan.num_probes, only=only, method=method)
        error = float(estimate.standard_error)
        _add(found, trace_name, float(estimate.value), f"trace of {words}", error=error, interval=estimate.interval())
        ends = spectrum(point, data, num_top=1, num_bottom=1, only=only, key=key)
        top, bottom, residual = float(ends.top[0]), float(ends.bottom[0]), float(ends.residuals[0])
        convention = f"largest eigenvalue of {words}; the smallest is {bottom:.3g}"
        _add(found, top_name, top, convention, interval=(top - residual, top + residual))
        if only is plan.only and point is network:
            warning = gradient_warning(found.loss, found.gradient_norm, max(abs(top), abs(bottom)))
            found.warnings += [] if warning is None else [warning]


def _sharpnesses(key, network, landscape, plan: Plan, transport, found: Measured) -> None:
    options: Any = {"key": key, "only": plan.only, "transport": transport}
    plain = sharpness(network, landscape, radius=plan.radius, **options)
    adaptive = adaptive_sharpness(network, landscape, radius=plan.adaptive_radius, eta=0.0, **options)
    parts: tuple[tuple[str, str, Sharpness, float], ...] = (
        ("SAM sharpness", "|e| <= {}", plain, plan.radius),
        ("adaptive sharpness", "|e / w| <= {}", adaptive, plan.adaptive_radius),
    )
    for name, words, result, radius in parts:
        ball = words.format(f"{radius:g}")
        ends = ", ".join(f"{rise:.3g}" for rise in result.starts)
        convention = (
            f"largest rise of the loss found within {ball}, a lower bound; from three starts: {ends}; one step finds "
            f"{result.one_step:.3g}"
        )
        _add(found, name, result.value, convention, error=math.nan)


def _pac_bayes(key, network, landscape, plan: Plan, transport, found: Measured) -> None:
    draws: Any = {"num_draws": plan.num_draws, "only": plan.only, "transport": transport}
    of = "loss" if class_kind(landscape) is None else "error"
    if of == "loss":
        found.missing["PAC-Bayes bound"] = "it is one of an error between 0 and 1, and the data has no classes"
    else:
        bound = pac_bayes_bound(key, network, landscape, prior=plan.prior, **draws)
        convention = (
            f"error bound at 95 % of the network with noise {bound.sigma:g}, prior "
            f"{'at zero' if plan.prior is None else 'at the given network'}" + (": vacuous" if bound.is_vacuous else "")
        )
        _add(found, "PAC-Bayes bound", bound.bound, convention, error=math.nan)
    for noise in ("additive", "multiplicative"):
        result = pac_bayes_sigma(key, network, landscape, noise=noise, of=of, threshold=plan.threshold, **draws)
        name = f"PAC-Bayes sigma, {noise}"
        if not math.isfinite(result.sigma):
            found.missing[name] = f"no {noise} noise raises the {of} by {plan.threshold:g}"
            continue
        error = (result.high - result.low) / (2 * 1.96)
        convention = f"largest {noise} noise that raises the {of} by at most {plan.threshold:g}; large is flat"
        interval = (result.low, result.high)
        _add(found, name, result.sigma, convention, error=error, interval=interval, is_small_flat=False)


def _local_entropy(key, network, landscape, plan: Plan, transport, found: Measured) -> None:
    del transport  # chains have an error of their own
    result = local_entropy(
        key, network, landscape, localisation=plan.localisation, num_steps=max(plan.num_steps // 2, 16),
        num_chains=plan.num_chains, only=plan.only,
    )  # fmt: skip
    convention = (
        f"local-entropy loss minus the loss, beta = n / log n, beta gamma = {plan.localisation:g}; the step adds "
        f"{result.discretisation_bias:.2g} on a quadratic landscape"
    )
    low, high = (end - result.loss for end in result.interval())
    _add(found, "local entropy", result.rise, convention, error=result.standard_error, interval=(low, high))
    poor = sum(not health.is_mixed for health in result.health)
    if poor:
        found.warnings.append(f"Local entropy: the chains of {poor} of {len(result.health)} points have not mixed.")


def _learning_coefficient(key, network, landscape, plan: Plan, transport, found: Measured) -> None:
    del transport
    result = learning_coefficient(
        key, network, landscape, localisation=plan.localisation, num_steps=plan.num_steps, num_chains=plan.num_chains,
        only=plan.only,
    )  # fmt: skip
    convention = (
        f"n beta = n / log n, localisation {plan.localisation:g}; a quadratic landscape: {result.quadratic:.3g}"
    )
    _add(found, "learning coefficient", result.value, convention, error=result.standard_error)
    found.chains = result
    found.warnings.extend(f"Learning coefficient: {warning}" for warning in result.warnings)
