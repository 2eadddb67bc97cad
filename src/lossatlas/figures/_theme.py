"""One look for every figure: colours for light and dark pages, fonts, axes."""

import plotly.graph_objects as go
import plotly.io as pio


FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'

PAPER = "#ffffff"
INK = "#1d2430"
MUTED = "#586173"
GRID = "#e6e9ee"
FAINT = "#b3bac6"

# Okabe and Ito's colours, safe for colour-blind readers; their yellow is left out (invisible on white).
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

# One dark colour for each light one, so that a page can repaint a finished figure by replacing text.
_DARK = {
    PAPER: "#12161c",
    INK: "#e8ebf0",
    MUTED: "#a6b0bf",
    GRID: "#29303a",
    FAINT: "#56606e",
    "#0072b2": "#4aa8e0",
    "#d55e00": "#ff8b4d",
    "#009e73": "#34c79b",
    "#cc79a7": "#e6a3c8",
    "#e69f00": "#f3bd55",
    "#56b4e9": "#9bd6f7",
}


def dark_colours() -> dict[str, str]:
    """For every colour of the theme (lower-case hex) the one that takes its place on a dark page."""
    return dict(_DARK)


def _template() -> go.layout.Template:
    axis = {
        "automargin": False,
        "gridcolor": GRID,
        "linecolor": FAINT,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": FAINT,
        "tickfont": {"color": MUTED},
        "title": {"font": {"color": INK}, "standoff": 8},
        "zeroline": False,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": PAPER,
            "plot_bgcolor": PAPER,
            "colorway": list(PALETTE),
            "colorscale": {"sequential": "Cividis"},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "font": {"family": FONT, "color": INK},
                "bgcolor": PAPER,
                "bordercolor": FAINT,
                "align": "left",
            },
            "legend": {"font": {"color": INK, "size": 12}, "bgcolor": PAPER + "00"},
            "annotationdefaults": {"font": {"color": INK}, "arrowcolor": MUTED, "arrowwidth": 1, "arrowhead": 0},
        }
    )


pio.templates["lossatlas"] = _template()


def new_figure(*, height: int, margin: dict[str, int], compact: bool) -> go.Figure:
    """An empty figure in the theme.

    **Arguments:**
    - `height`, `margin` (`l`, `r`, `t`, `b`): pixels. `compact`: for pages narrower than 640 pixels: smaller type,
      and dragging scrolls the page.
    """
    figure = go.Figure()
    figure.update_layout(
        template="lossatlas",
        height=height,
        margin=margin | {"pad": 0},
        font={"size": 11 if compact else 13},
        dragmode=False if compact else "zoom",
        hovermode="closest",
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 10 if compact else 12},
            "itemwidth": 30,
        },
    )
    return figure
