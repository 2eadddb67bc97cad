"""Carry a point along the landscape: optimisers, ensembles, flows."""

from lossatlas.training._chain_health import ChainHealth as ChainHealth
from lossatlas.training._chain_health import chain_health as chain_health
from lossatlas.training._curve import CurveTraining as CurveTraining
from lossatlas.training._curve import train_curve as train_curve
from lossatlas.training._ensemble import train_ensemble as train_ensemble
from lossatlas.training._flow import gradient_flow as gradient_flow
from lossatlas.training._result import Ensemble as Ensemble
from lossatlas.training._result import Flow as Flow
from lossatlas.training._result import Training as Training
from lossatlas.training._sampler import Chains as Chains
from lossatlas.training._sampler import sample as sample
from lossatlas.training._sharpness_aware import asam as asam
from lossatlas.training._sharpness_aware import sam as sam
from lossatlas.training._snapshots import log_spaced_steps as log_spaced_steps
from lossatlas.training._spawn import Spawned as Spawned
from lossatlas.training._spawn import spawn as spawn
from lossatlas.training._state import TrainingState as TrainingState
from lossatlas.training._train import train as train
