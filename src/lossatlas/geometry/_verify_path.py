"""Look at a path on a grid along every segment, beside the straight line between its ends."""

import time

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._parameters import named_arrays, replace_parameters
from lossatlas._progress import ProgressLike, as_meter
from lossatlas.geometry._along import Measure
from lossatlas.geometry._path import Path
from lossatlas.geometry._path_verification import PathVerification, SegmentVerification
from lossatlas.landscape import Landscape
from lossatlas.numerics import is_affine_in


_CONVEX = ("mse", "cross_entropy", "logistic")


def verify_path(
    path: Path,
    landscape: Landscape,
    *,
    num_points: int = 21,
    progress: ProgressLike = "none",
) -> PathVerification:
    """The largest loss, the largest climb and the largest change of the outputs along a path, segment by segment.

    The straight line between the ends is the control: a path that a theorem makes flat is only worth something where
    the line is not. Where the outputs are affine in what moves along a segment (only the last layer does), a loss that
    is convex in the outputs is convex along it, and its ends are its maximum: that is proved from the operations of
    the network, and said.

    **Arguments:**
    - `num_points`: of every segment, both ends among them; a Bezier curve has three times as many.

    **Returns:** A [`lossatlas.geometry.PathVerification`][]. Cost: `num_points` evaluations of the loss a segment.

    **Raises:** `InputError` for fewer than two points, and running statistics that do not interpolate.
    """
    if num_points < 2:
        msg = f"num_points must be at least 2, got {num_points}."
        raise InputError(msg)
    begin = time.perf_counter()
    many = path.num_segments
    per_segment = 3 * num_points if path.kind == "bezier" else num_points
    measure = Measure(path, landscape, wants_change=True)
    found = []
    with as_meter(progress).task("verifying the path", many) as task:
        for k in range(many):
            # The first point of a segment is the last of the one before, so a climb between them is seen.
            local = np.linspace(0.0, 1.0, per_segment)[k > 0 :]
            found.append(measure((k + local) / many))
            task.update(k + 1)
    line = Path((path.vertices[0], path.vertices[-1]), refresh=path.refresh)
    control_measure = Measure(line, landscape, wants_change=True)
    control = control_measure(np.linspace(0.0, 1.0, num_points))
    moved = [_moved(path, k) for k in range(many)]
    convex = {names: _is_convex(path, landscape, names) for names in dict.fromkeys(moved)}
    lengths = np.diff(path.lengths(np.arange(many + 1) / many))
    segments, last = [], None
    for k, along in enumerate(found):
        loss = along.loss if last is None else np.concatenate([[last], along.loss])
        last = along.loss[-1]
        segments.append(
            SegmentVerification(
                length=float(lengths[k]),
                moved=moved[k],
                max_loss=_largest(loss),
                max_increase=_climb(loss),
                function_change=None if along.change is None else _largest(along.change),
                is_convex=convex[moved[k]],
            )
        )
    losses = np.concatenate([along.loss for along in found])
    top = int(np.argmax(np.where(np.isfinite(losses), losses, np.inf)))
    places = np.concatenate([(k + np.linspace(0.0, 1.0, per_segment)[k > 0 :]) / many for k in range(many)])
    changes = [along.change for along in found if along.change is not None]
    return PathVerification(
        start_loss=float(losses[0]),
        end_loss=float(losses[-1]),
        max_loss=_largest(losses),
        t_max_loss=float(places[top]),
        max_increase=_climb(losses),
        max_excess=_largest(losses) - max(float(losses[0]), float(losses[-1])),
        function_change=_largest(np.concatenate(changes)) if changes else None,
        function_scale=None if measure.origin is None else float(np.abs(np.asarray(measure.origin)).max(initial=0.0)),
        control_max_loss=_largest(control.loss),
        control_increase=_climb(control.loss),
        control_function_change=None if control.change is None else _largest(control.change),
        segments=tuple(segments),
        stats={
            "num_evaluations": measure.count + control_measure.count,
            "seconds": time.perf_counter() - begin,
        },
        settings={"num_points": num_points, "convention": "mean over examples"},
    )


def verified(path: Path, landscape: Landscape, *, num_points: int = 21, progress: ProgressLike = "none") -> Path:
    """The path with its verification.

    **Arguments:**
    - `path`, `num_points`: as for [`lossatlas.geometry.verify_path`][].
    """
    result = verify_path(path, landscape, num_points=num_points, progress=progress)
    return Path(path.vertices, path.kind, path.refresh, result)


def _largest(values: np.ndarray) -> float:
    return float(np.where(np.isfinite(values), values, np.inf).max())


def _climb(loss: Float[np.ndarray, " n"]) -> float:
    """The largest rise from a point to a later one."""
    loss = np.where(np.isfinite(loss), loss, np.inf)
    lowest = np.minimum.accumulate(loss)
    return float(np.max(np.where(np.isfinite(lowest), loss - np.where(np.isfinite(lowest), lowest, 0.0), 0.0)))


def _moved(path: Path, segment: int) -> tuple[str, ...]:
    """The arrays that change along a segment."""
    ends = path.vertices if path.kind == "bezier" else path.vertices[segment : segment + 2]
    first, *others = (named_arrays(network) for network in ends)
    # What a segment leaves alone is mostly one array that both vertices share.
    return tuple(
        name
        for name, array in first.items()
        if any(o[name] is not array and not np.array_equal(np.asarray(array), np.asarray(o[name])) for o in others)
    )


def _is_convex(path: Path, landscape: Landscape, moved: tuple[str, ...]) -> bool:
    """Whether the loss is convex in the moving arrays, by the operations of the network."""
    loss = landscape.loss
    if path.refresh is not None or loss is None or loss.name not in _CONVEX or not landscape.has_predictions:
        return False
    network = path.vertices[0]
    arrays = named_arrays(network)
    few = landscape.with_batch_size(None)
    data, rest = eqx.partition(few, eqx.is_array)
    names, (leaves, treedef) = list(arrays), jax.tree.flatten(data)

    def outputs(*values):
        made = replace_parameters(network, dict(zip(names, values, strict=False)))
        return eqx.combine(jax.tree.unflatten(treedef, values[len(names) :]), rest).predictions(made)

    return is_affine_in(outputs, [*arrays.values(), *leaves], [names.index(name) for name in moved])
