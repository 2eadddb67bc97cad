"""What the plateau doctor finds: layers, the small network behind, where it stands, the ways out."""

from typing import Any, Literal

import equinox as eqx

from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding import Reduction
from lossatlas.geometry import CriticalPoint, Inertia, LayerCondensation, LayerLinearization


State = Literal["not stuck", "stuck", "stalled", "interpolating", "at infinity"]
WayKind = Literal["split", "null unit", "curvature of the small network", "curvature"]


@shown
class LayerDiagnosis(eqx.Module):
    """One unit space of the network; what could not be measured is None, and `unmeasured` says why.

    - `name`, `kind`, `size`: of the space. `linear_units`: linear units beside the neurons.
    - `constant`, `dead`: units that put out the same, or 0, on all data. `unread`: units whose readers are all zero.
    - `copies`: groups of units made by the same weights, up to the symmetries of the activation.
    - `condensation`: [`lossatlas.geometry.LayerCondensation`][]. `linearization`:
      [`lossatlas.geometry.LayerLinearization`][]; `linear_change`: how far an output changes, at most, when the layer
      is replaced by an affine map, in units of `Diagnosis.scale`; `is_linear`: no more than the practical tolerance.
    - `exact`, `effective`: neurons (or other units) and linear units that are left at the exact and at the practical
      tolerance; (0, 0) for a layer that is gone.
    - `near_kinks`: pairs of a neuron and an example at a kink of the activation, up to rounding.
    """

    name: str = eqx.field(static=True)
    kind: str = eqx.field(static=True)
    size: int = eqx.field(static=True)
    linear_units: int = eqx.field(static=True, default=0)
    constant: tuple[int, ...] | None = eqx.field(static=True, default=None)
    dead: tuple[int, ...] | None = eqx.field(static=True, default=None)
    unread: tuple[int, ...] = eqx.field(static=True, default=())
    copies: tuple[tuple[int, ...], ...] | None = eqx.field(static=True, default=None)
    condensation: LayerCondensation | None = None
    linearization: LayerLinearization | None = None
    linear_change: float | None = eqx.field(static=True, default=None)
    is_linear: bool | None = eqx.field(static=True, default=None)
    exact: tuple[int, int] | None = eqx.field(static=True, default=None)
    effective: tuple[int, int] | None = eqx.field(static=True, default=None)
    near_kinks: int = eqx.field(static=True, default=0)
    unmeasured: tuple[str, ...] = eqx.field(static=True, default=())

    @property
    def effective_number(self) -> float | None:
        """The effective number of neurons, by direction."""
        return None if self.condensation is None else float(self.condensation.effective_number)

    @property
    def num_copies(self) -> int | None:
        """How many units another one could stand for."""
        return None if self.copies is None else sum(len(group) - 1 for group in self.copies)


@shown
class SmallNetwork(eqx.Module):
    """The small network behind the big one.

    - `network`, `num_parameters`, `words`: what it is.
    - `reduction`: how it was found, with its certificate; `linearised` says that the network is
      more linear than the reduced one, which brings it nearer to a critical point.
    - `distance`: of the functions, root mean square over data and outputs, in units of `Diagnosis.scale`.
    """

    network: Network
    num_parameters: int = eqx.field(static=True)
    words: str = eqx.field(static=True)
    reduction: Reduction
    linearised: bool = eqx.field(static=True)
    distance: float = eqx.field(static=True)


@shown
class Standing(eqx.Module):
    """Where the network stands on the landscape.

    - `loss`, `gradient_norm` (maximum norm), `sharpness`, `lowest`: of the network itself; the last two are the
      largest and the smallest eigenvalue of its Hessian.
    - `progress`: the share of the loss that one gradient step of length 1 / sharpness saves, to first order;
      `gradient_ratio`: the gradient over the one at which that share is a thousandth, which is called a stall.
    - `point`: the critical point, or the level at infinity, that the small network was polished to; None where none
      was found. `distance`: of its function from the network's, root mean square in units of `Diagnosis.scale`;
      `is_near`: at most 0.15. `inertia`: of that point, in the small network, with its certificate.
    - `runaway`: for a level at infinity, which units run away and how.
    - `here`: the inertia of the network itself as it is; None above the largest size. Its negative eigenvalues are
      those of a critical point only if its certificate says so.
    - `predicted`: the eigenvalue counts that theory predicts for the critical point embedded in the big network as
      its own copies lie; None where theory has none. `measured`: those of the full Hessian there.
    - `remarks`: what was not measured, and why.
    """

    loss: float = eqx.field(static=True)
    gradient_norm: float = eqx.field(static=True)
    sharpness: float = eqx.field(static=True)
    lowest: float = eqx.field(static=True)
    progress: float = eqx.field(static=True)
    gradient_ratio: float = eqx.field(static=True)
    point: CriticalPoint | None
    distance: float | None = eqx.field(static=True)
    is_near: bool = eqx.field(static=True)
    inertia: Inertia | None
    runaway: str = eqx.field(static=True)
    here: Inertia | None
    predicted: tuple[int, int, int] | None = eqx.field(static=True)
    measured: Inertia | None
    remarks: tuple[str, ...] = eqx.field(static=True)


