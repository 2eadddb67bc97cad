"""Carry a point to another architecture, keeping what must be kept."""

from lossatlas.embedding._compatible import CompatibleStep as CompatibleStep
from lossatlas.embedding._compatible import compatible_embedding as compatible_embedding
from lossatlas.embedding._depth import LayerMerge as LayerMerge
from lossatlas.embedding._depth import merge_layer as merge_layer
from lossatlas.embedding._depth import prune_by_linearization as prune_by_linearization
from lossatlas.embedding._growth import Growth as Growth
from lossatlas.embedding._growth import plan_growth as plan_growth
from lossatlas.embedding._layer_steps import MergeLayer as MergeLayer
from lossatlas.embedding._lift import LiftStep as LiftStep
from lossatlas.embedding._lift import lift as lift
from lossatlas.embedding._match import Match as Match
from lossatlas.embedding._match import match as match
from lossatlas.embedding._predicted import lift_inertia as lift_inertia
from lossatlas.embedding._record import MapCertificate as MapCertificate
from lossatlas.embedding._record import Record as Record
from lossatlas.embedding._reduce import Reduction as Reduction
from lossatlas.embedding._reduce import ReductionCertificate as ReductionCertificate
from lossatlas.embedding._reduce import reduce as reduce
from lossatlas.embedding._split import add_null_unit as add_null_unit
from lossatlas.embedding._split import replicate as replicate
from lossatlas.embedding._split import split as split
from lossatlas.embedding._split import widen as widen
from lossatlas.embedding._unit_map import UnitMap as UnitMap
from lossatlas.embedding._validate import MapVerdict as MapVerdict
from lossatlas.embedding._validate import validate_map as validate_map
from lossatlas.theory import split_inertia as split_inertia
