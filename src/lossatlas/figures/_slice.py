"""Slices of the loss: lines, planes with trajectories, surfaces, an animation of training."""

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._numbers import even_ticks, format_number, log_ticks
from lossatlas.figures._plain import curves_figure, square
from lossatlas.figures._theme import INK, MUTED, PALETTE, PAPER, new_figure


if TYPE_CHECKING:
    import xarray as xr

ColourScale = Literal["auto", "linear", "log"]
_LOG_RATIO = 20  # between the largest and the least loss, from which colours are logarithmic
_CLIPPED = 0.98  # of the cells keep their own colour where the highest stand far above
_TAIL = 5  # times the rest: how far above
_LEVELS = 14  # contour lines
_CROSSES = 30  # masked cells marked along an axis, at most
_SQUARE = 3  # aspect up to which both axes have the same unit
_MOST_FRAMES = 60
_SYMBOLS = ("star", "diamond", "square")  # of the networks
_NAMES = {
    "loss": "training loss",
    "test_loss": "test loss",
    "gradient_norm": "gradient norm",
    "accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
}


def line_figure(
    dataset: "xr.Dataset", *, quantities: tuple[str, ...] | None = None, compact: bool = False
) -> go.Figure:
    """Quantities along a line, with the networks on it; masked points are gaps, with a cross on the lower edge.

    The axis is logarithmic where the loss spans more than a factor of 20, and a band covers what is below the error of
    interpolation.

    **Arguments:**
    - `dataset`: of `lossatlas.geometry.Slice.to_xarray`, with one direction.
    - `quantities`: by default the losses. `compact`: for pages narrower than 640 pixels.
    """
    chosen = quantities or tuple(name for name in ("loss", "test_loss") if name in dataset)
    axis = dataset["direction_1"]
    x = axis.to_numpy()
    columns = {name: dataset[name].to_numpy() for name in chosen}
    values = np.concatenate(list(columns.values()))
    error = max(_error(dataset, name) for name in chosen)
    scale = "log" if _is_wide(values, error) else "linear"
    figure = curves_figure(
        {_NAMES[name]: (x, column) for name, column in columns.items()},
        x=axis.attrs["long_name"],
        y=_NAMES[chosen[0]] if len(chosen) == 1 else "mean loss",
        y_scale=scale,
        compact=compact,
    )
    least = float(np.nanmin(np.where(np.isfinite(values), values, np.nan), initial=np.inf))
    if scale == "log" and error > least:
        figure.add_hrect(y0=least / 2, y1=error, line_width=0, fillcolor=MUTED, opacity=0.15)
    marks = {name: place[0] for name, place in _networks(dataset, 1).items() if x[0] <= place[0] <= x[-1]}
    first = np.where(np.isfinite(columns[chosen[0]]), columns[chosen[0]], np.nan)
    for (name, at), symbol in zip(marks.items(), _SYMBOLS, strict=False):
        figure.add_vline(x=at, line={"color": MUTED, "width": 1, "dash": "dot"})
        known = name if np.isclose(x, at, rtol=0, atol=1e-9 * np.ptp(x)).any() else f"{name}, between points"
        figure.add_trace(_mark(known, [at], [float(np.interp(at, x, first))], symbol))
    figure.update_layout(showlegend=True)
    masked = ~np.isfinite(columns[chosen[0]])
    if masked.any():
        finite = values[np.isfinite(values) & ((values > 0) | (scale == "linear"))]
        figure.add_scatter(
            x=x[masked],
            y=np.full(masked.sum(), finite.min() if finite.size else 1.0),
            mode="markers",
            name="not finite",
            marker={"symbol": "x-thin", "size": 7, "line": {"color": PALETTE[1], "width": 1.5}},
            hovertemplate="%{x:.4g}: not finite<extra></extra>",
        )
    return figure


