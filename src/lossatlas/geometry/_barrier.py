"""The barrier along a path: how far the loss rises above its ends."""

import time
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from lossatlas._errors import InputError
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas.geometry._along import Measure
from lossatlas.geometry._path import Path
from lossatlas.landscape import Landscape


_GOLDEN = (np.sqrt(5) - 1) / 2


@shown
class Barrier(eqx.Module):
    r"""The loss along a path, and how far it rises above the ends.

    - `barrier`: $\max_t\, L(\theta(t)) - ((1-t) L_A + t L_B)$, at `t_barrier` (Entezari et al. 2022, Git
      Re-Basin); never negative.
    - `instability`: $\max_t\, L(\theta(t)) - \frac12 (L_A + L_B)$, at `t_instability` (Frankle et al. 2020). They
      differ where the ends do.
    - `accuracy_drop`: the largest fall of the accuracy below its own straight line, at `t_accuracy_drop`; None
      without accuracy.
    - `t`, `length`, `loss`, `accuracy`: everything measured, in order along the path; `length` is Euclidean, in
      parameters. Accuracy is the share of examples whose largest output is right.
    - `resolution`: the width in t of the bracket that still holds the maximum around `t_barrier`. Narrower peaks than
      the grid may be missed.
    """

    barrier: float
    t_barrier: float
    instability: float
    t_instability: float
    accuracy_drop: float | None
    t_accuracy_drop: float | None
    t: Float[np.ndarray, " n"]
    length: Float[np.ndarray, " n"]
    loss: Float[np.ndarray, " n"]
    accuracy: Float[np.ndarray, " n"] | None
    resolution: float
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def error_instability(self) -> float | None:
        """The instability of the error, one less the accuracy, at the places measured; None without accuracy."""
        if self.accuracy is None:
            return None
        error = 1 - self.accuracy
        return float(error.max() - 0.5 * (error[0] + error[-1]))

    def to_xarray(self) -> Any:
        """Loss, accuracy and length over `t`."""
        import xarray as xr

        columns = {"loss": self.loss, "length": self.length}
        columns |= {} if self.accuracy is None else {"accuracy": self.accuracy}
        found = {"barrier": self.barrier, "t_barrier": self.t_barrier, "instability": self.instability}
        return xr.Dataset(
            {name: ("t", column) for name, column in columns.items()}, {"t": self.t}, {**found, **self.settings}
        )

    def __str__(self) -> str:
        drop = "" if self.accuracy_drop is None else f", accuracy falls by {self.accuracy_drop:.3f}"
        return f"barrier {self.barrier:.4g} at t = {self.t_barrier:.3g}, instability {self.instability:.4g}{drop}"

    def __repr__(self) -> str:
        return f"Barrier({self})"

    def _figure(self) -> Any:
        from lossatlas.figures import path_figure

        return path_figure({"path": self})


def barrier(
    path: Path,
    landscape: Landscape,
    *,
    num_points: int = 25,
    num_refinements: int = 8,
    progress: ProgressLike = "none",
) -> Barrier:
    """Measure the loss along a path, and its barrier.

    A grid of equal steps in t, then golden-section steps around the largest rise by either definition. Networks are in
    the mode that the landscape gives them: evaluation mode, or the statistics of all its data for networks with
    `batch_statistics`. The same path on test data is another call.

    **Arguments:**
    - `path`: its own `refresh` decides what becomes of running statistics.
    - `num_points`: of the grid, both ends among them.
    - `num_refinements`: golden-section steps for each definition; each makes the bracket 0.62 times as wide.

    **Returns:** A [`lossatlas.geometry.Barrier`][]. Cost: `num_points` and about `2 * num_refinements + 2`
    evaluations of the loss.

    **Raises:** `InputError` for fewer than three points, and running statistics that do not interpolate.

    !!! example
        >>> found = barrier(Path((first, second)), landscape)  # doctest: +SKIP
        >>> found.barrier, found.t_barrier  # doctest: +SKIP

    !!! cite
        Entezari et al. 2022, arXiv 2110.06296; Frankle et al. 2020, arXiv 1912.05671; Ainsworth et al. 2023,
        arXiv 2209.04836 (25 points).
    """
    if num_points < 3 or num_refinements < 0:
        msg = f"num_points must be at least 3 and num_refinements at least 0, got {num_points} and {num_refinements}."
        raise InputError(msg)
    begin = time.perf_counter()
    measure = Measure(path, landscape)
    places = np.linspace(0.0, 1.0, num_points)
    seen: dict[float, tuple[float, float]] = {}

    def look(t: np.ndarray) -> None:
        found = measure(t)
        accuracy = np.full(len(t), np.nan) if found.accuracy is None else found.accuracy
        seen.update({at: pair for at, *pair in zip(t.tolist(), found.loss, accuracy, strict=True)})  # pyright: ignore

    with as_meter(progress).task("along the path", num_points + 2 * num_refinements) as task:
        for i, part in enumerate(np.array_split(places, max(1, num_points // 16))):
            look(part)
            task.update((i + 1) * len(part))
        start, end = seen[0.0][0], seen[1.0][0]
        widths = []
        for line in (lambda t: (1 - t) * start + t * end, lambda t: 0 * t + 0.5 * (start + end)):
            rise = lambda t, line=line: _finite(seen[t][0] - line(t))  # noqa: E731
            widths.append(_golden(places, rise, lambda t: look(np.asarray([t])), num_refinements))
            task.update(measure.count)
    t = np.asarray(sorted(seen))
    loss, accuracy = np.asarray([seen[at] for at in t.tolist()]).T
    straight = (1 - t) * start + t * end
    rises, above = _finite(loss - straight), _finite(loss - 0.5 * (start + end))
    drops = (1 - t) * accuracy[0] + t * accuracy[-1] - accuracy
    has_accuracy = bool(np.isfinite(accuracy).all())
    top, high, low = int(np.argmax(rises)), int(np.argmax(above)), int(np.argmax(drops)) if has_accuracy else 0
    return Barrier(
        barrier=float(rises[top]),
        t_barrier=float(t[top]),
        instability=float(above[high]),
        t_instability=float(t[high]),
        accuracy_drop=float(drops[low]) if has_accuracy else None,
        t_accuracy_drop=float(t[low]) if has_accuracy else None,
        t=t,
        length=path.lengths(t),
        loss=loss,
        accuracy=accuracy if has_accuracy else None,
        resolution=widths[0],
        stats={"num_evaluations": measure.count, "seconds": time.perf_counter() - begin},
        settings={"num_points": num_points, "num_refinements": num_refinements, "convention": "mean over examples"},
    )


def _finite(rise: Any) -> Any:
    """A loss that is not finite is a wall."""
    return np.where(np.isfinite(rise), rise, np.inf)


def _golden(places: np.ndarray, rise: Any, look: Any, steps: int) -> float:
    """Golden-section search for the largest rise between the neighbours of the best grid point; the last width."""
    best = int(np.argmax([rise(t) for t in places.tolist()]))
    low, high = places[max(best - 1, 0)], places[min(best + 1, len(places) - 1)]
    if steps == 0 or not np.isfinite(rise(float(places[best]))):
        return float(high - low)
    left, right = (float(high - _GOLDEN * (high - low)), float(low + _GOLDEN * (high - low)))
    look(left)
    look(right)
    for _ in range(steps - 1):
        if rise(left) >= rise(right):
            high, right = right, left
            left = float(high - _GOLDEN * (high - low))
            look(left)
        else:
            low, left = left, right
            right = float(low + _GOLDEN * (high - low))
            look(right)
    return float(high - low)
