"""A stored survey: what was found, its arrays, its networks, its report."""

import datetime
import functools as ft
import os
import pathlib
import re
from typing import TYPE_CHECKING, Any, final

from lossatlas._errors import InputError, unknown_name
from lossatlas._show import html_page, shown
from lossatlas.workbench._record import checksum, damaged, read_record, write_record
from lossatlas.workbench._table import short_table


if TYPE_CHECKING:
    import xarray as xr

    from lossatlas.networks import Dense
    from lossatlas.workbench._model import Model


ARRAYS, NETWORKS, REPORT = "data.zarr", "networks", "report.html"


def stored_arrays(directory: pathlib.Path) -> "xr.DataTree":
    """The labelled arrays of a run, read into memory.

    **Raises:** `InputError` where they are not those that were written: zarr reads a piece that is missing as zeros.
    """
    from lossatlas.workbench._arrays import read_arrays

    wrong = [name for name in damaged(directory) if name.startswith(f"{ARRAYS}/")]
    if wrong:
        again = read_record(directory).get("regenerate")
        msg = f"The arrays in {str(directory)!r} are damaged ({len(wrong)} files, {wrong[0]} among them); "
        msg += f"`{again} --force` makes the run again."
        raise InputError(msg)
    return read_arrays(directory / ARRAYS)


@shown
@final
class SurveyRun:
    """A finished survey in its folder.

    **Arguments:**
    - `directory`: the folder that [`lossatlas.survey`][] wrote.

    **Raises:** `InputError` for a folder that holds no finished survey.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = pathlib.Path(directory)
        self._record = read_record(self.directory)
        kind, status = self._record.get("kind"), self._record.get("status")
        if kind != "survey":
            msg = f"{str(self.directory)!r} holds a {kind}, no survey."
            raise InputError(msg)
        if status != "finished":
            # A process that was killed had no time to say so.
            word = "is not finished (or its process was killed)" if status == "running" else f"was {status}"
            msg = f"The run in {str(self.directory)!r} {word}; run `{self._record.get('regenerate')}` again."
            raise InputError(msg)

    def __repr__(self) -> str:
        return f"SurveyRun({str(self.directory)!r}): {self.headline}"

    def _repr_html_(self) -> str:
        return html_page(self.headline, self.table(), more=[f"Report: {self.report}"])

    def _figure(self) -> Any:
        from lossatlas.figures import atlas_figure

        return atlas_figure(self.tables, self.arrays)

    @property
    def report(self) -> pathlib.Path:
        """The report, one HTML file that works offline."""
        return self.directory / REPORT

    @property
    def headline(self) -> str:
        """The answer in a sentence."""
        return self.tables["headline"]

    @property
    def tables(self) -> dict[str, Any]:
        """Everything that was found, as plain tables; see `lossatlas.atlas.survey_tables`."""
        return self._record["tables"]

    @property
    def created(self) -> datetime.datetime:
        """When it was begun, or last gone on with."""
        return datetime.datetime.fromisoformat(self._record["created"])

    @property
    def versions(self) -> dict[str, str]:
        """The versions that it was made with."""
        return self._record["versions"]

    @property
    def regenerate(self) -> str:
        """The command that makes it again."""
        return self._record["regenerate"]

    @property
    def network_names(self) -> tuple[str, ...]:
        """The networks that are stored: `recommended`, `big`, and those of the catalogue."""
        return tuple(self._record["networks"])

    @ft.cached_property
    def arrays(self) -> "xr.DataTree":
        """The labelled arrays, read into memory; see `lossatlas.atlas.survey_arrays`."""
        return stored_arrays(self.directory)

    def table(self) -> list[dict[str, Any]]:
        """The short table: a row per size of small network and per visited one, and the big network last."""
        return short_table(self.tables)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON knows it."""
        places = {"directory": str(self.directory), "report": str(self.report)}
        return {"headline": self.headline, **places, "table": self.table(), **self._record}

    def network(self, name: str = "recommended") -> "Dense":
        """A stored network, float64; it reads standardised inputs. See `model` for one that reads raw columns.

        **Raises:** `InputError` for an unknown name, with the nearest known one.
        """
        return self.model(name).network

    def model(self, name: str = "recommended") -> "Model":
        """A stored network with its preprocessing, [`lossatlas.workbench.Model`][].

        **Arguments:**
        - `name`: `"recommended"`, `"big"`, or a name of the catalogue like `"(1,1)b"` or `"1,1"`, the lowest.

        **Raises:** `InputError` for an unknown name, with the nearest known one.
        """
        from lossatlas.workbench._model import read_model

        files = self._record["networks"]
        size = re.fullmatch(r"\(?\s*(\d+)\s*,\s*(\d+)\s*\)?([a-z]*)", name)
        name = name if size is None else f"({size[1]},{size[2]}){size[3]}"
        if size is not None and name not in files and f"{name}a" in files:
            name += "a"  # the lowest of its size
        if name not in files:
            raise unknown_name("network of the survey", name, files)
        return read_model(self.directory / files[name])

    def verify(self) -> tuple[str, ...]:
        """The files that are missing, were added or changed since they were written, by checksum; empty for none."""
        return damaged(self.directory)

    def write_report(self) -> pathlib.Path:
        """Write the report anew from what is stored; nothing is computed again."""
        from lossatlas.workbench._report import write_report

        write_report(self.report, self.tables, self.arrays, regenerate=self.regenerate, versions=self.versions)
        stated = self._record["checksums"] | {REPORT: checksum(self.report)}
        write_record(self.directory, {**self._record, "checksums": stated})
        self._record = read_record(self.directory)
        return self.report
