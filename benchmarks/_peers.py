"""Peers in environments of their own: made once, fed by files, timed in turn with us.

`Peer("name", "peer_script.py")` makes a virtual environment in the folder of the benchmarks
(`LOSSATLAS_BENCHMARKS`, by default in the cache of the user) and starts the script in it. The script imports
`_peer_loop` and calls `serve(tasks)`; each task is asked for by name with arguments in JSON, and answers with a
dictionary; the seconds are measured there, around the task alone. A peer that cannot be installed or started says why.
`tests/cross` asks the same environments for numbers.
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
_TORCH = "torch>=2.6,<2.14"  # what LossAtlas itself is tried with
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "curvlinops": (_TORCH, "curvlinops-for-pytorch==3.0.1", "scipy"),
    "hessian-eigenthings": (_TORCH, "hessian-eigenthings==1.0.0a5"),
    # The package on the index does not run with current PyTorch, and the repository is seldom within reach of pip:
    # a checkout in the folder of the benchmarks is put on the path where there is one.
    "pyhessian": (_TORCH, "numpy", "pyhessian @ git+https://github.com/amirgholami/PyHessian"),
    "loss-landscapes": (_TORCH, "numpy", "loss-landscapes==3.0.6"),
    "landscaper": (_TORCH, "landscaper==1.3.1"),
    # It does not import beside a current JAX: with the JAX of its time.
    "neural-tangents": ("jax==0.4.25", "jaxlib==0.4.25", "neural-tangents==0.6.5", "numpy<2", "scipy<1.13"),
    "torch-kernel": (_TORCH, "numpy"),
}
"""What pip installs for each peer, in an environment of this interpreter."""
_CHECKOUTS = {"pyhessian": "PyHessian"}
_INSTALL_SECONDS = 1200


class NotRun(Exception):
    """Why a peer was not run."""


def cache_folder() -> pathlib.Path:
    """Where environments and handed-over files are kept."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _folder() -> pathlib.Path:
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lossatlas" / "benchmarks"
    return pathlib.Path(os.environ.get("LOSSATLAS_BENCHMARKS", default))


@dataclasses.dataclass
class Peer:
    """A peer in an environment of its own.

    - `name`: one of `REQUIREMENTS`. `script`: a file of this folder. `arguments`: of the script.
    """

    name: str
    script: str
    arguments: Sequence[str] = ()
    process: Any = None
    said: Any = None  # the file that takes what it says: a pipe that nobody reads would stop a chatty peer

    @property
    def source(self) -> pathlib.Path | None:
        """A checkout of the peer, put first on its path."""
        folder = _folder() / _CHECKOUTS.get(self.name, "")
        return folder if self.name in _CHECKOUTS and folder.is_dir() else None

    @property
    def requirements(self) -> list[str]:
        """What pip installs: not what a checkout stands for."""
        return [asked for asked in REQUIREMENTS[self.name] if not (self.source and asked.startswith(f"{self.name} @"))]

    def environment(self, *, make: bool = True) -> pathlib.Path:
        """The interpreter of the environment, which is made where it is missing.

        **Raises:** `NotRun` when it cannot be made, or is missing and must not be made.
        """
        key = hashlib.sha256(json.dumps([sys.version, *self.requirements]).encode()).hexdigest()[:8]
        folder = _folder() / f"{self.name}-{key}"
        python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        stamp = folder / "installed.txt"
        if stamp.exists():
            return python
        if not make:
            msg = f"{self.name} has no environment in {_folder()}; python benchmarks/_peers.py {self.name} makes it"
            raise NotRun(msg)
        print(f"making the environment of {self.name} ...", file=sys.stderr, flush=True)
        cache_folder()
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
            self.process.stdout.close()
            self.said.close()
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


if __name__ == "__main__":  # python benchmarks/_peers.py [NAME ...]: make these environments, or all
    for name in sys.argv[1:] or REQUIREMENTS:
        try:
            print(f"{name}: {Peer(name, '').environment()}")
        except NotRun as reason:
            print(f"{name}: not run: {reason}")
