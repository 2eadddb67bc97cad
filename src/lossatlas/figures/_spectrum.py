"""The spectrum of a curvature matrix: its density with an error band, and the eigenvalues of both ends."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from lossatlas.figures._numbers import format_number
from lossatlas.figures._theme import MUTED, PALETTE, new_figure


_BAND = 2  # standard errors
_FLOOR = 1e-6  # of the largest density: what is drawn on the logarithmic axis


def spectrum_figure(
    ends: Float[np.ndarray, " k"],
    density: Mapping[str, Float[np.ndarray, " g"]] | None = None,
    *,
    size: int,
    name: str = "Hessian",
    compact: bool = False,
) -> go.Figure:
    """The density of all eigenvalues on a logarithmic axis, and a tick for each eigenvalue that is known.

    **Arguments:**
    - `ends`: eigenvalues from both ends of the spectrum.
    - `density`: `grid`, `density` and `standard_error`; None where it was not measured.
    - `size`: the number of eigenvalues: a single one has density 1 / size.
    - `name`: of the matrix. `compact`: for pages narrower than 640 pixels.
    """
    figure = new_figure(height=320 if compact else 400, margin={"l": 64, "r": 16, "t": 44, "b": 52}, compact=compact)
    if density is not None:
        _add_density(figure, density)
    figure.add_scatter(
        x=ends,
        y=np.zeros(len(ends)),
        yaxis="y2",
        mode="markers",
        name="eigenvalues of the ends",
        marker={"symbol": "line-ns", "size": 14, "line": {"color": PALETTE[1], "width": 2}},
        text=[format_number(float(value), 6) for value in ends],
        hovertemplate="%{text}<extra></extra>",
    )
    has_density = density is not None
    figure.update_layout(
        yaxis={
            "domain": [0.14, 1.0],
            "title": {"text": "density"},
            "type": "log",
            "exponentformat": "power",
            "visible": has_density,
        },
        yaxis2={"domain": [0.0, 0.1 if has_density else 1.0], "visible": False, "range": [-1, 1]},
        xaxis={"title": {"text": f"eigenvalue of the {name}"}, "anchor": "y2", "exponentformat": "power"},
        showlegend=has_density,
    )
    if has_density:
        low, high = _heights(density, size)
        figure.update_layout(yaxis={"range": [np.log10(low), np.log10(high)]})
    figure.add_vline(x=0, line={"color": MUTED, "width": 1, "dash": "dot"})
    return figure


def _heights(density: Mapping[str, Any], size: int) -> tuple[float, float]:
    """The axis shows the bump of a single eigenvalue, whose width is that of a fiftieth of the range or less."""
    peak, grid = float(np.max(density["density"])), density["grid"]
    single = 1 / (size * 0.02 * float(grid[-1] - grid[0]))
    return max(_FLOOR * peak, 0.1 * single), 3 * peak


def _add_density(figure: go.Figure, density: Mapping[str, Any]) -> None:
    grid, height = np.asarray(density["grid"]), np.asarray(density["density"])
    error = _BAND * np.asarray(density["standard_error"])
    peak = float(height.max())
    low, high = (np.maximum(part, _FLOOR * peak * 1e-3) for part in (height - error, height + error))
    figure.add_scatter(
        x=np.concatenate([grid, grid[::-1]]),
        y=np.concatenate([high, low[::-1]]),
        fill="toself",
        fillcolor="rgba(0, 114, 178, 0.2)",
        line={"width": 0},
        hoverinfo="skip",
        name=f"± {_BAND} standard errors",
    )
    figure.add_scatter(
        x=grid,
        y=np.maximum(height, _FLOOR * peak * 1e-3),
        mode="lines",
        line={"color": PALETTE[0], "width": 2},
        name="density",
        hovertemplate="%{x:.4g}: %{y:.3g}<extra></extra>",
    )
