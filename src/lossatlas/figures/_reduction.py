"""What is left of the big network at each tolerance."""

import plotly.graph_objects as go

from lossatlas.figures._entries import Row, shown_training
from lossatlas.figures._theme import INK, PALETTE, new_figure


def reduction_figure(tables: Row, *, compact: bool = False) -> go.Figure:
    """Neurons and linear units left in each hidden layer, at each tolerance; layers that were merged away are missing.

    The tolerance is the largest change of any output on the data, relative to the root mean square deviation of the
    outputs from their mean.

    **Arguments:**
    - `tables`: of a survey, as `survey_tables` gives them. `compact`: for pages narrower than 640 pixels.

    **Returns:**
    A plotly figure in the theme `lossatlas`.
    """
    reductions = tables["ending"]["reductions"]
    margin = {"l": 54 if compact else 78, "r": 14 if compact else 24, "t": 40, "b": 74}
    figure = new_figure(height=330 if compact else 360, margin=margin, compact=compact)
    tolerances: list[str] = []
    layers: list[str] = []
    neurons: list[int] = []
    linear: list[int] = []
    for row in reductions:
        label = tolerance_text(row["relative_tolerance"])
        sizes = list(zip(row["neurons"], row["linear_units"], strict=True)) or [(0, 0)]
        for i, (k, r) in enumerate(sizes):
            tolerances.append(label)
            layers.append(f"layer {i + 1}" if row["neurons"] else "none left")
            neurons.append(k)
            linear.append(r)
    # Zero-width spaces keep the inner categories of different groups apart without showing.
    for name, values, colour in (("neurons", neurons, PALETTE[0]), ("linear units", linear, PALETTE[4])):
        figure.add_bar(
            x=[tolerances, layers],
            y=values,
            name=name,
            marker={"color": colour},
            text=[f"{v}" if v else "" for v in values],
            textposition="auto",
            textangle=0,
            insidetextanchor="middle",
            textfont={"size": 11},
            hovertemplate="%{x}<br>%{y} " + name + "<extra></extra>",
        )
    hidden = shown_training(tables)["settings"]["widths"][1:-1]
    figure.update_layout(
        barmode="stack",
        bargap=0.25,
        xaxis={
            "title": {"text": "largest change of an output that is allowed", "standoff": 12},
            "tickfont": {"size": 10 if compact else 12},
            "dividercolor": INK,
        },
        yaxis={"title": {"text": f"units left<br>(of {', '.join(str(h) for h in hidden)})"}, "rangemode": "tozero"},
    )
    return figure


def tolerance_text(relative: float) -> str:
    """0.03 as 3 %."""
    return f"{100 * relative:g} %"
