"""Carry a point to another architecture, keeping what must be kept."""

from lossatlas.embedding._record import MapCertificate as MapCertificate
from lossatlas.embedding._record import Record as Record
from lossatlas.embedding._reduce import Reduction as Reduction
from lossatlas.embedding._reduce import ReductionCertificate as ReductionCertificate
from lossatlas.embedding._reduce import reduce as reduce
from lossatlas.embedding._split import add_null_unit as add_null_unit
from lossatlas.embedding._split import split as split
from lossatlas.embedding._split import widen as widen
from lossatlas.embedding._unit_map import UnitMap as UnitMap
