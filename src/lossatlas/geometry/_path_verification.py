"""What a verification of a path found."""

from typing import Any

import equinox as eqx

from lossatlas._show import shown


@shown
class SegmentVerification(eqx.Module):
    """One straight segment of a path, or a whole Bezier curve.

    - `length`: Euclidean, in parameters. `moved`: the parameters that change along it.
    - `max_loss`: the largest loss seen on it. `max_increase`: the largest climb, from a point to a later one.
    - `function_change`: the largest change of any output on the data since the start of the path; None where the
      landscape has no predictions.
    - `is_convex`: whether the loss is proved to be convex along it, since the outputs are affine in what moves and the
      loss is convex in the outputs: then its ends are its maximum, not the points that were looked at.
    """

    length: float
    moved: tuple[str, ...]
    max_loss: float
    max_increase: float
    function_change: float | None
    is_convex: bool


@shown
class PathVerification(eqx.Module):
    """A path, looked at on a grid along every segment, beside the straight line between its ends.

    - `start_loss`, `end_loss`, `max_loss`: mean losses; `t_max_loss`: where the largest is.
    - `max_increase`: the largest climb, from any point to a later one; 0 for a path that never rises.
    - `max_excess`: the largest loss minus the larger one of the ends.
    - `function_change`: the largest change of any output on the data since the start; None without predictions.
      `function_scale`: the largest output at the start.
    - `control_max_loss`, `control_increase`, `control_function_change`: the same of the straight line.
    - `segments`: one by one, [`lossatlas.geometry.SegmentVerification`][].
    - `stats`: `num_evaluations` of the loss, `seconds`. `settings`: points a segment; a smooth path is known between
      them only as far as the grid is fine, except on segments that are convex.
    """

    start_loss: float
    end_loss: float
    max_loss: float
    t_max_loss: float
    max_increase: float
    max_excess: float
    function_change: float | None
    function_scale: float | None
    control_max_loss: float
    control_increase: float
    control_function_change: float | None
    segments: tuple[SegmentVerification, ...]
    stats: dict[str, Any]
    settings: dict[str, Any]

    def to_xarray(self) -> Any:
        """The segments as an `xarray.Dataset` over `segment`."""
        import numpy as np
        import xarray as xr

        names = ("length", "max_loss", "max_increase", "function_change", "is_convex")
        columns = {name: [getattr(segment, name) for segment in self.segments] for name in names}
        if self.function_change is None:
            del columns["function_change"]
        return xr.Dataset(
            {name: ("segment", np.asarray(column)) for name, column in columns.items()},
            attrs={"max_loss": self.max_loss, "max_increase": self.max_increase, **self.settings},
        )

    def __str__(self) -> str:
        changed = "" if self.function_change is None else f", outputs changed by at most {self.function_change:.1e}"
        return (
            f"loss {self.start_loss:.4g} to {self.end_loss:.4g}, at most {self.max_loss:.4g}, largest climb "
            f"{self.max_increase:.1e}{changed}; straight line at most {self.control_max_loss:.4g}"
        )

    def __repr__(self) -> str:
        return f"PathVerification({self})"
