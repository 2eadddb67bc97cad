"""Every measure of flatness in one report, with the audit of what depends on how the function is written."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from lossatlas._errors import InputError
from lossatlas._parameters import ravel, select
from lossatlas._progress import ProgressLike, ProgressMeter, as_meter
from lossatlas._show import shown
from lossatlas._types import Network, Only
from lossatlas.geometry._flatness_measures import (
    FLATNESS_MEASURES,
    FlatnessMeasure,
    Group,
    Measured,
    Plan,
    check_groups,
    measure_all,
)
from lossatlas.geometry._learning_coefficient import LearningCoefficient
from lossatlas.geometry._local_energy import LocalEnergy
from lossatlas.geometry._rewriting import REWRITINGS, RewritingKind, rewrite
from lossatlas.geometry._scale_gauges import outputs_of
from lossatlas.landscape import Landscape


if TYPE_CHECKING:
    import xarray as xr

Verdict = Literal["unchanged", "unchanged within its error", "not decided", "scale dependent", "changed"]
_SIGNIFICANT = 3.0  # standard errors
# By bytes of a number: relative changes up to these are rounding, of differences of losses and of searches.
_ROUNDING = {8: 1e-6, 4: 1e-3}
_SHOWN = 0.5  # what stays under scales is called unchanged where they would change the response, and it, by so much
_FEW, _PROBES = 64, 16  # examples and directions of that response
_INSTEAD = {
    "reflection": "it was written anew by reflections, which measures of the weights see, too",
    "sign": 'only signs of its units were changed, an isometry: "unchanged" then says nothing about scales',
    "permutation": 'only the order of its units was changed, an isometry: "unchanged" then says nothing about scales',
}


@shown
class AuditRow(eqx.Module):
    """One measure before and after the function was written with other weights.

    - `name`, `before`, `after`: the measure; `change`: after / before - 1.
    - `seen`: the smallest relative change that is beyond rounding and beyond the error.
    - `verdict`: `"unchanged"` (to rounding in its precision), `"unchanged within its error"` (three standard errors, or
      the half intervals of both), `"scale dependent"`, or `"changed"` where the rewriting was no scale. `"not decided"`
      where it stayed under scales that would not have shown in it: see `response` of the audit.
    """

    name: str = eqx.field(static=True)
    before: float
    after: float
    change: float
    seen: float
    verdict: str = eqx.field(static=True)


@shown
class Audit(eqx.Module):
    """Which measures change when the same function is written with other weights.

    - `kind`: how it was written: `"scale"`, `"reflection"`, `"sign"`, `"permutation"`; None where it was not audited.
    - `reason`: why not by scales, or not at all; else None.
    - `done`: what was done, by unit space; `factors`: the factors c of scales there, of each unit.
    - `response`: how far the scales reach: by what they multiply the mean square change of the outputs under small
      noise on the parameters. A measure that depends on the scale as the noise does changes as much. What stays is
      called unchanged only where that is a half at least; what stays within its error, only where half its value
      would have been seen.
      NaN for other kinds: signs and permutations are isometries of the parameters.
    - `output_change`: how well the function was kept, relative.
    - `rows`: the measures.
    """

    kind: str | None = eqx.field(static=True)
    reason: str | None = eqx.field(static=True)
    done: dict[str, str]
    factors: dict[str, Float[np.ndarray, " units"]]
    response: float
    output_change: float
    rows: tuple[AuditRow, ...]

    @property
    def scale_dependent(self) -> tuple[str, ...]:
        """The names of the measures that depend on the scale."""
        return tuple(row.name for row in self.rows if row.verdict == "scale dependent")


@shown
class FlatnessReport(eqx.Module):
    """How flat the landscape is around a network, by every measure at once.

    - `measures`: by name, each with its interval and convention.
    - `curves`: local energy by noise. `chains`: of the learning coefficient, or None.
    - `audit`: what of this says something of the function, and what of the weights only; None where not asked for.
    - `missing`: what could not be measured, and why. `warnings`: what speaks against the numbers.
    - `loss`, `error`, `gradient_norm`: at the network, means over the examples (error NaN without classes).
    - `relative_gradient_norm`: of the parameters times the gradient, which does not depend on the scale; NaN where the
      Hessian was left out.
    """

    measures: dict[str, FlatnessMeasure]
    curves: dict[str, LocalEnergy]
    chains: LearningCoefficient | None
    audit: Audit | None
    missing: dict[str, str]
    warnings: tuple[str, ...]
    loss: float
    error: float
    gradient_norm: float
    relative_gradient_norm: float
    stats: dict[str, Any]
    settings: dict[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each measure: value, error, interval, convention, and what the audit says."""
        audited = {row.name: row for row in self.audit.rows} if self.audit else {}
        found = []
        for name, measure in self.measures.items():
            row = {"measure": name, "value": measure.value, "standard error": measure.standard_error}
            row |= {"low": measure.low, "high": measure.high, "convention": measure.convention}
            if name in audited:
                row |= {"change": audited[name].change, "audit": audited[name].verdict}
            found.append(row)
        return found

    def to_xarray(self) -> "xr.Dataset":
        """The measures over `measure`, with errors, intervals and the change that the audit found."""
        import xarray as xr

        rows = self.rows()
        columns = ("value", "standard error", "low", "high", "change")
        data = {
            name.replace(" ", "_"): ("measure", np.array([row.get(name, np.nan) for row in rows])) for name in columns
        }
        attrs = {"loss": self.loss, "error": self.error, "gradient_norm": self.gradient_norm}
        return xr.Dataset(data, coords={"measure": [row["measure"] for row in rows]}, attrs=attrs)

    def _figure(self) -> Any:
        from lossatlas.figures import flatness_figure

        return flatness_figure({"": self.rows()})


