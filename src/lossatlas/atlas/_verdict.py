"""The verdict of the plateau doctor in plain words."""

from lossatlas._parameters import num_parameters
from lossatlas._status import Certificate, Status
from lossatlas._types import Network
from lossatlas.atlas._diagnosis import SmallNetwork, Standing, State, WayOut


def state_of(standing: Standing, unexplained: float, *, interpolation: float) -> State:
    """Where the network stands, in a word.

    **Arguments:**
    - `unexplained`: the loss over that of the best constant. `interpolation`: below it the data are interpolated.
    """
    if unexplained <= interpolation:
        return "interpolating"
    if standing.gradient_ratio > 1:
        return "not stuck"
    if standing.point is None or not standing.is_near:
        return "stalled"
    return "at infinity" if standing.point.status is Status.AT_INFINITY else "stuck"


def verdict_of(
    state: State,
    network: Network,
    small: SmallNetwork | None,
    standing: Standing,
    ways: tuple[WayOut, ...],
    control: float | None,
) -> str:
    """The sentences."""
    total = num_parameters(network)
    ratio, loss = standing.gradient_ratio, standing.loss
    if state == "interpolating":
        what = f" It computes what {_sized(small, total)} computes." if small is not None else ""
        return f"An interpolating minimum: the loss is {loss:.2g}, the data are fitted.{what}"
    if state == "not stuck":
        near = ""
        if small is not None and standing.is_near and standing.point is not None:
            kind = "level at infinity" if standing.point.status is Status.AT_INFINITY else "level"
            level = f"the {kind} {float(standing.point.loss):.4g} of {small.words}"
            near = f" Nearby is {level}, at distance {_short(standing.distance)}."
        return f"Not stuck: the gradient is {_times(ratio)} what a stall would have (loss {loss:.4g}).{near}"
    if state == "stalled":
        slow = f"Training is slow (the gradient is {_times(ratio)} what a stall may have, loss {loss:.4g})"
        return f"{slow}, but no critical point of a small network was found nearby.{_best(ways, loss, control)}"
    assert small is not None
    assert standing.point is not None
    if state == "at infinity":
        return (
            f"A level at infinity, no critical point: {_sized(small, total)}, whose weights run away: "
            f"{standing.runaway or 'how is not known'}; the loss tends to {float(standing.point.loss):.4g}."
            f"{_best(ways, loss, control)}"
        )
    return f"Training is stuck at {_sized(small, total)}: {_kind(standing, ways)}.{_best(ways, loss, control)}"


def counted_parameters(number: int) -> str:
    """`13 parameters`."""
    return f"{number:,} parameter{'' if number == 1 else 's'}"


def _sized(small: SmallNetwork, total: int) -> str:
    what = small.words
    if not what.startswith("a "):
        what = f"a network of {what}"
    return f"{what} ({counted_parameters(small.num_parameters)} of {total:,})"


def _kind(standing: Standing, ways: tuple[WayOut, ...]) -> str:
    assert standing.point is not None
    counted = standing.inertia
    if standing.point.status is not Status.CONVERGED or counted is None:
        return "near a critical point that is not certified"
    if counted.is_strict_saddle is Certificate.YES:
        return f"a strict saddle with {_negative(counted.negative)}"
    if counted.is_minimum is Certificate.YES:
        return f"a minimum of that small network{_in_wider_ones(standing, ways)}"
    if counted.certificate is Certificate.YES:
        return f"a critical point of it without negative curvature, {counted.zero} eigenvalues zero"
    return "a critical point whose inertia is not certified"


def _in_wider_ones(standing: Standing, ways: tuple[WayOut, ...]) -> str:
    """Whether the minimum of the small network is one of wider networks."""
    for counted in (standing.here, standing.measured):
        if counted is not None and counted.is_strict_saddle is Certificate.YES:
            return f", but of the big one a strict saddle with {_negative(counted.negative)}"
    opened = min((way.curvature for way in ways if way.kind in ("split", "null unit")), default=0.0)
    return f", but one unit more opens a way down (curvature {opened:.2g})" if opened < 0 else ""


def _negative(number: int) -> str:
    return f"{number} negative eigenvalue{'' if number == 1 else 's'}"


def _best(ways: tuple[WayOut, ...], loss: float, control: float | None) -> str:
    """The best step, what it saves, and what a short run makes of it."""
    if not ways or not ways[0].realised > 0:
        return " No step was found that leaves."
    best = ways[0]
    verb = {"split": "splits", "null unit": "adds"}.get(best.kind)
    words = f"goes {best.words}" if verb is None else f"{verb}{best.words.removeprefix('split').removeprefix('add')}"
    shown = [value for value in (loss, best.loss, best.loss_after, control) if value is not None]
    # As many digits as tell them apart.
    digits = next((n for n in (3, 4, 5) if len({f"{value:.{n}g}" for value in shown[:3]}) == len(shown[:3])), 6)
    after = ""
    if best.loss_after is not None and control is not None:
        run = "after a short run of gradient descent"
        after = f", and to {best.loss_after:.{digits}g} {run} ({control:.{digits}g} without the step)"
    return f" The best step {words}: the loss falls from {loss:.{digits}g} to {best.loss:.{digits}g}{after}."


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.2g} times"


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"
