"""The ways out of a plateau, each taken in the big network and measured there."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._parameters import named_parameters, ravel
from lossatlas._progress import Task
from lossatlas._types import Network, Vector
from lossatlas.atlas._diagnosis import WayOut
from lossatlas.atlas._placement import Placement, equal_placement, place, with_new_unit
from lossatlas.atlas._unit_placement import UnitPlacement, equal_units, place_units
from lossatlas.atlas._work import affordable, loss_work
from lossatlas.embedding import Growth, plan_growth
from lossatlas.geometry import Inertia, Spectrum, spectrum
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense, HasUnitSpaces
from lossatlas.training import train


_STEPS = np.geomspace(1e-2, 10.0, 13)
_WRITTEN = 1e-2  # of the scale: how far a small network may be off when it is written into the big one
_RUN_WORK = 3e10  # floating-point operations of the loss in all short runs together
_GROWTH_WORK = 1e11  # the same of all candidates for growth
_MOST_OF_A_UNIT = 1000  # parameters, whose Hessian is formed
_OWN = "the big network's own copies moved apart"
_ANEW = "the small network after the step, written into the big one's shape"
_DIRECT = "the big network's own parameters moved"


@dataclasses.dataclass(frozen=True)
class Patient:
    """The big network, its landscape and loss, and one unit of output on it."""

    network: Network
    landscape: Landscape
    loss: float
    scale: float


def along_own_curvature(patient: Patient, pairs: Spectrum) -> WayOut | None:
    """Along the lowest eigenvector of the big network's own Hessian; for every architecture."""
    curvature = float(pairs.bottom[0])
    if not curvature < 0:
        return None
    vector, _ = ravel(patient.network)
    direction = jnp.asarray(pairs.vectors[-1], vector.dtype)
    slope, losses = _along(patient.landscape, patient.network, direction, jnp.asarray(_both_ways(), vector.dtype))
    step, best = _best(np.asarray(losses))
    moved = _moved(patient.network, direction, jnp.asarray(step, vector.dtype))
    predicted = -(float(slope) * step + 0.5 * curvature * step**2)
    words = "along the most negative curvature of the big network"
    return WayOut(
        "curvature", words, None, None, None, curvature, step, predicted, patient.loss - best, best, moved, _DIRECT
    )


def from_small(
    patient: Patient,
    point: Network,
    placement: Placement | UnitPlacement,
    counted: Inertia | None,
    *,
    num_ways: int,
) -> tuple[list[WayOut], list[str]]:
    """The ways that the small network shows, written into the big one; and what could not be, in words."""
    landscape = patient.landscape
    before = float(_loss(landscape, point))
    ways: list[WayOut] = []
    candidates: list[tuple[WayOut, Network, Placement | UnitPlacement | None]] = []
    spaces, left_out = (None, []) if isinstance(point, Dense) else _open_spaces(point, patient.network, landscape)
    plan = plan_growth(point, landscape, spaces=spaces, max_size=_MOST_OF_A_UNIT)
    for growth in _chosen(plan, num_ways):
        where = _with_growth(placement, growth, patient.network)
        candidates.append((_of_growth(growth, patient, before), growth.network, where))
    lowest = _along_lowest(patient, point, counted, before)
    if lowest is not None:
        candidates.append((*lowest, placement))
    for way, small, where in candidates:
        made = None if where is None else written(small, patient.network, where, landscape, _WRITTEN * patient.scale)
        if made is None:
            left_out.append(f"{way.words}: the big network has no room for it")
            continue
        loss = float(_loss(landscape, made))
        how = _OWN if where is not None and where.is_own else _ANEW
        ways.append(dataclasses.replace(way, realised=patient.loss - loss, loss=loss, network=made, how=how))
    return ways, left_out


