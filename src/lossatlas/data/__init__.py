"""Data sets, generators and preprocessing."""

from lossatlas.data._arrays import from_arrays as from_arrays
from lossatlas.data._dataset import DataSet as DataSet
from lossatlas.data._examples import Arrays as Arrays
from lossatlas.data._examples import check_arrays as check_arrays
from lossatlas.data._examples import read_npz as read_npz
from lossatlas.data._files import read_table as read_table
from lossatlas.data._generators import hierarchy_1d as hierarchy_1d
from lossatlas.data._generators import sigmoid_grid as sigmoid_grid
from lossatlas.data._generators import teacher as teacher
from lossatlas.data._load import data_names as data_names
from lossatlas.data._load import load as load
from lossatlas.data._preprocessing import Decoded as Decoded
from lossatlas.data._preprocessing import Preprocessing as Preprocessing
