"""What benchmarks share: one thread, alternating repeats, rows, a table and a JSON file.

Import this module and call `single_thread()` before jax, numpy or torch is imported: thread pools are sized then.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any


_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def single_thread() -> str:
    """One thread for everything, by environment variables and by pinning the process to one processor.

    OpenMP, MKL and OpenBLAS read their variables when they are loaded; XLA sizes its pool by the processors that
    the process may use, so it is pinned to one of them (on Linux; elsewhere Eigen's threads in XLA are off, and
    the row says so).
    """
    for name in _THREADS:
        os.environ[name] = "1"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if not hasattr(os, "sched_setaffinity"):
        return "1 (not pinned)"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return "1 (pinned to one processor)"


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one side over the repeats."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        return cls(min(seconds), statistics.median(seconds), max(seconds))


@dataclasses.dataclass(frozen=True)
class Row:
    """One job measured on both sides, in seconds.

    - `ratio`: peer / ours, medians of the time on the clock; `ratio_range`: the extremes of one pair.
    - `processor_ratio`: peer / ours, least processor time: what other work on the machine disturbs least.
    - `compile_seconds`: the first call of ours, compiler included; about 0 where an earlier row compiled the program.
    """

    job: str
    ours: Times | None = None
    peer_name: str = ""
    peer: Times | None = None
    ratio: float | None = None
    ratio_range: tuple[float, float] | None = None
    processor_ratio: float | None = None
    compile_seconds: float | None = None
    accuracy: str = ""
    target: float | None = None
    threads: str = ""
    not_run: str = ""


def alternate(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int, per_ours: int = 1, per_peer: int = 1
) -> dict[str, Any]:
    """Time both sides in turn, so that a change of the machine's load meets both; the timed fields of a `Row`.

    Each side is divided by its number of units (`per_ours`, `per_peer`), for instance training runs. Both must be
    warm.
    """
    first, second = [], []
    for _ in range(repeats):
        first.append(seconds(ours, per_ours))
        second.append(seconds(peer, per_peer))
    return compare(first, second)


def compare(ours: Sequence[tuple[float, float]], peer: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The timed fields of a `Row` from seconds on the clock and of the processor, measured in turn."""
    (wall, cpu), (peer_wall, peer_cpu) = zip(*ours, strict=True), zip(*peer, strict=True)
    pairs = [b / a for a, b in zip(wall, peer_wall, strict=True)]
    return {
        "ours": Times.of(wall),
        "peer": Times.of(peer_wall),
        "ratio": statistics.median(peer_wall) / statistics.median(wall),
        "ratio_range": (min(pairs), max(pairs)),
        "processor_ratio": min(peer_cpu) / min(cpu),
    }


def seconds(fn: Callable[[], object], units: int = 1) -> tuple[float, float]:
    """Time on the clock and processor time of one unit."""
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    return (time.perf_counter() - wall) / units, (time.process_time() - cpu) / units


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, the platform and the packages; absent ones are named as such."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def arguments(description: str, repeats: int) -> argparse.Namespace:
    """`--json FILE` and `--repeats N`."""
    return parser(description, repeats).parse_args()


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """The parser of the options that all have, for those that have more."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=pathlib.Path, help="write the rows to this file as well")
    made.add_argument("--repeats", type=int, default=repeats, help=f"timed repeats of each side (default {repeats})")
    return made


def _figure(ratio: float | None) -> str:
    """One decimal, two below 10."""
    return "" if ratio is None else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"


def report(rows: Iterable[Row], found: dict[str, str], path: pathlib.Path | None) -> None:
    """Print the table, each row as soon as it is measured, and write it as JSON where a path is given."""
    print("  ".join(f"{name} {version}" for name, version in found.items()))
    head = f"{'job':<62} {'ours':>10} {'peer':>10} {'ratio':>7} {'min..max':>13} {'processor':>9}"
    print(f"{head} {'aim':>5} {'compile':>8}  accuracy", flush=True)
    measured = []
    for row in rows:
        measured.append(row)
        if row.not_run or row.ours is None or row.peer is None or row.ratio_range is None:
            print(f"{row.job:<62} not run: {row.not_run}", flush=True)
            continue
        low, high = row.ratio_range
        aim = "" if row.target is None else f"{row.target:g}"
        print(
            f"{row.job:<62} {row.ours.median * 1e3:>7.2f} ms {row.peer.median * 1e3:>7.1f} ms {_figure(row.ratio):>7} "
            f"{f'{_figure(low)}..{_figure(high)}':>13} {_figure(row.processor_ratio):>9} "
            f"{aim:>5} {row.compile_seconds or 0.0:>6.2f} s  {row.accuracy}",
            flush=True,
        )
    if path is not None:
        content = {"versions": found, "rows": [dataclasses.asdict(row) for row in measured]}
        path.write_text(json.dumps(content, indent=2) + "\n")
