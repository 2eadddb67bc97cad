"""How near training comes to each small network."""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._curves import read_curves
from lossatlas.figures._entries import Row, entry_colours, plain, shown_training
from lossatlas.figures._numbers import format_number, log_ticks
from lossatlas.figures._theme import FAINT, MUTED, PALETTE, PAPER, new_figure


if TYPE_CHECKING:
    import xarray as xr

VISIT_DISTANCE = 0.15  # the threshold of lossatlas.atlas, drawn as a line
_APPROACHED = 0.5
_LEAST = 0.01  # nearer than this is not told apart: a triangle at the edge, its number in the tooltip
_DASHES = ("solid", "dash", "dot", "dashdot")


def distance_figure(tables: Row, arrays: "xr.DataTree", *, compact: bool = False, most: int = 7) -> go.Figure:
    """The distance of the run's predictions to those of each approached small network, against the step.

    Both axes are logarithmic; a distance of 1 is as far as the constant (mean) prediction. Entries nearer than
    0.5 at some time are drawn, the nearest first, at most `most`; the three nearest where there is none.

    **Arguments:**
    - `tables`, `arrays`: of a survey, as `survey_tables` and `survey_arrays` give them. `most`: curves drawn.
    - `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    run, curves = shown_training(tables), read_curves(tables, arrays)
    steps, distance, names = curves.step[curves.shown], curves.distance[curves.shown], curves.entries
    ordered = sorted(
        (v for v in run["visits"] if v["verdict"] != "same function" and v["distance"] is not None),
        key=lambda v: v["distance"],
    )
    chosen = [v for v in ordered if v["distance"] < _APPROACHED][:most] or ordered[:3]
    rows = 1 + (len(chosen) if compact else -(-len(chosen) // 2))
    top = 14 + 19 * rows
    figure = new_figure(
        height=(300 if compact else 340) + top + 48,
        margin={"l": 66 if compact else 78, "r": 14 if compact else 24, "t": top, "b": 48},
        compact=compact,
    )
    words = {r["name"]: r["words"] for r in tables["catalogue"]}
    colours = _colours(chosen, tables)
    shown: list[np.ndarray] = []
    used: list[str] = []
    for visit in sorted(chosen, key=lambda v: v["step"]):
        values = distance[:, names.index(visit["name"])]
        keep = (steps >= 1) & np.isfinite(values) & (values > 0)
        shown.append(values[keep])
        label = f"{plain(visit['name'])} {plain(words[visit['name']])}"
        colour = colours[visit["name"]]
        style = {"color": colour, "width": 2, "dash": _DASHES[used.count(colour) % len(_DASHES)]}
        used.append(colour)
        figure.add_scatter(
            x=steps[keep],
            y=values[keep],
            mode="lines",
            name=label,
            line=style,
            hovertemplate="step %{x:,d}<br>distance %{y:.3f}<extra>" + label + "</extra>",
        )
        below = visit["distance"] < _LEAST
        figure.add_scatter(
            x=[max(visit["step"], 1)],
            y=[max(visit["distance"], _LEAST)],
            mode="markers",
            showlegend=False,
            marker={
                "symbol": "triangle-down" if below else "circle",
                "size": 11 if below else 9,
                "color": colour,
                "line": {"color": PAPER, "width": 1.5},
            },
            text=[f"nearest: step {visit['step']:,}<br>distance {format_number(visit['distance'], 4)}"],
            hovertemplate="%{text}<extra>" + label + "</extra>",
        )
    everything = np.concatenate([*shown, [VISIT_DISTANCE]])
    low, high = max(float(everything.min()), _LEAST) * 0.8, min(max(float(everything.max()), 1.0), 3.0) * 1.2
    figure.add_hline(y=VISIT_DISTANCE, line={"color": MUTED, "width": 1.2, "dash": "dash"})
    figure.add_annotation(
        text="a visit is below 0.15",
        showarrow=False,
        xref="x domain",
        x=0.01,
        xanchor="left",
        y=float(np.log10(VISIT_DISTANCE)),
        yanchor="top",
        bgcolor=PAPER + "c0",
        font={"color": MUTED, "size": 11},
    )
    first, last = (float(f(steps[np.isfinite(steps) & (steps >= 1)], initial=1.0)) for f in (np.min, np.max))
    room = max(np.log10(last / first), 0.1) * 0.015
    figure.update_layout(
        xaxis={
            "type": "log",
            "range": [np.log10(first) - room, np.log10(last) + room],
            "title": {"text": "training step"},
            "dtick": 1,
            "tickformat": ",d",
        },
        yaxis={
            "type": "log",
            "range": [np.log10(low), np.log10(high)],
            "title": {"text": "relative distance of predictions"},
            **log_ticks(low, high),
        },
    )
    return figure


def _colours(chosen: list[Row], tables: Row) -> dict[str, str]:
    """The colours of the atlas for what was met; for the others those that are left."""
    colours = entry_colours(tables)
    taken = {colours[v["name"]] for v in chosen}
    spare = [c for c in PALETTE if c not in taken] or [MUTED]
    plainly = [v["name"] for v in chosen if colours[v["name"]] == FAINT]
    return {v["name"]: colours[v["name"]] for v in chosen} | {n: spare[i % len(spare)] for i, n in enumerate(plainly)}
