"""Plain figures that studies share: curves with reference lines, points, counts and matrices."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Shaped

from lossatlas.figures._labels import text_size
from lossatlas.figures._numbers import format_number, log_ticks
from lossatlas.figures._theme import INK, MUTED, PALETTE, new_figure


Scale = Literal["linear", "log"]
_SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up", "cross")
_MOST_DECADES = 8  # with a tick each; more are ticked more sparsely
_MOST_WHOLE = 12  # whole numbers with a tick each
_MARGIN = {"l": 64, "r": 16, "t": 44, "b": 52}
_COLOUR_BAR = 110  # pixels: its width with ticks and title
_LEGEND_ROW, _LEGEND_SYMBOL = 19, 40  # pixels: the height of a row, and the width that a name's symbol takes


def curves_figure(
    curves: Mapping[str, tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"]]],
    *,
    x: str,
    y: str,
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    levels: Mapping[str, float] | None = None,
    errors: Mapping[str, Shaped[np.ndarray, " n"]] | None = None,
    markers: bool = False,
    compact: bool = False,
) -> go.Figure:
    """Curves by name, with labelled horizontal lines.

    What is not finite, or not positive on a logarithmic axis, is a gap.

    **Arguments:**
    - `curves`: x and y by name. `x`, `y`: titles of the axes, with units. `x_scale`, `y_scale`: of the axes.
    - `levels`: by name, the heights of horizontal lines. `errors`: half the length of error bars, for curves by name.
    - `markers`: points on the curves.
    - `compact`: for narrow pages.
    """
    figure = empty_figure(curves, compact=compact)
    for i, (name, (horizontal, vertical)) in enumerate(curves.items()):
        figure.add_scatter(
            x=_shown(horizontal, x_scale),
            y=_shown(vertical, y_scale),
            name=name,
            mode="lines+markers" if markers else "lines",
            line={"color": PALETTE[i % len(PALETTE)], "width": 2},
            marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 7},
            connectgaps=False,
        )
        if errors and name in errors:
            bars = {"array": _shown(errors[name], "linear"), "thickness": 1, "width": 3}
            figure.data[-1].update(error_y=bars)
    for name, height in (levels or {}).items():
        if y_scale == "linear" or height > 0:
            figure.add_hline(y=height, line={"color": MUTED, "width": 1, "dash": "dot"})
            figure.add_annotation(
                text=name,
                x=1,
                xref="x domain",
                y=height if y_scale == "linear" else np.log10(height),  # annotations are placed by the logarithm
                showarrow=False,
                xanchor="right",
                yanchor="bottom",
                font={"size": 10, "color": MUTED},
            )
    axes(figure, x, y, x_scale, y_scale, heights=list((levels or {}).values()))
    figure.update_layout(showlegend=len(curves) > 1)
    return figure


def points_figure(
    groups: Mapping[str, tuple[Shaped[np.ndarray, " n"], Shaped[np.ndarray, " n"], Sequence[str]]],
    *,
    x: str,
    y: str,
    x_scale: Scale = "linear",
    y_scale: Scale = "linear",
    compact: bool = False,
) -> go.Figure:
    """Points by group, each with a text that shows under the pointer.

    **Arguments:**
    - `groups`: x, y and texts by name.
    - `x`, `y`, `x_scale`, `y_scale`, `compact`: as for `curves_figure`.
    """
    figure = empty_figure(groups, compact=compact)
    for i, (name, (horizontal, vertical, texts)) in enumerate(groups.items()):
        figure.add_scatter(
            x=_shown(horizontal, x_scale),
            y=_shown(vertical, y_scale),
            name=name,
            text=list(texts),
            hovertemplate="%{text}<extra></extra>",
            mode="markers",
            marker={
                "color": PALETTE[i % len(PALETTE)],
                "symbol": _SYMBOLS[i % len(_SYMBOLS)],
                "size": max(13 - 2 * i, 7),  # so that points that coincide all show
                "line": {"color": INK, "width": 0.5},
            },
        )
    axes(figure, x, y, x_scale, y_scale)
    return figure


def counts_figure(
    bars: Mapping[str, Shaped[np.ndarray, " places"]],
    places: Sequence[str],
    *,
    x: str,
    y: str,
    y_scale: Scale = "linear",
    compact: bool = False,
) -> go.Figure:
    """Bars side by side, the number written on each.

    **Arguments:**
    - `bars`: heights by name, one at each place; what is not positive has no bar on a logarithmic axis.
    - `places`: their names. `x`, `y`, `y_scale`, `compact`: as for `curves_figure`.
    """
    figure = empty_figure(bars, compact=compact)
    for i, (name, heights) in enumerate(bars.items()):
        figure.add_bar(
            x=list(places),
            y=list(_shown(heights, y_scale)),
            name=name,
            marker_color=PALETTE[i % len(PALETTE)],
            text=[format_number(float(height)) for height in heights],
            textposition="outside",
            cliponaxis=False,
        )
    axes(figure, x, y, "linear", y_scale)
    figure.update_xaxes(type="category")  # places are names, even those that look like numbers
    figure.update_layout(barmode="group")
    return figure


def matrix_figure(
    matrix: Float[np.ndarray, "rows columns"],
    *,
    x: str,
    y: str,
    colour: str,
    limits: tuple[float, float] | None = None,
    compact: bool = False,
) -> go.Figure:
    """A matrix in colours, the first row on top; what is not finite is white with a cross.

    **Arguments:**
    - `colour`: what the colours mean. `limits`: their ends. `x`, `y`, `compact`: as for `curves_figure`.
    """
    figure = new_figure(height=320 if compact else 440, margin=_MARGIN, compact=compact)
    shown = np.where(np.isfinite(matrix), matrix, np.nan)
    finite = shown[np.isfinite(shown)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    bar = {"title": {"text": colour, "side": "right"}, "thickness": 12}
    figure.add_heatmap(z=shown, colorscale="Cividis", zmin=low, zmax=high, colorbar=bar)
    rows, columns = np.nonzero(np.isnan(shown))
    if len(rows):  # no grey would tell them from the middle of the scale
        figure.add_scatter(
            x=columns,
            y=rows,
            mode="markers",
            name="no value",
            showlegend=True,
            marker={"symbol": "x-thin", "size": 7, "line": {"color": MUTED, "width": 1}},
            hovertemplate="row %{y}, column %{x}: no value<extra></extra>",
        )
    axes(figure, x, y, "linear", "linear")
    figure.update_yaxes(autorange="reversed")
    return figure


def square(figure: go.Figure, width: float = 1.0) -> None:
    """One unit is as long on both axes, and the figure no wider than that takes, so that its colour bar is near.

    **Arguments:**
    - `width`: of the panel, in its heights.
    """
    layout: Any = figure.layout
    tall = layout.height - layout.margin.t - layout.margin.b
    layout.width = round(width * tall + layout.margin.l + max(layout.margin.r, _COLOUR_BAR))
    figure.update_xaxes(constrain="domain")
    figure.update_yaxes(scaleanchor="x", scaleratio=1, constrain="domain")


def empty_figure(names: Iterable[str], *, compact: bool) -> go.Figure:
    """An empty figure with room for the names of a legend above its panel."""
    widths = [text_size(name, 10 if compact else 12)[0] + _LEGEND_SYMBOL for name in names]
    columns = max(1, int((300 if compact else 500) / max(widths, default=1.0)))  # all as wide as the widest
    more = _LEGEND_ROW * max(0, -(-len(widths) // columns) - 1)
    margin = _MARGIN | {"t": _MARGIN["t"] + more}
    return new_figure(height=(300 if compact else 380) + more, margin=margin, compact=compact)


def _shown(values: np.ndarray, scale: Scale) -> np.ndarray:
    values = np.asarray(values, float)
    hidden = ~np.isfinite(values) if scale == "linear" else ~(np.isfinite(values) & (values > 0))
    return np.where(hidden, np.nan, values)


def axes(figure: go.Figure, x: str, y: str, x_scale: Scale, y_scale: Scale, *, heights: Sequence[float] = ()) -> None:
    """Titles and ticks; `heights` are further values that the vertical axis shows."""
    for axis, title, scale in (("x", x, x_scale), ("y", y, y_scale)):
        update = figure.update_xaxes if axis == "x" else figure.update_yaxes
        update(title={"text": title}, type=None if scale == "linear" else scale, automargin=True)
        values = _values(figure, axis, heights if axis == "y" else ())
        if scale == "log":
            values = values[values > 0]
            decades = float(np.ptp(np.log10(values))) if len(values) else 0.0
            if len(values) and decades < 2:
                update(log_ticks(float(values.min()) / 1.05, float(values.max()) * 1.05))
            else:
                update(exponentformat="power", dtick=max(1, round(decades / _MOST_DECADES)))
        elif len(values) and np.all(values == np.round(values)) and np.ptp(values) <= _MOST_WHOLE:
            update(dtick=1)


def _values(figure: go.Figure, axis: str, more: Sequence[float]) -> np.ndarray:
    """The finite numbers that an axis shows; none for names."""
    shown = [getattr(trace, axis) for trace in figure.data if getattr(trace, axis) is not None]
    numbers = [np.asarray(values, float) for values in shown if not any(isinstance(v, str) for v in values)]
    values = np.concatenate([np.asarray(more, float), *numbers])
    return values[np.isfinite(values)]
