"""The page of a study, and the reproduction page of many: claims beside what was measured, and the figures."""

import inspect
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lossatlas._citation import citation
from lossatlas.figures import format_number
from lossatlas.studies import find_study
from lossatlas.workbench import _report_words as words
from lossatlas.workbench._page import render_page, sized_figures, write_page
from lossatlas.workbench._record import versions
from lossatlas.workbench._report_tables import Cell, Table, number, settings_table
from lossatlas.workbench._study import StudyRun


def write_study_page(run: StudyRun) -> pathlib.Path:
    """Write the page of a study into its folder; it appears whole or not at all."""
    pictures = run.study.figures(run.results)
    text = render_page(
        "study.html",
        sized_figures({name: picture.draw for name, picture in pictures.items()}),
        run=run,
        title=run.record["title"],
        question=_question(run.name),
        verdicts=verdicts_sentence(run.counts()),
        claims=claims_table(run.claims, pictures),
        pictures=pictures,
        settings=settings_table("Settings", run.config),
        regenerate=run.record["regenerate"],
        versions=settings_table("Versions", run.record["versions"]),
        bibtex=citation(*run.papers),
        words=words,
    )
    write_page(run.report, text)
    return run.report


def write_reproduction_page(
    path: pathlib.Path, runs: Sequence[StudyRun], failed: Mapping[str, str], *, preset: str, regenerate: str
) -> pathlib.Path:
    """Write the page of all claims of many studies; each links to the study's own page with its figures."""
    totals = {verdict: sum(run.counts()[verdict] for run in runs) for verdict in ("holds", "fails", "undecided")}
    studies = [
        {
            "name": run.name,
            "title": run.record["title"],
            "link": pathlib.Path(os.path.relpath(run.report, path.parent)).as_posix(),
            "verdicts": verdicts_sentence(run.counts()),
            "seconds": f"It took {format_number(float(run.record['seconds']), 3)} seconds.",
            "claims": claims_table(run.claims, {}),
        }
        for run in runs
    ]
    text = render_page(
        "reproduction.html",
        {},
        counts=totals,
        total=sum(totals.values()),
        verdicts=verdicts_sentence(totals),
        studies=studies,
        failed=dict(failed),
        preset=preset,
        regenerate=regenerate,
        versions=settings_table("Versions", versions()),
        words=words,
    )
    write_page(path, text)
    return path


def verdicts_sentence(counts: Mapping[str, int]) -> str:
    """`9 claims hold, 1 fails, 2 are undecided.`."""
    holds, fails, undecided = (counts[name] for name in ("holds", "fails", "undecided"))
    parts = [f"{words.plural(holds, 'claim')} {'holds' if holds == 1 else 'hold'}"]
    parts += [f"{fails} {'fails' if fails == 1 else 'fail'}"] if fails else []
    parts += [f"{undecided} {'is' if undecided == 1 else 'are'} undecided"] if undecided else []
    return ", ".join(parts) + "."


def claims_table(claims: Sequence[Mapping[str, Any]], pictures: Mapping[str, Any]) -> Table:
    """A row per claim; what does not hold stands out."""
    heads = [
        Cell("claim", "a short name"),
        Cell("statement", "what is claimed, and where"),
        Cell("expected", "", True),
        Cell("measured", "", True),
        Cell("deviation", "measured minus expected", True),
        Cell("verdict", "within the tolerance or not; undecided where it was not measured"),
    ]
    rows = []
    for claim in claims:
        figure = pictures.get(claim["figure"])
        note = "; ".join(part for part in (claim["note"], figure and f"figure: {figure.title}") if part)
        tolerance = claim["tolerance"]
        rows.append(
            [
                Cell(claim["name"]),
                Cell(claim["text"], remark=claim["source"]),
                _value(claim["expected"]),
                _value(claim["measured"]),
                number(claim["deviation"], 2),
                Cell(claim["verdict"], "" if tolerance is None else f"tolerance {tolerance}", remark=note),
            ]
        )
    marked = tuple(i for i, claim in enumerate(claims) if claim["verdict"] != "holds")
    return Table("Claims; those that do not hold, or are undecided, stand out", heads, rows, marked)


def _value(value: Any) -> Cell:
    if isinstance(value, list):
        return Cell(", ".join(_value(item).text for item in value), str(value), True)
    if isinstance(value, bool) or not isinstance(value, int | float | type(None)):
        return Cell(str(value))
    return number(value, 5)


def _question(name: str) -> str:
    """The first line of the study's documentation."""
    return (inspect.getdoc(find_study(name).config) or "").partition("\n")[0]
