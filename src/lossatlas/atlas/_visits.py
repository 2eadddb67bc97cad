"""Which catalogue entries a training run comes near, when, and how near it would have come by chance."""

from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from lossatlas._show import shown


VISIT_DISTANCE = 0.15
VISIT_RATIO = 0.6
_APPROACHED = 0.5
_SAME_FUNCTION = 0.1
_SAME_LEVEL = 0.02
_LOSS_RATIO = 1.5

Verdict = Literal["visit", "near", "no match", "same function"]


@shown
class Visit(eqx.Module):
    """The closest approach of one training run to one catalogue entry.

    - `entry`: index into the catalogue.
    - `step`, `loss`: where the run is nearest, and its loss there.
    - `distance`: |f_t - f_entry| / |f_entry - mean f_entry| over the data (probabilities for cross-entropy).
    - `control`: how near the straight segment between the functions of the entries approached just before and
      just after comes to the entry; infinite where the run starts or ends at the entry.
    - `first_step`, `last_step`: the interval around `step` in which the distance stays below 0.15 and no other entry
      is nearer.
    - `verdict`: `"visit"` (distance below 0.15 and below 0.6 of the control), `"near"` (below the control),
      `"no match"`, or `"same function"` (a smaller entry computes nearly the same function and stands for it).
    """

    entry: int
    step: int
    loss: float
    distance: float
    control: float
    first_step: int
    last_step: int
    verdict: Verdict


@shown
class SlowDown(eqx.Module):
    """A local minimum of |d log loss / d log step|: where training stalls.

    - `rate`: that minimum.
    - `entry`: the nearest visited or near entry, if it is within 0.3 there and its loss
      within a factor of 1.5; None when the stall is left unnamed.
    """

    step: int
    loss: float
    rate: float
    entry: int | None


@shown
class Visits(eqx.Module):
    """All closest approaches and slow-downs of one training run.

    - `steps`, `loss`: of the snapshots.
    - `distance`: shape (snapshots, entries).
    - `visits`: one per entry, in catalogue order.
    - `slow_downs`: in order of time.
    """

    steps: Int[np.ndarray, " s"]
    loss: Float[np.ndarray, " s"]
    distance: Float[np.ndarray, "s e"]
    visits: tuple[Visit, ...]
    slow_downs: tuple[SlowDown, ...]


def find_visits(
    steps: Int[np.ndarray, " s"],
    loss: Float[np.ndarray, " s"],
    trajectory: Float[np.ndarray, "s n o"],
    entries: Sequence[Float[np.ndarray, "n o"]],
    targets: Float[np.ndarray, "n o"],
    sizes: Sequence[int] | None = None,
    levels: Sequence[float] | None = None,
) -> Visits:
    """The closest approach of a trajectory to every entry, with its control, and the slow-downs.

    **Arguments:**
    - `steps`, `loss`: of the snapshots.
    - `trajectory`: predictions at the snapshots (probabilities for cross-entropy).
    - `entries`: predictions of the catalogue entries, the smaller networks first.
    - `targets`: what a perfect fit would predict; the end of the last segment.
    - `sizes`, `levels`: how many units each entry has, and its loss. Of entries that compute nearly the same function
      (relative distance below 0.1, of the same size below 0.02, losses within a tenth) the first stands for the
      others. Default: each larger than the one before; losses are then not compared.

    **Returns:**
    [`lossatlas.atlas.Visits`][]. Cost: s * e * n * o operations.
    """
    scales = [_scale(f, targets) for f in entries]
    distance = np.array([[_norm(p - f) / s for f, s in zip(entries, scales, strict=True)] for p in trajectory])
    distance = distance.reshape(len(steps), len(entries))
    nearest = distance.argmin(axis=0)
    twin_of = _twins(entries, scales, list(range(len(entries))) if sizes is None else list(sizes), levels)
    approached = [e for e in range(len(entries)) if twin_of[e] is None and distance[nearest[e], e] < _APPROACHED]
    approached.sort(key=lambda e: (nearest[e], -distance[nearest[e], e]))
    distinct = [e for e in range(len(entries)) if twin_of[e] is None]
    best = distance[:, distinct].min(axis=1, initial=np.inf)
    # The run ends where it is nearest to one entry at the last moment: no line leads past it, so no control applies.
    at_end = min(distinct, key=lambda e: distance[-1, e], default=None)
    ends_at = at_end if at_end is not None and nearest[at_end] == len(steps) - 1 else None
    visits = []
    for e in range(len(entries)):
        at = int(nearest[e])
        closest = float(distance[at, e])
        control = _control(e, approached, entries, scales, trajectory[0], targets)
        # A visit lasts while the entry is the nearest of all.
        first, last = _interval((distance[:, e] < VISIT_DISTANCE) & (distance[:, e] <= best), at)
        if e == ends_at and closest < VISIT_DISTANCE:
            control = float("inf")
        verdict = "same function" if twin_of[e] is not None else _verdict(closest, control)
        visits.append(
            Visit(e, int(steps[at]), float(loss[at]), closest, control, int(steps[first]), int(steps[last]), verdict)
        )
    return Visits(
        np.asarray(steps),
        np.asarray(loss, float),
        distance,
        tuple(visits),
        _slow_downs(steps, loss, distance, visits, levels),
    )


