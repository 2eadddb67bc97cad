"""The plateau doctor: which small network training is stuck at, where that stands, and which steps leave."""

import dataclasses
import time
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array

from lossatlas._errors import InputError
from lossatlas._parameters import num_parameters
from lossatlas._precision import require_float64
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._status import Status
from lossatlas._types import Network
from lossatlas.atlas._diagnosis import Diagnosis, LayerDiagnosis, SmallNetwork, Standing
from lossatlas.atlas._embedded_inertia import embedded_inertia
from lossatlas.atlas._entry import describe_runaway, linked_targets
from lossatlas.atlas._layer_facts import kink_caution, measure_layers, surviving_layers, with_sizes, with_widths
from lossatlas.atlas._placement import Placement, equal_placement, own_placement
from lossatlas.atlas._small_network import NEAR, Candidate, find_small, reductions_of
from lossatlas.atlas._unit_placement import UnitPlacement, equal_units, own_units
from lossatlas.atlas._verdict import state_of, verdict_of
from lossatlas.atlas._ways_out import Patient, along_own_curvature, from_small, with_runs
from lossatlas.embedding import Reduction
from lossatlas.geometry import Inertia, inertia, spectrum
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, HasUnitSpaces


_EXACT = 1e-10
# Times the tolerance that was asked for: where small networks are looked for. A `Dense` is refitted at the first one.
_FACTORS, _FACTORS_DENSE = (1 / 3, 1.0, 3.0), (1.0, 3.0)
_STALL = 1e-3  # of the loss, saved by a gradient step of length 1 / sharpness
_INTERPOLATION = 1e-8  # of the loss of the best constant
_WRITTEN = 1e-2


def diagnose(
    network: Network,
    landscape: Landscape,
    *,
    tolerance: float = 0.1,
    max_small: int = 300,
    max_dense: int = 1500,
    max_steps: int = 400,
    num_ways: int = 3,
    num_steps: int = 500,
    progress: ProgressLike = "none",
) -> Diagnosis:
    r"""Say which small network a network is stuck at, where that stands on the landscape, and which steps leave.

    The network is reduced exactly and at a practical tolerance; the small network is polished to a critical point in
    its own few parameters, where the inertia can be certified although the big network's gradient forbids it there;
    a level at infinity is told apart. Every way out is a step in the big network, whose loss is measured after it:
    units split or added where the small network gains most, its own negative curvature, and the lowest eigenvector of
    the big Hessian. The best are followed by a short run of gradient descent, beside the same run without a step.

    *Stuck* means: a gradient step of length 1 / sharpness would save less than a thousandth of the loss,
    $|g|^2 / (\lambda_{max} L) < 10^{-3}$, and the function is within 0.15 (root mean square, in units of the spread of
    the targets) of that of a critical point of the small network.

    **Arguments:**
    - `network`: in float64, with unit spaces, its own or discovered ones ([`lossatlas.embedding.discover_units`][]).
      Without them nothing but the gradient and the way along its own curvature; `Diagnosis.unmeasured` says what is
      missing.
    - `landscape`: a [`lossatlas.landscape.Landscape`][] of inputs and targets, the training data.
    - `tolerance`: how far an output may change, at most, in the practical reduction, as a share of the spread. Small
      networks are looked for at three times it too, and at a third where the network is no `Dense`.
    - `max_small`: the most parameters of a small network that is polished. `max_dense`: of a network whose dense
      Hessian is formed. `max_steps`: Hessians for each polished candidate (at most six).
    - `num_ways`: the best units whose split, or addition, is tried, beside the steepest. `num_steps`: of the short
      runs; 0 leaves them out. Each run has the learning rate 1 / sharpness of its own start, the control too; ways are
      ordered by the loss after as many steps. Networks other than `Dense` whose loss is dear get fewer Hessians
      and steps, by the operations that one evaluation takes; the settings say how many.
    - `progress`: `"none"`, `"text"`, `"rich"` or a meter.

    **Returns:**
    A [`lossatlas.atlas.Diagnosis`][]; `print(diagnosis)` says the verdict. Cost: two reductions (tens of passes for
    each layer), some hundred Hessians of the small network, some hundred Hessian products of the big one, and
    `num_steps` gradients for up to `num_ways` + 1 runs.

    **Raises:** `InputError` for float32, data without targets, inputs that the network cannot read, parameters or a
    loss that are not finite, and numbers out of range.

    !!! cite
        Zhang et al. 2021, arXiv 2105.14573 (width); Bai et al. 2022, arXiv 2205.13283 (depth, and the trap of spurious
        negative eigenvalues).
    """
    _check(network, landscape, tolerance, max_small, max_steps, num_ways, num_steps)
    clock = _Clock()
    with as_meter(progress).task("diagnosis", 6) as task:
        loss, gradient = (np.asarray(a) for a in _value_and_gradient(landscape, network))
        if not np.isfinite(loss) or not np.isfinite(gradient).all():
            msg = "The loss or its gradient is not finite at this network; check the parameters and the data."
            raise InputError(msg)
        scale, unit, constant = _scales(network, landscape)
        layers, unmeasured = measure_layers(network, landscape, unit, tolerance)
        clock.note("layers")
        task.update(1, "spectrum")
        pairs = spectrum(network, landscape, num_top=1, num_bottom=1, rtol=1e-3)
        clock.note("spectrum")
        exact, found, placement, depth = None, None, None, None
        if isinstance(network, HasUnitSpaces):
            task.update(2, "reduction")
            factors = _FACTORS_DENSE if isinstance(network, Dense) else _FACTORS
            tolerances = [factor * tolerance * unit for factor in factors]
            reductions = reductions_of(network, landscape, _EXACT * max(unit, 1.0), tolerances)
            asked = 1 + factors.index(1.0)
            exact = reductions[0][1]
            clock.note("reduction")
            task.update(3, "the small network")
            found = find_small(
                network, landscape, reductions, asked, scale=scale, max_size=max_small, max_steps=max_steps
            )
            placement = _placement(found.small, network)
            layers, depth = _with_sizes(layers, network, found, reductions[0], reductions[asked])
            clock.note("the small network")
        standing = _stand(
            network, landscape, float(loss), gradient, pairs, found, placement, _WRITTEN * unit, max_dense
        )
        clock.note("standing")
        task.update(4, "the ways out")
        patient = Patient(network, landscape, float(loss), unit)
        ways, left_out = _ways(patient, found, placement, standing, pairs, num_ways)
        clock.note("the ways out")
        task.update(5, "short runs")
        ways, control, runs = with_runs(
            patient, ways, sharpness=standing.sharpness, num_steps=num_steps, num_runs=num_ways, task=task
        )
        clock.note("short runs")
    state = state_of(standing, float(loss) / constant, interpolation=_INTERPOLATION)
    small = None if found is None else found.small
    return Diagnosis(
        verdict=verdict_of(state, network, small, standing, tuple(ways), control),
        state=state,
        network=network,
        layers=layers,
        effective_depth=depth,
        exact=exact,
        small=small,
        standing=standing,
        ways=tuple(ways),
        control=control,
        scale=unit,
        caution=kink_caution(layers),
        unmeasured=(*unmeasured, *standing.remarks, *left_out),
        stats={"seconds": clock.seconds},
        settings={
            "tolerance": tolerance,
            "max_small": max_small,
            "max_dense": max_dense,
            "max_steps": max_steps,
            "num_ways": num_ways,
            "stall": _STALL,
            "near": NEAR,
            "runs": runs,
        },
    )


