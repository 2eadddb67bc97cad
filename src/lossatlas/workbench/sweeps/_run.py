"""A stored sweep, finished or not: its grid, what was measured, and how its cells came out."""

import functools as ft
import os
import pathlib
from collections import Counter
from typing import TYPE_CHECKING, Any, final

from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._show import html_page, in_words, shown
from lossatlas.workbench._record import checksum, damaged, read_record, write_record
from lossatlas.workbench._run import REPORT, stored_arrays
from lossatlas.workbench._store import JOURNAL
from lossatlas.workbench.sweeps._outcome import MEASURED, WAITING, unpack
from lossatlas.workbench.sweeps._results import HOW, STATUS, sweep_results


if TYPE_CHECKING:
    import xarray as xr


KIND = "sweep"


@final
@shown
class SweepRun:
    """A finished sweep in its folder.

    **Arguments:**
    - `directory`: the folder that [`lossatlas.workbench.run_sweep`][] wrote.

    **Raises:** `InputError` for a folder that holds no finished sweep.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = pathlib.Path(directory)
        self._record = read_record(self.directory)
        kind, status = self._record.get("kind"), self._record.get("status")
        if kind != KIND or status != "finished":
            msg = f"{str(self.directory)!r} holds no finished sweep: it is a {kind}, {status}."
            raise InputError(msg)

    @property
    def name(self) -> str:
        """The study."""
        return self._record["name"]

    @property
    def config(self) -> dict[str, Any]:
        """The settings that all cells share."""
        return self._record["config"]["settings"]

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The settings on the grid, and their values."""
        return {name: values for name, values in self._record["config"]["axes"]}

    @property
    def seeds(self) -> int:
        """How many seeds there are in each cell of the grid, from 0."""
        return self._record["config"]["seeds"]

    @property
    def papers(self) -> tuple[str, ...]:
        """What to cite: `lossatlas.citation(run)`."""
        return tuple(self._record["papers"])

    @property
    def report(self) -> pathlib.Path:
        """The page, one HTML file that works offline."""
        return self.directory / REPORT

    @property
    def record(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON knows it."""
        return {"directory": str(self.directory), "report": str(self.report), **self._record}

    @ft.cached_property
    def results(self) -> "xr.DataTree":
        """What was measured, on the grid; see [`lossatlas.workbench.sweeps.sweep_so_far`][]."""
        return stored_arrays(self.directory)

    def counts(self) -> dict[str, int]:
        """How many cells came out how: done, non-finite, failed, timed out, out of memory, killed."""
        return self._record["cells"]

    def failed(self) -> list[dict[str, Any]]:
        """The cells that measured nothing: their settings, seed, status and error."""
        return failed_cells(self.results)

    def verify(self) -> tuple[str, ...]:
        """The files that are missing, were added or changed since they were written, by checksum; empty for none."""
        return damaged(self.directory)

    def __repr__(self) -> str:
        words = ", ".join(f"{count:,} {status}" for status, count in self.counts().items())
        return f"SweepRun({str(self.directory)!r}): {self.name}, {words}"

    def _repr_html_(self) -> str:
        rows = [{"setting": name, "values": in_words(values)} for name, values in self.axes.items()]
        failed = [in_words(row) for row in self.failed()[:5]]
        return html_page(repr(self), [*rows, {"setting": "seed", "values": f"0 to {self.seeds - 1}"}], more=failed)

    def _figure(self) -> Any:
        from lossatlas.workbench.sweeps._page import sweep_pictures

        return next(iter(sweep_pictures(self.results).values())).draw(False)

    def write_report(self) -> pathlib.Path:
        """Draw figures and page anew from what is stored; nothing is computed again."""
        from lossatlas.workbench.sweeps._page import write_sweep_page

        write_sweep_page(self)
        stated = self._record["checksums"] | {REPORT: checksum(self.report)}
        write_record(self.directory, {**self._record, "checksums": stated})
        self._record = read_record(self.directory)
        return self.report


def sweep_so_far(directory: str | os.PathLike[str]) -> "xr.DataTree":
    """What a sweep has measured until now, also while it runs, and of one that was interrupted.

    **Arguments:**
    - `directory`: its folder, the one that ends with `.partial` while it is not finished.

    **Returns:** the numbers by name, with an axis for each setting of the grid and one for the seeds, and `status`
    (`"waiting"` for cells that are not measured yet); `how/seconds` and `how/error` of each cell.

    **Raises:** `InputError` for a folder that holds no sweep.
    """
    directory = pathlib.Path(directory)
    record = read_record(directory)
    if record.get("kind") != KIND:
        msg = f"{str(directory)!r} holds a {record.get('kind')}, no sweep."
        raise InputError(msg)
    if record["status"] == "finished":
        return stored_arrays(directory)
    config, steps = record["config"], Journal(directory / JOURNAL).finished()
    axes = [(name, values) for name, values in config["axes"]]
    return sweep_results(axes, config["seeds"], (outcome for step in steps for outcome in unpack(step)))


def count_cells(results: "xr.DataTree") -> dict[str, int]:
    """How many cells came out how."""
    return dict(Counter(results.ds[STATUS].values.ravel().tolist()))


def failed_cells(results: "xr.DataTree") -> list[dict[str, Any]]:
    """The cells that ended without a number: their settings, seed, status and error."""
    import numpy as np

    status, errors = results.ds[STATUS], results.children[HOW].ds["error"].values
    found = []
    for place in np.argwhere(~np.isin(status.values, [*MEASURED, WAITING])):
        at = {str(dim): status[dim].values[i].item() for dim, i in zip(status.dims, place, strict=True)}
        found.append({**at, "status": str(status.values[tuple(place)]), "error": str(errors[tuple(place)])})
    return found
