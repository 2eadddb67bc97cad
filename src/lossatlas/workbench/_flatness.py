"""Flatness of stored models on data: every measure, the audit, and which of them is flatter; as a page."""

import math
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._progress import ProgressLike
from lossatlas.figures import format_number
from lossatlas.geometry._flatness_measures import check_groups
from lossatlas.workbench._flatness_page import TERMS, audit_facts, capital, factor_words, finite, flatness_sections
from lossatlas.workbench._instrument import (
    BatchSize,
    Measured,
    Point,
    check_least,
    command_words,
    cost_line,
    instrument_folder,
    open_point,
    write_measured,
)
from lossatlas.workbench._model import Model
from lossatlas.workbench._units import with_unit_spaces


KIND = "flatness"
_DENSITY_PRODUCTS = 850  # of the spectrum from which the bias of chains is known
_LEAST_STEPS = 16  # of a chain, half of them burn-in
_Models = Model | str | os.PathLike[str]


def flatness(
    models: _Models | Sequence[_Models] | Mapping[str, _Models],
    table: Any,
    *,
    measures: Sequence[str] | None = None,
    audit: bool = True,
    num_draws: int = 50,
    num_steps: int = 1000,
    num_chains: int = 4,
    radius: float = 0.05,
    threshold: float = 0.1,
    localisation: float = 100.0,
    level: float = 0.01,
    only: str | None = None,
    network: str = "recommended",
    target: str | None = None,
    batch_size: BatchSize = "auto",
    precision: Literal["float64", "float32"] = "float64",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: ProgressLike = "none",
    announce: Callable[[str], None] | None = None,
    origins: Sequence[str] | None = None,
    loaded: Mapping[str, Any] | None = None,
) -> Measured:
    """Measure how flat the landscape is around one or several stored models, and write a page, JSON and arrays.

    **Arguments:**
    - `models`: one, or several by name or in a list: models, or what [`lossatlas.load`][] reads. Units of foreign
      modules are discovered for the audit.
    - `table`, `network`, `target`, `batch_size`, `precision`: see `open_point`. `origins`: what was loaded before,
      `loaded`: with which options.
    - `measures`, `audit`, `num_draws`, `num_steps`, `num_chains`, `radius`, `threshold`, `localisation`, `only`: see
      [`lossatlas.geometry.flatness_report`][].
    - `level`: of the tests that say which model is flatter.
    - `seed`: of all random numbers, which all models share. `out`: the folder to write into; default `flatness` in the
      folder of runs. `progress`: a meter. `announce`: takes a line that says what it will cost, before it begins.

    **Returns:** A [`lossatlas.workbench.Measured`][] with a [`lossatlas.geometry.FlatnessReport`][], or with a
    [`lossatlas.geometry.FlatnessComparison`][] of several.

    **Raises:** `InputError` for what cannot be read or written, before any long work.
    """
    from lossatlas import geometry

    groups = check_groups(measures)
    check_least("num_draws", num_draws, 2, option="draws")
    check_least("num_steps", num_steps, _LEAST_STEPS, option="steps")
    check_least("num_chains", num_chains, 1, option="chains")
    check_least("radius", radius, 0, is_above=True)
    check_least("threshold", threshold, 0, is_above=True)
    check_least("localisation", localisation, 0, is_above="local_entropy" in groups)
    if not 0 < level < 1:
        msg = f"level (--level) must lie between 0 and 1, got {level}."
        raise InputError(msg)
    folder = instrument_folder(KIND, out)
    named = _named(models, origins)
    options = {
        "measures": measures, "audit": audit, "num_draws": num_draws, "num_steps": num_steps, "num_chains": num_chains,
        "radius": radius, "threshold": threshold, "localisation": localisation,
    }  # fmt: skip
    with jax.enable_x64(True):
        points = {
            name: open_point(
                model, table, network=network, target=target, batch_size=batch_size, precision=precision,
                origin=origin, loaded=loaded, only=only,
            )
            for name, (model, origin) in named.items()
        }  # fmt: skip
        first = next(iter(points.values()))
        nets, patterns = {}, set()
        for name, point in points.items():
            nets[name], pattern = _audited(point, only, audit=audit)
            patterns.add(pattern)
        if len(patterns) > 1:
            raise InputError("only= cannot name the same parameters in models whose units are stated and discovered.")
        if announce is not None:
            announce(_cost_words(geometry, first, only, options, len(points)))
        key = jax.random.key(seed)
        options |= {"only": patterns.pop(), "progress": progress}
        if len(nets) == 1:
            result: Any = geometry.flatness_report(key, next(iter(nets.values())), first.landscape, **options)
            reports = {next(iter(nets)): result}
        else:
            result = geometry.compare_flatness(key, nets, first.landscape, level=level, **options)
            reports = result.reports
    comparison = result if len(nets) > 1 else None
    settings = {
        "measures": list(measures) if measures else "all", "audit": audit, "num_draws": num_draws,
        "num_steps": num_steps, "num_chains": num_chains, "radius": radius, "threshold": threshold,
        "localisation": localisation, "only": only, "seed": seed, "precision": precision,
        "level": level if comparison else None,
    }  # fmt: skip
    facts = {
        "networks": {name: _facts(report) for name, report in reports.items()},
        "differences": _differences(comparison),
        "rows": _shown_rows(reports, comparison),
        "pairs": _pair_rows(comparison),
    }
    return write_measured(
        folder,
        KIND,
        result,
        title="How flat it is here" if comparison is None else "Which one is flatter",
        headline=_headline(reports, comparison),
        point=_together(points),
        sections=flatness_sections(reports, comparison, facts),
        facts=facts,
        settings=settings,
        regenerate=_command(points, settings),
        cautions=list(comparison.warnings if comparison else result.warnings),
        terms=TERMS,
        arrays=_arrays(reports),
    )


