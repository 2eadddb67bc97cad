"""Converters from and to the models of other libraries."""

from lossatlas.interop._keras import KerasNetwork as KerasNetwork
from lossatlas.interop._keras import keras_function as keras_function
from lossatlas.interop._keras import to_keras as to_keras
from lossatlas.interop._sklearn import Imported as Imported
from lossatlas.interop._sklearn import from_sklearn as from_sklearn
from lossatlas.interop._sklearn import to_sklearn as to_sklearn
from lossatlas.interop._sklearn_file import write_sklearn as write_sklearn
from lossatlas.interop._torch_export import export_torch as export_torch
from lossatlas.interop._torch_export import to_torch as to_torch
from lossatlas.interop._torch_files import read_torch_weights as read_torch_weights
from lossatlas.interop._torch_function import TorchNetwork as TorchNetwork
from lossatlas.interop._torch_function import resized_module as resized_module
from lossatlas.interop._torch_function import torch_function as torch_function
from lossatlas.interop._torch_stack import from_torch as from_torch
