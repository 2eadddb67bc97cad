"""Data and a loss, and everything that is measured by differentiating it."""

from lossatlas.landscape._landscape import Landscape as Landscape
from lossatlas.landscape._loss import Loss as Loss
from lossatlas.landscape._loss import as_loss as as_loss
from lossatlas.landscape._loss import loss_names as loss_names
