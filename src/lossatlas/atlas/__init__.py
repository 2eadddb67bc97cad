"""The catalogue of a data set, the visits of a training run, the survey.

Names load on first use: the command line reads `SurveyConfig` for its help without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lossatlas.atlas._config import SurveyConfig as SurveyConfig
    from lossatlas.atlas._export import survey_arrays as survey_arrays
    from lossatlas.atlas._export import survey_tables as survey_tables
    from lossatlas.atlas._survey import Survey as Survey
    from lossatlas.atlas._survey import check_config as check_config
    from lossatlas.atlas._survey import survey as survey

_NAMES = {
    "Survey": "lossatlas.atlas._survey",
    "SurveyConfig": "lossatlas.atlas._config",
    "check_config": "lossatlas.atlas._survey",
    "survey": "lossatlas.atlas._survey",
    "survey_arrays": "lossatlas.atlas._export",
    "survey_tables": "lossatlas.atlas._export",
}

__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    msg = f"module 'lossatlas.atlas' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
