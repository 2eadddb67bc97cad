"""One theme and every figure, from plain tables, numpy and xarray; plotly figures out."""

from lossatlas.figures._atlas import atlas_figure as atlas_figure
from lossatlas.figures._curves import training_curve as training_curve
from lossatlas.figures._diagnosis import eigenvalues_figure as eigenvalues_figure
from lossatlas.figures._diagnosis import groups_figure as groups_figure
from lossatlas.figures._diagnosis import monitor_figure as monitor_figure
from lossatlas.figures._diagnosis import stall_figure as stall_figure
from lossatlas.figures._diagnosis import ways_figure as ways_figure
from lossatlas.figures._diagnosis import widths_figure as widths_figure
from lossatlas.figures._distance import distance_figure as distance_figure
from lossatlas.figures._entries import shown_training as shown_training
from lossatlas.figures._numbers import format_number as format_number
from lossatlas.figures._numbers import format_steps as format_steps
from lossatlas.figures._plain import counts_figure as counts_figure
from lossatlas.figures._plain import curves_figure as curves_figure
from lossatlas.figures._plain import matrix_figure as matrix_figure
from lossatlas.figures._plain import points_figure as points_figure
from lossatlas.figures._reduction import reduction_figure as reduction_figure
from lossatlas.figures._selection import selection_figure as selection_figure
from lossatlas.figures._shrinking import shrinking_figure as shrinking_figure
from lossatlas.figures._sweep import sweep_figure as sweep_figure
from lossatlas.figures._sweep import sweep_status_figure as sweep_status_figure
from lossatlas.figures._theme import dark_colours as dark_colours
from lossatlas.figures._tree import tree_figure as tree_figure
