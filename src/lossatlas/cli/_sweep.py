"""`lossatlas sweep`: a study measured on a grid of its settings, on one machine or many."""

import os
import pathlib
import sys
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lossatlas._errors import InputError


Preset = Literal["smoke", "quick", "paper"]
_Flag = Parameter(negative="", show_default=False)


def sweep(
    name: str,
    /,
    *,
    grid: Annotated[list[str], Parameter(negative="")],
    seeds: int = 1,
    preset: Preset = "quick",
    config: pathlib.Path | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: pathlib.Path | None = None,
    retries: int = 2,
    cell_seconds: float | None = None,
    cell_memory: float | None = None,
    resources: str | None = None,
    dry_run: Annotated[bool, _Flag] = False,
    retry_failed: Annotated[bool, _Flag] = False,
    resume: Annotated[bool, Parameter(show_default=False)] = True,
    out: pathlib.Path | None = None,
    json: Annotated[bool, _Flag] = False,
    progress: Literal["rich", "text", "none"] | None = None,
    **options: str,
) -> None:
    """Measure a study on a grid of its settings.

    Parameters
    ----------
    name
        The study.
    grid
        A setting and its values: width=10,20,40, or gamma=0.5:2:0.25 for start, stop (included) and step. Once for each
        setting.
    seeds
        How many seeds in each cell of the grid.
    preset
        Where the settings that all cells share come from.
    config
        A TOML file of settings, in a table named after the study or at the top.
    workers
        How many processes on this machine; by default one for each processor. 0 measures in this process, without
        limits.
    scheduler
        Address of a dask scheduler, like tcp://host:8786.
    slurm
        A TOML file that says how SLURM, or another batch system, starts workers.
    retries
        How often a cell that raises, or whose process dies, is tried again.
    cell_seconds
        Seconds that a cell may take, compilation apart.
    cell_memory
        GB that the process of a cell may take.
    resources
        What workers must have, as dask knows it: GPU=1.
    dry_run
        Say how many cells there are and how long they will take, and measure nothing.
    retry_failed
        Measure the cells anew that failed.
    resume
        Go on with what is finished; --no-resume measures everything anew.
    out
        Folder of runs; by default LOSSATLAS_STORE, or ./lossatlas.
    json
        Print JSON, for machines.
    progress
        How to show progress on stderr: rich on a terminal, none elsewhere, unless you say.
    options
        Settings of the study that all cells share, as `lossatlas study show NAME` lists them.
    """
    from lossatlas.workbench import run_sweep
    from lossatlas.workbench.sweeps import parse_axis

    if sum(choice is not None for choice in (workers, scheduler, slurm)) > 1:
        msg = "Give one of --workers, --scheduler and --slurm."
        raise InputError(msg)
    axes = [parse_axis(text) for text in grid]
    twice = sorted({axis.name for axis in axes if [other.name for other in axes].count(axis.name) > 1})
    if twice:
        msg = f"{twice[0]} is on the grid twice; give all its values at once."
        raise InputError(msg)
    asked: dict[str, Any] = {
        "grid": dict(axes),
        "seeds": seeds,
        "preset": preset,
        "toml": config,
        "out": out,
        **options,
    }
    if dry_run:
        _print_estimate(name, asked, workers, as_json=json, progress=progress)
        return
    _prepare_environment(in_process=workers == 0)
    run = run_sweep(
        name,
        **asked,
        workers=workers if workers is not None else scheduler or slurm,
        retries=retries,
        cell_seconds=cell_seconds,
        cell_memory=cell_memory,
        resources=_resources(resources),
        retry_failed=retry_failed,
        force=not resume,
        progress=progress,
    )
    print_sweep(run, as_json=json)


def _prepare_environment(*, in_process: bool) -> None:
    """The processes of the workers set up jax themselves; this one needs it only where it measures."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if in_process:
        from lossatlas._process import prepare_jax

        prepare_jax()


def _resources(text: str | None) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.split(",")] if text else []
        return {name.strip(): float(amount) for name, amount in pairs}
    except ValueError:
        msg = f"--resources is written NAME=amount,NAME=amount, like GPU=1; got {text!r}."
        raise InputError(msg) from None


def _print_estimate(name: str, asked: dict[str, Any], workers: int | None, *, as_json: bool, progress: Any) -> None:
    from lossatlas.cli._output import print_json
    from lossatlas.workbench import estimate_sweep
    from lossatlas.workbench.sweeps import duration

    progress = progress or ("rich" if sys.stderr.isatty() else "none")
    found = estimate_sweep(name, **asked, progress=progress)
    workers = max(1, workers if workers is not None else os.cpu_count() or 1)
    seconds = found.seconds(workers)
    if as_json:
        print_json({**vars(found), "workers": workers, "seconds": seconds})
        return
    programs = "one program" if found.programs == 1 else f"{found.programs:,} programs"
    sys.stdout.write(f"{found.cells:,} cells, {found.known:,} of them known; the others need {programs}.\n")
    for settings, error in found.errors.items():
        sys.stdout.write(f"A cell failed ({settings}): {error}\n")
    if seconds is not None and found.cell_seconds is not None:
        compiling = f"a program compiles in {duration(found.compile_seconds)}, " if found.compile_seconds else ""
        on = "one worker" if workers == 1 else f"{workers} workers"
        sys.stdout.write(
            f"Timed: {compiling}a cell takes {duration(found.cell_seconds)}; about {duration(seconds)} on {on}.\n"
        )


def print_sweep(run: Any, *, as_json: bool) -> None:
    """How the cells came out, what failed, and where the files are."""
    from lossatlas.cli._output import print_json, print_rows

    if as_json:
        print_json({**run.record, "failed": run.failed()})
        return
    counts = ", ".join(f"{count:,} {status}" for status, count in run.counts().items())
    sys.stdout.write(f"{run.name}: {counts}\n")
    failed = run.failed()
    print_rows(failed[:20])
    if len(failed) > 20:
        sys.stdout.write(f"and {len(failed) - 20:,} more that failed; --json has all\n")
    if failed:
        sys.stdout.write("--retry-failed measures these cells again.\n")
    sys.stdout.write(f"report: {run.report}\nrun: {run.directory}\n")