@dataclasses.dataclass
class _Clock:
    """Seconds by part."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    last: float = dataclasses.field(default_factory=time.perf_counter)

    def note(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = now - self.last
        self.last = now


@eqx.filter_jit
def _value_and_gradient(landscape: Landscape, network: Network) -> tuple[Array, Array]:
    return landscape.value_and_gradient(network)


def _check(network, landscape, tolerance, max_small, max_steps, num_ways, num_steps) -> None:
    if not isinstance(landscape, Landscape) or landscape.loss is None or len(landscape.batch) != 2:
        msg = (
            "A diagnosis needs the training data with targets: give landscape=Landscape(inputs, targets, loss=...), "
            f"got {type(landscape).__name__}."
        )
        raise InputError(msg)
    if not 0 < tolerance < 1:
        msg = f"tolerance is a share of the spread of the targets, between 0 and 1, got {tolerance}."
        raise InputError(msg)
    for name, value, least in (
        ("max_small", max_small, 1),
        ("max_steps", max_steps, 1),
        ("num_ways", num_ways, 1),
        ("num_steps", num_steps, 0),
    ):
        if value < least:
            msg = f"{name} must be at least {least}, got {value}."
            raise InputError(msg)
    require_float64((network, landscape), "A diagnosis")
    if isinstance(network, Dense) and landscape.inputs.shape[1:] != (network.widths[0],):
        msg = (
            f"The network reads inputs of shape ({network.widths[0]},), the data have {landscape.inputs.shape[1:]}. "
            "Give the columns that it was trained on, in their order."
        )
        raise InputError(msg)


def _scales(network: Network, landscape: Landscape) -> tuple[float, float, float]:
    """One unit of distance of functions and of outputs, and the loss of the best constant (of all targets alike)."""
    targets = linked_targets(landscape)
    spread = float(np.sqrt(np.mean((targets - targets.mean(axis=0)) ** 2)))
    assert landscape.loss is not None
    if landscape.loss.name == "mse":
        scale = max(spread, 1e-300)
        return scale, scale, max(0.5 * float(((targets - targets.mean(axis=0)) ** 2).sum(axis=1).mean()), 1e-300)
    outputs = np.asarray(landscape.predictions(network)).reshape(landscape.size, -1)
    unit = max(1.0, float(np.sqrt(np.mean((outputs - outputs.mean(axis=0)) ** 2))))
    return max(spread, 1e-300), unit, 1.0


def _with_sizes(
    layers: tuple[LayerDiagnosis, ...],
    network: Network,
    found: Candidate,
    exact: tuple[Network, Reduction],
    practical: tuple[Network, Reduction],
) -> tuple[tuple[LayerDiagnosis, ...], int]:
    """The layers with what two reductions leave of them, and the effective depth."""
    if not isinstance(network, Dense):
        layers = with_sizes(layers, exact[0], practical[0])
        return layers, sum(layer.is_linear is False for layer in layers)
    # A more linear small network is the practical reduction, one step on.
    left = found.small.network if found.small.linearised else practical[0]
    layers = with_widths(layers, exact, (left, practical[1]))
    return layers, sum(layer.effective is not None and layer.effective[0] > 0 for layer in layers)


def _placement(small: SmallNetwork, network: Network) -> Placement | UnitPlacement | None:
    """How the small network lies in the big one."""
    if not isinstance(network, Dense):
        return own_units(small.reduction) or equal_units(small.network, network)
    assert isinstance(small.network, Dense)
    if not small.linearised:
        own = own_placement(small.reduction, small.network)
        if own is not None:
            return own
    kept = surviving_layers(small.reduction)
    # A network without hidden layers was given one of linear units; the first layer holds it.
    hidden = tuple(kept[: len(small.network.layers) - 1]) or (0,)
    return equal_placement(small.network, network, hidden)


def _stand(
    network: Network,
    landscape: Landscape,
    loss: float,
    gradient: np.ndarray,
    pairs: Any,
    found: Candidate | None,
    placement: Placement | UnitPlacement | None,
    written: float,
    max_dense: int,
) -> Standing:
    sharpness, lowest = float(pairs.top[0]), float(pairs.bottom[0])
    progress = float(gradient @ gradient) / max(max(sharpness, -lowest) * loss, 1e-300)
    remarks: list[str] = []
    here = None
    if num_parameters(network) <= max_dense:
        here = inertia(network, landscape, max_size=max_dense)
    else:
        remarks.append(f"inertia of the network itself: more than max_dense={max_dense:,} parameters")
    point = None if found is None else found.point
    counted: Inertia | None = None
    predicted, measured, is_near = None, None, False
    if found is not None and point is None:
        remarks.append(
            f"the small network has {found.small.num_parameters:,} parameters, too many or too dear to polish"
        )
    if found is not None and point is not None:
        assert found.distance is not None
        is_near = found.distance <= NEAR and point.status in (Status.CONVERGED, Status.AT_INFINITY)
        if point.status is Status.CONVERGED:
            counted = inertia(point.network, landscape)
            if placement is not None:
                predicted, measured, why = embedded_inertia(
                    point.network, counted, network, placement, landscape, tolerance=written, max_size=max_dense
                )
                remarks += [why] if why else []
    return Standing(
        loss=loss,
        gradient_norm=float(np.abs(gradient).max(initial=0.0)),
        sharpness=sharpness,
        lowest=lowest,
        progress=progress,
        gradient_ratio=float(np.sqrt(progress / _STALL)),
        point=point,
        distance=None if found is None else found.distance,
        is_near=is_near,
        inertia=counted,
        runaway="" if point is None else describe_runaway(point),
        here=here,
        predicted=predicted,
        measured=measured,
        remarks=tuple(remarks),
    )


def _ways(
    patient: Patient,
    found: Candidate | None,
    placement: Placement | UnitPlacement | None,
    standing: Standing,
    pairs: Any,
    num_ways: int,
):
    """All ways, the largest realised decrease first, and what could not be tried."""
    ways, left_out = [], []
    if found is not None:
        small = found.small.network
        # Beyond a run-away, or far from where training is, the small network as it was reduced is the better start.
        is_finite = standing.is_near and found.point is not None and found.point.status is Status.CONVERGED
        start = found.point.network if is_finite and found.point is not None else small
        if placement is None:
            left_out.append("ways of the small network: it cannot be written into the big one")
        elif found.small.num_parameters > 3000:
            left_out.append("ways of the small network: it is too large")
        else:
            ways, left_out = from_small(
                patient, start, placement, standing.inertia if is_finite else None, num_ways=num_ways
            )
    own = along_own_curvature(patient, pairs)
    ways += [] if own is None else [own]
    return sorted(ways, key=lambda way: -way.realised), left_out
