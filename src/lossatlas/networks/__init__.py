"""Architectures and their unit spaces."""

from lossatlas._parameters import Buffer as Buffer
from lossatlas._parameters import (
    named_parameters as named_parameters,
)
from lossatlas._parameters import (
    num_parameters as num_parameters,
)
from lossatlas._parameters import (
    replace_parameters as replace_parameters,
)
from lossatlas.networks._activations import (
    Activation as Activation,
)
from lossatlas.networks._activations import (
    Segment as Segment,
)
from lossatlas.networks._activations import (
    activation as activation,
)
from lossatlas.networks._activations import (
    activation_names as activation_names,
)
from lossatlas.networks._architecture import Architecture as Architecture
from lossatlas.networks._architecture import check_tensors as check_tensors
from lossatlas.networks._architecture import load_foreign as load_foreign
from lossatlas.networks._architecture import read_architecture as read_architecture
from lossatlas.networks._conv import Conv as Conv
from lossatlas.networks._conv import ConvLayer as ConvLayer
from lossatlas.networks._dense import Dense as Dense
from lossatlas.networks._dense import DenseLayer as DenseLayer
from lossatlas.networks._expansion import Expansion as Expansion
from lossatlas.networks._file import SavedNetwork as SavedNetwork
from lossatlas.networks._file import check_savable as check_savable
from lossatlas.networks._file import is_model_file as is_model_file
from lossatlas.networks._file import load as load
from lossatlas.networks._file import read_metadata as read_metadata
from lossatlas.networks._file import read_tensors as read_tensors
from lossatlas.networks._file import save as save
from lossatlas.networks._file import tensor_name as tensor_name
from lossatlas.networks._file import write_tensors as write_tensors
from lossatlas.networks._gauges import (
    apply_mixing as apply_mixing,
)
from lossatlas.networks._gauges import (
    apply_permutation as apply_permutation,
)
from lossatlas.networks._gauges import (
    apply_reflection as apply_reflection,
)
from lossatlas.networks._gauges import (
    apply_scale as apply_scale,
)
from lossatlas.networks._gauges import (
    gauge_tangents as gauge_tangents,
)
from lossatlas.networks._gauges import (
    union_rank as union_rank,
)
from lossatlas.networks._init import balanced_std as balanced_std
from lossatlas.networks._init import (
    initialisation_names as initialisation_names,
)
from lossatlas.networks._init import (
    weight_std as weight_std,
)
from lossatlas.networks._layers import Affine as Affine
from lossatlas.networks._layers import BatchNorm as BatchNorm
from lossatlas.networks._layers import Convolution as Convolution
from lossatlas.networks._layers import StreamNorm as StreamNorm
from lossatlas.networks._recurrent import Recurrent as Recurrent
from lossatlas.networks._residual import Residual as Residual
from lossatlas.networks._residual import ResidualBlock as ResidualBlock
from lossatlas.networks._shape import input_shape as input_shape
from lossatlas.networks._shape import size_words as size_words
from lossatlas.networks._transformer import Attention as Attention
from lossatlas.networks._transformer import FeedForward as FeedForward
from lossatlas.networks._transformer import Transformer as Transformer
from lossatlas.networks._transformer import TransformerBlock as TransformerBlock
from lossatlas.networks._units import (
    Axis as Axis,
)
from lossatlas.networks._units import (
    HasUnitSpaces as HasUnitSpaces,
)
from lossatlas.networks._units import (
    UnitSpace as UnitSpace,
)
from lossatlas.networks._units import (
    fed_constants as fed_constants,
)
from lossatlas.networks._units import (
    put_units as put_units,
)
from lossatlas.networks._units import (
    resized as resized,
)
from lossatlas.networks._units import (
    take_units as take_units,
)