def flatness_report(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    *,
    measures: Sequence[Group | str] | None = None,
    audit: bool | RewritingKind | str = True,
    num_draws: int = 50,
    num_probes: int = 100,
    num_steps: int = 1000,
    num_chains: int = 4,
    radius: float = 0.05,
    adaptive_radius: float = 0.5,
    threshold: float = 0.1,
    localisation: float = 100.0,
    prior: Network | None = None,
    only: Only = None,
    progress: ProgressLike = "none",
) -> FlatnessReport:
    r"""Measure flatness in every usual way, and find out which of the numbers mean something.

    Local energy of loss and error with additive, multiplicative and filter-normalised noise; trace and top eigenvalue
    of the Hessian, and of the Hessian in relative coordinates; sharpness of SAM and of ASAM ($\eta = 0$);
    PAC-Bayes sigma and bound; local entropy; the local learning coefficient. Each comes with its error and its
    convention.

    **The audit** writes the same function with other weights (random scales of its units, wherever the outputs are
    kept) and measures again with the same random numbers. What moves is labelled `"scale dependent"`, with the change
    that was measured: such a number can be made what one likes without changing the function, so it compares networks
    only when they were trained alike. Where a network has no scale symmetry the audit
    says so and uses reflections (sigmoid), which measures of the weights see too, else signs (tanh) or permutations,
    which no measure may see: what stays under these says nothing about scales. It needs unit spaces (see
    [`lossatlas.geometry.rewrite`][]).

    Cost, with n the passes over the data: about 16 n of `num_draws` forward, 2 `num_probes` Hessian products and the
    eigenvalues, 122 gradients for sharpness, some 120 `num_draws` forward for PAC-Bayes, and
    `5.5 num_steps num_chains` gradients for the chains; twice all that with the audit.

    **Arguments:**
    - `measures`: which: `"local_energy"`, `"hessian"`, `"sharpness"`, `"pac_bayes"`, `"local_entropy"`,
      `"learning_coefficient"`; default all.
    - `audit`: whether, or by what kind of rewriting: `"scale"`, `"reflection"`, `"sign"`, `"permutation"`.
    - `num_draws`: of noise. `num_probes`: for traces of more than 300 parameters, which are exact below.
    - `num_steps`, `num_chains`: of the learning coefficient; local entropy takes half the steps at each of its points.
    - `radius`, `adaptive_radius`: of the balls of SAM and ASAM. `threshold`: of PAC-Bayes sigma.
    - `localisation`: of the chains. `prior`: centre of the prior of the PAC-Bayes bound; default zero.
    - `only`: a parameter filter; the others stay fixed throughout (the audit may write them anew too).
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.

    **Returns:**
    A [`lossatlas.geometry.FlatnessReport`][].

    **Raises:** `InputError` for an unknown measure or rewriting, and whatever the single measures refuse.

    !!! cite
        Dinh et al. 2017, arXiv 1703.04933, for why there is an audit; the measures cite their own papers.
    """
    began = time.perf_counter()
    plan = Plan(
        check_groups(measures), num_draws, num_probes, num_steps, num_chains, radius, adaptive_radius, threshold,
        localisation, prior, only,
    )  # fmt: skip
    meter = as_meter(progress)
    found = measure_all(key, network, landscape, plan, meter=meter)
    audited = None if audit is False else _audit(key, network, landscape, plan, found, audit, meter)
    return FlatnessReport(
        measures=found.measures,
        curves=found.curves,
        chains=found.chains,
        audit=audited,
        missing=found.missing,
        warnings=(*found.warnings, *_mode_warnings(network)),
        loss=found.loss,
        error=found.error,
        gradient_norm=found.gradient_norm,
        relative_gradient_norm=found.relative_gradient_norm,
        stats={"seconds": time.perf_counter() - began, "examples": landscape.size},
        settings={
            "measures": ", ".join(name for name in FLATNESS_MEASURES if name in plan.groups),
            **{name: getattr(plan, name) for name in _NUMBERS},
            "convention": "mean over examples",
        },
    )


