"""The store as a whole: its runs found, opened, removed and verified."""

import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, final

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import html_page
from lossatlas.workbench._folder import store_root
from lossatlas.workbench._record import read_record
from lossatlas.workbench._store import claimed
from lossatlas.workbench._stored import StoredRun, look, scan, with_live_status
from lossatlas.workbench._verify import Finding, examine, left_by_removal


if TYPE_CHECKING:
    from lossatlas.workbench._index import Index
    from lossatlas.workbench._run import SurveyRun
    from lossatlas.workbench._study import StudyRun
    from lossatlas.workbench.sweeps import SweepRun

_VERDICTS = ("holds", "fails", "undecided", "done", "non-finite")


@final
class Store:
    """The runs in a folder: listed, opened, removed, exported and verified.

    The folders are the truth. A list comes from an index, a database that is brought up to date with the folders each
    time: it takes one look at each folder, and opens those that are new or changed. An index that was deleted, garbled
    or cannot be reached costs time and is a warning.

    **Arguments:**
    - `root`: the folder of runs; default the environment variable LOSSATLAS_STORE, else `lossatlas` here.
    - `index`: the URL of a database for the index; default the environment variable LOSSATLAS_INDEX, else SQLite in
      `root/index.sqlite`.

    **Raises:** `InputError` for a root that is no folder, and a database that is not known.

    !!! example
        >>> store = lossatlas.workbench.Store()  # doctest: +SKIP
        >>> store.runs(kind="study", status="finished")  # doctest: +SKIP
        >>> store.open("3f2a").claims  # doctest: +SKIP
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, *, index: str | None = None):
        self.root = store_root(root)
        if self.root.exists() and not self.root.is_dir():
            msg = f"{str(self.root)!r} is not a folder; give the folder of runs."
            raise InputError(msg)
        self._url = index

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def _repr_html_(self) -> str:
        return self.runs()._repr_html_()

    @property
    def _index(self) -> "Index":
        from lossatlas.workbench._index import Index  # late: sqlalchemy

        return Index(self.root, self._url)

    def runs(self, *, kind: str | None = None, name: str | None = None, status: str | None = None) -> "Runs":
        """The runs, newest first, partial ones included; `kind`, `name` and `status` may have `*` and `?`."""
        asked = {"kind": kind, "name": name, "status": status}
        found = [with_live_status(self.root, run) for run in self._all()]
        for field, pattern in asked.items():
            if pattern is not None:
                found = [run for run in found if fnmatch(getattr(run, field), pattern)]
        return Runs(sorted(found, key=lambda run: (run.created or "", run.path), reverse=True), self.root)

    def _all(self) -> list[StoredRun]:
        stamps, index = scan(self.root), self._index
        read = index.read() if self.root.is_dir() else {}
        known = {path: run for path, (stamp, run) in (read or {}).items() if stamps.get(path) == stamp}
        looked = {path: look(self.root, path) for path in stamps.keys() - known.keys()}
        fresh = {path: run for path, run in looked.items() if run is not None}
        if read is not None and (fresh or read.keys() - stamps.keys()):
            index.write({path: (stamps[path], run) for path, run in fresh.items()}, gone=read.keys() - stamps.keys())
        return [*known.values(), *fresh.values()]

    def find(self, key: str | os.PathLike[str]) -> StoredRun:
        """The run of a key, a unique beginning of one, the name of a folder, or its path.

        Of a key that has both, the finished run is meant, not what a later attempt left beside it.

        **Raises:** `InputError` for none and for several.
        """
        asked, runs = os.fspath(key), self._all()
        if not asked:
            msg = "The key is empty; `lossatlas store list` lists the runs."
            raise InputError(msg)
        place, root = pathlib.Path(asked).expanduser().resolve(), self.root.resolve()
        named = [run for run in runs if asked in (run.path, run.path.rpartition("/")[2]) or place == root / run.path]
        found = named or [run for run in runs if run.key.startswith(asked)]
        whole = {run.key for run in found if run.path.endswith(run.key)}
        meant = [run for run in found if run.key not in whole or run.path.endswith(run.key)]
        if len(meant) == 1:
            return with_live_status(self.root, meant[0])
        if not meant:
            msg = f"No run {asked!r} in {str(self.root)!r}; `lossatlas store list` lists them, --out (Python: root) "
            msg += "names another folder of runs."
            raise InputError(msg)
        names = ", ".join(run.path for run in meant[:4]) + (", ..." if len(meant) > 4 else "")
        msg = f"{asked!r} fits {len(meant)} runs ({names}); give more of the key, or the name of the folder."
        raise InputError(msg)

    def directory(self, key: str | os.PathLike[str]) -> pathlib.Path:
        """The folder of a run; `key` as of `find`."""
        return self.root / self.find(key).path

    def record(self, key: str | os.PathLike[str]) -> dict[str, Any]:
        """Everything that is stored of a run but its arrays, whatever its kind and however it ended.

        **Raises:** `InputError` for a record that cannot be read.
        """
        run = self.find(key)
        directory = self.root / run.path
        return {"directory": str(directory), **read_record(directory), "status": run.status}

    def open(self, key: str | os.PathLike[str]) -> "SurveyRun | StudyRun | SweepRun":
        """A finished run, as what made it returned it; `key` as of `find`.

        **Raises:** `InputError` for a run that is not finished.
        """
        return open_run(self.root / self.find(key).path)

    def remove(self, key: str | os.PathLike[str]) -> tuple[pathlib.Path, ...]:
        """Remove a run, with what interrupted attempts at it left; returns the folders that went.

        They leave the store by a rename, then their files go. `key` as of `find`; the name of a folder that ends with
        `.partial` or `.old` removes that alone.

        **Raises:** `InputError` for a run that is being made, and for folders that cannot be removed.
        """
        directory = self.directory(key)
        beside = [directory.with_name(directory.name + ending) for ending in ("", ".partial", ".old")]
        moved = {}
        try:
            with claimed(directory, patience=1.0):  # a look at the lock by another process is no reason
                for path in filter(pathlib.Path.is_dir, beside):
                    moved[path] = path.with_name(f".removed-{path.name}-{secrets.token_hex(4)}")
                    path.rename(moved[path])
            for hidden in moved.values():
                shutil.rmtree(hidden)
        except OSError as error:
            msg = f"Cannot remove {str(directory)!r}: {error.strerror or error}."
            raise InputError(msg) from error
        self._index.write({}, gone=[f"{path.parent.name}/{path.name}" for path in moved])
        return tuple(moved)

    def export(
        self,
        key: str | os.PathLike[str],
        to: str | os.PathLike[str],
        *,
        part: str | None = None,
        form: str | None = None,
    ) -> list[pathlib.Path]:
        """Write the labelled arrays of a run for other programs; see [`lossatlas.workbench.export_arrays`][].

        `key` as of `find`; `to`, `part` and `form` as there.
        """
        from lossatlas.workbench._export_arrays import export_arrays
        from lossatlas.workbench._run import SurveyRun

        run = self.open(key)
        return export_arrays(
            lambda: run.arrays if isinstance(run, SurveyRun) else run.results, to, part=part, form=form
        )

    def verify(
        self, keys: Iterable[str | os.PathLike[str]] = (), *, progress: ProgressLike = "none"
    ) -> tuple[Finding, ...]:
        """What is wrong in the store: every file of every run is read and compared with its checksum.

        **Arguments:**
        - `keys`: of some runs; default all.
        - `progress`: `"none"`, `"text"`, `"rich"` or a meter.

        **Returns:** a [`lossatlas.workbench.Finding`][] for each folder that is damaged or left over; none for a store
        in order. A run that is being made is in order.
        """
        chosen = [self.find(key) for key in keys]
        runs, findings = chosen or self._all(), []
        with as_meter(progress).task("checksums", len(runs)) as task:
            for done, run in enumerate(runs):
                task.update(done, run.path)
                findings += examine(self.root, run)
        return tuple([*findings, *([] if chosen else left_by_removal(self.root))])

    def rebuild(self) -> "Runs":
        """Forget the index and make it anew from the folders; returns the runs."""
        if self.root.is_dir():
            self._index.clear()
        return self.runs()


class Runs(tuple[StoredRun, ...]):
    """Runs of a store, newest first; a notebook shows them as a table.

    **Arguments:**
    - `runs`: a [`lossatlas.workbench.StoredRun`][] each.
    - `root`: the folder of the store.
    """

    root: pathlib.Path

    def __new__(cls, runs: Iterable[StoredRun], root: pathlib.Path) -> "Runs":
        made = super().__new__(cls, runs)
        made.root = root
        return made

    def table(self) -> list[dict[str, Any]]:
        """A row for each run: key, kind, name, status, when, seconds, and how claims or cells came out."""
        return [
            {
                "key": run.key,
                "kind": run.kind,
                "name": run.name,
                "status": run.status,
                "created": None if run.created is None else run.created[:16].replace("T", " "),
                "seconds": run.seconds,
                "outcome": ", ".join(f"{count:,} {verdict}" for verdict, count in _in_order(run.verdicts)) or None,
            }
            for run in self
        ]

    def __repr__(self) -> str:
        return f"{len(self)} run{'' if len(self) == 1 else 's'} in {str(self.root)!r}"

    def _repr_html_(self) -> str:
        return html_page(repr(self), self.table(), most=50)


def _in_order(verdicts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(
        verdicts.items(), key=lambda item: _VERDICTS.index(item[0]) if item[0] in _VERDICTS else len(_VERDICTS)
    )


def open_run(directory: pathlib.Path) -> "SurveyRun | StudyRun | SweepRun":
    """A finished run by its folder, as what made it returned it.

    **Raises:** `InputError` for a folder that holds no finished run.
    """
    from lossatlas.workbench._run import SurveyRun
    from lossatlas.workbench._study import StudyRun
    from lossatlas.workbench.sweeps import SweepRun

    kinds = {"study": StudyRun, "sweep": SweepRun}
    return kinds.get(read_record(directory).get("kind", ""), SurveyRun)(directory)