def plane_figure(
    dataset: "xr.Dataset",
    *,
    quantity: str = "loss",
    scale: ColourScale = "auto",
    trajectory: "xr.Dataset | None" = None,
    minima: "xr.Dataset | None" = None,
    samples: "xr.Dataset | None" = None,
    compact: bool = False,
) -> go.Figure:
    """A plane in colours with contour lines, and the networks on it; cells that are not finite are white with crosses.

    Colours are logarithmic where the loss spans more than a factor of 20. Then all that is below the error of
    interpolation has one colour, and where the highest two percent stand far above the rest they share the last one;
    the colour bar says so.

    **Arguments:**
    - `dataset`: of `lossatlas.geometry.Slice.to_xarray`, with two directions. `quantity`: which of its values.
    - `scale`: of the colours.
    - `trajectory`: of `ProjectedTrajectory.to_xarray`, drawn on it.
    - `minima`: of `MergeTree.to_xarray`: minima and saddles, marked.
    - `samples`: of `RefinedSlice.to_xarray`: where the loss was computed.
    - `compact`: for pages narrower than 640 pixels.
    """
    figure = new_figure(height=370 if compact else 540, margin={"l": 64, "r": 16, "t": 62, "b": 56}, compact=compact)
    x, y, values = _plane(dataset, quantity)
    colours = _colours(values, _NAMES[quantity], scale, _error(dataset, quantity), is_share="accuracy" in quantity)
    shown = _transformed(values, colours)
    step = (colours["high"] - colours["low"]) / _LEVELS or 1.0
    figure.add_contour(
        x=x,
        y=y,
        z=shown,
        customdata=values,
        colorscale="Viridis",
        zmin=colours["low"],
        zmax=colours["high"],
        contours={"start": colours["low"], "end": colours["high"], "size": step, "coloring": "heatmap"},
        line={"color": "rgba(255,255,255,0.45)", "width": 0.8},
        connectgaps=False,
        colorbar=colours["bar"],
        hovertemplate="(%{x:.4g}, %{y:.4g})<br>" + _NAMES[quantity] + " %{customdata:.5g}<extra></extra>",
        showlegend=False,
        name=_NAMES[quantity],
    )
    _crosses(figure, x, y, values)
    if samples is not None:
        interpolated = ~samples["checked"].to_numpy() if "checked" in samples else slice(None)
        figure.add_scatter(
            x=samples["direction_1"].to_numpy()[interpolated],
            y=samples["direction_2"].to_numpy()[interpolated],
            mode="markers",
            name="computed",
            marker={"size": 3, "color": PAPER, "line": {"color": INK, "width": 0.4}},
            hoverinfo="skip",
        )
    if trajectory is not None:
        for trace in _path(trajectory):
            figure.add_trace(trace)
    if minima is not None:
        _marks(figure, minima)
    for (name, place), symbol in zip(_networks(dataset, 2).items(), _SYMBOLS, strict=False):
        figure.add_trace(_mark(name, [place[0]], [place[1]], symbol))
    _plane_axes(figure, dataset, x, y)
    figure.update_layout(showlegend=True)
    return figure


def surface_figure(
    dataset: "xr.Dataset", *, quantity: str = "loss", scale: ColourScale = "auto", compact: bool = False
) -> go.Figure:
    """A plane as a surface in three dimensions; cells that are not finite are holes.

    **Arguments:**
    - `dataset`, `quantity`, `scale`, `compact`: as for [`lossatlas.figures.plane_figure`][]; heights are on the scale
      of the colours.
    """
    figure = new_figure(height=430 if compact else 560, margin={"l": 0, "r": 0, "t": 8, "b": 24}, compact=compact)
    x, y, values = _plane(dataset, quantity)
    colours = _colours(values, _NAMES[quantity], scale, _error(dataset, quantity), is_share="accuracy" in quantity)
    figure.add_surface(
        x=x,
        y=y,
        z=np.clip(_transformed(values, colours), colours["low"], colours["high"]),
        customdata=values,
        colorscale="Viridis",
        cmin=colours["low"],
        cmax=colours["high"],
        colorbar=colours["bar"],
        hovertemplate="(%{x:.4g}, %{y:.4g})<br>" + _NAMES[quantity] + " %{customdata:.5g}<extra></extra>",
        contours={"z": {"show": True, "color": "rgba(255,255,255,0.4)", "width": 1}},
    )
    names = [dataset[f"direction_{i}"].attrs["long_name"].split(",")[0] for i in (1, 2)]
    axis = {"showbackground": False, "gridcolor": MUTED, "zeroline": False}
    ticks = {key: value for key, value in colours["bar"].items() if key in ("tickmode", "tickvals", "ticktext")}
    figure.update_layout(
        scene={
            "xaxis": {**axis, "title": {"text": names[0]}},
            "yaxis": {**axis, "title": {"text": names[1]}},
            "zaxis": {**axis, "title": {"text": _NAMES[quantity]}, **ticks},
            "camera": {"eye": {"x": 1.5, "y": -1.5, "z": 1.0}},
            "aspectmode": "cube",
        }
    )
    return figure


def trajectory_figure(trajectory: "xr.Dataset", *, compact: bool = False) -> go.Figure:
    """How far a trajectory is from the network and from the plane that it is drawn on.

    **Arguments:**
    - `trajectory`: of `lossatlas.geometry.ProjectedTrajectory.to_xarray`. `compact`: for narrow pages.
    """
    steps = trajectory["step"].to_numpy()
    curves = {
        "distance from the network": (steps, trajectory["distance"].to_numpy()),
        "of that, off the plane": (steps, trajectory["off_plane"].to_numpy()),
    }
    return curves_figure(curves, x=_clock(trajectory), y="distance in the space of parameters", compact=compact)


