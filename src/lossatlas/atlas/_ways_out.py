"""The ways out of a plateau, each taken in the big network and measured there."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lossatlas._parameters import ravel
from lossatlas._progress import Task
from lossatlas._types import Network, Vector
from lossatlas.atlas._diagnosis import WayOut
from lossatlas.atlas._placement import Placement, equal_placement, place, with_new_unit
from lossatlas.embedding import Growth, plan_growth
from lossatlas.geometry import Inertia, Spectrum, spectrum
from lossatlas.landscape import Landscape
from lossatlas.networks import Dense
from lossatlas.training import train


_STEPS = np.geomspace(1e-2, 10.0, 13)
_WRITTEN = 1e-2  # of the scale: how far a small network may be off when it is written into the big one
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
    point: Dense,
    placement: Placement,
    counted: Inertia | None,
    *,
    num_ways: int,
) -> tuple[list[WayOut], list[str]]:
    """The ways that the small network shows, written into the big one; and what could not be, in words."""
    big, landscape = patient.network, patient.landscape
    assert isinstance(big, Dense)
    inputs = np.asarray(landscape.inputs)
    before = float(_loss(landscape, point))
    ways, left_out = [], []
    candidates: list[tuple[WayOut, Dense, Placement | None]] = []
    for growth in _chosen(plan_growth(point, landscape), num_ways):
        assert isinstance(growth.network, Dense)
        layer = int(growth.space.split("[")[1].removesuffix("]"))
        is_neuron = growth.space.startswith("hidden")
        where = with_new_unit(placement, layer, growth.unit) if placement.is_own and is_neuron else None
        if where is None:
            where = equal_placement(growth.network, big, placement.hidden)
        candidates.append((_of_growth(growth, patient, before), growth.network, where))
    lowest = _along_lowest(patient, point, counted, before)
    if lowest is not None:
        candidates.append((*lowest, placement))
    for way, small, where in candidates:
        made = None if where is None else place(small, big, where, inputs, _WRITTEN * patient.scale)
        if made is None:
            left_out.append(f"{way.words}: the big network has no room for it")
            continue
        loss = float(_loss(landscape, made))
        how = _OWN if where is not None and where.is_own else _ANEW
        ways.append(dataclasses.replace(way, realised=patient.loss - loss, loss=loss, network=made, how=how))
    return ways, left_out


def with_runs(
    patient: Patient, ways: list[WayOut], *, sharpness: float, num_steps: int, num_runs: int, task: Task
) -> tuple[list[WayOut], float | None, dict[str, Any]]:
    """The ways with the loss after a short run of gradient descent, and that of the same run without a step.

    The first `num_runs` ways are followed, and the big network's own curvature; the lowest loss after it comes first.
    The learning rate is one over the largest sharpness at the starts, the same for all.
    """
    if not num_steps or not ways:
        return ways, None, {}
    chosen = [i for i, way in enumerate(ways) if way.realised > 0 and (i < num_runs or way.kind == "curvature")]
    steepest = [_sharpness(ways[i].network, patient.landscape) for i in chosen]
    rate = 1 / max([sharpness, *steepest])
    losses = []
    for done, network in enumerate([patient.network, *(ways[i].network for i in chosen)]):
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
    control, *after = losses
    found = dict(zip(chosen, after, strict=True))
    ways = [dataclasses.replace(way, loss_after=found.get(i)) for i, way in enumerate(ways)]
    ways = sorted(ways, key=_after)
    return ways, control, {"optimizer": "gd", "learning_rate": rate, "num_steps": num_steps}


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
        words = f"add a {'linear unit' if what == 'linear unit' else 'neuron'} to {growth.space}"
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
    patient: Patient, point: Dense, counted: Inertia | None, before: float
) -> tuple[WayOut, Dense] | None:
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
