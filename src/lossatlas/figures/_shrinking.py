"""The size of a model against what it costs to make it that small."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lossatlas.figures._entries import Row
from lossatlas.figures._numbers import format_number, log_ticks
from lossatlas.figures._theme import INK, MUTED, PALETTE, new_figure


_FLOOR = 1e-3  # of the largest change: what is below is drawn there


def shrinking_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """The largest change of an output at every size, on the rows seen and on new ones; below it accuracy or loss.

    Both axes of the changes are logarithmic; changes below a thousandth of the largest are drawn there, as exact.

    **Arguments:**
    - `tables`: of a shrinking: `curve`, `before`, `chosen`, each size with `num_parameters`, `change`,
      `fresh_change`, `accuracy`, `loss`, `shape`; `tolerance`. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    curve, chosen, before = tables["curve"], tables["chosen"], tables["before"]
    score = next((name for name in ("accuracy", "loss") if before[name] is not None), None)
    margin = {"l": 62 if compact else 78, "r": 14 if compact else 24, "t": 64 if compact else 46, "b": 54}
    base = new_figure(height=330 if score is None else 470, margin=margin, compact=compact)
    rows = 1 if score is None else 2
    figure = make_subplots(
        rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=None if rows == 1 else [0.62, 0.38]
    )
    figure.update_layout(base.layout)
    sizes = [size["num_parameters"] for size in curve]
    shapes = [size["shape"] for size in curve]
    largest = max([size["change"] for size in (*curve, chosen)] + [1e-300])
    floor = _FLOOR * largest
    changes = [("largest on the rows seen", "change", PALETTE[0], "solid")]
    if before["fresh_change"] is not None:
        changes.append(("covers 95 % of new rows", "fresh_change", PALETTE[1], "dash"))
    for name, key, colour, dash in changes:
        figure.add_scatter(
            x=sizes,
            y=[max(size[key], floor) for size in curve],
            customdata=[[shape, format_number(size[key], 3)] for shape, size in zip(shapes, curve, strict=True)],
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
            hovertemplate="%{x:,} parameters (%{customdata[0]})<br>change %{customdata[1]}<extra></extra>",
            row=1,
            col=1,
        )
    _mark(figure, chosen["num_parameters"], max(chosen["change"], floor), "this model", row=1)
    if tables["tolerance"] is not None and tables["tolerance"] > floor:
        _level(figure, tables["tolerance"], "")
    ticks = log_ticks(floor, largest)
    figure.update_yaxes(type="log", title={"text": "change of an output"}, **ticks, row=1, col=1)
    if score is not None:
        values = [size[score] for size in curve]
        figure.add_scatter(
            x=sizes, y=values, name=f"{score} on the rows held back", mode="lines+markers",
            line={"color": PALETTE[2]}, hovertemplate="%{x:,} parameters<br>%{y:.4g}<extra></extra>", row=2, col=1,
        )  # fmt: skip
        _level(figure, before[score], "2")
        _mark(figure, chosen["num_parameters"], chosen[score], None, row=2)
        figure.update_yaxes(title={"text": score}, row=2, col=1)
    low, high = min([*sizes, chosen["num_parameters"]]), max([*sizes, before["num_parameters"]])
    title = {"text": "parameters", "standoff": 8}
    figure.update_xaxes(type="log", **log_ticks(float(low), float(max(high, low + 1))))
    figure.update_xaxes(title=title, row=rows, col=1)
    return figure


def _level(figure: go.Figure, y: float, axis: str) -> None:
    line = {"color": MUTED, "dash": "dot", "width": 1}
    figure.add_shape(type="line", x0=0, x1=1, xref=f"x{axis} domain", y0=y, y1=y, yref=f"y{axis}", line=line)


def _mark(figure: go.Figure, x: float | int, y: float, name: str | None, *, row: int) -> None:
    figure.add_scatter(
        x=[x],
        y=[y],
        name=name,
        showlegend=name is not None,
        mode="markers",
        marker={"symbol": "diamond", "size": 12, "color": PALETTE[3], "line": {"color": INK, "width": 1}},
        hovertemplate="%{x:,} parameters<br>%{y:.3g}<extra></extra>",
        row=row,
        col=1,
    )