def training_animation(
    dataset: "xr.Dataset", trajectory: "xr.Dataset", *, scale: ColourScale = "auto", compact: bool = False
) -> go.Figure:
    """A plane on which the trajectory of training grows, with a slider and a button to play it.

    **Arguments:**
    - `dataset`, `scale`, `compact`: as for [`lossatlas.figures.plane_figure`][].
    - `trajectory`: of `lossatlas.geometry.ProjectedTrajectory.to_xarray`; at most 60 of its snapshots become frames.
    """
    figure = plane_figure(dataset, scale=scale, trajectory=trajectory, compact=compact)
    at = sum(1 for _ in figure.select_traces()) - 1 - len(_networks(dataset, 2))  # the path; networks are drawn last
    steps, losses = trajectory["step"].to_numpy(), trajectory["loss"].to_numpy()
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), _MOST_FRAMES)).round().astype(int))
    x, y = trajectory["direction_1"].to_numpy(), trajectory["direction_2"].to_numpy()
    frames, marks = [], []
    for i in kept.tolist():
        path = {"type": "scatter", "x": x[: i + 1], "y": y[: i + 1]}
        frames.append(go.Frame(name=str(i), data=[path], traces=[at]))
        loss = f", loss {format_number(float(losses[i]), 3)}" if np.isfinite(losses[i]) else ""
        step = float(steps[i])
        label = f"{_clock(trajectory)} {format_number(int(step) if step.is_integer() else step)}{loss}"
        marks.append({"args": [[str(i)], _at_once()], "label": label, "method": "animate"})
    figure.frames = frames
    play = {"frame": {"duration": 90, "redraw": True}, "fromcurrent": True, "transition": {"duration": 0}}
    buttons = [
        {"label": "play", "method": "animate", "args": [None, play]},
        {"label": "stop", "method": "animate", "args": [[None], _at_once()]},
    ]
    layout: Any = figure.layout
    figure.update_layout(
        height=layout.height + 70,
        margin={"b": layout.margin.b + 70},
        sliders=[
            {
                "steps": marks,
                "active": len(marks) - 1,
                "x": 0.24,
                "len": 0.76,
                "y": 0,
                "pad": {"t": 50},
                "currentvalue": {"prefix": "", "xanchor": "right", "font": {"size": 12, "color": INK}},
                "ticklen": 0,
                "minorticklen": 0,
                "font": {"size": 1, "color": PAPER + "00"},
            }
        ],
        updatemenus=[
            {
                "type": "buttons",
                "direction": "left",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yanchor": "top",
                "pad": {"t": 62},
                "showactive": False,
                "bgcolor": PAPER,
                "bordercolor": MUTED,
                "font": {"size": 11, "color": INK},
            }
        ],
    )
    return figure


def _clock(trajectory: "xr.Dataset") -> str:
    return trajectory.attrs.get("clock", "step")


def _at_once() -> dict[str, Any]:
    # Without drawing anew, plotly loses whatever else than lines is in the picture.
    return {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}


