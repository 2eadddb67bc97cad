"""The levels of the catalogue as horizontal lines with names at the right margin."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._entries import Row, entry_colours, hover_entry, met_visits, plain
from lossatlas.figures._labels import spread
from lossatlas.figures._numbers import format_number
from lossatlas.figures._theme import FAINT, INK, MUTED


class Scale(NamedTuple):
    """A logarithmic loss axis: its range and the height of its panel in pixels."""

    low: int | float
    high: int | float
    height: int | float

    def pixel(self, value: int | float) -> float:
        """Pixels from the top."""
        span = np.log10(self.high) - np.log10(self.low)
        return float((np.log10(self.high) - np.log10(value)) / span * self.height)


def loss_range(curves: np.ndarray, tables: Row) -> tuple[float, float]:
    """What the loss axis shows: the curves, what they met unless far below, and levels just below their end.

    **Arguments:**
    - `curves`: all positive losses that are drawn.
    """
    low, high = float(curves.min()), float(curves.max())
    # A level of nearly 0 that the run ends near would press the curve into a corner.
    least = low / 30
    met = {v["name"] for v in met_visits(tables)}
    for row in tables["catalogue"]:
        loss = row["loss"]
        if loss is None or loss <= 0:
            continue
        if (row["name"] in met and loss > least) or loss > low / 3:
            low, high = min(low, loss), max(high, loss)
    room = max(high / low, 1.2) ** 0.05
    return low / room, high * room**1.5


def draw_levels(figure: go.Figure, tables: Row, scale: Scale, *, compact: bool) -> None:
    """Lines across the loss panel for all levels in range, strong where training came near, and their names.

    Names that would touch are moved apart with leader lines; neighbours that were not met share one.
    """
    met = {v["name"] for v in met_visits(tables)}
    colours = entry_colours(tables)
    rows = [r for r in tables["catalogue"] if r["loss"] is not None]
    inside = [r for r in rows if r["loss"] > 0 and scale.low <= r["loss"] <= scale.high]
    below = [r for r in rows if r not in inside]
    for row in sorted(inside, key=lambda r: r["name"] in met):
        strong = row["name"] in met
        figure.add_shape(
            type="line",
            xref="x domain",
            x0=0,
            x1=1,
            yref="y",
            y0=row["loss"],
            y1=row["loss"],
            layer="below",
            name=plain(row["name"]),
            line={
                "color": colours[row["name"]] if strong else FAINT,
                "width": 1.6 if strong else 0.8,
                "dash": "dash" if row["kind"] == "level at infinity" else "solid",
            },
        )
    groups = [[r] for r in inside if r["name"] in met]
    groups += _grouped([r for r in inside if r["name"] not in met], scale, room=int(scale.height / 15) - len(groups))
    wanted = [float(np.mean([scale.pixel(r["loss"]) for r in group])) for group in groups]
    if below:
        groups.append(below)
        wanted.append(scale.height + 9)
    places = spread(wanted, 14 if compact else 15, 0, scale.height + 9)
    for group, at, place in zip(groups, wanted, places, strict=True):
        strong = group[0]["name"] in met
        text = _strong_name(group[0], compact) if strong else _faint_name(group, compact, is_below=group is below)
        _name_level(figure, group, text, scale, at, place, strong=strong, compact=compact)


def _grouped(rows: Sequence[Row], scale: Scale, *, room: int) -> list[list[Row]]:
    """Neighbours within a line of text share a name; within more where there is no room for all."""
    ordered = sorted(rows, key=lambda r: scale.pixel(r["loss"]))
    reach = 13.0
    while True:
        groups: list[list[Row]] = []
        for row in ordered:
            if groups and scale.pixel(row["loss"]) - scale.pixel(groups[-1][0]["loss"]) < reach:
                groups[-1].append(row)
            else:
                groups.append([row])
        if len(groups) <= max(room, 1):
            return groups
        reach *= 1.5


def _strong_name(row: Row, compact: bool) -> str:
    name = f"<b>{plain(row['name'])}</b>"
    return name if compact else f"{name} {format_number(row['loss'])}"


def _faint_name(group: Sequence[Row], compact: bool, *, is_below: bool) -> str:
    names = [plain(r["name"]) for r in group]
    arrow = "↓ " if is_below else ""
    if compact:
        return arrow + (names[0] if len(names) == 1 else f"{len(names)} more")
    if len(names) == 1 and not is_below:
        return f"{names[0]} {format_number(group[0]['loss'])}"
    shown = 2 if len(names) > 2 else len(names)
    return arrow + ", ".join(names[:shown]) + (f" +{len(names) - shown}" if len(names) > shown else "")


def _name_level(
    figure: go.Figure,
    group: Sequence[Mapping[str, Any]],
    text: str,
    scale: Scale,
    at: int | float,
    place: int | float,
    *,
    strong: bool,
    compact: bool,
) -> None:
    span = np.log10(scale.high) - np.log10(scale.low)
    figure.add_annotation(
        xref="x domain",
        x=1,
        # An annotation on a logarithmic axis stands at the exponent.
        yref="y",
        y=float(np.log10(scale.high) - min(at, scale.height) / scale.height * span),
        ax=9 if compact else 14,
        ay=place - min(at, scale.height),
        xanchor="left",
        align="left",
        text=text,
        hovertext="<br>".join(hover_entry(r) for r in group[:8])
        + (f"<br>and {len(group) - 8} more" if len(group) > 8 else ""),
        captureevents=True,
        showarrow=True,
        arrowhead=0,
        arrowwidth=0.8,
        arrowcolor=FAINT,
        borderpad=1,
        font={
            "size": (11 if compact else 12.5) if strong else (10 if compact else 11),
            "color": INK if strong else MUTED,
        },
    )
