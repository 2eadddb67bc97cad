"""The options that the instruments share: data, batches, precision, files, and how they print."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from lossatlas._errors import InputError


if TYPE_CHECKING:
    from lossatlas.workbench import Measured


_GROUP = Group.create_ordered("Data and files")


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class InstrumentOptions:
    """What every instrument takes beside the model."""

    data: Annotated[str, Parameter(group=_GROUP)]
    """The data with the targets: a data set's name, or a CSV, TSV, Parquet or NPZ file."""

    target: Annotated[str | None, Parameter(group=_GROUP)] = None
    """The column of the targets; by default the one that the model was trained on."""

    batch_size: Annotated[str, Parameter(group=_GROUP)] = "auto"
    """How many examples are computed at a time: a number, all, or auto, as many as 2 GB of working memory allow."""

    precision: Annotated[Literal["float64", "float32"], Parameter(group=_GROUP)] = "float64"
    """Of parameters and data. float32 takes half the time and memory; small curvatures drown in its rounding."""

    seed: Annotated[int, Parameter(group=_GROUP)] = 0
    """Of whatever is random. The same seed gives the same numbers."""

    out: Annotated[pathlib.Path | None, Parameter(group=_GROUP)] = None
    """Folder of the page, the JSON and the arrays; by default one in the folder of runs."""

    json: Annotated[bool, Parameter(negative="", show_default=False, group=_GROUP)] = False
    """Print JSON, for machines."""

    progress: Annotated[Literal["rich", "text", "none"] | None, Parameter(group=_GROUP)] = None
    """How to show progress on stderr: rich on a terminal, none elsewhere, unless you say."""

    @property
    def meter(self) -> Literal["rich", "text", "none"]:
        """The meter asked for, or the one that suits where stderr goes."""
        return self.progress or ("rich" if sys.stderr.isatty() else "none")

    @property
    def examples_at_a_time(self) -> int | Literal["auto"] | None:
        """The batch size as the library takes it.

        **Raises:** `InputError` for anything but `auto`, `all` and a positive number.
        """
        if self.batch_size == "auto":
            return "auto"
        if self.batch_size == "all":
            return None
        if not self.batch_size.isdigit() or int(self.batch_size) < 1:
            msg = f"--batch-size must be a number of examples, auto or all, got {self.batch_size!r}."
            raise InputError(msg)
        return int(self.batch_size)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of a measurement; it says on stderr what it will cost.

        **Raises:** `InputError` as `examples_at_a_time`.
        """
        return {
            "target": self.target,
            "batch_size": self.examples_at_a_time,
            "precision": self.precision,
            "seed": self.seed,
            "out": self.out,
            "progress": self.meter,
            "announce": lambda line: sys.stderr.write(line + "\n"),
        }


def print_measured(found: "Measured", *tables: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """The headline, cautions, tables of rows and the files; or the facts as JSON."""
    from lossatlas.cli._output import print_json, print_rows

    files = {"page": found.page, "json": found.json, "arrays": found.arrays}
    paths = {name: str(path) for name, path in files.items() if path is not None}
    if as_json:
        print_json({**found.facts, "files": paths})
        return
    sys.stdout.write("\n".join([found.headline, *found.facts["cautions"]]) + "\n")
    for rows in tables:
        print_rows(rows)
    for name, path in paths.items():
        sys.stdout.write(f"{name}: {path}\n")