def _named(models: Any, origins: Sequence[str] | None) -> dict[str, tuple[Any, str | None]]:
    """Models by distinct names, with where they come from."""
    if isinstance(models, Mapping):
        found = list(models.items())
    else:
        listed = [models] if isinstance(models, Model | str | os.PathLike) else list(models)
        sources = list(origins) if origins is not None else [m if not isinstance(m, Model) else None for m in listed]
        names = [f"model {i + 1}" if s is None else pathlib.PurePath(str(s)).stem for i, s in enumerate(sources)]
        if len(set(names)) < len(names):
            names = [f"{name} ({i + 1})" for i, name in enumerate(names)]
        return {name: (m, None if s is None else str(s)) for name, m, s in zip(names, listed, sources, strict=True)}
    if not found:
        raise InputError("There is no model to measure; give at least one.")
    return {str(name): (m, None if isinstance(m, Model) else str(m)) for name, m in found}


def _audited(point: Point, only: str | None, *, audit: bool) -> tuple[Any, str | None]:
    """The network with its units, discovered where it states none, and the filter by the names that it then has."""
    if not audit:
        return point.network, only
    try:
        network = with_unit_spaces(point.network, point.landscape.inputs[0])
    except InputError:
        return point.network, only  # the report says why it was not audited
    if network is point.network or only is None:
        return network, only
    return network, f"params{only if only.startswith('[') else f'.{only}'}"


def _cost_words(geometry: Any, point: Point, only: str | None, options: Mapping[str, Any], count: int) -> str:
    cost = geometry.product_cost(point.network, point.landscape, only=only)
    groups = options["measures"] or geometry.FLATNESS_MEASURES
    chains = options["num_steps"] * options["num_chains"]
    model = 2 * min(num_parameters(point.network, only), _DENSITY_PRODUCTS)  # a product costs about two gradients
    gradients = {
        "local_energy": 8 * options["num_draws"],  # a forward pass costs about half a gradient
        "hessian": 400,
        "sharpness": 122,
        "pac_bayes": 60 * options["num_draws"],
        "local_entropy": 4.5 * chains + model,
        "learning_coefficient": chains + model,
    }
    total = sum(gradients.get(name, 0) for name in groups) * (2 if options["audit"] else 1) * count
    work = f"about {total:,.0f} gradients of {1e3 * cost.gradient_seconds:.3g} ms"
    return cost_line(work, total * cost.gradient_seconds, cost.memory_bytes, " of a Hessian product, the largest step")


