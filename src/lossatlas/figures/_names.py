"""Names beside points, with leader lines where they stand away."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from lossatlas.figures._labels import Offset, place_labels
from lossatlas.figures._theme import FAINT, INK, MUTED, PAPER


BESIDE = (
    Offset(9, 0, "left", "middle"),
    Offset(-9, 0, "right", "middle"),
    Offset(0, -9, "center", "bottom"),
    Offset(0, 9, "center", "top"),
    Offset(16, -8, "left", "bottom"),
    Offset(16, 8, "left", "top"),
    Offset(-16, -8, "right", "bottom"),
    Offset(-16, 8, "right", "top"),
    Offset(30, 0, "left", "middle"),
    Offset(30, -16, "left", "bottom"),
    Offset(30, 16, "left", "top"),
    Offset(-30, 0, "right", "middle"),
)
_FAR = 14


def panel_widths(*, compact: bool) -> tuple[float, float]:
    """The narrowest and the widest panel, in pixels, that a figure of this kind is shown with."""
    return (205.0, 520.0) if compact else (500.0, 1000.0)


def name_points(
    figure: go.Figure,
    points: Sequence[tuple[int | float, int | float]],
    texts: Sequence[str],
    strong: Sequence[bool],
    ranges: tuple[Sequence[int | float] | np.ndarray, Sequence[int | float] | np.ndarray],
    height: int | float,
    *,
    obstacles: np.ndarray,
    compact: bool,
    beside: bool = True,
) -> None:
    """Write names next to points where there is room; the first in the list choose first.

    **Arguments:**
    - `points`, `obstacles`, `ranges` (x and y): in axis units, exponents of ten on logarithmic axes.
    - `texts`: safe for plotly's markup. `strong`: which are bold. `height`: of the panel in pixels.
    - `beside`: try right beside the points first.
    """
    (left, right), (bottom, top) = ranges

    def frame(width: int | float):
        return lambda x, y: ((x - left) / (right - left) * width, (top - y) / (top - bottom) * height)

    widths, font = panel_widths(compact=compact), 11 if compact else 12.5
    places = place_labels(
        points,
        texts,
        font,
        [frame(w) for w in widths],
        [(w, height) for w in widths],
        obstacles,
        near=BESIDE if beside else (),
        strong=strong,
    )
    for (x, y), text, is_strong, place in zip(points, texts, strong, places, strict=True):
        if place is None:
            continue
        far = max(abs(place.dx), abs(place.dy)) > _FAR or not beside
        figure.add_annotation(
            x=x,
            y=y,
            ax=place.dx,
            ay=place.dy,
            xanchor=place.xanchor,
            yanchor=place.yanchor,
            align=place.xanchor,
            text=f"<b>{text.replace('<br>', '</b><br><b>')}</b>" if is_strong else text,
            showarrow=True,
            arrowhead=0,
            arrowwidth=0.8,
            standoff=6,
            arrowcolor=(MUTED if is_strong else FAINT) if far else PAPER + "00",
            bgcolor=PAPER + "c0" if not beside else None,
            font={"size": font, "color": INK if is_strong else MUTED},
        )
