"""What is wrong with a run in a store, and what to do about it."""

import dataclasses
import pathlib
from collections.abc import Iterator

from lossatlas._errors import InputError
from lossatlas._show import shown
from lossatlas.workbench._record import RUN_FILE, NewerFormatError, damaged, read_record
from lossatlas.workbench._run import REPORT
from lossatlas.workbench._store import is_being_made
from lossatlas.workbench._stored import StoredRun


@shown
@dataclasses.dataclass(frozen=True)
class Finding:
    """A folder of a store that is not in order.

    - `path`: inside the store. `problem`: in words. `remedy`: what to do.
    - `files`: those that are missing, were added or changed.
    - `is_damaged`: a run that cannot be trusted; else something that was left over and costs space only.
    """

    path: str
    problem: str
    remedy: str
    files: tuple[str, ...]
    is_damaged: bool


def examine(root: pathlib.Path, run: StoredRun) -> list[Finding]:
    """Look at every file of a run; nothing for one in order, or that is being made."""
    directory = root / run.path
    if is_being_made(directory):
        return []
    folder, removal = directory.name, f"`lossatlas store rm {directory.name}`"
    if run.status == "replaced":
        remedy = f"{removal} removes it"
        return [Finding(run.path, "a former run, left while another took its place", remedy, (), False)]
    try:
        record = read_record(directory)
        wrong = () if folder.endswith(".partial") else damaged(directory)
        if wrong:  # a page that was written anew between file and record is in order at the second look
            wrong = damaged(directory)
    except NewerFormatError as error:
        return [Finding(run.path, str(error), "the version of lossatlas that made it verifies it", (), False)]
    except InputError as error:
        if not directory.is_dir():
            return []  # removed, or in its place, meanwhile
        if folder.endswith(".partial"):
            return [Finding(run.path, "a partial run without a record", f"{removal} removes it", (), False)]
        remedy = f"{removal} removes it; then ask for it again"
        return [Finding(run.path, str(error), remedy, (RUN_FILE,), True)]
    again = record.get("regenerate")
    if folder.endswith(".partial"):
        word = {"failed": f"failed ({record.get('error')})", "interrupted": "interrupted"}.get(
            record["status"], "killed"
        )
        remedy = f"`{again}` goes on with it; {removal} removes it"
        return [Finding(run.path, f"a partial run that was {word}", remedy, (), False)]
    if not wrong:
        return []
    if wrong == (REPORT,):
        remedy = f"remove {directory / REPORT} and `{again}` draws it anew; nothing is computed"
        return [Finding(run.path, "its page is not the one that was written", remedy, wrong, True)]
    remedy = f"`{again} --force` makes it again; {removal} removes it"
    return [Finding(run.path, f"{len(wrong)} files are missing, were added or changed", remedy, wrong, True)]


def left_by_removal(root: pathlib.Path) -> Iterator[Finding]:
    """Folders that a removal renamed but had no time to delete."""
    for path in sorted(root.glob("*/.removed-*")):
        name = path.relative_to(root).as_posix()
        yield Finding(name, "a removal that was interrupted", f"delete the folder {path}", (), False)
