"""The catalogue of a data set, the visits of a training run, the survey.

Names load on first use: the command line reads `SurveyConfig` for its help without importing jax.
"""

import importlib
from typing import Any


_NAMES = {
    "SurveyConfig": "lossatlas.atlas._config",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    msg = f"module 'lossatlas.atlas' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
