"""The catalogue of a data set, the visits of a training run, the survey.

Names load on first use: the command line reads `SurveyConfig` for its help without importing jax.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from lossatlas.atlas._catalogue import Catalogue as Catalogue
    from lossatlas.atlas._catalogue import make_catalogue as make_catalogue
    from lossatlas.atlas._config import BIG as BIG
    from lossatlas.atlas._config import SurveyConfig as SurveyConfig
    from lossatlas.atlas._diagnose import diagnose as diagnose
    from lossatlas.atlas._diagnosis import Diagnosis as Diagnosis
    from lossatlas.atlas._diagnosis import LayerDiagnosis as LayerDiagnosis
    from lossatlas.atlas._diagnosis import SmallNetwork as SmallNetwork
    from lossatlas.atlas._diagnosis import Standing as Standing
    from lossatlas.atlas._diagnosis import WayOut as WayOut
    from lossatlas.atlas._diagnosis_tables import diagnosis_tables as diagnosis_tables
    from lossatlas.atlas._entry import Entry as Entry
    from lossatlas.atlas._export import survey_arrays as survey_arrays
    from lossatlas.atlas._export import survey_tables as survey_tables
    from lossatlas.atlas._monitor import Monitor as Monitor
    from lossatlas.atlas._monitor import Observation as Observation
    from lossatlas.atlas._search import FULL as FULL
    from lossatlas.atlas._search import QUICK as QUICK
    from lossatlas.atlas._search import Search as Search
    from lossatlas.atlas._selection import HeldOut as HeldOut
    from lossatlas.atlas._selection import Selection as Selection
    from lossatlas.atlas._survey import Survey as Survey
    from lossatlas.atlas._survey import check_config as check_config
    from lossatlas.atlas._survey import survey as survey
    from lossatlas.atlas._training import BigTraining as BigTraining
    from lossatlas.atlas._visits import SlowDown as SlowDown
    from lossatlas.atlas._visits import Visit as Visit
    from lossatlas.atlas._visits import Visits as Visits
    from lossatlas.atlas._visits import find_visits as find_visits

_NAMES = {
    "BIG": "lossatlas.atlas._config",
    "BigTraining": "lossatlas.atlas._training",
    "Catalogue": "lossatlas.atlas._catalogue",
    "Diagnosis": "lossatlas.atlas._diagnosis",
    "Entry": "lossatlas.atlas._entry",
    "FULL": "lossatlas.atlas._search",
    "HeldOut": "lossatlas.atlas._selection",
    "Monitor": "lossatlas.atlas._monitor",
    "Observation": "lossatlas.atlas._monitor",
    "QUICK": "lossatlas.atlas._search",
    "LayerDiagnosis": "lossatlas.atlas._diagnosis",
    "Search": "lossatlas.atlas._search",
    "Selection": "lossatlas.atlas._selection",
    "SlowDown": "lossatlas.atlas._visits",
    "SmallNetwork": "lossatlas.atlas._diagnosis",
    "Standing": "lossatlas.atlas._diagnosis",
    "Survey": "lossatlas.atlas._survey",
    "SurveyConfig": "lossatlas.atlas._config",
    "Visit": "lossatlas.atlas._visits",
    "Visits": "lossatlas.atlas._visits",
    "WayOut": "lossatlas.atlas._diagnosis",
    "check_config": "lossatlas.atlas._survey",
    "diagnose": "lossatlas.atlas._diagnose",
    "diagnosis_tables": "lossatlas.atlas._diagnosis_tables",
    "find_visits": "lossatlas.atlas._visits",
    "make_catalogue": "lossatlas.atlas._catalogue",
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
