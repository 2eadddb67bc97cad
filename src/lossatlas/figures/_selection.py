"""Which network to use: held-out loss against number of parameters."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._entries import BIG, Row, loss_title, plain
from lossatlas.figures._names import name_points
from lossatlas.figures._numbers import format_number, log_ticks
from lossatlas.figures._theme import FAINT, INK, MUTED, PALETTE, PAPER, new_figure


def selection_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """Held-out loss of every candidate, with standard errors, against its number of parameters (logarithmic).

    Filled: within one paired standard error of the best of all. The star: the smallest of these, the recommended.
    The square: the big network.

    **Arguments:**
    - `tables`: of a survey, as `survey_tables` gives them. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    selection = tables["selection"]
    rows = [r for r in selection["rows"] if r["loss"] is not None]
    lows = np.array([r["loss"] - (r["standard_error"] or 0) for r in rows])
    highs = np.array([r["loss"] + (r["standard_error"] or 0) for r in rows])
    means = np.array([r["loss"] for r in rows])
    logarithmic = bool(means.size and means.min() > 0 and means.max() > 4 * means.min())
    height = 400 if compact else 440
    margin = {"l": 72 if compact else 86, "r": 16 if compact else 30, "t": 62 if compact else 40, "b": 52}
    figure = new_figure(height=height + margin["t"], margin=margin, compact=compact)
    fit = [r for r in rows if is_within_error(r, selection)]
    groups = (
        ("small network", [r for r in rows if r not in fit], {"symbol": "circle-open", "color": MUTED, "size": 9}),
        ("as good as the best", [r for r in fit], {"symbol": "circle", "color": PALETTE[0], "size": 9}),
        (
            "recommended",
            [r for r in rows if r["name"] == selection["recommended"]],
            {"symbol": "star", "color": PALETTE[1], "size": 17},
        ),
    )
    for name, members, marker in groups:
        _points(figure, [r for r in members if r["name"] != BIG or name == "recommended"], name, marker, logarithmic)
    is_good = any(r["name"] == BIG for r in fit)
    big = [r for r in rows if r["name"] == BIG and r["name"] != selection["recommended"]]
    style = {"symbol": "square" if is_good else "square-open", "color": PALETTE[0] if is_good else INK, "size": 11}
    _points(figure, big, "the big network", style, logarithmic)
    ends = np.array([r["parameters"] for r in rows], float)
    x_range = np.log10([ends.min() / 1.35, ends.max() * 1.5])
    floor = means.min() / 2 if logarithmic else -np.inf
    y_values = np.concatenate([np.maximum(lows, floor), highs])
    y_range = _padded(np.log10(y_values) if logarithmic else y_values)
    figure.update_layout(
        xaxis={"type": "log", "range": x_range.tolist(), "title": {"text": "number of parameters"}, **_ticks(ends)},
        yaxis={
            "type": "log" if logarithmic else "linear",
            "range": list(y_range),
            "title": {"text": f"held-out loss<br>{loss_title(tables)}"},
            **(log_ticks(*(10 ** np.array(y_range))) if logarithmic else {"nticks": 7}),
        },
    )
    inner = height - margin["b"]
    _name_points(figure, rows, selection, (x_range, y_range), inner, logarithmic=logarithmic, compact=compact)
    return figure


def is_within_error(row: Row, selection: Row) -> bool:
    """Whether a candidate's held-out loss is within one paired standard error of the best."""
    return row["name"] == selection["best"] or (row["gap"] is not None and row["gap"] <= (row["gap_error"] or 0))


def _points(figure: go.Figure, rows: Sequence[Row], name: str, marker: dict, logarithmic: bool) -> None:
    if not rows:
        return
    errors = [r["standard_error"] or 0 for r in rows]
    # A bar below zero has its lower end at minus infinity on a logarithmic axis; it is cut at a tenth of the mean.
    down = [min(e, 0.9 * r["loss"]) if logarithmic else e for e, r in zip(errors, rows, strict=True)]
    star = name == "recommended"
    figure.add_scatter(
        x=[r["parameters"] for r in rows],
        y=[r["loss"] for r in rows],
        mode="markers",
        name=name,
        marker=marker | ({"line": {"color": PAPER, "width": 1.5}} if star else {"line": {"width": 1.8}}),
        error_y={
            "type": "data",
            "array": errors,
            "arrayminus": down,
            "thickness": 1.2,
            "width": 3,
            "color": FAINT,
            "visible": not star,  # its bar belongs to the circle beneath
        },
        text=[_hover(r) for r in rows],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(row: Row) -> str:
    accuracy = "" if row["accuracy"] is None else f"<br>accuracy {100 * row['accuracy']:.1f} %"
    return (
        f"<b>{plain(row['name'])}</b> {plain(row['words'])}<br>{row['parameters']:,} parameters<br>"
        f"held-out loss {format_number(row['loss'])} ± {format_number(row['standard_error'], 2)}{accuracy}<br>"
        f"behind the best by {format_number(row['gap'], 3)} ± {format_number(row['gap_error'], 2)}"
    )


def _padded(values: np.ndarray) -> tuple[float, float]:
    span = max(float(values.max() - values.min()), 1e-9)
    return float(values.min() - 0.08 * span), float(values.max() + 0.14 * span)


def _ticks(parameters: np.ndarray) -> dict:
    decades = range(int(np.floor(np.log10(parameters.min()))), int(np.ceil(np.log10(parameters.max()))) + 1)
    values = [f * 10**d for d in decades for f in ((1, 2, 5) if len(decades) <= 3 else (1, 3))]
    return {"tickmode": "array", "tickvals": values, "ticktext": [f"{v:,}" for v in values]}


def _name_points(
    figure: go.Figure,
    rows: Sequence[Row],
    selection: Row,
    ranges: tuple,
    height: int,
    *,
    logarithmic: bool,
    compact: bool,
) -> None:
    """The recommended, the big and the best network first, the others where there is room."""
    first = {selection["recommended"]: 0, BIG: 1, selection["best"]: 2}
    ordered = sorted(rows, key=lambda r: first.get(r["name"], 3))
    value = np.log10 if logarithmic else float
    name_points(
        figure,
        [(float(np.log10(r["parameters"])), float(value(r["loss"]))) for r in ordered],
        ["the big network" if r["name"] == BIG else plain(r["name"]) for r in ordered],
        [r["name"] in first for r in ordered],
        ranges,
        height,
        obstacles=np.array([(np.log10(x), value(y)) for x, y in _bars(ordered) if not logarithmic or y > 0]),
        compact=compact,
    )


def _bars(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """Points along the error bars, which labels should not cover."""
    return [
        (float(r["parameters"]), r["loss"] + share * (r["standard_error"] or 0))
        for r in rows
        for share in np.linspace(-1, 1, 15)
    ]
