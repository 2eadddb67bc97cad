"""Data and a loss, and everything that is measured by differentiating it."""

from lossatlas.landscape._landscape import Landscape as Landscape
from lossatlas.landscape._loss import Loss as Loss, as_loss as as_loss, loss_names as loss_names
