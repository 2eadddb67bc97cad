"""The page of flatness: measures, the audit, local energy, chains."""

import math
from collections.abc import Mapping
from typing import Any

from lossatlas.figures import audit_figure, chains_figure, flatness_figure, format_number, local_energy_figure
from lossatlas.workbench._instrument import Picture, Section, facts_table, rows_table


TERMS = {
    "Local energy": "How much the loss or the error rises, in the mean, when random noise is added to the parameters: "
    "the same to all (additive), in proportion to each (multiplicative), or to each filter (filter).",
    "Relative": "Of the Hessian in coordinates in which every parameter is measured in units of its own value.",
    "Sharpness": "The largest rise of the loss found within a ball: in plain distance (SAM), or in units of the "
    "parameters (adaptive).",
    "PAC-Bayes sigma": "The largest noise that raises the error by no more than a threshold; large is flat.",
    "Learning coefficient": "How fast the volume of parameters with nearly this loss grows, by Langevin chains that "
    "start at the network: half the number of parameters where all of them matter.",
    "Audit": "The same function is written with other weights, by factors, an order or signs of its units that keep "
    "every output, and measured again with the same random numbers. What is scale dependent can be made what one likes "
    "without changing the function. What stays is called unchanged where the factors reach far enough to show in it, "
    "else it is not decided.",
}


def flatness_sections(reports: Mapping[str, Any], comparison: Any, facts: Mapping[str, Any]) -> list[Section]:
    """The parts of the page of one report or several."""
    report = next(iter(reports.values()))
    labels = {name if comparison else "": item for name, item in reports.items()}
    rows = {name: item.rows() for name, item in labels.items()}
    picture = Picture(
        "measures",
        lambda compact: flatness_figure(rows, compact=compact),
        "Every measure with its 95 % interval" + (", relative to the first model." if comparison else "."),
        "The measures and their intervals; the numbers are in the table below.",
    )
    heads = {"measure": "what was measured"}
    if comparison:
        heads |= dict.fromkeys(reports, "its value")
        which = "which one" if len(reports) == 2 else "which one than which others"
        heads |= {
            "flatter": f"{which}, by tests at the level of {comparison.level:g}; none for bounds without interval"
        }
        heads |= {"p": "of no difference"} if len(reports) == 2 else {}
    else:
        heads |= {"value": "of the measure", "its error": "standard error; 0 where nothing is random, none for bounds"}
        heads |= {"low": "end of the 95 % interval", "high": "end of the 95 % interval"}
        heads |= {"audit": "when the same function is written with other weights"} if report.audit else {}
    tables = [rows_table("Measures", facts["rows"], heads)]
    words = [{"measure": name, "what it is": m.convention} for name, m in report.measures.items()]
    tables.append(rows_table("What they are", words, {"measure": "", "what it is": "with its convention"}))
    sections = [Section("The measures", _missing_sentences(reports), (picture,), tuple(tables))]
    if comparison:
        sections.append(_pairs_section(facts["pairs"], comparison.level))
    sections += [
        _audit_section(name, item, i) for i, (name, item) in enumerate(labels.items()) if item.audit is not None
    ]
    if report.curves:
        sections.append(_energy_section(labels))
    sections += [_chains_section(name, item, i) for i, (name, item) in enumerate(labels.items()) if item.chains]
    return sections


def _pairs_section(rows: list[dict[str, Any]], level: float) -> Section:
    heads = {"measure": "what was measured", "first": "of the pair", "second": "of the pair"}
    heads |= {"difference": "second minus first", "its error": "standard error; 0 where nothing is random"}
    heads |= {"p": "of no difference", "flatter": f"where p is below {level:g}"}
    sentence = "Each pair by itself: local energies in pairs of draws with the same noise, all else with both errors."
    return Section("Pair by pair", (sentence,), (), (rows_table("Pairs", rows, heads, digits=3),))


def _missing_sentences(reports: Mapping[str, Any]) -> list[str]:
    found = dict.fromkeys(f"Not measured: {name}: {why}." for r in reports.values() for name, why in r.missing.items())
    return [text.replace("..", ".") for text in found]