_NUMBERS = (
    "num_draws", "num_probes", "num_steps", "num_chains", "radius", "adaptive_radius", "threshold", "localisation",
)  # fmt: skip


def _mode_warnings(network: Network) -> tuple[str, ...]:
    if not getattr(network, "batch_statistics", False):
        return ()
    return (
        "The network normalises by the statistics of the whole data, so what is perturbed is renormalised; with "
        "running statistics (with_statistics) the numbers are others.",
    )


def _audit(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    plan: Plan,
    found: Measured,
    kind: bool | str,
    meter: ProgressMeter,
) -> Audit:
    kinds = REWRITINGS if kind is True else (str(kind),)
    for i, name in enumerate(kinds):
        try:
            written = rewrite(key, network, landscape, kind=name, only=plan.only)
        except InputError as error:
            return _not_audited(str(error))
        if written.done:
            reason = f"the network has no {_listed(kinds[:i])} symmetry; {_INSTEAD[name]}" if i else None
            break
    else:
        return _not_audited(f"the network has no {_listed(kinds)} symmetry")
    after = measure_all(key, written.network, landscape, plan, written.transport, meter)
    tolerance = max(_ROUNDING[ravel(network, plan.only)[0].dtype.itemsize], 10 * written.output_change)
    response = math.nan
    if written.kind == "scale":
        few, only = landscape.subset(slice(_FEW)), select(network, plan.only)
        response = float(_response(key, written.network, few, only) / _response(key, network, few, only))
    rows = tuple(
        _audit_row(measure, after.measures[name], name, written.kind, tolerance, response)
        for name, measure in found.measures.items()
        if name in after.measures
    )
    return Audit(written.kind, reason, written.done, written.factors, response, written.output_change, rows)


def _not_audited(why: str) -> Audit:
    return Audit(None, f"not audited: {why}", {}, {}, math.nan, 0.0, ())


def _listed(kinds: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(kinds[:-1]), kinds[-1]) if part)


@eqx.filter_jit
def _response(key: PRNGKeyArray, network: Network, landscape: Landscape, selected: Only) -> Float[Array, ""]:
    """The mean square slope of the outputs along random directions of the parameters, the same for the same key."""
    vector, unravel = ravel(network, selected)
    outputs = outputs_of(landscape).__wrapped__

    def slope(probe):
        moved = jax.jvp(lambda values: outputs(unravel(values), landscape), (vector,), (probe,))[1]
        return jnp.mean(moved**2)

    return jax.lax.map(slope, jax.random.normal(key, (_PROBES, vector.size), vector.dtype)).mean()


def _audit_row(
    before: FlatnessMeasure, after: FlatnessMeasure, name: str, kind: str, tolerance: float, response: float
) -> AuditRow:
    difference = after.value - before.value
    size = max(abs(before.value), abs(after.value))
    known = [measure for measure in (before, after) if measure.has_interval]
    # Both half intervals: an eigenvalue has no standard error, but a residual.
    halves = sum(0.5 * (measure.high - measure.low) for measure in known)
    slack = max(_SIGNIFICANT * float(np.hypot.reduce([m.standard_error for m in known])) if known else 0.0, halves)
    if before.samples is not None and after.samples is not None:
        pairs = after.samples - before.samples
        slack = _SIGNIFICANT * float(pairs.std(ddof=1) / np.sqrt(len(pairs)))
    seen = max(tolerance, slack / size) if size else math.inf
    reach = max(response, 1 / response) - 1 if response > 0 else 0.0
    stayed = abs(difference) <= tolerance * size
    # The random numbers are the same, so what stays to rounding has no error of its own to hide behind.
    would_show = size > 0 and reach >= _SHOWN and (stayed or seen <= _SHOWN)
    if size > 0 and abs(difference) > seen * size:
        verdict = "scale dependent" if kind == "scale" else "changed"
    elif kind == "scale" and not would_show:
        verdict = "not decided"
    else:
        verdict = "unchanged" if stayed else "unchanged within its error"
    change = difference / before.value if before.value else 0.0 if difference == 0 else float("inf")
    return AuditRow(name, before.value, after.value, change, seen, verdict)
