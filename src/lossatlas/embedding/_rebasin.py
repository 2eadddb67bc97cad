"""Bring a network into the basin of another: several matchings, the best by the measured barrier."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import equinox as eqx

from lossatlas._errors import InputError, unknown_name
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._types import Network
from lossatlas.embedding._alignment import common_spaces
from lossatlas.embedding._match import Match, match
from lossatlas.embedding._match_activations import match_activations
from lossatlas.embedding._match_straight_through import match_straight_through
from lossatlas.embedding._repair import Repair, repair_like
from lossatlas.embedding._repair import repair as repaired
from lossatlas.geometry import Barrier, BatchStatistics, Path, barrier
from lossatlas.geometry._verify_path import verified
from lossatlas.landscape import Landscape


Method = Literal["weights", "activations", "straight-through"]
_METHODS = ("weights", "activations", "straight-through")


@shown
class Candidate(eqx.Module):
    """One matching of two networks, and the barrier of the straight line that it leaves.

    - `name`: the method and its start. `match`: what it did. `barrier`: along the line, on the landscape.
    - `objective`: the sum of products of the weights, in a gauge common to all candidates.
    - `seconds`: what it took, the barrier included.
    """

    name: str
    barrier: Barrier
    objective: float
    seconds: float
    match: Match | None

    def __repr__(self) -> str:
        return f"Candidate({self.name}: {self.barrier})"


@shown
class Rebasin(eqx.Module):
    """How a network was brought into the basin of another.

    - `path`: the straight line from the reference (t = 0) to the matched network (t = 1), verified.
    - `best`: the candidate of the lowest barrier. `naive`: the straight line to the network as it was.
    - `candidates`: all that were tried, the lowest barrier first. The objective of the weights does not rank them.
    """

    path: Path
    best: Candidate
    naive: Candidate
    candidates: tuple[Candidate, ...]
    settings: dict[str, Any]

    def __repr__(self) -> str:
        before, after = self.naive.barrier.barrier, self.best.barrier.barrier
        return f"Rebasin({self.best.name}: barrier {before:.4g} -> {after:.4g})"

    def _figure(self) -> Any:
        from lossatlas.figures import path_figure

        return path_figure({"as it was": self.naive.barrier, self.best.name: self.best.barrier})


def rebasin(
    network: Network,
    reference: Network,
    landscape: Landscape,
    *,
    methods: Sequence[Method] = ("weights", "activations"),
    repair: bool = False,
    num_points: int = 25,
    num_steps: int = 100,
    progress: ProgressLike = "none",
) -> tuple[Network, Rebasin]:
    """Bring a network into the basin of another by the symmetries of its units, and measure how well that went.

    `"weights"` is matched from three starts: by what is settled, the units as they stand, and the best matching by
    activations. `"activations"` is matched by products and by correlations. `"straight-through"` starts from the best
    of these. Of all, the lowest measured barrier on the landscape is kept: the objective of a matching ranks nothing.
    A barrier near zero needs width, and is not promised; a barrier that stays is not proof that there is one.

    BatchNorm: running statistics are computed anew along every line from the inputs of the landscape.

    **Arguments:**
    - `network`, `reference`: of one architecture and shape, with unit spaces.
    - `methods`: which of the three to try.
    - `repair`: repair the statistics of hidden units along every line, see [`lossatlas.embedding.repair`][].
    - `num_points`: of every barrier, as for [`lossatlas.geometry.barrier`][].
    - `num_steps`: of straight-through matching.

    **Returns:** the matched network, which computes the same function as `network`, and a
    [`lossatlas.embedding.Rebasin`][].

    **Raises:** `InputError` for unknown or no methods, and as [`lossatlas.embedding.match`][].

    !!! cite
        Ainsworth et al. 2023, arXiv 2209.04836; Jordan et al. 2023, arXiv 2211.08403 (repair).
    """
    for method in methods:
        if method not in _METHODS:
            raise unknown_name("method", method, _METHODS)
    if not methods:
        msg = f"Give at least one of the methods {', '.join(_METHODS)}."
        raise InputError(msg)
    begin = time.perf_counter()
    common_spaces(network, reference)  # says what cannot be matched before any long work
    line = _Lines(reference, landscape, repair, num_points)
    naive = _candidate("as it was", None, line(network), line, begin)
    found: list[tuple[Candidate, Network]] = []
    with as_meter(progress).task("matching", len(methods)) as task:
        for done, method in enumerate(sorted(dict.fromkeys(methods), key=("activations", *_METHODS).index)):
            begin = time.perf_counter()
            best = min(found, key=lambda pair: pair[0].barrier.barrier)[0].match if found else None
            for name, moved, how in _matchings(method, network, reference, landscape, best, num_steps, progress):
                made = _candidate(name, how, line(moved), line, begin)
                found.append((made, moved))
                begin = time.perf_counter()
            task.update(done + 1, f"lowest barrier {min(c.barrier.barrier for c, _ in found):.4g}")
    found.sort(key=lambda pair: pair[0].barrier.barrier)
    best, moved = found[0]
    path = verified(line(moved), landscape, progress=progress)
    settings = {"methods": tuple(methods), "repair": repair, "num_points": num_points, "num_steps": num_steps}
    return moved, Rebasin(path, best, naive, tuple(candidate for candidate, _ in found), settings)


def _matchings(
    method: Method,
    network: Network,
    reference: Network,
    landscape: Landscape,
    best: Match | None,
    num_steps: int,
    progress: ProgressLike,
) -> Iterator[tuple[str, Network, Match]]:
    if method == "activations":
        yield "activations", *match_activations(network, reference, landscape)
        yield "correlations", *match_activations(network, reference, landscape, measure="correlation")
    elif method == "weights":
        starts = {"weights": "ordered", "weights, units as they stand": "identity", "weights from activations": best}
        for name, start in starts.items():
            if start is not None:
                yield name, *match(network, reference, landscape=landscape, start=start, balance=True)
    else:
        kwargs: dict[str, Any] = {"num_steps": num_steps, "progress": progress}
        yield "straight-through", *match_straight_through(network, reference, landscape, start=best, **kwargs)


class _Lines:
    """Straight lines from the reference to one network after another, and what they are measured with."""

    def __init__(self, reference: Network, landscape: Landscape, repair: bool, num_points: int):
        self.reference, self.landscape, self.repair, self.num_points = reference, landscape, repair, num_points
        self.template: Repair | None = None  # one for all lines, so that they share their programs

    def __call__(self, moved: Network) -> Path:
        line = line_between(self.reference, moved, self.landscape)
        if not self.repair:
            return line
        if self.template is not None:
            return repair_like(line, self.template)
        made = repaired(Path(line.vertices), self.landscape)
        assert isinstance(made.refresh, Repair)
        self.template = made.refresh
        return made


def _candidate(name: str, how: Match | None, path: Path, line: _Lines, begin: float) -> Candidate:
    measured = barrier(path, line.landscape, num_points=line.num_points)
    objective = how.objectives[-1] if how is not None else float("nan")
    return Candidate(name, measured, objective, time.perf_counter() - begin, how)


def line_between(network: Network, other: Network, landscape: Landscape) -> Path:
    """The straight line between two networks; running statistics that differ are computed anew where possible.

    **Arguments:**
    - `network`, `other`: the ends. Arrays of the second are put into the first where only code tells them apart.
    """
    other = replace_parameters(network, named_arrays(other))
    renewed = getattr(network, "has_statistics", False)
    return Path((network, other), refresh=BatchStatistics(landscape.inputs) if renewed else None)
