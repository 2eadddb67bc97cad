"""`lossatlas store list | show | rm | export | rebuild | verify`: the runs of a folder."""

import dataclasses
import json as json_text
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lossatlas.cli._run import FAILED, OK


if TYPE_CHECKING:
    from lossatlas.workbench import Store


_Flag = Parameter(negative="", show_default=False)


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Which store."""

    out: pathlib.Path | None = None
    """Folder of runs; by default LOSSATLAS_STORE, or ./lossatlas."""

    index: str | None = None
    """URL of the database of the index, like postgresql+psycopg://user@host/name; by default LOSSATLAS_INDEX, or SQLite
    in the folder of runs."""

    def open(self) -> "Store":
        """The store."""
        from lossatlas.workbench import Store

        return Store(self.out, index=self.index)


def list_runs(
    *,
    kind: str | None = None,
    name: str | None = None,
    status: str | None = None,
    limit: int = 50,
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
) -> None:
    """List the runs, newest first.

    Parameters
    ----------
    kind
        Only runs of this kind, survey, study or sweep; * and ? stand for any letters, here and below.
    name
        Only runs of this data set or study.
    status
        Only runs that are finished, running, interrupted, failed, killed, replaced or unreadable.
    limit
        How many rows the table has at most; 0 for all. JSON has all.
    options
        Which store.
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import print_json, print_rows

    runs = options.open().runs(kind=kind, name=name, status=status)
    if json:
        print_json([dataclasses.asdict(run) for run in runs])
        return
    rows = runs.table()
    shown = rows[:limit] if limit > 0 else rows
    print_rows([_named(row) for row in shown])
    more = f", the newest {len(shown)} shown (--limit 0 shows all)" if len(shown) < len(rows) else ""
    sys.stdout.write(f"{runs!r}{more}\n")


def _named(row: dict[str, Any]) -> dict[str, Any]:
    # `kind` is a column that a narrow terminal may do without, which is not so here.
    return {("what" if name == "kind" else name): value for name, value in row.items()}


def show(
    key: str,
    /,
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
) -> None:
    """Show what was asked and found in a run, of any kind.

    Parameters
    ----------
    key
        A unique beginning of its key, the name of its folder, or its path.
    options
        Which store.
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import print_json, print_survey
    from lossatlas.cli._sweep import print_sweep

    store = options.open()
    record = store.record(key)
    if json:
        print_json(record)
        return
    names = ("kind", "name", "title", "key", "status", "error", "created", "seconds", "config", "regenerate")
    for name in names:
        if name in record:
            value = record[name]
            sys.stdout.write(f"{name}: {value if isinstance(value, str) else json_text.dumps(value)}\n")
    versions = record.get("versions", {})
    sys.stdout.write("versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "\n\n")
    if record["status"] == "finished" and record["kind"] == "survey":
        print_survey(store.open(key))
    elif record["status"] == "finished" and record["kind"] == "sweep":
        print_sweep(store.open(key), as_json=False)
    elif record["status"] == "finished":
        _print_study(store.open(key))
    else:
        sys.stdout.write(f"run: {record['directory']}\n")


def _print_study(run: Any) -> None:
    from lossatlas.cli._study import print_claims, print_counts

    print_claims(run.claims)
    print_counts(run.counts())
    sys.stdout.write(f"report: {run.report}\nrun: {run.directory}\n")


def remove(
    key: str,
    /,
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
) -> None:
    """Remove a run, with what interrupted attempts at it left.

    Parameters
    ----------
    key
        A unique beginning of its key, the name of its folder, or its path. The name of a folder that ends with .partial
        or .old removes that alone.
    options
        Which store.
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import say

    removed = [str(path) for path in options.open().remove(key)]
    say({"removed": removed}, [f"removed: {path}" for path in removed], as_json=json)


def export(
    key: str,
    /,
    *,
    to: Annotated[pathlib.Path, Parameter(required=True)],
    part: str | None = None,
    format: Literal["nc", "parquet", "csv"] | None = None,  # noqa: A002
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
) -> None:
    """Write the labelled arrays of a run as NetCDF, Parquet or CSV.

    Parameters
    ----------
    key
        A unique beginning of its key, the name of its folder, or its path.
    to
        A file that ends with .nc, .parquet or .csv, or with --format a folder, which gets a file for each part.
    part
        The data set or table to write, where there are several; without it you are told which there are.
    format
        What to write into a folder.
    options
        Which store.
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import say

    files = [str(path) for path in options.open().export(key, to, part=part, form=format)]
    say({"files": files}, files, as_json=json)


def rebuild(
    *,
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
) -> None:
    """Make the index anew from the folders of the runs.

    Parameters
    ----------
    options
        Which store.
    json
        Print JSON, for machines.
    """
    from lossatlas.cli._output import say

    runs = options.open().rebuild()
    say({"runs": len(runs)}, [f"index made anew: {runs!r}"], as_json=json)


def verify(
    *keys: str,
    options: StoreOptions = StoreOptions(),  # noqa: B008
    json: Annotated[bool, _Flag] = False,
    progress: Literal["rich", "text", "none"] | None = None,
) -> int:
    """Compare every file of every run with its checksum, and name what was left over.

    Parameters
    ----------
    keys
        Some runs, as `lossatlas store show` takes them; by default all.
    options
        Which store.
    json
        Print JSON, for machines.
    progress
        How to show progress on stderr: rich on a terminal, none elsewhere, unless you say.
    """
    from lossatlas.cli._output import print_json

    meter = progress or ("rich" if sys.stderr.isatty() else "none")
    store = options.open()
    found = store.verify(keys, progress=meter)
    damaged = [finding for finding in found if finding.is_damaged]
    if json:
        print_json([dataclasses.asdict(finding) for finding in found])
        return FAILED if damaged else OK
    for finding in found:
        word = "damaged" if finding.is_damaged else "left over"
        sys.stdout.write(f"{word}: {finding.path}: {finding.problem}\n")
        for name in finding.files[:10]:
            sys.stdout.write(f"    {name}\n")
        if len(finding.files) > 10:
            sys.stdout.write(f"    and {len(finding.files) - 10} more\n")
        sys.stdout.write(f"  {finding.remedy}\n")
    left = len(found) - len(damaged)
    sys.stdout.write(f"{len(damaged)} damaged, {left} left over in {str(store.root)!r}\n")
    return FAILED if damaged else OK