@shown
class WayOut(eqx.Module):
    """A step that leaves, taken in the big network's own architecture.

    - `words`: what is done. `kind`: `"split"` or `"null unit"` (a unit is added to the small network, `space`, `unit`,
      `share`, and moved along the curvature that this opens), `"curvature of the small network"` (along a negative
      eigenvalue of the critical point itself), `"curvature"` (along the lowest eigenvalue of the big network's own
      Hessian).
    - `curvature`: along the step, at unit length; `step`: its length, with its sign.
    - `predicted`: how much the loss of the big network falls by the quadratic model at that step; `realised`: how much
      it falls. A prediction far from what comes true says that the step is long, and that curvature misleads.
    - `loss`: of `network`, the big network after the step. `how`: how the step was written into the big network.
    - `loss_after`: after a short run of gradient descent from there, at `learning_rate`; None where none was made.
    """

    kind: WayKind = eqx.field(static=True)
    words: str = eqx.field(static=True)
    space: str | None = eqx.field(static=True)
    unit: int | None = eqx.field(static=True)
    share: float | None = eqx.field(static=True)
    curvature: float = eqx.field(static=True)
    step: float = eqx.field(static=True)
    predicted: float = eqx.field(static=True)
    realised: float = eqx.field(static=True)
    loss: float = eqx.field(static=True)
    network: Network
    how: str = eqx.field(static=True)
    loss_after: float | None = eqx.field(static=True, default=None)
    learning_rate: float | None = eqx.field(static=True, default=None)


@shown
class Diagnosis(eqx.Module):
    """What [`lossatlas.atlas.diagnose`][] found.

    - `verdict`: in plain words; `state` in one. `network`: the patient.
    - `layers`: its unit spaces. `effective_depth`: hidden layers that still hold neurons at the practical tolerance; of
      other architectures than `Dense` the unit spaces whose activation cannot be replaced by an affine map of each
      unit, one space at a time; attention is not counted.
    - `exact`: the reduction at the exact tolerance; `small`: the small network behind; None without unit spaces.
    - `standing`: where it stands. `ways`: the ways out; first those that were followed by a short run, the lowest loss
      after it first, then the others by their realised decrease.
    - `control`: the loss after the same short run without a step.
    - `scale`: one unit of distance: root mean square deviation of the targets from their mean (at least 1 for logits).
    - `caution`: at kinks, that derivatives are one-sided; else None. `unmeasured`: what was not measured, and why.
    - `stats`: seconds by part. `settings`: tolerances, seed, what the runs were.
    """

    verdict: str = eqx.field(static=True)
    state: State = eqx.field(static=True)
    network: Network
    layers: tuple[LayerDiagnosis, ...]
    effective_depth: int | None = eqx.field(static=True)
    exact: Reduction | None
    small: SmallNetwork | None
    standing: Standing
    ways: tuple[WayOut, ...]
    control: float | None = eqx.field(static=True)
    scale: float = eqx.field(static=True)
    caution: str | None = eqx.field(static=True)
    unmeasured: tuple[str, ...] = eqx.field(static=True)
    stats: dict[str, Any]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        return f"Diagnosis({self.verdict})"

    def _figure(self) -> Any:
        from lossatlas.atlas._diagnosis_tables import diagnosis_tables
        from lossatlas.figures import ways_figure

        return ways_figure(diagnosis_tables(self)) if self.ways else None

    def __str__(self) -> str:
        return self.verdict