def _norm(a: np.ndarray) -> float:
    return float(np.sqrt(np.sum(a * a)))


def _scale(f: np.ndarray, targets: np.ndarray) -> float:
    """|f - mean f|; for a constant function the spread of the targets."""
    spread = _norm(f - f.mean(axis=0))
    return spread if spread > 1e-9 * (1 + _norm(f)) else max(_norm(targets - targets.mean(axis=0)), 1e-300)


def _twins(
    entries: Sequence[np.ndarray], scales: list[float], sizes: list[int], levels: Sequence[float] | None
) -> list[int | None]:
    def same_level(e: int, s: int) -> bool:
        if levels is None:
            return True
        # Levels that are nothing beside the largest are all 0.
        return abs(levels[e] - levels[s]) <= 0.1 * max(levels[e], levels[s]) + 1e-5 * max(levels)

    twins: list[int | None] = []
    for e, f in enumerate(entries):
        earlier = (
            s
            for s in range(e)
            if twins[s] is None
            and same_level(e, s)
            and _norm(f - entries[s]) < (_SAME_FUNCTION if sizes[s] < sizes[e] else _SAME_LEVEL) * scales[e]
        )
        twins.append(next(earlier, None))
    return twins


def _control(
    e: int,
    approached: list[int],
    entries: Sequence[np.ndarray],
    scales: list[float],
    start: np.ndarray,
    targets: np.ndarray,
) -> float:
    if e not in approached:
        return float("nan")
    place = approached.index(e)
    before = entries[approached[place - 1]] if place > 0 else start
    after = entries[approached[place + 1]] if place + 1 < len(approached) else targets
    if place == 0 and _norm(before - entries[e]) < VISIT_DISTANCE * scales[e]:
        return float("inf")  # training starts here; no straight line leads to it
    direction = after - before
    along = float(np.sum((entries[e] - before) * direction)) / max(float(np.sum(direction**2)), 1e-300)
    return _norm(before + np.clip(along, 0.0, 1.0) * direction - entries[e]) / scales[e]


def _verdict(distance: float, control: float) -> Verdict:
    if distance < VISIT_DISTANCE and distance < VISIT_RATIO * control:
        return "visit"
    return "near" if distance < 2 * VISIT_DISTANCE and distance < control else "no match"


def _interval(below: np.ndarray, at: int) -> tuple[int, int]:
    first = last = at
    while first > 0 and below[at] and below[first - 1]:
        first -= 1
    while last < len(below) - 1 and below[at] and below[last + 1]:
        last += 1
    return first, last


def _slow_downs(
    steps: np.ndarray,
    loss: np.ndarray,
    distance: np.ndarray,
    visits: list[Visit],
    levels: Sequence[float] | None,
) -> tuple[SlowDown, ...]:
    from scipy.signal import find_peaks

    keep = np.flatnonzero((np.asarray(steps) > 0) & np.isfinite(loss) & (np.asarray(loss) > 0))
    if keep.size < 5:
        return ()
    t, values = np.asarray(steps)[keep], np.asarray(loss, float)[keep]
    rate = np.abs(np.gradient(np.log(values), np.log(t)))
    # A stall stands out when the rate before and after it is larger by 0.1 (a tenth of a power of time).
    peaks, _ = find_peaks(-rate, prominence=0.1)
    named = [v.entry for v in visits if v.verdict in ("visit", "near")]
    found = []
    for i in peaks:
        here = distance[keep[i]]
        fits = [e for e in named if levels is None or 1 / _LOSS_RATIO < levels[e] / values[i] < _LOSS_RATIO]
        best = min(fits, key=lambda e: here[e], default=None)
        if best is not None and here[best] > 2 * VISIT_DISTANCE:
            best = None
        if best is None and rate[i] > 1:
            continue  # falls faster than 1 / step: a bend, not a stall
        found.append(SlowDown(int(t[i]), float(values[i]), float(rate[i]), best))
    return tuple(found)
