"""Figures of flatness: measures with intervals, the audit, local energy against the noise, chains."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from lossatlas.figures._numbers import format_number, log_ticks
from lossatlas.figures._plain import axes, empty_figure
from lossatlas.figures._theme import INK, MUTED, PALETTE, new_figure


Rows = Sequence[Mapping[str, Any]]
_SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up", "cross")
_VERDICTS = {
    "unchanged": ("#009e73", "circle"),
    "unchanged within its error": ("#56b4e9", "circle-open"),
    "not decided": ("#999999", "square-open"),
    "scale dependent": ("#d55e00", "diamond"),
    "changed": ("#d55e00", "diamond"),
}
_ROW = 24  # pixels
_LEAST_CHANGE = 1.25  # the axis of an audit goes at least so far on both sides of 1
_MOST_CHAINS = 6
_MOST_POINTS = 400  # of a chain: means over blocks of steps, so that a page stays small


def flatness_figure(reports: Mapping[str, Rows], *, compact: bool = False) -> go.Figure:
    """The measures of one or several networks with their 95 % intervals.

    One network: each measure at its value. Several: each relative to that of the first, so that what is left of 1 is
    smaller. The axis is logarithmic; what is not positive is written as a number in place of a point.

    **Arguments:**
    - `reports`: by the name of the network, the rows of its report. `compact`: for narrow pages.
    """
    names = [str(row["measure"]) for row in next(iter(reports.values()))]
    base = {row["measure"]: row["value"] for row in next(iter(reports.values()))} if len(reports) > 1 else {}
    figure = _table(names, compact=compact, has_legend=len(reports) > 1)
    hidden: dict[str, str] = {}
    for i, (label, rows) in enumerate(reports.items()):
        points = []
        for row in rows:
            value, low, high = (float(row[key]) for key in ("value", "low", "high"))
            unit = float(base.get(row["measure"], 1.0))
            shown = row["measure"] in names and value > 0 and unit > 0
            if not shown:
                hidden[str(row["measure"])] = format_number(value)
                continue
            text = f"{row['measure']}: {format_number(value)}"
            if math.isnan(low) or math.isnan(high):  # a bound, which has no interval
                low = high = value
            else:
                text += f" [{format_number(low)}, {format_number(high)}]"
            points.append(
                (value / unit, max(high - value, 0.0) / unit, min(value - low, 0.99 * value) / unit, row, text)
            )
        figure.add_scatter(
            x=[p[0] for p in points],
            y=[str(p[3]["measure"]) for p in points],
            error_x={"type": "data", "array": [p[1] for p in points], "arrayminus": [p[2] for p in points]},
            text=[f"{label} {p[4]}".strip() for p in points],
            name=label or "value",
            mode="markers",
            marker={"color": PALETTE[i % len(PALETTE)], "symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 8},
            hovertemplate="%{text}<extra></extra>",
        )
    for name, number in hidden.items():
        figure.add_annotation(
            x=0, xref="paper", y=name, text=f" {number}", showarrow=False, xanchor="left",
            font={"color": MUTED, "size": 11},
        )  # fmt: skip
    title = "value" if len(reports) == 1 else f"relative to {next(iter(reports))}"
    axes(figure, title, "", "log", "linear")
    if len(reports) > 1:
        figure.add_vline(x=1.0, line={"color": MUTED, "width": 1, "dash": "dot"})
    return figure


def audit_figure(rows: Rows, *, compact: bool = False) -> go.Figure:
    """What the measures become when the same function is written with other weights: after over before.

    **Arguments:**
    - `rows`: of an audit: `name`, `before`, `after`, `verdict`. `compact`: for narrow pages.
    """
    names = [str(row["name"]) for row in rows]
    figure = _table(names, compact=compact, has_legend=True)
    for verdict, (colour, symbol) in _VERDICTS.items():
        chosen = [row for row in rows if row["verdict"] == verdict and _ratio(row) is not None]
        if chosen:
            figure.add_scatter(
                x=[_ratio(row) for row in chosen],
                y=[str(row["name"]) for row in chosen],
                text=[f"{r['name']}: {format_number(r['before'])} to {format_number(r['after'])}" for r in chosen],
                name=verdict,
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": symbol,
                    "size": 10,
                    "line": {"color": colour, "width": 2} if "open" in symbol else {"color": INK, "width": 0.5},
                },
                hovertemplate="%{text}<extra></extra>",
            )
    for row in rows:
        if _ratio(row) is None:
            words = f" {format_number(row['before'])} to {format_number(row['after'])}"
            figure.add_annotation(
                x=0, xref="paper", y=str(row["name"]), text=words, showarrow=False, xanchor="left",
                font={"color": MUTED, "size": 11},
            )  # fmt: skip
    axes(figure, "after / before", "", "log", "linear")
    ratios = [ratio for row in rows if (ratio := _ratio(row)) is not None]
    low, high = min([*ratios, 1.0]) / _LEAST_CHANGE, max([*ratios, 1.0]) * _LEAST_CHANGE
    if high / low < _LEAST_CHANGE**4:
        figure.update_xaxes(range=[math.log10(low), math.log10(high)], **log_ticks(low, high))
    figure.add_vline(x=1.0, line={"color": MUTED, "width": 1, "dash": "dot"})
    return figure


def _ratio(row: Mapping[str, Any]) -> float | None:
    """After over before where a logarithm has it."""
    before, after = float(row["before"]), float(row["after"])
    ratio = after / before if before else math.nan
    return ratio if ratio > 0 and math.isfinite(ratio) else None


def _table(names: Sequence[str], *, compact: bool, has_legend: bool) -> go.Figure:
    """An empty figure with a line for each name, the first on top."""
    margin = {"l": 16, "r": 24, "t": 36 if has_legend else 12, "b": 48}
    figure = new_figure(height=_ROW * len(names) + margin["t"] + margin["b"] + 12, margin=margin, compact=compact)
    order = {"categoryorder": "array", "categoryarray": list(reversed(names)), "type": "category"}
    figure.update_yaxes(**order, range=[-0.7, len(names) - 0.3])
    figure.update_layout(showlegend=has_legend)
    return figure


def local_energy_figure(
    curves: Mapping[str, tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"], Float[np.ndarray, " s"]]],
    *,
    noise: str,
    of: str,
    compact: bool = False,
) -> go.Figure:
    """The local energy of networks against the size of the noise, with a band of two standard errors.

    **Arguments:**
    - `curves`: by the name of the network: sizes, means, standard errors.
    - `noise`: its kind. `of`: `"loss"` or `"error"`. `compact`: for narrow pages.
    """
    figure = empty_figure(curves, compact=compact)
    for i, (name, (sizes, means, errors)) in enumerate(curves.items()):
        colour = PALETTE[i % len(PALETTE)]
        sizes, means, errors = (np.asarray(a, float) for a in (sizes, means, errors))
        band = np.concatenate([means + 2 * errors, (means - 2 * errors)[::-1]])
        figure.add_scatter(
            x=np.concatenate([sizes, sizes[::-1]]), y=band, fill="toself", fillcolor=colour, opacity=0.2,
            line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=name,
        )  # fmt: skip
        figure.add_scatter(
            x=sizes, y=means, name=name or "mean", mode="lines+markers", legendgroup=name,
            line={"color": colour, "width": 2}, marker={"symbol": _SYMBOLS[i % len(_SYMBOLS)], "size": 7},
        )  # fmt: skip
    axes(figure, f"size of the {noise} noise", f"mean rise of the {of}", "linear", "linear")
    figure.update_layout(showlegend=len(curves) > 1)
    return figure


def chains_figure(losses: Float[np.ndarray, "c t"], burn_in: int, *, compact: bool = False) -> go.Figure:
    """The loss along some Markov chains, mean over blocks of steps; what is left of the line was not used.

    **Arguments:**
    - `losses`: a row for each chain. `burn_in`: steps that were left out. `compact`: for narrow pages.
    """
    names = [f"chain {i}" for i in range(min(len(losses), _MOST_CHAINS))]
    figure = empty_figure(names, compact=compact)
    block = max(1, losses.shape[1] // _MOST_POINTS)
    used = losses.shape[1] // block * block
    for i, name in enumerate(names):
        means = np.asarray(losses[i, :used], float).reshape(-1, block).mean(1)
        figure.add_scatter(
            x=(np.arange(len(means)) + 0.5) * block, y=np.where(np.isfinite(means), means, np.nan), name=name,
            mode="lines", line={"color": PALETTE[i % len(PALETTE)], "width": 1}, connectgaps=False,
        )  # fmt: skip
    axes(figure, "step", "loss", "linear", "linear")
    if burn_in:
        figure.add_vline(x=burn_in, line={"color": MUTED, "width": 1, "dash": "dot"})
    return figure
