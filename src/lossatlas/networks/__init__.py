"""Architectures and their unit spaces."""

from lossatlas._parameters import (
    named_parameters as named_parameters,
    num_parameters as num_parameters,
    replace_parameters as replace_parameters,
)
from lossatlas.networks._activations import (
    Activation as Activation,
    Segment as Segment,
    activation as activation,
    activation_names as activation_names,
)
from lossatlas.networks._dense import Dense as Dense, DenseLayer as DenseLayer
from lossatlas.networks._init import (
    initialisation_names as initialisation_names,
    weight_std as weight_std,
)
from lossatlas.networks._units import (
    Axis as Axis,
    HasUnitSpaces as HasUnitSpaces,
    UnitSpace as UnitSpace,
    put_units as put_units,
    take_units as take_units,
)
