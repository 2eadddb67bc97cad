"""Figures of sweeps: what was measured on a grid of settings, and how the cells came out."""

import itertools
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from lossatlas.figures._numbers import format_number
from lossatlas.figures._theme import FAINT, GRID, MUTED, PALETTE, new_figure


# How cells come out, worst last, with the colour of each; whatever else there is has failed.
_STATUS = {"done": PALETTE[0], "waiting": GRID, "non-finite": PALETTE[4], "failed": PALETTE[1]}
_MARGIN = {"l": 64, "r": 16, "t": 44, "b": 52}
_MOST_PANELS = 9


def sweep_figure(values: xr.DataArray, *, compact: bool = False) -> go.Figure:
    """What was measured on the grid of a sweep: one number a cell.

    Over one setting it is a curve of the mean over the seeds, with a band from the lowest to the highest; over two a
    map of the mean; over more a map for each value of the others, the first nine. What is not finite counts in no mean,
    and a place without any finite number is crossed out.

    **Arguments:**
    - `values`: of one setting or more, and `seed` last; its name is that of the number. `compact`: for narrow pages.
    """
    settings = [str(dim) for dim in values.dims[:-1]]
    if not settings:
        return _over_seeds(values, compact)
    if len(settings) == 1:
        return _curve(values, settings[0], compact)
    finite = np.isfinite(values.values)
    total = np.where(finite, values.values, 0.0).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite.any(-1), total / finite.sum(-1), np.nan)
    return _maps(values, settings, mean, str(values.name), compact)


def sweep_status_figure(status: xr.DataArray, *, compact: bool = False) -> go.Figure:
    """How the cells of a sweep came out: the worst of the seeds at each place, blue where all are done.

    **Arguments:**
    - `status`: text, of the settings, and `seed` last. `compact`: for narrow pages.
    """
    ranks = {name: rank for rank, name in enumerate(_STATUS)}
    worst = np.array([ranks.get(word, ranks["failed"]) for word in status.values.ravel()], float)
    worst = worst.reshape(status.shape).max(-1)
    settings = [str(dim) for dim in status.dims[:-1]] or ["all"]
    if len(settings) == 1:  # one row
        labels = [""] if settings == ["all"] else _texts(status[settings[0]].values)
        figure = new_figure(height=170, margin=_MARGIN, compact=compact)
        figure.add_heatmap(z=np.atleast_2d(worst), x=labels, y=[""], **_status_colours(), xgap=1)
        figure.update_xaxes(title={"text": _words(settings[0])}, type="category")
        figure.update_yaxes(visible=False)
        return figure
    return _maps(status, settings, worst, None, compact)


def _over_seeds(values: xr.DataArray, compact: bool) -> go.Figure:
    figure = new_figure(height=300 if compact else 380, margin=_MARGIN, compact=compact)
    figure.add_scatter(x=values["seed"].values, y=_finite(values.values), mode="markers", marker={"color": PALETTE[0]})
    figure.update_xaxes(title={"text": "seed"})
    figure.update_yaxes(title={"text": _words(str(values.name))}, automargin=True)
    return figure


