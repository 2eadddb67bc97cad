"""Processes for the tests of faults. They import no jax, so that they start fast and may fork.

`fault_driver.py faults FOLDER kill|full first|resumed|forced`: make a run that meets its fate at one file operation
after the other, and print a line of JSON for each: what a process that starts afterwards finds, and what after asking
again.
`many FOLDER NUMBER`: runs of its own, and others that all want. `hang FOLDER`: begin a run and never end it.
`limited FOLDER`: runs under a limit of the size of files.
"""

import contextlib
import errno
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable

import numpy as np

from lossatlas._errors import InputError
from lossatlas._progress import NoProgress
from lossatlas.workbench import Store, _store
from lossatlas.workbench._index import Index
from lossatlas.workbench._record import damaged, is_finished


_store.platform_facts = lambda: {}
# What Python tells of before it does it.
_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect"}


def make(
    root: pathlib.Path, text: str, computed: list[str] | None = None, *, force: bool = False, stop_before: str = ""
) -> pathlib.Path:
    """A run of two steps and a file."""

    def compute(name: str) -> dict[str, np.ndarray]:
        if name == stop_before:
            raise KeyboardInterrupt
        if computed is not None:
            computed.append(name)
        return {"value": np.arange(3.0)}

    def write(folder, journal):
        for name in ("one", "two"):
            journal(name, lambda name=name: compute(name))
            root.with_name(f"{root.name}-{name}").touch()
        (folder / "data.zarr").mkdir()
        (folder / "data.zarr" / "values").write_text(text)
        return {"claims": [{"verdict": "holds"}]}

    return make_with(root, "0123456789ab", write, force=force)


def make_with(root: pathlib.Path, key: str, write, *, force: bool = False) -> pathlib.Path:
    """A run of given work."""
    header = {"config": {"seed": 0}, "regenerate": "lossatlas study run toy"}
    place = _store.Place(root, "study", "toy", key)
    return _store.make_run(place, header, write, meter=NoProgress(), force=force)


class Countdown:
    """Acts at the file operation of a number that changes a folder, once; what is written to a file counts by its
    opening."""

    def __init__(self, folder: pathlib.Path, number: int, act: Callable[[], None]):
        self.folder, self.left, self.act = str(folder), number, act
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.left <= 0 or event not in _OPERATIONS or self.folder not in str(arguments[0]):
            return
        if f"{self.folder}-" in str(arguments[0]):
            return  # what the test itself notes beside it
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        self.left -= 1
        if self.left == 0:
            self.act()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def meets(root: pathlib.Path, number: int, act: Callable[[], None], *, force: bool) -> bool:
    """Make the run in a process of its own; whether it came to that operation."""
    child = os.fork()
    if child == 0:
        countdown = Countdown(root, number, act)
        try:
            make(root, "new", force=force)
            os._exit(3 if countdown.left == 0 else 0)
        except (OSError, InputError):
            os._exit(4)
        finally:
            os._exit(5)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 3, 4, -signal.SIGKILL), status
    return status != 0


def whole(root: pathlib.Path) -> dict[str, str]:
    """The text of every complete run, whatever its folder is called; steps may be left beside it."""

    def is_whole(path: pathlib.Path) -> bool:
        return is_finished(path) and all(name.startswith("finished-steps/") for name in damaged(path))

    return {path.name: (path / "data.zarr/values").read_text() for path in root.glob("study/toy-*") if is_whole(path)}


def faults(folder: pathlib.Path, fate: str, how: str) -> None:
    """Every operation in turn, until the run needs no more of them."""
    for number in range(1, 1000):
        root = folder / f"run-{number}"
        if how == "forced":
            make(root, "old")
        if how == "resumed":
            with contextlib.suppress(KeyboardInterrupt):
                make(root, "new", stop_before="two")
        met = meets(root, number, kill if fate == "kill" else fill, force=how == "forced")
        store = Store(root)
        before = {
            "met": met,
            "whole": whole(root),
            "running": len(store.runs(status="running")),
            "done": len(list(folder.glob(f"{root.name}-*"))),
            "steps": len(list(root.glob("study/*.partial/finished-steps/*.npz"))),
            "damaged": [finding.path for finding in store.verify() if finding.is_damaged],
        }
        computed: list[str] = []
        make(root, "new", computed)
        after = {
            "whole": whole(root),
            "computed": len(computed),
            "damaged": [finding.path for finding in store.verify() if finding.is_damaged],
            "listed": sorted(run.path for run in store.runs()),
            "indexed": sorted(Index(root).read() or ()),
        }
        sys.stdout.write(json.dumps({"operation": number, "before": before, "after": after}) + "\n")
        if not met:
            return


def many(folder: pathlib.Path, number: str) -> None:
    """Twelve runs of its own between twelve that every process wants."""
    first = int(number)
    for i in range(12):
        for key in (f"{first + 1:x}{i:011x}", f"0{(i + 4 * first) % 12:011x}"):

            def write(run, journal, key=key):
                del journal
                with (folder / "made").open("a") as file:
                    file.write(f"{key}\n")
                (run / "values").write_text(key * 100)
                return {}

            make_with(folder, key, write)


def hang(folder: pathlib.Path) -> None:
    """Begin a run and never end it."""

    def write(run, journal):
        del run, journal
        sys.stdout.write("working\n")
        sys.stdout.flush()
        time.sleep(300)
        return {}

    make_with(folder, "0123456789ab", write)


def limited(folder: pathlib.Path) -> None:
    """A file that is larger than any may be, then one that is not."""
    import resource

    def write(size: int):
        def work(run, journal):
            del journal
            (run / "values").write_bytes(bytes(size))
            return {}

        return work

    most = 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        make_with(folder, "0123456789ab", write(2 * most))
    except OSError as error:
        partial = folder / "study" / "toy-0123456789ab.partial"
        status = json.loads((partial / "run.json").read_text())["status"]
        sys.stdout.write(f"{(error.strerror or '').replace(' ', '-')}:{status}\n")
    directory = make_with(folder, "0123456789ab", write(most))
    sys.stdout.write("finished\n" if is_finished(directory) else "lost\n")


if __name__ == "__main__":
    work = {"faults": faults, "many": many, "hang": hang, "limited": limited}[sys.argv[1]]
    work(pathlib.Path(sys.argv[2]), *sys.argv[3:])