def _facts(report: Any) -> dict[str, Any]:
    audit = report.audit
    found = {
        "loss": report.loss,
        "error": report.error,
        "gradient_norm": report.gradient_norm,
        "relative_gradient_norm": report.relative_gradient_norm,
        "measures": report.rows(),
        "local_energy": {
            noise: {
                "sigma": curve.sigmas.tolist(),
                "loss": curve.mean().tolist(),
                "loss_standard_error": curve.standard_error().tolist(),
            }
            for noise, curve in report.curves.items()
        },
        "missing": report.missing,
        "warnings": list(report.warnings),
    }
    if audit is not None:
        found["audit"] = audit_facts(audit)
    if report.chains is not None:
        health = report.chains.health
        found["chains"] = {
            "r_hat": health.r_hat, "effective_samples": health.effective_samples, "drift_p": health.drift_p,
            "acceptance": report.chains.acceptance, "distance": report.chains.distance,
            "step_size": report.chains.step_size, "quadratic": report.chains.quadratic,
            "between_chains": health.between_chains,
        }  # fmt: skip
    return finite(found)


def _differences(comparison: Any) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    names = ("measure", "first", "second", "value", "standard_error", "p_value", "is_paired", "flatter")
    rows = [*comparison.differences, *comparison.profile]
    return [finite({name: getattr(row, name) for name in names}) for row in rows]


def _shown_rows(reports: Mapping[str, Any], comparison: Any) -> list[dict[str, Any]]:
    """What a terminal and the first table show."""
    if comparison is None:
        names = {"measure": "measure", "value": "value", "standard error": "its error"}
        names |= {name: name for name in ("low", "high", "audit")}
        rows = next(iter(reports.values())).rows()
        return [finite({new: row[name] for name, new in names.items() if name in row}) for row in rows]
    rows = []
    for name in next(iter(reports.values())).measures:
        row: dict[str, Any] = {"measure": name}
        row |= {other: report.measures[name].value for other, report in reports.items() if name in report.measures}
        pairs = [d for d in comparison.differences if d.measure == name]
        row["flatter"] = _winner(pairs, len(reports))
        if len(reports) == 2 and pairs:
            row["p"] = pairs[0].p_value
        rows.append(finite(row))
    return rows


_UNTESTED = "not tested"
_UNDECIDED = "not decided"
_MOST_PAIRS = 6  # of a headline


def _winner(pairs: Sequence[Any], count: int) -> str:
    """The flatter network of two; of more, which is flatter than which."""
    if pairs and all(math.isnan(pair.p_value) for pair in pairs):
        return _UNTESTED
    order = _order(pairs)
    if count == 2 and order:
        return next(iter(order))[0]
    behind = {winner: [other for name, other in order if name == winner] for winner, _ in order}
    return "; ".join(f"{name} than {', '.join(others)}" for name, others in behind.items()) or _UNDECIDED


def _order(pairs: Sequence[Any]) -> Counter[tuple[str, str]]:
    """By (flatter, other), how many of the tests say so."""
    decided = [pair for pair in pairs if pair.flatter is not None]
    return Counter((p.flatter, p.second if p.flatter == p.first else p.first) for p in decided)


def _pair_rows(comparison: Any) -> list[dict[str, Any]]:
    """A row for each measure and pair of networks."""
    rows = []
    for pair in comparison.differences if comparison else ():
        undecided = _UNTESTED if math.isnan(pair.p_value) else _UNDECIDED
        rows.append(
            {
                "measure": pair.measure,
                "first": pair.first,
                "second": pair.second,
                "difference": pair.value,
                "its error": pair.standard_error,
                "p": pair.p_value,
                "flatter": pair.flatter or undecided,
            }
        )
    return finite(rows)


