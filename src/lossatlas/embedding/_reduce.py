"""The smallest network that a checkpoint is, at a tolerance in output units."""

import copy
import dataclasses
import math
from typing import Any, Literal

import equinox as eqx
import numpy as np

from lossatlas._errors import InputError
from lossatlas._precision import require_float64
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._constants import LayerArrays, arrays_of, as_network
from lossatlas.embedding._exact_steps import (
    compress_linear,
    fold_constant_units,
    linearise_neurons,
    merge_copies,
    merge_linear_layer,
)
from lossatlas.embedding._exact_units import merge_units
from lossatlas.embedding._layer_steps import Refit
from lossatlas.embedding._pruning import pruning_path
from lossatlas.embedding._record import Data, gradient, inputs_of, max_norm, outputs
from lossatlas.embedding._reduction_state import ReductionState
from lossatlas.embedding._refit import refit_layer
from lossatlas.embedding._unit_map import require_unit_spaces
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense


_EXACT = 1e-10
_REFIT_FROM = 1e-6
_MAX_ROUNDS = 50
_LEAST_SAVED = 0.01


@shown
class ReductionCertificate(eqx.Module):
    """What a reduction did to the function on the data, and to the gradient.

    - `output_change`, `mean_change`: the largest and the mean change of an output on the data, as measured.
    - `bound`: an a-priori bound on the 2-norm of the change of the outputs of any example of the data: the sum over
      the steps of what they change in the next layer times a Lipschitz constant of the rest; infinite for
      activations without one, and where units of other architectures than `Dense` stand in for others.
    - `gradient_before`, `gradient_after`: max-norms of the gradient; None without targets.
    - `criticality_defect`: 0 when no merged layer was a bottleneck, so that a critical point stays critical if all
      steps were exact.
    - `is_exact`: whether only steps were taken that carry critical points to critical points up to the change
      (no least-squares refit, no unit that stands in for others).
    """

    output_change: float
    mean_change: float
    bound: float
    gradient_before: float | None
    gradient_after: float | None
    criticality_defect: int
    is_exact: bool


@shown
class Reduction(eqx.Module):
    """How a network was reduced.

    - `start`: the network before.
    - `plan`: the steps in order; each has a `note` in words.
    - `certificate`: what it did on the data.
    - `tolerance`: the promise on the largest output change over all steps.
    """

    start: Network
    plan: tuple[Any, ...]
    certificate: ReductionCertificate
    tolerance: float = eqx.field(static=True)

    def __repr__(self) -> str:
        change = self.certificate.output_change
        return f"Reduction({len(self.plan)} steps; outputs changed by {change:.2g} of {self.tolerance:.2g} allowed)"

    def replay(self, network: Network) -> Network:
        """The plan carried out on a network of the same sizes as `start`."""
        for step in self.plan:
            network = step.apply(network)
        return network

    @property
    def notes(self) -> tuple[str, ...]:
        """The steps in words."""
        return tuple(f"{_place(step)}: {step.note}" for step in self.plan if step.note)


def _place(step: Any) -> str:
    return f"layer {step.layer}" if hasattr(step, "layer") else step.space


