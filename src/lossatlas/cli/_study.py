"""`lossatlas study list | show | run` and `lossatlas reproduce`: the claims of papers beside what is measured."""

import dataclasses
import datetime
import inspect
import pathlib
import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lossatlas._errors import InputError
from lossatlas._process import prepare_jax


Preset = Literal["smoke", "quick", "paper"]
_Flag = Parameter(negative="", show_default=False)


def list_studies(*, json: Annotated[bool, _Flag] = False) -> None:
    """List the studies.

    Parameters
    ----------
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import print_json, print_rows
    from lossatlas.studies import study_kinds

    rows = [{"study": kind.name, "title": kind.title, "papers": list(kind.papers)} for kind in study_kinds().values()]
    if json:
        print_json(rows)
        return
    print_rows([{"study": row["study"], "title": row["title"]} for row in rows])


def show(name: str, /, *, json: Annotated[bool, _Flag] = False) -> None:
    """Say what a study asks, its settings and its presets, and what to cite.

    Parameters
    ----------
    name
        The study.
    json
        Print JSON, for machines.
    """
    from lossatlas import citation
    from lossatlas.cli._output import print_json, print_rows
    from lossatlas.studies import find_study

    kind = find_study(name)
    rows = [
        {"setting": f"--{field.name.replace('_', '-')}", "default": field.default}
        | {preset: values[field.name] for preset, values in kind.config.presets.items() if field.name in values}
        for field in dataclasses.fields(kind.config)
    ]
    if json:
        print_json({"name": kind.name, "title": kind.title, "papers": list(kind.papers), "settings": rows})
        return
    sys.stdout.write(f"{kind.name}: {kind.title}\n\n{inspect.getdoc(kind.config)}\n")
    print_rows(
        [{column: None if row.get(column) is None else str(row[column]) for column in _columns(rows)} for row in rows]
    )
    sys.stdout.write(f"{citation(*kind.papers)}\n")


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def run(
    name: str,
    /,
    *,
    preset: Preset = "quick",
    config: pathlib.Path | None = None,
    seed: int = 0,
    out: pathlib.Path | None = None,
    force: Annotated[bool, _Flag] = False,
    json: Annotated[bool, _Flag] = False,
    progress: Literal["rich", "text", "none"] | None = None,
    **options: str,
) -> None:
    """Run a study and print its claims beside what was measured.

    Parameters
    ----------
    name
        The study.
    preset
        smoke takes seconds, quick a minute or two, paper has the paper's size.
    config
        A TOML file of settings, in a table named after the study or at the top.
    seed
        Seed of everything that is random.
    out
        Folder of runs; by default LOSSATLAS_STORE, or ./lossatlas.
    force
        Run again even if it was run before.
    json
        Print JSON, for machines.
    progress
        How to show progress on stderr: rich on a terminal, none elsewhere, unless you say.
    options
        Settings of the study, as `lossatlas study show NAME` lists them.
    """
    prepare_jax()
    from lossatlas.cli._output import print_json
    from lossatlas.workbench import run_study

    begun = datetime.datetime.now(datetime.UTC)
    found = run_study(name, preset=preset, toml=config, seed=seed, out=out, force=force, progress=progress, **options)
    created = datetime.datetime.fromisoformat(found.record["created"])
    if created < begun - datetime.timedelta(seconds=1):
        sys.stderr.write(f"lossatlas: this study was run on {created:%Y-%m-%d}; --force runs it again.\n")
    if json:
        print_json(found.record)
        return
    print_claims(found.claims)
    print_counts(found.counts())
    sys.stdout.write(f"report: {found.report}\nrun: {found.directory}\n")


def reproduce(
    *names: str,
    all: Annotated[bool, _Flag] = False,  # noqa: A002
    preset: Preset = "quick",
    seed: int = 0,
    out: pathlib.Path | None = None,
    force: Annotated[bool, _Flag] = False,
    json: Annotated[bool, _Flag] = False,
    progress: Literal["rich", "text", "none"] | None = None,
) -> None:
    """Run studies and write one page of every claim beside what was measured.

    Parameters
    ----------
    names
        The studies.
    all
        All studies.
    preset
        smoke takes seconds a study, quick a minute or two, paper has the papers' sizes.
    seed
        Seed of everything that is random.
    out
        Folder of runs; by default LOSSATLAS_STORE, or ./lossatlas.
    force
        Run again even what was run before.
    json
        Print JSON, for machines.
    progress
        How to show progress on stderr: rich on a terminal, none elsewhere, unless you say.
    """
    if bool(names) == all:
        msg = "Name the studies to reproduce, or give --all; `lossatlas study list` lists them."
        raise InputError(msg)
    prepare_jax()
    from lossatlas.cli._output import print_json
    from lossatlas.workbench import reproduce as reproduce_studies

    found = reproduce_studies(names or None, preset=preset, seed=seed, out=out, force=force, progress=progress)
    if json:
        print_json({"claims": found.claims, "failed": found.failed, "page": str(found.page)})
    else:
        print_claims(found.claims)
        print_counts(found.counts())
        for name, reason in found.failed.items():
            sys.stdout.write(f"{name} did not end: {reason}\n")
        sys.stdout.write(f"page: {found.page}\n")
    if found.failed:
        msg = f"{', '.join(found.failed)} did not end; the errors are above."
        raise RuntimeError(msg)


def print_claims(claims: list[dict[str, Any]]) -> None:
    from lossatlas.cli._output import print_rows

    names = ("study", "name", "expected", "measured", "deviation", "verdict")
    rows = [{("claim" if n == "name" else n): _cell(claim[n]) for n in names if n in claim} for claim in claims]
    print_rows(rows)
    for claim in claims:  # what holds needs no words here; the page has all of them
        if claim["verdict"] != "holds" and claim["note"]:
            sys.stdout.write(f"{claim['name']} {claim['verdict']}: {claim['note']}\n")


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    return value


def print_counts(counts: dict[str, int]) -> None:
    sys.stdout.write(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "\n")