def _curve(values: xr.DataArray, setting: str, compact: bool) -> go.Figure:
    places, rows = values[setting].values, _finite(values.values)
    has_number = np.atleast_1d(np.isfinite(rows).any(axis=-1))
    numeric = places.dtype.kind in "iuf"
    x = places if numeric else _texts(places)
    filled = np.where(has_number[:, None], rows, 0.0)
    low, high, mean = (
        np.where(has_number, reduce(filled, axis=-1), np.nan) for reduce in (np.nanmin, np.nanmax, np.nanmean)
    )
    figure = new_figure(height=300 if compact else 380, margin=_MARGIN, compact=compact)
    shown = has_number.nonzero()[0]
    if rows.shape[-1] > 1:
        band = [x[i] for i in shown], low[shown], high[shown]
        figure.add_scatter(x=band[0], y=band[1], mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip")
        figure.add_scatter(
            x=band[0],
            y=band[2],
            mode="lines",
            line={"width": 0},
            fill="tonexty",
            fillcolor="rgba(0,114,178,0.18)",
            name=f"lowest to highest of {rows.shape[-1]} seeds",
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=x, y=mean, mode="lines+markers", name="mean", line={"color": PALETTE[0], "width": 2}, connectgaps=False
    )
    if not has_number.all():
        figure.add_scatter(
            x=[x[i] for i in (~has_number).nonzero()[0]],
            y=[float(np.nanmin(low)) if has_number.any() else 0.0] * int((~has_number).sum()),
            mode="markers",
            marker={"symbol": "x", "color": MUTED, "size": 9},
            name="no finite number",
        )
    figure.update_xaxes(title={"text": _words(setting)}, type=None if numeric else "category")
    figure.update_yaxes(title={"text": _words(str(values.name))}, automargin=True)
    return figure


def _maps(array: xr.DataArray, settings: Sequence[str], z: np.ndarray, colour: str | None, compact: bool) -> go.Figure:
    """A map over the first two settings for each value of the others; `colour` is None for statuses."""
    across, up, *others = settings
    points = list(itertools.product(*(range(array.sizes[name]) for name in others)))[:_MOST_PANELS]
    columns = 1 if compact or len(points) == 1 else min(3, len(points))
    rows = -(-len(points) // columns)
    titles = [", ".join(f"{n} {_text(array[n].values[i])}" for n, i in zip(others, at, strict=True)) for at in points]
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles if others else None, shared_xaxes=True, shared_yaxes=True
    )
    base = new_figure(height=(320 if compact else 440) if rows == 1 else 260 * rows, margin=_MARGIN, compact=compact)
    figure.update_layout(base.layout)
    x, y = _texts(array[across].values), _texts(array[up].values)
    finite = z[np.isfinite(z)]
    for panel, at in enumerate(points):
        place = {"row": panel // columns + 1, "col": panel % columns + 1}
        shown = np.moveaxis(z[(slice(None), slice(None), *at)], 0, 1)
        if colour is None:
            colours = _status_colours() | {"showscale": panel == 0}
        else:
            bar = {"title": {"text": _words(colour), "side": "right"}, "thickness": 12}
            ends = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
            colours = {"colorscale": "Cividis", "zmin": ends[0], "zmax": ends[1], "colorbar": bar}
            colours |= {"showscale": panel == 0}
        figure.add_heatmap(z=np.where(np.isfinite(shown), shown, np.nan), x=x, y=y, xgap=1, ygap=1, **colours, **place)
        masked = np.argwhere(~np.isfinite(shown))
        if len(masked):
            figure.add_scatter(
                x=[x[j] for _, j in masked],
                y=[y[i] for i, _ in masked],
                mode="markers",
                marker={"symbol": "x-thin", "size": 8, "line": {"color": FAINT, "width": 1.5}},
                showlegend=False,
                hovertemplate="no finite number<extra></extra>",
                **place,
            )
    # Settings are placed by their order, at equal distances, whatever their values.
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=x, showgrid=False)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=y, showgrid=False, automargin=True)
    figure.update_xaxes(title={"text": _words(across)}, row=rows)
    figure.update_yaxes(title={"text": _words(up)}, col=1)
    return figure


def _status_colours() -> dict:
    share = 1 / len(_STATUS)
    scale = [[edge * share, colour] for i, colour in enumerate(_STATUS.values()) for edge in (i, i + 1)]
    bar = {"tickvals": list(range(len(_STATUS))), "ticktext": list(_STATUS), "thickness": 12, "outlinewidth": 0}
    return {"colorscale": scale, "zmin": -0.5, "zmax": len(_STATUS) - 0.5, "colorbar": bar}


def _finite(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, float)
    return np.where(np.isfinite(values), values, np.nan)


def _texts(values: np.ndarray) -> list[str]:
    return [_text(value) for value in values]


def _text(value: object) -> str:
    return format_number(float(value)) if isinstance(value, float | np.floating) else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")