def reduce(
    network: Network,
    landscape: Data,
    *,
    tolerance: float = _EXACT,
    width: bool = True,
    depth: bool = True,
    linear: bool = True,
    bottlenecks: Literal["keep", "merge"] = "keep",
    refit: bool | None = None,
) -> tuple[Network, Reduction]:
    r"""Find the smallest network that gives the same outputs on the data, up to a tolerance.

    Repeated until nothing changes, front to back: neurons that are constant on the data, or that nothing reads, are
    folded into biases; neurons that agree up to the symmetries of the activation (sign, scale, reflection) are
    merged; neurons that act affinely on the data become linear units, which are compressed to the rank of what
    they carry; hidden layers without neurons are merged into the next where that keeps critical points critical. These
    steps are exact at the default tolerance: the reduced network of a critical point is critical. At larger
    tolerances each layer is also refitted by a few of its neurons and new linear units (which keeps outputs on the
    data, not criticality). The widths that are left are the effective widths, the layers the effective depth.

    In other architectures with unit spaces the exact steps are those on single units (constant, unread, copies); at
    larger tolerances units go as in [`lossatlas.embedding.pruning_path`][].

    **Arguments:**
    - `network`: a `Dense`, or any network with unit spaces.
    - `landscape`: a `Landscape`, or inputs of shape (n, ...) alone (then nothing is said about gradients). For a
      `Dense` all the data are used at once: memory n times the largest width.
    - `tolerance`: the largest allowed change of any output on the data, in output units, over all steps together; a
      step that would exceed it is undone. Default 1e-10.
    - `width`: whether to merge and fold neurons. `depth`: whether to merge linear layers.
    - `linear`: whether neurons may become linear units; without it only whole layers are linearised, and only
      if the layer then merges. Like `depth`, `bottlenecks` and `refit` of a `Dense` only.
    - `bottlenecks`: a linear layer narrower than both its neighbours is kept, as linear units, since merging it can
      make a critical point uncritical; `"merge"` removes it all the same and reports the defect.
    - `refit`: whether to use the least-squares refit; default from a tolerance of 1e-6 on.

    **Returns:**
    The reduced network and a [`lossatlas.embedding.Reduction`][]. Cost: some tens of passes through the network for
    each layer and round, in numpy; gradients twice. A refit adds one QR of the n rows of all that enters and leaves the
    layer. Every step that is taken is tested on all rows; the search spares work: a candidate that fails on some 256
    rows is not measured on the others; the nonlinear polish of a refit takes at most 1,024 rows, and is left out where
    rows times outputs times parameters squared exceed 2e9, so that wide layers get their start alone; and rounds
    of refits end once one saves less than a hundredth of the parameters.

    **Raises:** `InputError` for a network without unit spaces, empty or NaN inputs, a tolerance that is not positive,
    and float32 with a tolerance below 1e-5.

    !!! cite
        Zhang et al. 2021, arXiv 2105.14573 (merging, Section 5) and Bai et al. 2022, arXiv 2205.13283 (layers).
    """
    inputs = inputs_of(landscape, "reduce")
    if not (np.isfinite(tolerance) and tolerance > 0):
        msg = f"tolerance must be a positive number in output units, got {tolerance}."
        raise InputError(msg)
    if tolerance < 1e-5:
        require_float64(network, f"A reduction to tolerance {tolerance:g}")
    if not (width or depth):
        msg = "reduce needs width=True or depth=True."
        raise InputError(msg)
    if not isinstance(network, Dense):
        return _reduce_units(network, landscape, float(tolerance))
    dense = network
    layers = [LayerArrays(*(None if a is None else np.asarray(a) for a in layer)) for layer in arrays_of(dense)]
    state = ReductionState(layers, dense.activation, np.asarray(inputs, layers[0].weight.dtype), np.empty(0))
    state.reference = state.features[-1]
    refit = tolerance >= _REFIT_FROM if refit is None else refit
    scale = max(1.0, float(np.abs(state.reference).max(initial=0.0)))
    if bottlenecks not in ("keep", "merge"):
        msg = f"bottlenecks must be 'keep' or 'merge', got {bottlenecks!r}."
        raise InputError(msg)
    steps = {"width": width, "depth": depth, "linear": linear, "merge_all": bottlenecks == "merge"}
    # What is exact goes first and takes nothing from the allowance.
    _exact_rounds(state, min(tolerance, _EXACT * scale), **steps)
    if tolerance > _EXACT * scale:
        _approximate_rounds(state, tolerance, use_refit=refit and width and linear, **steps)
    reduced = as_network(state.layers, dense.activation)
    return reduced, _certify(dense, reduced, state, landscape, float(tolerance))


