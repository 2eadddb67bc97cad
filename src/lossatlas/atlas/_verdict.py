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
    state: State, network: Network, small: SmallNetwork | None, standing: Standing, ways: tuple[WayOut, ...]
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
            near = f" Nearby is the level {float(standing.point.loss):.4g} of {small.words}, at distance {_short(standing.distance)}."
        return f"Not stuck: the gradient is {_times(ratio)} what a stall would have (loss {loss:.4g}).{near}"
    if state == "stalled":
        where = "no critical point of a small network was found nearby"
        return f"Training is slow (the gradient is {_times(ratio)} what a stall may have), but {where}.{_best(ways, loss)}"
    assert small is not None
    assert standing.point is not None
    if state == "at infinity":
        return (
            f"A level at infinity, no critical point: {_sized(small, total)}, whose weights run away: "
            f"{standing.runaway or 'how is not known'}; the loss tends to {float(standing.point.loss):.4g}."
            f"{_best(ways, loss)}"
        )
    return f"Training is stuck at {_sized(small, total)}: {_kind(standing)}.{_best(ways, loss)}"


def _sized(small: SmallNetwork, total: int) -> str:
    what = small.words
    if not what.startswith("a "):
        what = f"a network of {what}"
    return f"{what} ({small.num_parameters:,} parameters of {total:,})"


def _kind(standing: Standing) -> str:
    assert standing.point is not None
    counted = standing.inertia
    if standing.point.status is not Status.CONVERGED or counted is None:
        return "near a critical point that is not certified"
    if counted.is_strict_saddle is Certificate.YES:
        return f"a strict saddle with {counted.negative} negative eigenvalue{'' if counted.negative == 1 else 's'}"
    if counted.is_minimum is Certificate.YES:
        return "a minimum of that small network"
    if counted.certificate is Certificate.YES:
        return f"a critical point of it without negative curvature, {counted.zero} eigenvalues zero"
    return "a critical point whose inertia is not certified"


def _best(ways: tuple[WayOut, ...], loss: float) -> str:
    if not ways or not ways[0].realised > 0:
        return " No step was found that leaves."
    best = ways[0]
    verb = best.words if best.kind != "curvature" else f"goes {best.words}"
    verb = verb.replace("split", "splits", 1).replace("add", "adds", 1) if best.kind in ("split", "null unit") else verb
    if best.kind == "curvature of the small network":
        verb = f"goes {best.words}"
    return f" The best step {verb}: loss falls from {loss:.3g} to {best.loss:.3g}."


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.2g} times"


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"
