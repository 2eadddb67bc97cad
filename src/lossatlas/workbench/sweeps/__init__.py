"""Sweeps: a study measured on a grid of its settings, on one machine or many, so that nothing is lost."""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lossatlas.workbench.sweeps._drive import duration as duration
    from lossatlas.workbench.sweeps._estimate import SweepEstimate as SweepEstimate
    from lossatlas.workbench.sweeps._estimate import estimate_sweep as estimate_sweep
    from lossatlas.workbench.sweeps._grid import Axis as Axis
    from lossatlas.workbench.sweeps._grid import parse_axis as parse_axis
    from lossatlas.workbench.sweeps._run import SweepRun as SweepRun
    from lossatlas.workbench.sweeps._run import sweep_so_far as sweep_so_far
    from lossatlas.workbench.sweeps._sweep import run_sweep as run_sweep

_NAMES = {
    "Axis": "_grid",
    "SweepEstimate": "_estimate",
    "SweepRun": "_run",
    "duration": "_drive",
    "estimate_sweep": "_estimate",
    "parse_axis": "_grid",
    "run_sweep": "_sweep",
    "sweep_so_far": "_run",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"lossatlas.workbench.sweeps.{_NAMES[name]}"), name)
    msg = f"module 'lossatlas.workbench.sweeps' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
