"""Data sets, generators and preprocessing."""

from lossatlas.data._arrays import from_arrays as from_arrays
from lossatlas.data._dataset import DataSet as DataSet
from lossatlas.data._load import data_names as data_names
from lossatlas.data._load import load as load
from lossatlas.data._preprocessing import Decoded as Decoded
from lossatlas.data._preprocessing import Preprocessing as Preprocessing
