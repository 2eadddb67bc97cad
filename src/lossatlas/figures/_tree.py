"""Which small network grows into which."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._entries import Row, entry_colours, hover_entry, loss_title, met_visits, plain
from lossatlas.figures._names import name_points
from lossatlas.figures._numbers import log_ticks
from lossatlas.figures._theme import FAINT, MUTED, new_figure


_KINDS = {"critical point": "circle", "level at infinity": "diamond-open", "not certified": "x-thin"}


def tree_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """The catalogue as a graph: units across, training loss (logarithmic) upwards, a line where one leads to another.

    A line from i to j: a start made of i with one unit more ended at j. Losses too small for the axis (a
    millionth of the largest, or 0) stand at its lower end.

    **Arguments:**
    - `tables`: of a survey, as `survey_tables` gives them. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    rows = [r for r in tables["catalogue"] if r["loss"] is not None]
    losses = np.array([max(r["loss"], 0.0) for r in rows])
    top = float(losses.max(initial=0.0)) or 1.0
    least = float(losses[losses > top * 1e-6].min(initial=top))
    floor = least / 3 if (losses < least).any() else least
    points = {r["name"]: (_across(r), max(r["loss"], floor)) for r in rows}
    height = 420 if compact else 480
    margin = {"l": 72 if compact else 86, "r": 12 if compact else 24, "t": 62 if compact else 42, "b": 52}
    figure = new_figure(height=height + margin["t"], margin=margin, compact=compact)
    _edges(figure, [(points[a], points[b]) for a, b in tables["leads_to"] if a in points and b in points])
    colours, met = entry_colours(tables), {v["name"]: v["verdict"] for v in met_visits(tables)}
    for kind, symbol in _KINDS.items():
        members = [r for r in rows if r["kind"] == kind]
        if members:
            shades = [colours[r["name"]] if r["name"] in met else MUTED for r in members]
            figure.add_scatter(
                x=[points[r["name"]][0] for r in members],
                y=[points[r["name"]][1] for r in members],
                mode="markers",
                name=kind,
                marker={"symbol": symbol, "size": 10, "color": shades, "line": {"color": shades, "width": 1.8}},
                text=[hover_entry(r) + _met(met.get(r["name"])) for r in members],
                hovertemplate="%{text}<extra></extra>",
            )
    units = [r["neurons"] + r["linear"] for r in rows]
    x_range = (min(units) - 0.5, max(units) + 0.95)
    y_range = (
        np.log10(floor) - 0.04 * np.log10(top / floor) - 0.02,
        np.log10(top) + 0.07 * np.log10(top / floor) + 0.02,
    )
    figure.update_layout(
        xaxis={
            "range": list(x_range),
            "title": {"text": "units (neurons and linear units)"},
            "tickvals": sorted(set(units)),
            "showgrid": False,
        },
        yaxis={
            "type": "log",
            "range": [float(v) for v in y_range],
            "title": {"text": f"training loss<br>{loss_title(tables)}"},
            **_ticks(y_range, floor if (losses < floor).any() else None),
        },
    )
    exponents = {name: (x, float(np.log10(y))) for name, (x, y) in points.items()}
    lines = [_between(exponents[a], exponents[b]) for a, b in tables["leads_to"] if a in points and b in points]
    inner = height - margin["b"]
    groups = _grouped(rows, exponents, met, gap=13 / inner * (y_range[1] - y_range[0]))
    name_points(
        figure,
        [exponents[group[len(group) // 2]["name"]] for group in groups],
        [_group_name(group) for group in groups],
        [group[0]["name"] in met for group in groups],
        (x_range, y_range),
        inner,
        obstacles=np.concatenate([*lines, np.array(list(exponents.values()))]),
        compact=compact,
    )
    return figure


def _across(row: Row) -> float:
    """The units, those with more neurons a little to the right."""
    units = row["neurons"] + row["linear"]
    return units + (0.64 * (row["neurons"] / units - 0.5) if units else 0.0)


def _met(verdict: str | None) -> str:
    return {"visit": "<br>visited by the training", "near": "<br>training came near"}.get(verdict or "", "")


def _edges(figure: go.Figure, pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> None:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for (x0, y0), (x1, y1) in pairs:
        xs += [x0, x1, None]
        ys += [y0, y1, None]
    if xs:
        figure.add_scatter(
            x=xs, y=ys, mode="lines", name="leads to", line={"color": FAINT, "width": 1.1}, hoverinfo="skip"
        )


def _ticks(y_range: tuple[float, float], floor: float | None) -> dict:
    ticks = log_ticks(10 ** y_range[0] if floor is None else 1.5 * floor, 10 ** y_range[1])
    if floor is None:
        return ticks
    return ticks | {"tickvals": [floor, *ticks["tickvals"]], "ticktext": ["lower", *ticks["ticktext"]]}


def _grouped(rows: Sequence[Row], exponents: dict, met: dict[str, str], gap: float) -> list[list[Row]]:
    """Entries of one size closer than a line of text share a name; what was met keeps its own, and comes first."""
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda r: (r["size"], r["name"] not in met, exponents[r["name"]][1])):
        last = groups[-1][-1] if groups else row
        is_close = abs(exponents[row["name"]][1] - exponents[last["name"]][1]) < gap
        if groups and last["size"] == row["size"] and is_close and {last["name"], row["name"]}.isdisjoint(met):
            groups[-1].append(row)
        else:
            groups.append([row])
    return sorted(groups, key=lambda g: (g[0]["name"] not in met, g[0]["neurons"] + g[0]["linear"]))


def _group_name(group: Sequence[Row]) -> str:
    """`(3,0)a, c`, or `(3,0)a–d`."""
    size, names = group[0]["size"], sorted(r["name"] for r in group)
    if not all(name.startswith(size) for name in names):
        return plain(", ".join(names))
    letters = [name.removeprefix(size) for name in names]
    is_run = len(letters) > 2 and ord(letters[-1]) - ord(letters[0]) == len(letters) - 1
    return plain(size + (f"{letters[0]}–{letters[-1]}" if is_run else ", ".join(letters)))


def _between(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Points on a line of the picture, its ends left out."""
    share = np.linspace(0.1, 0.9, 25)[:, None]
    return np.array(start) * (1 - share) + np.array(end) * share
