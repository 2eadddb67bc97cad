"""Peers in environments of their own: made once, fed by files, timed in turn with us.

`Peer("name", requirements, "peer_script.py")` makes a virtual environment in the folder of the benchmarks
(`LOSSATLAS_BENCHMARKS`, by default in the cache of the user) and starts the script in it. The script imports
`_peer_loop` and calls `serve(tasks)`; each task is asked for by name with arguments in JSON, and answers with a
dictionary; the seconds are measured there, around the task alone. A peer that cannot be installed or started says why.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import _common


_FOLDER = pathlib.Path(__file__).parent
TORCH = "torch>=2.6,<2.14"  # what LossAtlas itself is tried with
_INSTALL_SECONDS = 1200


class NotRun(Exception):
    """Why a peer was not run."""


def cache_folder() -> pathlib.Path:
    """Where environments and handed-over files are kept."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lossatlas" / "benchmarks"
    folder = pathlib.Path(os.environ.get("LOSSATLAS_BENCHMARKS", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclasses.dataclass
class Peer:
    """A peer in an environment of its own.

    - `requirements`: what pip installs, in an environment of this interpreter.
    - `script`: a file of this folder. `arguments`: of the script.
    - `source`: a folder with the peer's source, put first on its path.
    """

    name: str
    requirements: Sequence[str]
    script: str
    arguments: Sequence[str] = ()
    source: pathlib.Path | None = None
    process: Any = None
    said: Any = None  # the file that takes what it says: a pipe that nobody reads would stop a chatty peer

    def environment(self) -> pathlib.Path:
        """The interpreter of the environment, which is made where it is missing.

        **Raises:** `NotRun` when it cannot be made.
        """
        key = hashlib.sha256(json.dumps([sys.version, *self.requirements]).encode()).hexdigest()[:8]
        folder = cache_folder() / f"{self.name}-{key}"
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        stamp = folder / "installed.txt"
        if stamp.exists():
            return python
        print(f"making the environment of {self.name} ...", file=sys.stderr, flush=True)
        _command([sys.executable, "-m", "venv", "--clear", str(folder)])
        _command([str(python), "-m", "pip", "install", "--quiet", *self.requirements])
        listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True, check=True)
        stamp.write_text(listed.stdout)
        return python

    def start(self) -> dict[str, str]:
        """Start the script; the versions that it reports.

        **Raises:** `NotRun` when the environment or the script fails.
        """
        python = self.environment()
        if self.source is not None and not self.source.is_dir():
            msg = f"no source in {self.source}"
            raise NotRun(msg)
        path = os.pathsep.join(map(str, [*([self.source] if self.source else []), _FOLDER]))
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process)
        self.process = subprocess.Popen(
            [str(python), str(_FOLDER / self.script), *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        )
        return self.ask("versions")

    def ask(self, task: str, **options: Any) -> dict[str, Any]:
        """Run a task; its answer, with `seconds` on the clock and `processor` of it.

        **Raises:** `NotRun` with the last line of what the script said when it fails.
        """
        assert self.process is not None
        try:
            self.process.stdin.write(json.dumps({"task": task, "options": options}) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait(timeout=60)
            self.said.seek(0)
            lines = self.said.read().strip().splitlines() or ["ended without a word"]
            raise NotRun(lines[-1][:200])
        found = json.loads(answer)
        if "error" in found:
            raise NotRun(found["error"][:200])
        return found

    def stop(self) -> None:
        """End the script."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(timeout=60)
            self.process = None


def alternate(ours: Callable[[], object], ask: Callable[[], dict[str, Any]], repeats: int) -> dict[str, Any]:
    """Time both sides in turn, ours in this process and a task of a peer in its own; the timed fields of a `Row`.

    **Arguments:**
    - `ask`: asks a peer for a task; the seconds are those that it measured around the task.
    """
    mine, theirs = [], []
    for _ in range(repeats):
        mine.append(_common.seconds(ours))
        answer = ask()
        theirs.append((answer["seconds"], answer["processor"]))
    return _common.compare(mine, theirs)


def _command(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        msg = f"installing took longer than {_INSTALL_SECONDS} s"
        raise NotRun(msg) from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if "ERROR" in line] or done.stderr.splitlines()
        msg = f"cannot be installed: {(lines or ['pip failed'])[0][:200]}"
        raise NotRun(msg)


def summary(found: Mapping[str, str]) -> str:
    """Versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in found.items())
