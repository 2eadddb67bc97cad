"""The topology of a surface: its merge tree, and its persistence diagram."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from lossatlas.figures._numbers import format_number
from lossatlas.figures._theme import INK, MUTED, PALETTE, new_figure


if TYPE_CHECKING:
    import xarray as xr

_MARGIN = {"l": 72, "r": 16, "t": 44, "b": 52}
_MOST_BRANCHES = 40
_KINDS = ("basins (dimension 0)", "closed ridges (dimension 1)", "voids (dimension 2)")


def merge_tree_figure(tree: "xr.Dataset", *, compact: bool = False) -> go.Figure:
    """A merge tree: a line from each minimum up to the saddle where its basin joins a deeper one.

    **Arguments:**
    - `tree`: of `lossatlas.geometry.MergeTree.to_xarray`; the 40 most persistent minima are drawn.
    - `compact`: for pages narrower than 640 pixels.
    """
    count = min(tree.sizes["minimum"], _MOST_BRANCHES)
    losses, saddles = tree["loss"].to_numpy()[:count], tree["saddle_loss"].to_numpy()[:count]
    parents, cells = tree["parent"].to_numpy()[:count], tree["num_cells"].to_numpy()[:count]
    finite = saddles[np.isfinite(saddles)]
    heights = np.concatenate([losses, finite])
    is_log = bool(heights.min() > 0 and heights.max() > 20 * heights.min())
    spread = float(np.ptp(np.log10(heights) if is_log else heights))
    highest = float(heights.max())
    top = highest * 10 ** (0.08 * spread + 0.01) if is_log else highest + (0.08 * spread or 0.1 * abs(highest) or 1.0)
    place = _places(parents, saddles)
    ends = np.where(np.isfinite(saddles), saddles, top)
    across: list[float | None] = []
    upward: list[float | None] = []
    for i in range(count):
        target = place[i] if parents[i] < 0 else place[parents[i]]
        across += [place[i], place[i], target, None]
        upward += [float(losses[i]), float(ends[i]), float(ends[i]), None]
    figure = new_figure(height=300 if compact else 380, margin=_MARGIN, compact=compact)
    figure.add_scatter(
        x=across, y=upward, mode="lines", line={"color": MUTED, "width": 2}, hoverinfo="skip", name="basins that merge"
    )
    merged = np.isfinite(saddles)
    figure.add_scatter(
        x=[place[int(p)] for p in parents[merged]],
        y=saddles[merged],
        mode="markers",
        name="saddles",
        marker={"symbol": "x", "size": 8, "color": PALETTE[1]},
        text=[f"saddle {format_number(float(s))}" for s in saddles[merged]],
        hovertemplate="%{text}<extra></extra>",
    )
    texts = [
        f"minimum {format_number(float(low))}<br>gap {format_number(float(high - low))}<br>{size:,} cells"
        for low, high, size in zip(losses, saddles, cells, strict=True)
    ]
    figure.add_scatter(
        x=[place[i] for i in range(count)],
        y=losses,
        mode="markers",
        name="minima",
        marker={"symbol": "circle", "size": 9, "color": PALETTE[0], "line": {"color": INK, "width": 0.5}},
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )
    figure.update_xaxes(
        title={"text": f"minima of the slice ({count:,})"},
        showticklabels=False,
        showgrid=False,
        ticks="",
        range=[-0.6, count - 0.4],
    )
    figure.update_yaxes(title={"text": tree.attrs["quantity"].replace("_", " ")}, type="log" if is_log else "linear")
    return figure


def persistence_figure(
    births: Mapping[int, Float[np.ndarray, " _"]],
    deaths: Mapping[int, Float[np.ndarray, " _"]],
    *,
    quantity: str,
    compact: bool = False,
) -> go.Figure:
    """A persistence diagram: death against birth; what never ends stands on the upper line.

    **Arguments:**
    - `births`, `deaths`: by dimension. `quantity`: which values. `compact`: for pages narrower than 640 pixels.
    """
    every = np.concatenate([np.asarray(v, float) for v in (*births.values(), *deaths.values())])
    finite = every[np.isfinite(every)]
    low, high = float(finite.min()), float(finite.max())
    pad = 0.06 * ((high - low) or abs(high) or 1.0)
    top = high + 1.5 * pad
    figure = new_figure(height=320 if compact else 420, margin=_MARGIN, compact=compact)
    figure.add_scatter(
        x=[low - pad, top],
        y=[low - pad, top],
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for dim, born in births.items():
        if not len(born):
            continue
        ends = np.asarray(deaths[dim], float)
        texts = [
            f"from {format_number(float(b))} to {format_number(float(d)) if np.isfinite(d) else 'the end'}"
            for b, d in zip(born, ends, strict=True)
        ]
        figure.add_scatter(
            x=born,
            y=np.where(np.isfinite(ends), ends, top),
            mode="markers",
            name=_KINDS[dim] if dim < len(_KINDS) else f"dimension {dim}",
            marker={
                "symbol": ("circle", "diamond", "square")[dim % 3],
                "size": 9,
                "color": PALETTE[dim % len(PALETTE)],
            },
            text=texts,
            hovertemplate="%{text}<extra></extra>",
        )
    figure.add_hline(y=top, line={"color": MUTED, "width": 1})
    figure.add_annotation(
        text="never ends",
        x=1,
        xref="x domain",
        y=top,
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        font={"size": 10, "color": MUTED},
    )
    words = quantity.replace("_", " ")
    figure.update_xaxes(title={"text": f"{words} where it begins"}, range=[low - pad, top])
    figure.update_yaxes(title={"text": f"{words} where it ends"}, range=[low - pad, top + pad])
    figure.update_layout(showlegend=True)
    return figure


def _places(parents: np.ndarray, saddles: np.ndarray) -> dict[int, float]:
    """Where each minimum stands: a basin beside the one that it joins, those that join lowest the nearest."""
    children: dict[int, list[int]] = {}
    for i, parent in enumerate(parents.tolist()):
        children.setdefault(parent, []).append(i)
    order: list[int] = []
    waiting = list(reversed(children.get(-1, [])))
    while waiting:
        node = waiting.pop()
        order.append(node)
        waiting += sorted(children.get(node, []), key=lambda i: -saddles[i])
    return {node: float(at) for at, node in enumerate(order)}
