"""The runs in a folder, seen without opening them: which there are, and what a list says of each."""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas.workbench._record import RUN_FILE, read_record
from lossatlas.workbench._store import is_being_made


# A name and the twelve digits of a key; a folder of that name is a run even where its record is gone.
_RUN_FOLDER = re.compile(r"(?P<name>.+)-(?P<key>[0-9a-f]{12})(?P<ending>\.partial|\.old)?")


@shown
@dataclasses.dataclass(frozen=True)
class StoredRun:
    """A run as the list of a store shows it.

    - `kind`: `"survey"`, `"study"` or `"sweep"`. `name`: of the data or the study. `key`: of what was asked.
    - `status`: `"finished"`; of partial runs `"running"`, `"interrupted"`, `"failed"` or `"killed"` (its process ended
      without a word); `"replaced"` for a former run that was left behind; `"unreadable"` for a record that is missing,
      damaged or of a newer format.
    - `created`: when it was begun, ISO 8601 in UTC. `seconds`: how long it took. `config`: its settings, seed included.
    - `verdicts`: how many claims of a study hold, fail and are undecided, how many cells of a sweep are done, failed
      and so on; empty for surveys.
    - `path`: its folder inside the store, `kind/name-key`.
    """

    kind: str
    name: str
    key: str
    status: str
    created: str | None
    seconds: float | None
    config: dict[str, Any]
    verdicts: dict[str, int]
    path: str


def scan(root: pathlib.Path) -> dict[str, str]:
    """Every folder of a run, partial and replaced ones included, with a stamp that changes when its record does.

    No file is opened: two stages of folders are read, and one file a run is asked for its time and size.
    """
    found = {}
    for kind in _folders(root):
        for folder in _folders(kind.path):
            stamp = stamp_of(folder.path)
            if stamp or _RUN_FOLDER.fullmatch(folder.name):
                found[f"{kind.name}/{folder.name}"] = stamp
    return found


def stamp_of(directory: str | os.PathLike[str]) -> str:
    """Time, size and number of the file of a record; empty where there is none."""
    try:
        facts = os.stat(os.path.join(directory, RUN_FILE))  # noqa: PTH116, PTH118
    except OSError:
        return ""
    return f"{facts.st_mtime_ns}:{facts.st_size}:{facts.st_ino}"


def _folders(directory: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        yield from (entry for entry in entries if not entry.name.startswith(".") and entry.is_dir())


def look(root: pathlib.Path, path: str) -> StoredRun | None:
    """What a list says of the run in a folder, from its record; None where the folder is gone meanwhile."""
    kind, _, folder = path.partition("/")
    parts = _RUN_FOLDER.fullmatch(folder)
    name, key, ending = (parts["name"], parts["key"], parts["ending"]) if parts else (folder, "", None)
    try:
        record = read_record(root / path)
        status = str(record["status"])
        if ending == ".old":
            status = "replaced"
        elif ending == ".partial" and status == "finished":
            status = "running"  # it is about to take its place
        return StoredRun(
            kind=kind,
            name=str(record.get("name", name)),
            key=str(record.get("key", key)),
            status=status,
            created=str(record["created"]),
            seconds=float(record["seconds"]) if "seconds" in record else None,
            config=dict(record.get("config", {})),
            verdicts={str(status): int(count) for status, count in record.get("cells", {}).items()}
            or dict(Counter(str(claim["verdict"]) for claim in record.get("claims", ()))),
            path=path,
        )
    except (InputError, KeyError, TypeError, ValueError):
        if not (root / path).is_dir():
            return None
        # A former run is half deleted where the process was killed just then.
        return StoredRun(kind, name, key, "replaced" if ending == ".old" else "unreadable", None, None, {}, {}, path)


def with_live_status(root: pathlib.Path, run: StoredRun) -> StoredRun:
    """A run that says `running` but that no process makes was killed."""
    if run.status != "running" or is_being_made(root / run.path):
        return run
    return dataclasses.replace(run, status="killed")
