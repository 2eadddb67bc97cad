"""Say before training what will happen."""

from lossatlas.theory._critical_sets import critical_set_dimension as critical_set_dimension
from lossatlas.theory._infinite_width import InfiniteKernel as InfiniteKernel
from lossatlas.theory._infinite_width import infinite_conv as infinite_conv
from lossatlas.theory._infinite_width import infinite_dense as infinite_dense
from lossatlas.theory._layer_traces import expected_layer_traces as expected_layer_traces
from lossatlas.theory._lift_inertia import LiftedInertia as LiftedInertia
from lossatlas.theory._lift_inertia import lift_inertia as lift_inertia
from lossatlas.theory._linear_levels import LinearLevels as LinearLevels
from lossatlas.theory._linear_levels import linear_levels as linear_levels
from lossatlas.theory._split_inertia import AddedInertia as AddedInertia
from lossatlas.theory._split_inertia import null_unit_inertia as null_unit_inertia
from lossatlas.theory._split_inertia import split_inertia as split_inertia
