"""Studies: one file per paper, with its settings, its run, its claims and its figures.

A file that does not start with an underscore is a study; importing it registers it.
"""

from lossatlas.studies._claims import Claim as Claim
from lossatlas.studies._claims import Verdict as Verdict
from lossatlas.studies._claims import claim_equal as claim_equal
from lossatlas.studies._claims import claim_most as claim_most
from lossatlas.studies._claims import claim_near as claim_near
from lossatlas.studies._configure import configure as configure
from lossatlas.studies._configure import convert_setting as convert_setting
from lossatlas.studies._parts import Parts as Parts
from lossatlas.studies._registry import PRESETS as PRESETS
from lossatlas.studies._registry import StudyKind as StudyKind
from lossatlas.studies._registry import find_study as find_study
from lossatlas.studies._registry import register as register
from lossatlas.studies._registry import study_kinds as study_kinds
from lossatlas.studies._study import Picture as Picture
from lossatlas.studies._study import Study as Study
from lossatlas.studies._study import Sweepable as Sweepable
