"""The store of runs: a folder per run, keyed by what was asked; a run is there whole or not at all."""

import contextlib
import dataclasses
import datetime
import hashlib
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

from lossatlas._errors import InputError, is_interruption
from lossatlas._journal import Journal
from lossatlas._progress import ProgressMeter
from lossatlas.workbench._record import (
    RUN_FILE,
    SCHEMA_VERSION,
    canonical,
    checksums,
    damaged,
    is_finished,
    platform_facts,
    read_record,
    versions,
    write_record,
)


_KEY_LENGTH = 12
JOURNAL = "finished-steps"


def run_key(kind: str, version: int, config: Mapping[str, Any], fingerprint: str) -> str:
    """The key of a run: 12 hexadecimal digits of the SHA-256 of everything that its result depends on.

    **Arguments:**
    - `kind`: `"survey"`.
    - `version`: of what computes it; raised when the same settings would give another result. The version of the
      package is not part of the key.
    - `config`: the settings, of text, numbers, truth values, None and lists or dictionaries of them.
    - `fingerprint`: of the data, [`lossatlas.data.DataSet.fingerprint`][].

    **Raises:** `InputError` for a setting that cannot be written down: such a run could never be found again.
    """
    for name, value in config.items():
        try:
            canonical(value)
        except (TypeError, ValueError):
            msg = f"{name} must be text, a finite number or a list of them, to be stored with the run; got {value!r}."
            raise InputError(msg) from None
    if not fingerprint:
        msg = "The data has no fingerprint; a run of it could never be found again."
        raise InputError(msg)
    asked = canonical({"kind": kind, "version": version, "config": dict(config), "data": fingerprint})
    return hashlib.sha256(asked.encode()).hexdigest()[:_KEY_LENGTH]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is kept: `ROOT/<kind>/<name>-<key>`, and beside it while it is made, `<name>-<key>.partial`."""

    root: pathlib.Path
    kind: str
    name: str
    key: str

    @property
    def directory(self) -> pathlib.Path:
        """The finished run."""
        return self.root / self.kind / f"{_as_file_name(self.name)}-{self.key}"

    @property
    def partial(self) -> pathlib.Path:
        """The run while it is made, or what an interrupted or failed one left."""
        return self._beside(".partial")

    @property
    def replaced(self) -> pathlib.Path:
        """The former run, for the moment in which a forced one takes its place."""
        return self._beside(".old")

    @property
    def lock(self) -> pathlib.Path:
        """Held by the process that makes the run; the empty file stays."""
        return lock_of(self.directory)

    def _beside(self, ending: str) -> pathlib.Path:
        return self.directory.with_name(self.directory.name + ending)


def lock_of(directory: pathlib.Path) -> pathlib.Path:
    """The lock of a run, by its folder, partial and replaced ones included."""
    return directory.with_name(f".{directory.name.removesuffix('.partial').removesuffix('.old')}.lock")


@contextlib.contextmanager
def claimed(directory: pathlib.Path, *, patience: float = 0.0):
    """Keep every process from making a run, for a moment.

    **Raises:** `InputError` where one makes it, and goes on for `patience` seconds.
    """
    import filelock

    try:
        with filelock.FileLock(lock_of(directory), timeout=patience):
            yield
    except filelock.Timeout:
        msg = f"The run in {str(directory)!r} is being made; stop the process that makes it first, or wait."
        raise InputError(msg) from None


def is_being_made(directory: pathlib.Path) -> bool:
    """Whether a process makes this run just now."""
    if not lock_of(directory).exists():
        return False
    try:
        with claimed(directory):
            return False
    except InputError:
        return True
    except OSError:
        return False  # nobody makes a run in a folder that cannot be written


def _as_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[:60] or "data"


def make_run(
    place: Place,
    header: Mapping[str, Any],
    write: Callable[[pathlib.Path, Journal], Mapping[str, Any]],
    *,
    meter: ProgressMeter,
    force: bool = False,
) -> pathlib.Path:
    """Make a run unless it is there.

    The work is done in the partial folder, whose record says `running`, and which becomes the run by a rename. When
    it is interrupted, fails or is killed, the partial folder stays with a record that says so, and the next attempt
    goes on with the steps that were finished (unless they were made with other versions of the packages); after an
    `InputError` before the first finished step nothing stays. A partial run that is complete, whose process was killed
    before it took its place, is taken as it is. Of two processes that make the same run, one waits for the other and
    takes over its result. The finished run is written into the index of the store.

    **Arguments:**
    - `place`: where.
    - `header`: entries of the record that are known before the work.
    - `write`: does the work, step by step with the journal that it is given, writes the files into the folder, and
      returns further entries.
    - `meter`: says that another process is waited for.
    - `force`: make it again; the former run is replaced when the new one is complete.

    **Returns:** the folder of the finished run.

    **Raises:** whatever `write` raises, with a note that says how to go on.
    """
    if not force and is_finished(place.directory):
        return place.directory
    with _locked(place, meter):
        if not force and is_finished(place.directory):
            return place.directory
        begun = {
            "schema_version": SCHEMA_VERSION,
            "kind": place.kind,
            "name": place.name,
            "key": place.key,
            "status": "running",
            "forced": force,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **header,
            "versions": versions(),
            "platform": platform_facts(),
        }
        start = time.monotonic()
        if _complete(place.partial, begun):
            _publish(place, force)
            _note(place)
            return place.directory
        _begin(place.partial, begun)
        finished = len(list((place.partial / JOURNAL).glob("*.npz")))
        if finished:
            with meter.task(f"going on where it stopped: {finished} steps are finished", 1.0):
                pass
        try:
            record = {**begun, **write(place.partial, Journal(place.partial / JOURNAL)), "status": "finished"}
            record.setdefault("seconds", round(time.monotonic() - start, 2))
            files = checksums(place.partial)
            record["checksums"] = {name: sum_ for name, sum_ in files.items() if not name.startswith(f"{JOURNAL}/")}
            write_record(place.partial, record)
            # The steps go only when the whole is there: a process can be killed at any of these lines.
            _remove(place.partial / JOURNAL)
            _publish(place, force)
        except BaseException as error:
            if isinstance(error, InputError) and not (place.partial / JOURNAL).exists():
                _remove(place.partial)  # refused before any work
                raise
            status = "interrupted" if is_interruption(error) else "failed"
            # A full disk may be the very reason. What is complete stays so, though it could not take its place.
            with contextlib.suppress(OSError):
                if not is_finished(place.partial):
                    write_record(
                        place.partial, {**begun, "status": status, "error": f"{type(error).__name__}: {error}"}
                    )
            error.add_note(f"What is finished is kept in {place.partial}; run the same again to go on.")
            raise
        _note(place)
        return place.directory


def _complete(partial: pathlib.Path, record: dict[str, Any]) -> bool:
    """Whether an attempt at the same was complete, and only had no time, or no room, to take its place."""
    if not is_finished(partial) or not _resumes(partial, record):
        return False
    _remove(partial / JOURNAL)
    return not damaged(partial)


def _note(place: Place) -> None:
    from lossatlas.workbench._index import note_run

    note_run(place.root, place.directory)


def _resumes(partial: pathlib.Path, record: dict[str, Any]) -> bool:
    try:
        former = read_record(partial)
    except InputError:
        return False
    # A forced attempt is as good for whoever does not force.
    return all(former.get(name) == record[name] for name in ("key", "versions")) and (
        former.get("forced") or not record["forced"]
    )


def _begin(partial: pathlib.Path, record: dict[str, Any]) -> None:
    """An empty partial folder, but for the steps that an attempt with the same versions finished."""
    if _resumes(partial, record):
        for path in partial.iterdir():
            if path.name == RUN_FILE:
                continue  # replaced below in one step: without it the next attempt would not know the steps
            if path.is_file():
                path.unlink()
            elif path.name != JOURNAL:
                shutil.rmtree(path)
    else:
        _remove(partial)
        partial.mkdir(parents=True)
    write_record(partial, record)


@contextlib.contextmanager
def _locked(place: Place, meter: ProgressMeter):
    import filelock

    try:
        place.lock.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(place.lock)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            with meter.task("waiting: another process makes this run", 1.0):
                lock.acquire()
    except OSError as error:
        msg = f"Cannot write into the folder {str(place.lock.parent)!r}: {error.strerror or error}."
        raise InputError(msg) from error
    try:
        yield
    finally:
        lock.release()


def _publish(place: Place, force: bool) -> None:
    """Put the complete partial run in its place; what was there goes only then."""
    _remove(place.replaced)
    if place.directory.exists() and (force or not is_finished(place.directory)):
        place.directory.rename(place.replaced)
    try:
        place.partial.rename(place.directory)
    except OSError:
        # Where locks do not work (some network folders), another process may have come first: its run is as good.
        if is_finished(place.directory):
            _remove(place.partial)
        else:
            if place.replaced.exists():
                place.replaced.rename(place.directory)
            raise
    _remove(place.replaced)


def _remove(directory: pathlib.Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