def _plane(dataset: "xr.Dataset", quantity: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The axes, and the values with rows along the vertical one."""
    x, y = dataset["direction_1"].to_numpy(), dataset["direction_2"].to_numpy()
    values = dataset[quantity].transpose("direction_2", "direction_1").to_numpy()
    return x, y, np.where(np.isfinite(values), values, np.nan)


def _networks(dataset: "xr.Dataset", k: int) -> dict[str, list[float]]:
    """By name the coordinates of the networks on a slice."""
    return json.loads(dataset.attrs.get("networks", "null")) or {"the network": [0.0] * k}


def _mark(name: str, x: list[float], y: list[float], symbol: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name=name,
        marker={
            "symbol": symbol,
            "size": 13 if symbol == "star" else 10,
            "color": PAPER,
            "line": {"color": INK, "width": 1.2},
        },
        hovertemplate=f"{name}<extra></extra>",
    )


def _error(dataset: "xr.Dataset", quantity: str) -> float:
    """How far the least value of a quantity may be off by interpolation, 0 where it was computed."""
    return float(dataset[quantity].attrs.get("error", 0.0))


def _is_wide(values: np.ndarray, error: float = 0.0) -> bool:
    """Whether what is known of values spans so much that it is drawn on a logarithmic scale."""
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() < 0:
        return False
    least = max(float(finite.min()), error)
    return least > 0 and bool(finite.max() > _LOG_RATIO * least)


def _colours(values: np.ndarray, name: str, scale: ColourScale, error: float, *, is_share: bool) -> dict[str, Any]:
    """The ends of the colours on their scale, and the colour bar."""
    finite = values[np.isfinite(values)]
    is_log = not is_share and (scale == "log" or (scale == "auto" and _is_wide(values, error)))
    positive = finite[finite > 0]
    if is_log and positive.size:
        used = np.log10(positive)
    else:
        is_log, used = False, finite
    low, high = (float(used.min()), float(used.max())) if used.size else (0.0, 1.0)
    is_cut = is_log and 0 < error < 10**high and error > 10**low
    low = float(np.log10(error)) if is_cut else low
    limit = float(np.quantile(used, _CLIPPED)) if used.size else high
    is_clipped = not is_share and high - low > _TAIL * (limit - low)
    high = limit if is_clipped else high
    high = high if high > low else low + (abs(low) * 1e-3 or 1.0)
    words = [name] + ["log scale"] * is_log
    alike = [f"below {format_number(error, 2)}"] * is_cut
    alike += [f"above {format_number(10**high if is_log else high, 2)}"] * is_clipped
    if alike:
        words.append(" and ".join(alike) + " alike")
    bar: dict[str, Any] = {"title": {"text": ", ".join(words), "side": "right"}, "thickness": 12, "len": 1.0}
    if is_log:
        ticks = log_ticks(10**low, 10**high)
        bar |= {**ticks, "tickvals": np.log10(ticks["tickvals"]).tolist()}
    else:
        bar |= even_ticks(low, high)
    return {"low": low, "high": high, "bar": bar, "is_log": is_log}


def _transformed(values: np.ndarray, colours: dict[str, Any]) -> np.ndarray:
    if not colours["is_log"]:
        return values
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.log10(values)
    return np.where(values > 0, found, np.where(np.isfinite(values), colours["low"], np.nan))


def _crosses(figure: go.Figure, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    """Crosses on the cells that are not finite, thinned out where they are many."""
    rows, columns = np.nonzero(np.isnan(values))
    if not len(rows):
        return
    every = [max(1, -(-size // _CROSSES)) for size in values.shape]
    kept = (rows % every[0] == 0) & (columns % every[1] == 0)
    kept = kept if kept.any() else np.ones(len(rows), bool)
    figure.add_scatter(
        x=x[columns[kept]],
        y=y[rows[kept]],
        mode="markers",
        name=f"not finite: {len(rows):,} of {values.size:,} cells",
        marker={"symbol": "x-thin", "size": 6, "line": {"color": MUTED, "width": 1}},
        hovertemplate="(%{x:.4g}, %{y:.4g}): not finite<extra></extra>",
    )


def _path(trajectory: "xr.Dataset") -> list[go.Scatter]:
    """The start of a trajectory and its path."""
    x, y = trajectory["direction_1"].to_numpy(), trajectory["direction_2"].to_numpy()
    steps, losses, off = (trajectory[name].to_numpy() for name in ("step", "loss", "off_plane"))
    texts = [
        "<br>".join(
            f"{word} {format_number(float(number))}"
            for word, number in ((_clock(trajectory), step), ("loss", loss), ("off the plane", distance))
        )
        for step, loss, distance in zip(steps, losses, off, strict=True)
    ]
    start = go.Scatter(
        x=x[:1],
        y=y[:1],
        mode="markers",
        name="start",
        marker={"symbol": "circle", "size": 10, "color": PALETTE[4], "line": {"color": INK, "width": 1}},
        hovertemplate=f"start<br>{texts[0]}<extra></extra>",
    )
    share = f" ({100 * trajectory.attrs['captured']:.3g} % of it in the plane)"
    path = go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name="training" + share,
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        line={"color": PALETTE[1], "width": 2},
        marker={"size": 4, "color": PALETTE[1]},
    )
    return [start, path]


def _marks(figure: go.Figure, minima: "xr.Dataset") -> None:
    for kind, symbol, loss in (("minimum", "circle", "loss"), ("saddle", "x", "saddle_loss")):
        x, y, height = (minima[name].to_numpy() for name in (f"{kind}_1", f"{kind}_2", loss))
        there = np.isfinite(x)
        if there.any():
            figure.add_scatter(
                x=x[there],
                y=y[there],
                mode="markers",
                name={"minimum": "minima of the plane", "saddle": "saddles between them"}[kind],
                text=[f"{kind} of the plane<br>{format_number(float(h))}" for h in height[there]],
                hovertemplate="%{text}<extra></extra>",
                marker={"symbol": symbol, "size": 9, "color": PAPER, "line": {"color": INK, "width": 1.2}},
            )


def _plane_axes(figure: go.Figure, dataset: "xr.Dataset", x: np.ndarray, y: np.ndarray) -> None:
    wide, tall = float(np.ptp(x)), float(np.ptp(y))
    figure.update_xaxes(title={"text": dataset["direction_1"].attrs["long_name"]}, range=[x[0], x[-1]], showgrid=False)
    figure.update_yaxes(title={"text": dataset["direction_2"].attrs["long_name"]}, range=[y[0], y[-1]], showgrid=False)
    if 1 / _SQUARE <= tall / wide <= _SQUARE:
        square(figure, wide / tall)
