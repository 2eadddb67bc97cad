"""The index of a store: a table of its runs in a database, so that a list need not open every folder.

The folders are the truth. The index remembers what was read from each, with a stamp of the record that it was read
from; whoever lists a store compares stamps and reads only what is new. So an index that is lost, garbled, out of date
or out of reach costs time, never a run.
"""

import contextlib
import dataclasses
import functools as ft
import logging
import os
import pathlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from lossatlas._errors import InputError
from lossatlas.workbench._stored import StoredRun, look, stamp_of


INDEX = "index.sqlite"
# Seconds that a process waits for another that writes.
_PATIENCE = 10
# What SQLite says of a file that is no database, or one that was damaged.
_GARBLED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
# Rows of one statement; SQLite takes at most 32,766 values.
_CHUNK = 500

# Other columns are another table, under another number: an index is never converted, only filled again.
_RUNS = sa.Table(
    "lossatlas_runs_1",
    sa.MetaData(),
    sa.Column("root", sa.String(500), primary_key=True),
    sa.Column("path", sa.String(200), primary_key=True),
    sa.Column("kind", sa.String(100)),
    sa.Column("name", sa.Text),
    sa.Column("key", sa.String(100)),
    sa.Column("status", sa.String(100)),
    sa.Column("created", sa.String(100)),
    sa.Column("seconds", sa.Float),
    sa.Column("config", sa.JSON),
    sa.Column("verdicts", sa.JSON),
    sa.Column("stamp", sa.String(100)),
)
_FIELDS = tuple(field.name for field in dataclasses.fields(StoredRun))

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Index:
    """The index of one store.

    **Arguments:**
    - `root`: the folder of runs.
    - `url`: of the database, as SQLAlchemy writes it (`postgresql+psycopg://user@host/name`); default the environment
      variable LOSSATLAS_INDEX, else SQLite in `root/index.sqlite`. Several stores may share a database. SQLite on a
      network folder serves one machine at a time; several need a database server.

    **Raises:** `InputError` for a URL that cannot be read, or whose database driver is not installed.
    """

    def __init__(self, root: pathlib.Path, url: str | None = None):
        given = url or os.environ.get("LOSSATLAS_INDEX")
        self.file = None if given else root.absolute() / INDEX
        # A store may be moved with its own index, not with that of a server.
        self._root = str(root.resolve()) if given else "."
        self._engine = _engine(given or f"sqlite:///{self.file}")

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        return self._engine.url.render_as_string(hide_password=True) if self.file is None else str(self.file)

    def read(self) -> dict[str, tuple[str, StoredRun]] | None:
        """Every run that it knows, with its stamp, by path; None, with a warning, where it is out of reach."""

        def rows(connection: sa.Connection) -> dict[str, tuple[str, StoredRun]]:
            found = connection.execute(sa.select(_RUNS).where(_RUNS.c.root == self._root)).mappings()
            return {row["path"]: (row["stamp"], StoredRun(**{name: row[name] for name in _FIELDS})) for row in found}

        return self._attempt(rows, "Every run is read from its folder")

    def write(self, runs: Mapping[str, tuple[str, StoredRun]], gone: Iterable[str] = ()) -> None:
        """Write runs over what it knew of them, and forget those that are gone; a warning where it is out of reach."""
        rows = [{"root": self._root, "stamp": stamp, **vars(run)} for stamp, run in runs.values()]
        paths = [*runs, *gone]

        def change(connection: sa.Connection) -> None:
            for start in range(0, len(paths), _CHUNK):
                chosen = _RUNS.c.path.in_(paths[start : start + _CHUNK])
                connection.execute(sa.delete(_RUNS).where(_RUNS.c.root == self._root, chosen))
            if rows:
                connection.execute(sa.insert(_RUNS), rows)

        self._attempt(change, "The runs themselves are stored")

    def clear(self) -> None:
        """Forget every run of this store."""
        self._attempt(
            lambda connection: connection.execute(sa.delete(_RUNS).where(_RUNS.c.root == self._root)),
            "The runs themselves are stored",
        )

    def _attempt(self, action: Callable[[sa.Connection], _T], consolation: str) -> _T | None:
        """Do it in one transaction; a garbled file of ours is made anew, anything else is a warning."""
        error = None
        for _ in range(2):
            try:
                with self._engine.begin() as connection:
                    connection.execute(sa.schema.CreateTable(_RUNS, if_not_exists=True))
                    return action(connection)
            # ValueError: text that is no JSON. IntegrityError: another process wrote the same run or made the table.
            except (exc.SQLAlchemyError, sqlite3.Error, OSError, ValueError) as caught:
                error = getattr(caught, "orig", None) or caught
                if self.file is not None and _is_garbled(error):
                    self._discard(error)
                elif not isinstance(caught, exc.IntegrityError):
                    break
        words = " ".join(str(error).split())
        _log.warning("The index %s cannot be used (%s). %s.", self.place, words, consolation)
        return None

    def _discard(self, error: BaseException) -> None:
        assert self.file is not None
        _log.warning("The index %s was garbled (%s); it is made anew from the folders.", self.file, error)
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):  # what cannot be removed is out of reach, which is told next
                self.file.with_name(self.file.name + ending).unlink()


def _is_garbled(error: BaseException) -> bool:
    return isinstance(error, ValueError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _GARBLED


@ft.cache
def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        # No pool: a connection is a file that forked workers must not share, and calls are rare.
        engine = sa.create_engine(
            parsed, poolclass=sa.NullPool, connect_args={"timeout": _PATIENCE} if is_sqlite else {}
        )
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
        msg = f"LOSSATLAS_INDEX or index= is no database that SQLAlchemy knows ({error}); write sqlite:////folder/file "
        msg += "or postgresql+psycopg://user@host/name."
        raise InputError(msg) from None
    except ImportError as error:
        backend = sa.make_url(url).get_backend_name()
        msg = f"The index in {backend} needs the package {error.name!r}; install it, or leave LOSSATLAS_INDEX unset."
        raise InputError(msg) from None
    if is_sqlite:
        # Readers go on while one writes. The file keeps this mode; where it cannot, all wait for each other.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
    return engine


def note_run(root: pathlib.Path, directory: pathlib.Path) -> None:
    """Write a run that is finished into the index of its store; at worst a warning, since the run is stored."""
    path = f"{directory.parent.name}/{directory.name}"
    stamp = stamp_of(directory)
    run = look(root, path)
    if run is None:
        return
    try:
        Index(root).write({path: (stamp, run)}, gone=[f"{path}.partial"])
    except InputError as error:
        _log.warning("%s The run itself is stored.", error)
