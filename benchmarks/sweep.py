"""Sweeps: what a cell costs beyond its program, and what a second worker brings.

    python benchmarks/sweep.py [--json FILE] [--quick]

The peer is a plain loop over the same compiled program: one cell after another in one process, nothing kept. A sweep
starts its worker processes, compiles in each, keeps every outcome on disk and writes arrays and a page; its seconds
are those of the whole call. One XLA thread a process on both sides.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import tempfile
import time


os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import _common  # noqa: E402
import swept_studies  # noqa: E402


def plain_loop(study, grid, seeds: int) -> float:
    """Seconds of a loop over the compiled program, compilation included."""
    import jax

    names = list(grid)

    def one(values, seed):
        cell = dataclasses.replace(study)
        for name, value in zip(names, values, strict=True):
            object.__setattr__(cell, name, value)
        return cell.measure(seed)

    start = time.perf_counter()
    with jax.enable_x64(True):
        program = jax.jit(one)
        kept = [
            jax.device_get(program([float(value) for value in values], seed))
            for *values, seed in itertools.product(*grid.values(), range(seeds))
        ]
    del kept
    return time.perf_counter() - start


def sweep(study, name: str, grid, seeds: int, workers: int) -> float:
    """Seconds of the whole sweep, into an empty store; compiled programs of former runs are not used."""
    from lossatlas.workbench import run_sweep

    settings = {f.name: getattr(study, f.name) for f in dataclasses.fields(study) if f.name not in grid}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LOSSATLAS_CACHE"] = str(pathlib.Path(folder) / "cache")
        start = time.perf_counter()
        run = run_sweep(
            name,
            grid=grid,
            seeds=seeds,
            out=pathlib.Path(folder) / "runs",
            workers=workers,
            progress="none",
            **settings,
        )
        seconds = time.perf_counter() - start
        failed = run.failed()
        if failed:
            raise RuntimeError(failed[0]["error"])
    return seconds


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=pathlib.Path, help="write the rows to this file as well")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the cells")
    given = parser.parse_args()
    side, count = (3, 100) if given.quick else (10, 10_000)
    powers = tuple(float(i) / side for i in range(side))
    jobs = {
        f"{count:,} trivial cells": (
            "benchmark-trivial",
            swept_studies.Trivial(),
            {"number": tuple(float(i) for i in range(count))},
            1,
        ),
        f"1-50-1, {side} x {side} grid, 16 seeds, 2,000 Adam steps": (
            "benchmark-initial-scales",
            swept_studies.InitialScales(),
            {"output_power": powers, "input_power": powers},
            16,
        ),
    }
    found = _common.versions("lossatlas", "jax", "distributed")
    print("  ".join(f"{name} {version}" for name, version in found.items()))
    print(
        f"{'job':<52} {'workers':>8} {'seconds':>8} {'per cell':>10} {'of the loop':>12} {'second worker':>14}",
        flush=True,
    )
    rows = []
    for job, (name, study, grid, seeds) in jobs.items():
        cells = seeds
        for values in grid.values():
            cells *= len(values)
        loop = plain_loop(study, grid, seeds)
        seconds = {workers: sweep(study, name, grid, seeds, workers) for workers in (1, 2)}
        rows.append({"job": job, "cells": cells, "loop_seconds": loop, "sweep_seconds": seconds})
        for label, spent in (("loop", loop), ("1", seconds[1]), ("2", seconds[2])):
            gain = f"{seconds[1] / seconds[2]:.2f}" if label == "2" else ""
            per_cell = f"{spent / cells * 1e3:.2f} ms"
            print(f"{job:<52} {label:>8} {spent:>8.1f} {per_cell:>10} {spent / loop:>12.2f} {gain:>14}", flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps({"versions": found, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
