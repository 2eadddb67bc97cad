"""The loss along paths between two networks, with the barrier of each."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._numbers import format_number
from lossatlas.figures._plain import curves_figure
from lossatlas.figures._theme import MUTED, PALETTE


_DASHES = ("solid", "dash", "dot")
_LEAST_MARK, _LEAST_TEXT = 0.02, 0.12  # of the height of all curves: what is smaller has no line, or no number
_LEAST_SPAN = 1e-9  # of the largest value: the axis shows no differences that are rounding


def path_figure(
    paths: Mapping[str, Any],
    *,
    value: Literal["loss", "accuracy"] = "loss",
    compact: bool = False,
) -> go.Figure:
    """The loss, or the accuracy, along some paths, training and test data in one colour a path.

    The barrier is the vertical line between the path and the straight line through its ends.

    **Arguments:**
    - `paths`: by name, a [`lossatlas.geometry.Barrier`][], or several by the name of the data
      (`{"train": ..., "test": ...}`), drawn solid, dashed and dotted.
    - `value`: what to draw. `compact`: for pages narrower than 640 pixels.
    """
    curves = {
        (path, data): found
        for path, given in paths.items()
        for data, found in (given if isinstance(given, Mapping) else {"": given}).items()
    }
    curves = {key: found for key, found in curves.items() if getattr(found, value) is not None}
    lines = {", ".join(part for part in key if part): found for key, found in curves.items()}
    figure = curves_figure(
        {name: (found.t, getattr(found, value)) for name, found in lines.items()},
        x="place along the path, from the first network (0) to the second (1)",
        y="mean loss" if value == "loss" else "accuracy",
        compact=compact,
    )
    kinds = list(dict.fromkeys(data for _, data in curves))
    traces: Any = figure.data
    finite = [heights[np.isfinite(heights)] for heights in (getattr(found, value) for found in curves.values())]
    heights = np.concatenate([np.zeros(0), *finite])
    span = float(np.ptp(heights)) if heights.size else 0.0
    if heights.size and span < _LEAST_SPAN * (size := float(np.abs(heights).max())):
        span = size
        low, high = heights.mean() - size, heights.mean() + size
        figure.update_yaxes(range=[low, high] if value == "loss" else [0, 1.02])
    for trace, (path, data), found in zip(traces, curves, curves.values(), strict=True):
        colour = PALETTE[list(paths).index(path) % len(PALETTE)]
        trace.line = {"color": colour, "width": 2, "dash": _DASHES[kinds.index(data) % len(_DASHES)]}
        trace.hovertemplate = f"{trace.name}<br>t = %{{x:.3f}}: %{{y:.4g}}<extra></extra>"
        if data == kinds[0]:
            _mark(figure, found, value, colour, span)
    return figure


def _mark(figure: go.Figure, found: Any, value: str, colour: str, span: float) -> None:
    """The barrier between the curve and the straight line through its ends, with its size where there is room."""
    size, place = (found.barrier, found.t_barrier) if value == "loss" else (found.accuracy_drop, found.t_accuracy_drop)
    shown = np.asarray(getattr(found, value))
    if size is None or not np.isfinite(size) or size <= _LEAST_MARK * span:
        return
    base = (1 - place) * shown[0] + place * shown[-1]
    rise = size if value == "loss" else -size
    figure.add_scatter(
        x=[0, 1],
        y=[shown[0], shown[-1]],
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        showlegend=False,
        hoverinfo="skip",
    )
    text = format_number(float(size), 3)
    figure.add_scatter(
        x=[place] * 3,
        y=[base, base + 0.5 * rise, base + rise],
        mode="lines+markers+text",
        line={"color": colour, "width": 1},
        marker={"color": colour, "size": [5, 0, 5]},
        text=["", text if size > _LEAST_TEXT * span else "", ""],
        textposition="middle right",
        textfont={"color": colour},
        showlegend=False,
        hovertemplate=f"barrier {text} at t = {place:.3f}<extra></extra>",
    )
