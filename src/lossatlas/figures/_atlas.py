"""The atlas: training across the levels of the small networks."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._curves import read_curves
from lossatlas.figures._entries import Row, entry_colours, hover_entry, loss_title, met_visits, plain, shown_training
from lossatlas.figures._levels import Scale, draw_levels, loss_range
from lossatlas.figures._names import name_points
from lossatlas.figures._numbers import format_number, format_steps, log_ticks
from lossatlas.figures._theme import FAINT, INK, MUTED, PAPER, new_figure


if TYPE_CHECKING:
    import xarray as xr

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


class _Shape:
    """Sizes in pixels of the picture, wide or compact, and the shares of its panels."""

    def __init__(self, compact: bool, num_legend: int):
        rows = -(-num_legend // 2) if compact else 2 - (num_legend <= 4)
        self.margin = {"l": 72 if compact else 86, "r": 66 if compact else 142, "t": 18 + 19 * rows, "b": 48}
        self.height = (640 if compact else 740) + self.margin["t"]
        self.domains = ([0.44, 1.0], [0.22, 0.40], [0.0, 0.18])
        inner = self.height - self.margin["t"] - self.margin["b"]
        self.loss_height = inner * (self.domains[0][1] - self.domains[0][0])


def atlas_figure(tables: Row, arrays: "xr.DataTree", *, compact: bool = False) -> go.Figure:
    """Loss against training step, across the levels of the catalogue, with the visits marked and named.

    Both axes are logarithmic. Horizontal lines: the training losses of the small networks, strong and coloured where
    this run came near, dashed at infinity, named at the right margin. Shaded: the steps of each visit. Below, on
    the same time axis: for each hidden layer the effective number of neurons, and of linear units.

    **Arguments:**
    - `tables`, `arrays`: a survey as `survey_tables` and `survey_arrays` give it.
    - `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    curves = read_curves(tables, arrays)
    seeds, shown, steps, losses = curves.seeds, curves.shown, curves.step, curves.loss
    met = met_visits(tables)
    has_infinity = any(r["kind"] == "level at infinity" for r in tables["catalogue"])
    num_legend = 3 + (len(seeds) > 1) + any(v["verdict"] == "near" for v in met) + len(curves.layers)
    num_legend += 0 if compact else 1 + has_infinity
    shape = _Shape(compact, num_legend)
    figure = new_figure(height=shape.height, margin=shape.margin, compact=compact)

    drawn = (steps >= 1) & np.isfinite(losses) & (losses > 0)
    low, high = loss_range(losses[drawn] if drawn.any() else np.ones(1), tables)
    scale = Scale(low, high, shape.loss_height)
    first, last = (float(steps[drawn].min()), float(steps[drawn].max())) if drawn.any() else (1.0, 10.0)
    _lay_out(figure, tables, shape, scale, first, last, neurons=curves.effective_neurons)

    draw_levels(figure, tables, scale, compact=compact)
    for seed in [s for s in range(len(seeds)) if s != shown]:
        _curve(figure, steps[seed], losses[seed], drawn[seed], f"seed {seeds[seed]}", main=False)
    if len(seeds) > 1:
        _legend_entry(figure, "other seeds", mode="lines", line={"color": FAINT, "width": 1})
    _curve(figure, steps[shown], losses[shown], drawn[shown], "training" if compact else "the big network", main=True)
    _mark_divergences(figure, tables, seeds, steps, losses, drawn)
    _shade(figure, tables, first, last)
    _mark_slow_downs(figure, tables)
    _mark_visits(figure, tables, scale, first, last, np.stack([steps[shown], losses[shown]], 1)[drawn[shown]], compact)
    if not compact:
        _legend_entry(figure, "level of a small network", mode="lines", line={"color": FAINT, "width": 1.5})
    if has_infinity and not compact:
        _legend_entry(figure, "level at infinity", mode="lines", line={"color": FAINT, "width": 1.5, "dash": "dash"})
    for values, axis in ((curves.effective_neurons, "y2"), (curves.linear_units, "y3")):
        _layer_curves(figure, steps[shown], values[shown], curves.layers, axis)
    return figure


def _lay_out(
    figure: go.Figure, tables: Row, shape: _Shape, scale: Scale, first: float, last: float, *, neurons: np.ndarray
) -> None:
    room = max(np.log10(last / first), 1e-3) * 0.015
    figure.update_layout(
        xaxis={
            "type": "log",
            "range": [np.log10(first) - room, np.log10(last) + room],
            "title": {"text": "training step"},
            "anchor": "y3",
            "dtick": 1,
            "minor": {"ticks": "outside", "ticklen": 2, "dtick": "D1", "tickcolor": FAINT},
            "tickformat": ",d",
        },
        yaxis={
            "type": "log",
            "range": [np.log10(scale.low), np.log10(scale.high)],
            "domain": shape.domains[0],
            "title": {"text": f"training loss<br>{loss_title(tables)}"},
            "showgrid": False,
            **log_ticks(scale.low, scale.high),
        },
        yaxis2={"domain": shape.domains[1], "title": {"text": "effective<br>neurons"}, **_count_axis(neurons)},
        yaxis3={
            "domain": shape.domains[2],
            "title": {"text": "effective<br>linear units"},
            "rangemode": "tozero",
            "nticks": 4,
        },
    )


def _count_axis(values: np.ndarray) -> dict:
    finite = values[np.isfinite(values) & (values > 0)]
    if finite.size == 0 or finite.max() <= 8:
        return {"rangemode": "tozero", "nticks": 4}
    ticks = [1, 3, 10, 30, 100, 300, 1000, 3000]
    low, high = min(0.9, float(finite.min()) * 0.9), float(finite.max()) * 1.2
    return {"type": "log", "range": [np.log10(low), np.log10(high)], "tickmode": "array", "tickvals": ticks}


def _curve(figure: go.Figure, steps: np.ndarray, loss: np.ndarray, drawn: np.ndarray, name: str, *, main: bool) -> None:
    figure.add_scatter(
        x=steps[drawn],
        y=loss[drawn],
        mode="lines",
        name=name,
        showlegend=main,
        line={"color": INK if main else FAINT, "width": 2.4 if main else 1},
        hovertemplate="step %{x:,d}<br>loss %{y:.4g}<extra>" + name + "</extra>",
    )


def _mark_divergences(
    figure: go.Figure, tables: Row, seeds: list[int], steps: np.ndarray, losses: np.ndarray, drawn: np.ndarray
) -> None:
    """A cross at the last finite loss of every run that ends before the others."""
    status = {run["seed"]: run["status"] for run in tables["trainings"]}
    ends = [(seed, np.flatnonzero(drawn[i])) for i, seed in enumerate(seeds)]
    early = [(i, seed, at[-1]) for i, (seed, at) in enumerate(ends) if at.size and at[-1] < drawn.shape[1] - 1]
    if early:
        figure.add_scatter(
            x=[steps[i, at] for i, _, at in early],
            y=[losses[i, at] for i, _, at in early],
            mode="markers",
            showlegend=False,
            marker={"symbol": "x", "size": 9, "color": MUTED},
            text=[f"seed {seed} ends here: {plain(status.get(seed, ''))}" for _, seed, _ in early],
            hovertemplate="%{text}<br>step %{x:,d}, loss %{y:.4g}<extra></extra>",
        )


def _shade(figure: go.Figure, tables: Row, first: float, last: float) -> None:
    colours = entry_colours(tables)
    for visit in met_visits(tables):
        if visit["verdict"] != "visit" or visit["last_step"] < first:
            continue
        figure.add_shape(
            type="rect",
            xref="x",
            x0=max(visit["first_step"], first),
            x1=min(max(visit["last_step"], first), last),
            yref="paper",
            y0=0,
            y1=1,
            layer="below",
            line={"width": 0},
            fillcolor=colours[visit["name"]],
            opacity=0.13,
        )


def _mark_slow_downs(figure: go.Figure, tables: Row) -> None:
    stalls = [s for s in shown_training(tables)["slow_downs"] if s["step"] >= 1 and s["loss"]]
    if not stalls:
        return
    figure.add_scatter(
        x=[s["step"] for s in stalls],
        y=[s["loss"] for s in stalls],
        mode="markers",
        name="slow-down",
        marker={"symbol": "line-ns", "size": 13, "line": {"color": INK, "width": 2}},
        text=[f"at {plain(s['name'])}" if s["name"] else "at no entry of the catalogue" for s in stalls],
        hovertemplate="<b>slow-down</b> %{text}<br>step %{x:,d}, loss %{y:.4g}<extra></extra>",
    )


def _mark_visits(
    figure: go.Figure,
    tables: Row,
    scale: Scale,
    first: float,
    last: float,
    curve: np.ndarray,
    compact: bool,
) -> None:
    rows = {r["name"]: r for r in tables["catalogue"]}
    colours, met = entry_colours(tables), met_visits(tables)
    for verdict, symbol in (("visit", "circle"), ("near", "circle-open")):
        some = [v for v in met if v["verdict"] == verdict]
        if some:
            _visit_markers(figure, some, rows, colours, verdict, symbol, first)
    ordered = sorted(met, key=lambda v: v["verdict"] != "visit")
    name_points(
        figure,
        [(float(np.log10(max(v["step"], first))), float(np.log10(v["loss"]))) for v in ordered],
        [_visit_text(v, rows[v["name"]], compact) for v in ordered],
        [v["verdict"] == "visit" for v in ordered],
        ((np.log10(first), np.log10(max(last, first * 1.001))), (np.log10(scale.low), np.log10(scale.high))),
        scale.height,
        obstacles=_dense(np.log10(curve)),
        compact=compact,
        beside=False,
    )


def _visit_text(visit: Row, row: Row, compact: bool) -> str:
    name = plain(visit["name"])
    if not compact:
        name = f"{plain(row['words'])} {name}".replace(" beside ", "<br>beside ")
    return name if visit["verdict"] == "visit" else f"near {name}"


def _visit_markers(
    figure: go.Figure, some: list[Row], rows: dict, colours: dict[str, str], verdict: str, symbol: str, first: float
) -> None:
    line = {"color": PAPER if verdict == "visit" else [colours[v["name"]] for v in some], "width": 1.5}
    figure.add_scatter(
        x=[max(v["step"], first) for v in some],
        y=[v["loss"] for v in some],
        mode="markers",
        name=verdict,
        marker={"symbol": symbol, "size": 11, "color": [colours[v["name"]] for v in some], "line": line},
        text=[_visit_hover(v, rows[v["name"]]) for v in some],
        hovertemplate="%{text}<extra></extra>",
    )


def _visit_hover(visit: Row, row: Row) -> str:
    control = "training ends here" if visit.get("ends") else "training starts here"
    if visit["control"] is not None:
        control = f"control {format_number(visit['control'], 3)}"
    return (
        f"{hover_entry(row)}<br>nearest at step {visit['step']:,}; within 0.15: "
        f"{format_steps(visit['first_step'], visit['last_step'])}<br>"
        f"distance {format_number(visit['distance'], 3)} ({control})"
    )


def _dense(curve: np.ndarray) -> np.ndarray:
    """Points along the polyline, close enough to keep labels off it."""
    if len(curve) < 2:
        return curve
    pieces = [np.linspace(a, b, 6)[:-1] for a, b in zip(curve[:-1], curve[1:], strict=True)]
    return np.concatenate([*pieces, curve[-1:]])


def _layer_curves(figure: go.Figure, steps: np.ndarray, values: np.ndarray, layers: list[str], axis: str) -> None:
    for i, name in enumerate(layers):
        keep = (steps >= 1) & np.isfinite(values[:, i])
        figure.add_scatter(
            x=steps[keep],
            y=values[keep, i],
            yaxis=axis,
            mode="lines",
            name=f"layer {i + 1}",
            showlegend=axis == "y2",
            line={"color": INK if i < len(_DASHES) else MUTED, "width": 1.8, "dash": _DASHES[i % len(_DASHES)]},
            hovertemplate="step %{x:,d}<br>%{y:.2f}<extra>" + plain(name) + "</extra>",
        )


def _legend_entry(figure: go.Figure, name: str, **style) -> None:
    figure.add_scatter(x=[None], y=[None], name=name, hoverinfo="skip", **style)
