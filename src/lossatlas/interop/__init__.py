"""Converters from and to the models of other libraries."""

from lossatlas.interop._sklearn import Imported as Imported
from lossatlas.interop._sklearn import from_sklearn as from_sklearn
from lossatlas.interop._sklearn import to_sklearn as to_sklearn
from lossatlas.interop._sklearn_file import write_sklearn as write_sklearn