def _audit_section(name: str, report: Any, number: int) -> Section:
    audit = report.audit
    title = "What depends on how the function is written" + (f": {name}" if name else "")
    if audit.kind is None:
        return Section(title, (f"{capital(audit.reason)}",))
    rows = [audit_row(row) for row in audit.rows]
    change = format_number(audit.output_change, 2)
    sentences = [
        f"The same function was written anew by {audit.kind} changes of its units; outputs moved by {change} of their "
        "size at most."
    ]
    if audit.factors:
        reach = format_number(audit.response, 3)
        sentences.append(
            f"How strong that is: {factor_words(audit.factors)}; small noise on the parameters then moves the outputs "
            f"{reach} times as far in the mean square."
        )
    if audit.reason:
        sentences.insert(0, capital(audit.reason) + ".")
    picture = Picture(
        f"audit-{number}",
        lambda compact: audit_figure(rows, compact=compact),
        "Each measure after the rewriting over before. What is not 1 speaks of the weights, not of the function.",
        "Ratios after to before; the numbers are in the table below.",
    )
    heads = {"name": "the measure", "before": "as given", "after": "written anew"}
    heads |= {"seen": "the smallest relative change beyond rounding and beyond three standard errors"}
    heads |= {"verdict": "not decided: it would not have shown"}
    done = [{"units": space, "what was done": words} for space, words in audit.done.items()]
    done_heads = {"units": "the unit space", "what was done": "c: a factor of each"}
    if audit.factors:
        done = [row | {"c": factor_words({"": audit.factors[row["units"]]})} for row in done]
        done_heads |= {"c": "how many, and in which range"}
    tables = (
        rows_table("Before and after", [finite(row) for row in rows], heads),
        rows_table("How it was written anew", done, done_heads),
    )
    return Section(title, tuple(sentences), (picture,), tables)


def _energy_section(reports: Mapping[str, Any]) -> Section:
    first = next(iter(reports.values()))
    kinds = ["loss"] if next(iter(first.curves.values())).error_rise is None else ["loss", "error"]
    pictures = []
    for noise in first.curves:
        for of in kinds:
            bands = {
                name: (r.curves[noise].sigmas, r.curves[noise].mean(of), r.curves[noise].standard_error(of))
                for name, r in reports.items()
            }
            pictures.append(
                Picture(
                    f"energy-{noise}-{of}",
                    lambda compact, bands=bands, noise=noise, of=of: local_energy_figure(
                        bands, noise=noise, of=of, compact=compact
                    ),
                    f"Mean rise of the {of} under {noise} noise; the band is two standard errors of the mean.",
                    f"The rise of the {of} against the size of the noise.",
                )
            )
    return Section("Local energy", (), tuple(pictures))


def _chains_section(name: str, report: Any, number: int) -> Section:
    chains = report.chains
    losses, burn_in = chains.chains.loss, int(chains.chains.settings["burn_in"])
    picture = Picture(
        f"chains-{number}",
        lambda compact: chains_figure(losses, burn_in, compact=compact),
        "The loss along the chains of the learning coefficient; what lies left of the dotted line was left out.",
        "Traces of the loss along the chains.",
    )
    health = chains.health
    table = facts_table(
        "Health of the chains",
        {
            "learning coefficient": chains.value,
            "standard error": chains.standard_error,
            "the same on a quadratic landscape": finite(chains.quadratic),
            "added by the step there": finite(chains.discretisation_bias),
            "added by the localisation there": finite(chains.localisation_bias),
            "spread between chains": finite(health.between_chains),
            "R-hat": finite(health.r_hat),
            "effective samples": finite(health.effective_samples),
            "probability of such a drift": finite(health.drift_p),
            "acceptance a Metropolis test would have": finite(chains.acceptance),
            "root mean square distance": finite(chains.distance),
        },
    )
    return Section("Chains" + (f": {name}" if name else ""), (), (picture,), (table,))


def finite(value: Any) -> Any:
    """Plain values for JSON; None where a number is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def audit_row(row: Any) -> dict[str, Any]:
    """A row of an audit as plain values."""
    names = ("name", "before", "after", "change", "seen", "verdict")
    return {name: getattr(row, name) for name in names}


def audit_facts(audit: Any) -> dict[str, Any]:
    """An audit as plain values."""
    return {
        "kind": audit.kind,
        "reason": audit.reason,
        "done": audit.done,
        "factors": {space: [float(factors.min()), float(factors.max())] for space, factors in audit.factors.items()},
        "response": audit.response,
        "output_change": audit.output_change,
        "rows": [audit_row(row) for row in audit.rows],
    }


def factor_words(factors: Mapping[str, Any]) -> str:
    """How many factors there are, and in which range."""
    found = [float(factor) for part in factors.values() for factor in part]
    if len(found) == 1:
        return f"one factor of {format_number(found[0], 3)}"
    low, high = (format_number(end, 3) for end in (min(found), max(found)))
    return f"{len(found)} factors from {low} to {high}"


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]
