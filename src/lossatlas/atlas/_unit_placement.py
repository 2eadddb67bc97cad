"""A small network of any architecture written into the sizes of a big one: every unit by copies that share readers."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lossatlas._parameters import named_arrays
from lossatlas._types import Network
from lossatlas.atlas._placement import REST, LayerPlan, reader_shares, with_spared_unit
from lossatlas.embedding import Reduction, UnitMap
from lossatlas.embedding._record import outputs
from lossatlas.networks import UnitSpace, take_units


@dataclasses.dataclass(frozen=True)
class UnitPlacement:
    """By unit space, which unit of the big network does what. `is_own`: as its own copies lie."""

    plans: dict[str, LayerPlan]
    is_own: bool

    def with_new_unit(self, space: str, unit: int | None) -> "UnitPlacement | None":
        """That of a network with one unit more in a space, a copy of `unit`; None where the big one can spare none."""
        plan = with_spared_unit(self.plans[space], unit) if space in self.plans else None
        return None if plan is None else UnitPlacement(self.plans | {space: plan}, self.is_own)


def equal_units(small: Network, big: Network) -> UnitPlacement | None:
    """Every unit by as many equal copies as there is room for; None where a space of the big network is too small."""
    plans = {}
    wide = big.unit_spaces()
    for name, space in small.unit_spaces().items():
        if wide[name].size < space.size:
            return None
        if wide[name].size == space.size:
            continue
        source = np.sort(np.arange(wide[name].size) % space.size)
        share = 1 / np.bincount(source)[source]
        plans[name] = LayerPlan(source, np.ones(len(source)), np.ones(len(source)), share)
    return UnitPlacement(plans, is_own=False)


def own_units(reduction: Reduction) -> UnitPlacement | None:
    """As the copies lie in the big network that was reduced; None unless only copies and constants were removed."""
    if not reduction.certificate.is_exact:
        return None
    big = reduction.start
    arrays = named_arrays(big)
    plans = {}
    for name, space in big.unit_spaces().items():
        steps = [step for step in reduction.plan if isinstance(step, UnitMap) and step.space == name]
        if not steps:
            continue
        outputs_of, writers_of = np.eye(space.size), np.eye(space.size)
        for step in steps:
            outputs_of = np.asarray(step.readers) @ outputs_of
            writers_of = np.asarray(step.writers) @ writers_of
        plan = _own_plan(space, outputs_of, writers_of, _readers(arrays, space))
        if plan is None:
            return None
        plans[name] = plan
    return UnitPlacement(plans, is_own=True)


def _own_plan(space: UnitSpace, made: np.ndarray, written: np.ndarray, readers: np.ndarray) -> LayerPlan | None:
    """Who copies whom, from the maps of readers and of writers that merged a space."""
    source = np.where(np.any(made != 0, axis=0), np.argmax(made != 0, axis=0), REST)
    output = np.where(source == REST, 1.0, made.sum(axis=0))
    act = space.activation
    if np.abs(output - 1).max(initial=0.0) > 0 and (space.is_normalised or act is None or act.degree not in (None, 1)):
        return None
    if output.min(initial=1.0) < 0 and act is not None and act.parity == "none":
        return None  # a reflected copy puts out a constant beside
    is_even = act is not None and act.parity == "even"
    factor = np.where(written.sum(axis=0) < 0, -1.0, 1.0) if is_even else output
    share = reader_shares(readers * output, source)
    return None if np.isnan(share).any() else LayerPlan(source, factor, output, share)


def _readers(arrays: dict, space: UnitSpace) -> np.ndarray:
    """What reads every unit, as columns."""
    blocks = [np.asarray(take_units(arrays[axis.path], axis, space.size), float) for axis in space.readers]
    return np.concatenate([np.moveaxis(block, -2, -1).reshape(-1, space.size) for block in blocks])


def place_units(small: Network, placement: UnitPlacement, inputs: np.ndarray, tolerance: float) -> Network | None:
    """The small network in the sizes of the big one; None where outputs differ by more than the tolerance."""
    made = small
    for name, plan in placement.plans.items():
        size = small.unit_spaces()[name].size
        written, read = np.zeros((len(plan.source), size)), np.zeros((len(plan.source), size))
        chosen = np.flatnonzero(plan.source != REST)
        written[chosen, plan.source[chosen]] = plan.factor[chosen]
        read[chosen, plan.source[chosen]] = plan.share[chosen] / plan.output[chosen]
        made = UnitMap(name, jnp.asarray(written), jnp.asarray(read)).apply(made)
    rows = jnp.asarray(inputs)
    error = np.abs(np.asarray(outputs(made, rows)) - np.asarray(outputs(small, rows))).max(initial=0.0)
    return made if error <= tolerance else None
