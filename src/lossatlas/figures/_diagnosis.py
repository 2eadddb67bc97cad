"""The pictures of a diagnosis: what the layers hold, their groups, the eigenvalues, the ways out."""

import math

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from lossatlas.figures._entries import Row
from lossatlas.figures._numbers import format_number, log_ticks
from lossatlas.figures._theme import GRID, INK, MUTED, PALETTE, new_figure


_MOST_MAPS = 6
_LOST = 1e-16  # a decrease below it is drawn there


def widths_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """Every layer: the units it has, those it effectively uses, and what is left of it at the practical tolerance.

    **Arguments:**
    - `tables`: of `atlas.diagnosis_tables`. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    layers = tables["layers"]
    figure = new_figure(
        height=330 if compact else 360, margin={"l": 50, "r": 14, "t": 70 if compact else 46, "b": 52}, compact=compact
    )
    names = [layer["name"] for layer in layers]
    bars = [
        ("units", [layer["size"] for layer in layers], MUTED),
        ("effectively different", [layer["effective_number"] for layer in layers], PALETTE[5]),
        ("left", [_left(layer, 0) for layer in layers], PALETTE[0]),
        ("left: linear units", [_left(layer, 1) for layer in layers], PALETTE[4]),
        ("constant or unread", [_idle(layer) for layer in layers], PALETTE[3]),
    ]
    for name, values, colour in bars:
        if all(value is None for value in values) or (name == "left: linear units" and not any(values)):
            continue
        figure.add_bar(
            x=names,
            y=values,
            name=name,
            marker={"color": colour},
            text=["" if value is None else format_number(value, 2) for value in values],
            textposition="outside",
            cliponaxis=False,
            textfont={"size": 10 if compact else 11},
            hovertemplate="%{x}<br>%{y:.3g} " + name + "<extra></extra>",
        )
    largest = max(layer["size"] for layer in layers) if layers else 1
    figure.update_xaxes(title={"text": "layer"})
    figure.update_layout(barmode="group", bargap=0.2, yaxis={"title": {"text": "units"}, "range": [0, 1.12 * largest]})
    return figure


def groups_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """The cosines between the weight vectors of the neurons of each layer, ordered by group; the six first layers.

    **Arguments:**
    - `tables`: of `atlas.diagnosis_tables`. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    layers = [layer for layer in tables["layers"] if layer["similarity"]][:_MOST_MAPS]
    columns = max(1, min(1 if compact else 3, len(layers)))
    rows = max(1, -(-len(layers) // columns))
    side = 300 if compact else max(260, 640 // columns)
    base = new_figure(height=rows * side + 50, margin={"l": 44, "r": 14, "t": 34, "b": 34}, compact=compact)
    titles = [f"{layer['name']}: {format_number(layer['effective_number'], 2)} of {layer['size']}" for layer in layers]
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles or None, horizontal_spacing=0.08)
    figure.update_layout(base.layout)
    for i, layer in enumerate(layers):
        shown = [str(j) for j in layer["neurons_shown"]]
        figure.add_heatmap(
            z=layer["similarity"],
            x=list(range(len(shown))),
            y=list(range(len(shown))),
            customdata=[[f"{a} and {b}" for b in shown] for a in shown],
            zmin=min(0.0, *(value for row in layer["similarity"] for value in row)),
            zmax=1,
            colorscale="Cividis",
            showscale=i == 0,
            colorbar={
                "title": {"text": "cosine"},
                "thickness": 12,
                "lenmode": "pixels",
                "len": 180,
                "y": 1,
                "yanchor": "top",
                "outlinewidth": 0,
            },
            hovertemplate="neurons %{customdata}<br>cosine %{z:.3f}<extra></extra>",
            row=i // columns + 1,
            col=i % columns + 1,
        )
    figure.update_xaxes(showticklabels=False, ticks="", constrain="domain")
    figure.update_yaxes(showticklabels=False, ticks="", autorange="reversed", constrain="domain")
    for i in range(len(layers)):
        row, column = i // columns + 1, i % columns + 1
        figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", row=row, col=column)
        figure.update_xaxes(title={"text": "units, by group", "standoff": 4}, row=row, col=column)
        if i % columns == 0:
            figure.update_yaxes(title={"text": "units, by group", "standoff": 4}, row=row, col=column)
    return figure


def ways_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """The ways out: how far the loss falls by each, as predicted, as measured, and after a short run from there.

    **Arguments:**
    - `tables`: of `atlas.diagnosis_tables`. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    ways = list(reversed(tables["ways"]))
    loss, control = tables["standing"]["loss"], tables["control"]
    room = {"l": 20 if compact else 330, "r": 20, "t": 78 if compact else 46, "b": 52}
    figure = new_figure(height=110 + (84 if compact else 64) * max(len(ways), 1), margin=room, compact=compact)
    names = [_wrapped(way["words"], 40) for way in ways]
    after = [None if way["loss_after"] is None else loss - way["loss_after"] for way in ways]
    # From the top of each group: predicted, measured, after the run; a bar chart stacks groups from below.
    for name, values, colour in (
        ("after a short run", after, PALETTE[2]),
        ("measured", [way["realised"] for way in ways], PALETTE[0]),
        ("predicted", [way["predicted"] for way in ways], PALETTE[5]),
    ):
        figure.add_bar(
            y=names,
            x=values,
            name=name,
            orientation="h",
            marker={"color": colour},
            hovertemplate="%{y}<br>" + name + ": the loss falls by %{x:.4g}<extra></extra>",
        )
    marks = [(loss, "all of the loss", MUTED)]
    if control is not None:
        marks.append((loss - control, "the run without a step", INK))
    for value, words, colour in marks:
        figure.add_vline(x=value, line={"color": colour, "width": 1.5, "dash": "dot"})
        figure.add_annotation(
            x=value,
            xanchor="left" if value < 0.5 * loss else "right",
            y=1,
            yref="paper",
            yanchor="bottom",
            yshift=12 if compact else 0,
            text=words,
            showarrow=False,
            font={"color": colour, "size": 11},
        )
    seen = [value for value in (*after, *(way["realised"] for way in ways), loss) if value is not None]
    figure.update_layout(
        barmode="group",
        bargap=0.3,
        legend={"traceorder": "reversed"},
        xaxis={"title": {"text": "how far the loss falls"}, "range": [min(0.0, *seen) * 1.05, 1.15 * max(seen)]},
        yaxis={"tickfont": {"color": INK}, "ticks": "", "showline": False},
    )
    if compact:  # names above their bars: a phone has no room beside
        figure.update_layout(yaxis={"showticklabels": False}, bargap=0.5)
        for name in names:
            figure.add_annotation(
                x=0, xref="paper", xanchor="left", y=name, yshift=34, text=name.replace("<br>", " "), showarrow=False
            )
    return figure


def eigenvalues_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """The eigenvalues of the Hessian at the small critical point by size, and what counts as zero.

    **Arguments:**
    - `tables`: of `atlas.diagnosis_tables`. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    counted = tables["standing"]["point"]["inertia"]
    return inertia_figure(np.asarray(counted["eigenvalues"], float), counted["threshold"], compact=compact)


def inertia_figure(values: Float[np.ndarray, " p"], threshold: float, *, compact: bool = False) -> go.Figure:
    """Eigenvalues by size, and what counts as zero.

    **Arguments:**
    - `values`: in any order. `threshold`: values within it count as zero. `compact`: for narrow pages.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    sizes = np.maximum(np.abs(values), _LOST)
    kinds = np.where(values > threshold, "positive", np.where(values < -threshold, "negative", "zero"))
    figure = new_figure(height=300 if compact else 320, margin={"l": 98, "r": 14, "t": 40, "b": 46}, compact=compact)
    looks = {"positive": (PALETTE[0], "circle"), "zero": (MUTED, "x"), "negative": (PALETTE[1], "triangle-down")}
    for kind, (colour, symbol) in looks.items():
        chosen = np.flatnonzero(kinds == kind)
        if len(chosen):
            figure.add_scatter(
                x=chosen + 1,
                y=sizes[chosen],
                mode="markers",
                name=f"{kind}: {len(chosen)}",
                marker={"color": colour, "symbol": symbol, "size": 8},
                customdata=values[chosen],
                hovertemplate="eigenvalue %{x}: %{customdata:.4g}<extra></extra>",
            )
    low, high = min(sizes.min(), max(threshold, _LOST)) / 3, max(sizes.max(), threshold) * 3
    figure.add_hline(y=max(threshold, _LOST), line={"color": INK, "width": 1.2, "dash": "dash"})
    figure.add_annotation(
        x=1,
        xref="paper",
        xanchor="right",
        y=math.log10(max(threshold, _LOST)),
        yanchor="bottom",
        text=f"counts as zero below {format_number(threshold, 2)}",
        showarrow=False,
        font={"size": 11, "color": MUTED},
    )
    figure.update_layout(
        xaxis={"title": {"text": "eigenvalue"}, "range": [0, len(values) + 1], "gridcolor": GRID},
        yaxis={"title": {"text": "absolute value"}, "type": "log", "range": [math.log10(low), math.log10(high)]}
        | log_ticks(low, high),
    )
    return figure


def stall_figure(curve: tuple[np.ndarray, np.ndarray], tables: Row, *, compact: bool = False) -> go.Figure:
    """The training loss step by step, with the loss of the network that is diagnosed, and the level it stands at.

    **Arguments:**
    - `curve`: steps and losses. `tables`: of `atlas.diagnosis_tables`. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    steps, losses = (np.asarray(a, float) for a in curve)
    keep = (steps >= 1) & (losses > 0)
    steps, losses = steps[keep], losses[keep]
    figure = new_figure(height=300 if compact else 340, margin={"l": 62, "r": 14, "t": 40, "b": 48}, compact=compact)
    figure.add_scatter(
        x=steps,
        y=losses,
        mode="lines",
        name="training loss",
        line={"color": INK, "width": 2},
        hovertemplate="step %{x:,d}<br>loss %{y:.4g}<extra></extra>",
    )
    levels = [("the network here", tables["standing"]["loss"], PALETTE[1])]
    point = tables["standing"]["point"]
    if point is not None and tables["standing"]["is_near"]:
        levels.append((tables["small"]["words"], point["loss"], PALETTE[0]))
    for name, level, colour in levels:
        figure.add_scatter(
            x=[steps.min(), steps.max()],
            y=[level, level],
            mode="lines",
            name=name,
            line={"color": colour, "width": 1.5, "dash": "dot"},
            hovertemplate=f"{name}: {level:.4g}<extra></extra>",
        )
    everything = np.concatenate([losses, [max(level, 1e-300) for _, level, _ in levels]])
    low, high = float(everything.min()) / 1.3, float(everything.max()) * 1.3
    figure.update_layout(
        xaxis={"title": {"text": "training step"}, "type": "log", "dtick": 1, "tickformat": ",d"},
        yaxis={"title": {"text": "loss"}, "type": "log", "range": [math.log10(low), math.log10(high)]}
        | log_ticks(low, high),
    )
    return figure


def monitor_figure(history, *, compact: bool = False) -> go.Figure:
    """What a monitor saw: the loss, and below it how many neurons each layer effectively uses, and what is left of it.

    **Arguments:**
    - `history`: of [`lossatlas.atlas.Monitor`][]. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    base = new_figure(height=540, margin={"l": 78, "r": 14, "t": 54, "b": 46}, compact=compact)
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.44, 0.28, 0.28])
    figure.update_layout(base.layout)
    steps = history["step"].to_numpy()
    figure.add_scatter(
        x=steps,
        y=history["loss"].to_numpy(),
        mode="lines",
        name="loss",
        line={"color": INK, "width": 2},
        text=history["words"].to_numpy(),
        hovertemplate="step %{x:,d}<br>loss %{y:.4g}<br>%{text}<extra></extra>",
        row=1,
        col=1,
    )
    for i, layer in enumerate(history["layer"].to_numpy()):
        colour = PALETTE[i % len(PALETTE)]
        for row, name in ((2, "effective_neurons"), (3, "neurons"), (3, "linear")):
            figure.add_scatter(
                x=steps,
                y=history[name].sel(layer=layer).to_numpy(),
                mode="lines",
                name=str(layer),
                showlegend=row == 2,
                line={
                    "color": colour,
                    "width": 1.8,
                    "shape": "hv" if row == 3 else "linear",
                    "dash": "dot" if name == "linear" else "solid",
                },
                hovertemplate=f"{layer}, {name.replace('_', ' ')}<br>step %{{x:,d}}<br>%{{y:.2f}}<extra></extra>",
                row=row,
                col=1,
            )
    losses = history["loss"].to_numpy()
    seen = losses[np.isfinite(losses) & (losses > 0)]
    low, high = (float(seen.min()) / 1.3, float(seen.max()) * 1.3) if len(seen) else (0.1, 1.0)
    scale = {"type": "log", "range": [math.log10(low), math.log10(high)]} | log_ticks(low, high)
    figure.update_yaxes(title_text="loss", row=1, col=1, **scale)
    figure.update_yaxes(title_text="effective<br>neurons", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title_text="left (dotted:<br>linear units)", rangemode="tozero", row=3, col=1)
    figure.update_xaxes(title_text="training step", row=3, col=1)
    figure.update_xaxes(tickformat=",d")
    figure.update_yaxes(title_standoff=14, title_font_size=12)
    return figure


def _left(layer: Row, which: int) -> int | None:
    return None if layer["effective"] is None else layer["effective"][which]


def _idle(layer: Row) -> int | None:
    return None if layer["constant"] is None else layer["constant"] + layer["unread"]


def _wrapped(text: str, width: int) -> str:
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + len(word) + 1 > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return "<br>".join([*lines, line])