def _reduce_units(network: Network, data: Data, tolerance: float) -> tuple[Network, Reduction]:
    """Exact steps on single units, then, where the tolerance leaves room, a pruning path."""
    require_unit_spaces(network)
    inputs = inputs_of(data, "reduce")
    reference = np.asarray(outputs(network, inputs), float)
    exact = min(tolerance, _EXACT * max(1.0, float(np.abs(reference).max(initial=0.0))))

    def change(of: Network) -> np.ndarray:
        return np.abs(np.asarray(outputs(of, inputs), float) - reference)

    reduced, plan = merge_units(network, inputs)
    if not change(reduced).max(initial=0.0) <= exact:
        reduced, plan = network, ()
    bound = float(np.linalg.norm(change(reduced).reshape(len(inputs), -1), axis=1).max())
    if tolerance > exact:
        point = pruning_path(reduced, inputs).within(tolerance - float(change(reduced).max(initial=0.0)))
        reduced, plan = point.network, (*plan, *point.plan)
        bound = bound if not point.plan else math.inf
    before = after = None
    if isinstance(data, Landscape):
        before, after = max_norm(gradient(data, network)), max_norm(gradient(data, reduced))
    changes = change(reduced)
    certificate = ReductionCertificate(
        float(changes.max(initial=0.0)), float(changes.mean()), bound, before, after, 0, math.isfinite(bound)
    )
    return reduced, Reduction(network, plan, certificate, tolerance)


def _exact_rounds(
    state: ReductionState, allowance: float, *, width: bool, depth: bool, linear: bool, merge_all: bool
) -> bool:
    """Every exact step on every layer until nothing changes."""
    changed_at_all = False
    for _ in range(_MAX_ROUNDS):
        changed, layer = False, 0
        while layer < state.num_hidden:
            if width:
                changed |= fold_constant_units(state, layer, allowance)
                changed |= merge_copies(state, layer, allowance)
                if linear:
                    changed |= linearise_neurons(state, layer, allowance)
                changed |= compress_linear(state, layer, allowance)
            if depth and _merge_layer(state, layer, allowance, merge_all=merge_all):
                changed = True
            else:
                layer += 1
        changed_at_all |= changed
        if not changed:
            break
    return changed_at_all


def _merge_layer(state: ReductionState, layer: int, allowance: float, *, merge_all: bool) -> bool:
    """Linearise a whole layer and merge it, or leave it as it was."""
    saved = (state.layers, state.features, state.change, state.bound, list(state.plan))
    if state.layers[layer].num_neurons and not linearise_neurons(state, layer, allowance, all_or_none=True):
        return False
    compress_linear(state, layer, allowance)
    if merge_linear_layer(state, layer, allowance, merge_all=merge_all):
        return True
    state.layers, state.features, state.change, state.bound, state.plan = saved
    return False


def _approximate_rounds(state: ReductionState, tolerance: float, *, use_refit: bool, **steps: bool) -> None:
    """With a growing share of the allowance layer by layer, then with all of it until a round saves under a hundredth.

    Refits are tried front to back and back to front: the first keeps what the first layers found, the second lets the
    last layers ask little of them. The one that leaves fewer parameters is kept.
    """
    if not use_refit:
        count = state.num_hidden
        for i in range(count):
            _exact_rounds(state, (i + 1) / count * tolerance, **steps)
        return
    trials = [copy.copy(state) for _ in range(2)]
    for trial, backwards in zip(trials, (False, True), strict=True):
        trial.plan = list(state.plan)
        count = trial.num_hidden
        for i in range(count):
            refit_layer(trial, count - 1 - i if backwards else i, (i + 1) / count * tolerance)
        for _ in range(_MAX_ROUNDS):
            before = trial.num_parameters
            _exact_rounds(trial, tolerance, **steps)
            for layer in reversed(range(trial.num_hidden)):
                refit_layer(trial, layer, tolerance)
            if trial.num_parameters > (1 - _LEAST_SAVED) * before:
                break
    best = min(trials, key=lambda trial: (trial.num_parameters, trial.change))
    for field in dataclasses.fields(state):
        setattr(state, field.name, getattr(best, field.name))
    state.features = best.features


def _certify(start: Network, reduced: Network, state: ReductionState, data: Data, tolerance: float) -> Reduction:
    before = after = None
    if isinstance(data, Landscape):
        before, after = max_norm(gradient(data, start)), max_norm(gradient(data, reduced))
    certificate = ReductionCertificate(
        output_change=float(np.abs(state.features[-1] - state.reference).max(initial=0.0)),
        mean_change=float(np.abs(state.features[-1] - state.reference).mean()),
        bound=state.bound,
        gradient_before=before,
        gradient_after=after,
        criticality_defect=state.defect,
        is_exact=not any(isinstance(step, Refit) for step in state.plan),
    )
    return Reduction(start, tuple(state.plan), certificate, tolerance)
