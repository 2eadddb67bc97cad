"""LossAtlas charts the loss landscape of neural networks.

Sub-packages load on first use, so that importing the package costs nothing.
"""

import importlib
from typing import Any


_SUBPACKAGES = (
    "atlas",
    "data",
    "embedding",
    "geometry",
    "interop",
    "networks",
    "studies",
    "theory",
    "training",
    "workbench",
)
_NAMES = {
    "Landscape": "lossatlas.landscape",
    "survey": "lossatlas.workbench",
    "run_study": "lossatlas.workbench",
    "run_sweep": "lossatlas.workbench",
    "reproduce": "lossatlas.workbench",
    "load": "lossatlas.workbench",
    "citation": "lossatlas._citation",
    "__version__": "lossatlas._version",
}

__all__ = [*_SUBPACKAGES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"lossatlas.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    msg = f"module 'lossatlas' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