def _headline(reports: Mapping[str, Any], comparison: Any) -> str:
    report = next(iter(reports.values()))
    if comparison is not None:
        pairs = comparison.differences
        words = [_winner([pair for pair in pairs if pair.measure == name], len(reports)) for name in report.measures]
        left, untested = words.count(_UNDECIDED), words.count(_UNTESTED)
        order = _order(pairs).most_common()
        said = [
            f"{name} by {num}" if len(reports) == 2 else f"{name} than {other} by {num}" for (name, other), num in order
        ]
        more = f" and {len(said) - _MOST_PAIRS} more pairs" if len(said) > _MOST_PAIRS else ""
        found = "; ".join(said[:_MOST_PAIRS]) + more if said else "none by any"
        decide = "decides" if left == 1 else "decide"
        sentence = f"Flatter by how many of {len(words) - untested} measures: {found}; {left} {decide} nothing."
        without = f" {untested} without an interval {'is' if untested == 1 else 'are'} not tested."
        return sentence + (without if untested else "")
    parts = []
    energy = report.measures.get("local energy, multiplicative, loss")
    if energy is not None:
        sigma = report.curves["multiplicative"].sigmas[len(report.curves["multiplicative"].sigmas) // 2]
        error = energy.standard_error
        parts.append(
            f"Noise of {sigma:.0%} on every parameter raises the loss by {format_number(energy.value, 3)} ± "
            f"{format_number(error, 2)} (standard error)"
        )
    elif report.measures:
        first = next(iter(report.measures.values()))
        random = first.has_interval and first.standard_error > 0
        error = f" ± {format_number(first.standard_error, 2)} (standard error)" if random else ""
        parts.append(f"{first.name}: {format_number(first.value, 3)}{error}")
    if report.audit is not None and report.audit.kind == "scale":
        left = sum(row.verdict == "not decided" for row in report.audit.rows)
        parts.append(
            f"{len(report.audit.scale_dependent)} of {len(report.audit.rows)} measures change when the same function "
            f"is written with other weights ({factor_words(report.audit.factors)})"
            + (f"; of {left} that is not decided" if left else "")
        )
    elif report.audit is not None:
        parts.append(report.audit.reason or "")
    return ". ".join(capital(part) for part in parts if part) + "." if parts else "Flatness at this network."


def _together(points: Mapping[str, Point]) -> Point:
    """The first point, under the names of all models."""
    first = next(iter(points.values()))
    if len(points) == 1:
        return first
    sizes = {num_parameters(point.network) for point in points.values()}
    alike = "" if len(sizes) == 1 else " (of different sizes; the number is that of the first)"
    summary = ", ".join(points) + alike
    return first._replace(model=Model(first.model.network, first.model.preprocessing, first.model.loss, summary))


def _command(points: Mapping[str, Point], settings: Mapping[str, Any]) -> str:
    first = next(iter(points.values()))
    origins = [point.origin for point in points.values()]
    known = [origin for origin in origins if origin is not None]
    asked: dict[str, Any] = {
        _OPTIONS.get(name, name): value
        for name, value in settings.items()
        if name in _DEFAULTS and value not in (None, _DEFAULTS[name])
    }
    if isinstance(settings["measures"], list):
        asked["measures"] = ",".join(settings["measures"])
    asked["no_audit"] = not settings["audit"]
    return command_words(KIND, first, origins=known if len(known) == len(origins) else (), models="models", **asked)


_OPTIONS = {"num_draws": "draws", "num_steps": "steps", "num_chains": "chains"}
_DEFAULTS = {
    "num_draws": 50, "num_steps": 1000, "num_chains": 4, "radius": 0.05, "threshold": 0.1, "localisation": 100.0,
    "only": None, "seed": 0, "level": 0.01,
}  # fmt: skip


def _arrays(reports: Mapping[str, Any]) -> Any:
    import xarray as xr

    parts = {}
    for i, report in enumerate(reports.values()):
        place = "" if len(reports) == 1 else f"network_{i}/"
        parts[f"{place}measures"] = report.to_xarray()
        parts |= {f"{place}local_energy_{noise}": curve.to_xarray() for noise, curve in report.curves.items()}
        if report.chains is not None:
            parts[f"{place}chains"] = report.chains.chains.to_xarray()
    return xr.DataTree.from_dict(parts)