def _open_spaces(point: Network, big: Network, landscape: Landscape) -> tuple[list[str], list[str]]:
    """The spaces whose growth is planned: with room in the big network, and not too dear; of the others why not."""
    assert isinstance(point, HasUnitSpaces)
    assert isinstance(big, HasUnitSpaces)
    arrays, work, wide = named_parameters(point), loss_work(point, landscape), big.unit_spaces()
    costs, full = {}, []
    for name, space in point.unit_spaces().items():
        if space.closed is not None or space.shares != "any":
            continue
        if wide[name].size <= space.size:
            full.append(name)
            continue
        axes = [axis for axis in (*space.writers, *space.readers) if axis.path in arrays]
        shapes = [(arrays[axis.path], axis) for axis in axes]
        size = sum(array.size * axis.outer * axis.inner // array.shape[axis.axis] for array, axis in shapes)
        costs[name] = (1 + 3 * space.size) * (4 * size + 26) * work if size <= _MOST_OF_A_UNIT else np.inf
    order = sorted(costs, key=lambda name: costs[name])
    totals = np.cumsum([costs[name] for name in order])
    spaces = [name for name, total in zip(order, totals, strict=True) if total <= _GROWTH_WORK]
    dear = [name for name in costs if name not in spaces]
    said = [f"growth of {', '.join(full)}: all units of the big network are in use"] if full else []
    return spaces, said + ([f"growth of {', '.join(dear)}: too dear in networks of this size"] if dear else [])


def written(
    small: Network, big: Network, where: Placement | UnitPlacement, landscape: Landscape, tolerance: float
) -> Network | None:
    """The small network in the shape of the big one, up to a tolerance in output units; None where it cannot be."""
    inputs = np.asarray(landscape.inputs)
    if isinstance(where, UnitPlacement):
        return place_units(small, where, inputs, tolerance)
    assert isinstance(small, Dense)
    assert isinstance(big, Dense)
    return place(small, big, where, inputs, tolerance)


def _with_growth(
    placement: Placement | UnitPlacement, growth: Growth, big: Network
) -> Placement | UnitPlacement | None:
    """Where a small network with one unit more lies: among the big one's own copies if they can spare one."""
    if isinstance(placement, UnitPlacement):
        own = placement.with_new_unit(growth.space, growth.unit) if placement.is_own else None
        return own or equal_units(growth.network, big)
    assert isinstance(growth.network, Dense)
    assert isinstance(big, Dense)
    is_neuron = placement.is_own and growth.space.startswith("hidden")
    layer = int(growth.space.split("[")[1].removesuffix("]"))
    own = with_new_unit(placement, layer, growth.unit) if is_neuron else None
    return own or equal_placement(growth.network, big, placement.hidden)


def with_runs(
    patient: Patient, ways: list[WayOut], *, sharpness: float, num_steps: int, num_runs: int, task: Task
) -> tuple[list[WayOut], float | None, dict[str, Any]]:
    """The ways with the loss after a short run of gradient descent, and that of the same run without a step.

    The first `num_runs` ways are followed, and the big network's own curvature; the lowest loss after it comes first.
    Each run takes as many steps, at one over the sharpness of its own start: the largest rate at which none is
    unstable from the beginning. A common rate would be that of the sharpest start, and hold all others back.
    """
    if not num_steps or not ways:
        return ways, None, {}
    chosen = [i for i, way in enumerate(ways) if way.realised > 0 and (i < num_runs or way.kind == "curvature")]
    each = loss_work(patient.network, patient.landscape) * (1 + len(chosen))
    num_steps = max(1, affordable(num_steps, _RUN_WORK, each))
    starts = [patient.network, *(ways[i].network for i in chosen)]
    rates = [1 / sharpness, *(1 / _sharpness(network, patient.landscape) for network in starts[1:])]
    losses = []
    for done, (network, rate) in enumerate(zip(starts, rates, strict=True)):
        task.update(done, "short runs")
        run = train(
            jax.random.key(0),
            network,
            patient.landscape,
            learning_rate=rate,
            num_steps=num_steps,
            snapshots=[num_steps],
        )
        losses.append(float(run.loss[-1]))
    found = {i: (loss, rate) for i, loss, rate in zip(chosen, losses[1:], rates[1:], strict=True)}
    ways = [
        dataclasses.replace(way, loss_after=found[i][0], learning_rate=found[i][1]) if i in found else way
        for i, way in enumerate(ways)
    ]
    ways = sorted(ways, key=_after)
    return ways, losses[0], {"optimizer": "gd", "num_steps": num_steps, "learning_rate_without_a_step": rates[0]}


def _after(way: WayOut) -> tuple[bool, float]:
    """Followed ways first, the lowest loss first; a run that diverged comes last of them."""
    if way.loss_after is None:
        return True, -way.realised
    return False, way.loss_after if np.isfinite(way.loss_after) else np.inf


def _sharpness(network: Network, landscape: Landscape) -> float:
    return float(spectrum(network, landscape, num_top=1, num_bottom=0, rtol=1e-3).sharpness)


def _chosen(plan: list[Growth], num_ways: int) -> list[Growth]:
    """The best step of each unit, the best units first, and the steepest of all: that one often misleads."""
    growths = [growth for growth in plan if growth.decrease > 0]
    best: dict[tuple[str, int | None], Growth] = {}
    for growth in growths:
        best.setdefault((growth.space, growth.unit), growth)
    chosen = list(best.values())[:num_ways]
    steepest = min(growths, key=lambda growth: growth.curvature, default=None)
    return chosen if steepest is None or steepest in chosen else [*chosen, steepest]


def _of_growth(growth: Growth, patient: Patient, before: float) -> WayOut:
    kind = "null unit" if growth.unit is None else "split"
    what = "linear unit" if growth.space.startswith("linear") else "unit"
    if growth.unit is None:
        added = {"linear": "a linear unit", "hidden": "a neuron", "channels": "a channel", "heads": "a head"}
        words = f"add {added.get(growth.space.partition('[')[0], 'a unit')} to {growth.space}"
    else:
        words = f"split {what} {growth.unit} of {growth.space} (share {growth.share:g})"
    # The big network starts where the small one does, up to the difference of their losses.
    predicted = patient.loss - before - 0.5 * growth.curvature * growth.step**2
    return WayOut(
        kind,
        words,
        growth.space,
        growth.unit,
        growth.share,
        growth.curvature,
        growth.step,
        predicted,
        growth.decrease,
        before - growth.decrease,
        growth.network,
        "",
    )


def _along_lowest(
    patient: Patient, point: Network, counted: Inertia | None, before: float
) -> tuple[WayOut, Network] | None:
    """Along the lowest eigenvector of the small critical point, where it is a saddle."""
    if counted is None or not counted.negative:
        return None
    pairs = spectrum(point, patient.landscape, num_top=0, num_bottom=1)
    curvature = float(pairs.bottom[0])
    vector, _ = ravel(point)
    direction = jnp.asarray(pairs.vectors[-1], vector.dtype)
    _, losses = _along(patient.landscape, point, direction, jnp.asarray(_both_ways(), vector.dtype))
    step, best = _best(np.asarray(losses))
    predicted = patient.loss - before - 0.5 * curvature * step**2
    moved = _moved(point, direction, jnp.asarray(step, vector.dtype))
    words = "along the negative curvature of the small network itself"
    way = WayOut(
        "curvature of the small network",
        words,
        None,
        None,
        None,
        curvature,
        step,
        predicted,
        before - best,
        best,
        moved,
        "",
    )
    return way, moved


def _both_ways() -> Float[np.ndarray, " steps"]:
    return np.concatenate([_STEPS, -_STEPS])


def _best(losses: Float[np.ndarray, " steps"]) -> tuple[float, float]:
    """The step of the lowest loss, with its sign, and that loss."""
    losses = np.where(np.isfinite(losses), losses, np.inf)
    index = int(np.argmin(losses))
    return float(_both_ways()[index]), float(losses[index])


@eqx.filter_jit
def _along(
    landscape: Landscape, network: Network, direction: Vector, steps: Float[Array, " steps"]
) -> tuple[Array, Float[Array, " steps"]]:
    """The slope of the loss along a direction, and the loss at each step."""
    vector, unravel = ravel(network)
    value = lambda t: landscape(unravel(vector + t * direction))  # noqa: E731
    return jax.grad(value)(jnp.zeros((), vector.dtype)), jax.lax.map(value, steps)


@eqx.filter_jit
def _moved(network: Network, direction: Vector, step: Array) -> Network:
    vector, unravel = ravel(network)
    return unravel(vector + step * direction)


@eqx.filter_jit
def _loss(landscape: Landscape, network: Network) -> Array:
    return landscape(network)
