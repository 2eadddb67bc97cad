"""Slices sampled only where it is needed, with an interpolation error that was measured."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray, Shaped

from lossatlas._errors import InputError, unknown_name
from lossatlas._progress import ProgressLike, as_meter
from lossatlas._show import shown
from lossatlas._status import Status
from lossatlas._types import Network
from lossatlas.geometry._cells import Cell, picture_axes
from lossatlas.geometry._directions import Directions
from lossatlas.geometry._products import host_generator
from lossatlas.geometry._refine import ErrorScale, Judged, Manner, Tolerance, interpolate, interpolate_grid, refine
from lossatlas.geometry._slice import LONG_NAMES, Slice, check_extents, rest_digest
from lossatlas.geometry._slice_values import Loop, SliceValues
from lossatlas.landscape import Landscape


if TYPE_CHECKING:
    import xarray as xr

_SCALES = ("range", "value", "absolute")
_GRADIENT_ERROR = 0.01  # of the spread of the gradient norm, where the tolerance of the loss says nothing of it
_MANNERS: dict[str, Manner] = {"gradient_norm": "norm", "accuracy": "steps", "test_accuracy": "steps"}


@shown
class RefinedSlice(eqx.Module):
    """A slice as polynomials on cells, with the interpolation error that a check measured.

    - `points`, `values`: all that was computed: coordinates, and by name the quantities there. First the samples that
      are interpolated, the networks of `directions.networks` among them; the last `stats["checked"]` are the points of
      the checks.
    - `cells`: boxes with the samples that each interpolates.
    - `error`: by name, the largest error at the points of the last check, which had no part in the interpolation.
      What is meant for is in `settings`; accuracies are interpolated along and may be far worse.
    - `coverage`, `confidence`: with this confidence the losses are within the tolerance on that share of the area.
      Stated only where `status` is `CONVERGED`; with `MAX_STEPS` the points or the cells ran out before, and `error`
      is what was reached.
    - `num_at_edge`: points of the last check in cells that an edge of what is finite cuts. What is said of errors is
      not said of these cells: they are linear between samples a few hundredths of the extent apart, and masked beside
      a sample that is not finite.
    - `directions`, `origin`, `rest`: as in [`lossatlas.geometry.Slice`][]. `extents`: of the box.
    """

    points: Float[np.ndarray, "m k"]
    values: dict[str, Float[np.ndarray, " m"]]
    cells: tuple[Cell, ...]
    error: dict[str, float]
    coverage: float
    confidence: float
    num_at_edge: int
    extents: tuple[tuple[float, float], ...]
    directions: Directions
    origin: Shaped[np.ndarray, " p"]
    rest: str
    status: Status
    stats: dict[str, Any]
    settings: dict[str, Any]

    @property
    def lowest(self) -> tuple[tuple[float, ...], float]:
        """The coordinates of the least loss that was computed, and that loss."""
        loss = self.values["loss"]
        least = int(np.argmin(np.where(np.isfinite(loss), loss, np.inf)))
        return tuple(self.points[least].tolist()), float(loss[least])

    def __call__(self, points: Float[np.ndarray, "n k"]) -> dict[str, Float[np.ndarray, " n"]]:
        """The interpolated quantities at coordinates inside the box; NaN where masked.

        None is below the least that was computed.
        """
        samples, manners, least = self._samples()
        found = np.maximum(interpolate(list(self.cells), samples, np.asarray(points, float), manners), least)
        return {name: found[:, i] for i, name in enumerate(self.values)}

    def _samples(self) -> tuple[np.ndarray, tuple[Manner, ...], np.ndarray]:
        """What was computed, how it is interpolated, and the least of each quantity."""
        values = np.stack(list(self.values.values()), axis=1)
        least = np.min(values, axis=0, where=np.isfinite(values), initial=np.inf)
        manners: tuple[Manner, ...] = tuple(_MANNERS.get(name, "smooth") for name in self.values)
        return values, manners, np.where(np.isfinite(least), least, -np.inf)

    def on_grid(self, num: int = 101) -> Slice:
        """A picture by interpolation, without a further evaluation.

        Its lines are even, but those next to a network of `directions.networks` go through it, and are exact there. No
        value is below the least that was computed.

        **Arguments:**
        - `num`: points along each direction.

        **Returns:** [`lossatlas.geometry.Slice`][], whose `error` is that of the interpolation.
        """
        axes = picture_axes(self.extents, list(self.directions.networks.values()), num)
        samples, manners, least = self._samples()
        found = np.maximum(interpolate_grid(list(self.cells), samples, axes, manners), least)
        return Slice(
            values={name: found[..., i] for i, name in enumerate(self.values)},
            coordinates=axes,
            directions=self.directions,
            origin=self.origin,
            rest=self.rest,
            error=self.error,
            stats=self.stats,
            settings={**self.settings, "num": [num] * len(axes)},
        )

    def to_xarray(self) -> "xr.Dataset":
        """All that was computed: coordinates and values over `sample`, `checked` for those of the checks."""
        import xarray as xr

        values: dict[str, Any] = {
            name: ("sample", column, {"long_name": LONG_NAMES[name]}) for name, column in self.values.items()
        }
        values["checked"] = ("sample", np.arange(len(self.points)) >= len(self.points) - self.stats["checked"])
        attributes = {f"error_{name}": size for name, size in self.error.items()}
        coordinates = {f"direction_{i + 1}": ("sample", column) for i, column in enumerate(self.points.T)}
        return xr.Dataset(values, coords=coordinates, attrs={**attributes, "status": str(self.status)})

    def _figure(self) -> Any:
        return self.on_grid()._figure() if len(self.extents) < 3 else None


def refined_slice(
    key: PRNGKeyArray,
    network: Network,
    landscape: Landscape,
    directions: Directions,
    *,
    max_error: float = 0.01,
    relative_to: ErrorScale = "range",
    extents: Sequence[tuple[float | int, float | int]] | None = None,
    test: Landscape | None = None,
    gradient_norm: bool = False,
    accuracy: bool | None = None,
    coverage: float = 0.95,
    confidence: float = 0.95,
    max_points: int = 20_000,
    loop: Loop = "auto",
    progress: ProgressLike | None = None,
) -> RefinedSlice:
    r"""The loss along directions to a stated interpolation error, from as few evaluations as that takes.

    The box is cut into cells, and in each the loss is the polynomial through a grid of 7, 13 or 25 Chebyshev points
    along each axis. A cell whose coefficients do not fall fast enough gets more points along that axis (all it has
    are kept) or is halved. Then fresh random points are computed, and the interpolation must be right at every one:
    $\lceil \log(1 - c) / \log(s) \rceil$ points all pass with probability below $1 - c$ unless the error is within the
    tolerance on a share $s$ of the area. Where one fails its cell is refined, and a new check is drawn, larger, so
    that all checks together hold the confidence. Smooth losses in a plane take 100 to 300 points in all where a uniform
    grid takes thousands; rough ones (ReLU at tolerances below about 1e-4 of the range) are halved down to 1/64 of an
    extent and may cost as much as a grid. Edges of what is finite are followed by halving.

    **Arguments:**
    - `key`: of the random points of the checks; the same key gives the same slice.
    - `max_error`: the tolerance for `loss` and `test_loss`, in units of `relative_to`: `"range"`, the spread of all
      samples (a picture in linear colours); `"value"`, the loss itself (logarithmic colours); or `"absolute"`.
    - `coverage`, `confidence`: $s$ and $c$ above.
    - `max_points`: where it gives up; `status` then says so.
    - `extents`, `test`, `gradient_norm`, `accuracy`, `loop`: as for [`lossatlas.geometry.loss_slice`][]. Accuracies,
      which have steps, are linear between the samples: as good as their `error` says. Gradient norms are interpolated
      by their squares, to `max_error` of their own spread (1 % of it with `"absolute"`), for at most as many points
      again and 500 more; where these do not suffice, `error` says so.

    **Returns:** [`lossatlas.geometry.RefinedSlice`][].

    **Raises:** `InputError` as `loss_slice`, for tolerances and shares that are no such, and a loss that is nowhere
    finite.

    !!! cite
        Trefethen 2013, Approximation Theory and Approximation Practice (Chebyshev interpolation and its coefficients).
    """
    begin = time.perf_counter()
    _check(max_error, relative_to, coverage, confidence, max_points)
    at = SliceValues(
        network, landscape, directions, test=test, gradient_norm=gradient_norm, accuracy=accuracy, loop=loop
    )
    box = check_extents(extents, directions)
    losses = tuple(i for i, name in enumerate(at.names) if name.endswith("loss"))
    judged = [Judged(losses, Tolerance(max_error, relative_to))]
    if gradient_norm:
        share = _GRADIENT_ERROR if relative_to == "absolute" else max_error
        judged.append(Judged((at.names.index("gradient_norm"),), Tolerance(share, "range")))
    with as_meter(progress).task("slice", max_points) as task:
        found = refine(
            at,
            box,
            tuple(_MANNERS.get(name, "smooth") for name in at.names),
            judged,
            places=list(directions.networks.values()),
            coverage=coverage,
            confidence=confidence,
            max_points=max_points,
            rng=host_generator(key),
            report=task.update,
        )
    points = np.concatenate([found.samples.points, found.checks])
    values = np.concatenate([found.samples.values, found.check_values])
    if not np.isfinite(values[:, 0]).any():
        msg = "The loss is not finite at any sample of this slice; look at a smaller extent, or check the network."
        raise InputError(msg)
    errors = np.nan_to_num(found.errors, nan=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.max(np.nan_to_num(errors / np.abs(found.truth), nan=0.0), axis=0)
    return RefinedSlice(
        points=points,
        values={name: values[:, i] for i, name in enumerate(at.names)},
        cells=tuple(found.cells),
        error={name: float(size) for name, size in zip(at.names, np.max(errors, axis=0), strict=True)},
        coverage=coverage,
        confidence=confidence,
        num_at_edge=found.num_at_edge,
        extents=box,
        directions=directions,
        origin=np.asarray(at.origin),
        rest=rest_digest(at.unravel),
        status=found.status,
        stats={
            "points": len(points),
            "checked": len(found.checks),
            "cells": len(found.cells),
            "evaluations": len(points) * at.evaluations,
            "seconds": time.perf_counter() - begin,
        },
        settings={
            "extents": [list(pair) for pair in box],
            "gradient_norm": gradient_norm,
            "accuracy": at.accuracy,
            "test": test is not None,
            "loop": at.loop,
            "batch_size": landscape.batch_size,
            "convention": "mean over examples",
            "refined": {
                "seed": np.asarray(jax.random.key_data(key)).tolist(),
                "max_error": max_error,
                "relative_to": relative_to,
                "relative_error": {at.names[i]: float(shares[i]) for i in losses} if relative_to == "value" else {},
                "allowed": max_error * (found.spread if relative_to == "range" else 1.0),
                "coverage": coverage,
                "confidence": confidence,
                "max_points": max_points,
                "status": str(found.status),
            },
        },
    )


def _check(max_error: float, relative_to: str, coverage: float, confidence: float, max_points: int) -> None:
    if relative_to not in _SCALES:
        raise unknown_name("error scale", relative_to, _SCALES)
    if not (np.isfinite(max_error) and max_error > 0):
        msg = f"max_error must be a positive number, got {max_error}."
        raise InputError(msg)
    for name, share in (("coverage", coverage), ("confidence", confidence)):
        if not 0 < share < 1:
            msg = f"{name} must lie between 0 and 1, got {share}."
            raise InputError(msg)
    if max_points < 1:
        msg = f"max_points must be at least 1, got {max_points}."
        raise InputError(msg)
