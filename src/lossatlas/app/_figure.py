"""A figure on a page of the application: that of the reports, for the width and the colours of the page."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from lossatlas.app._elements import heading, paragraph
from lossatlas.figures import dark_colours


class Figure(ui.element, component="assets/figure.js"):
    """A figure, drawn by plotly.

    **Arguments:**
    - `name`: of the figure, for files that are saved from it. `label`: what it shows, for screen readers.
    - `sizes`: the figure as plotly reads it, `wide` and `narrow`.
    """

    def __init__(self, name: str, label: str, sizes: Mapping[str, Any]):
        super().__init__()
        self.props["name"], self.props["label"] = name, label
        self.props["dark"] = dark_colours()
        self.props["sizes"] = sizes

    def show(self, sizes: Mapping[str, Any]) -> None:
        """Draw it anew, with other values."""
        self.props["sizes"] = sizes


def figure(name: str, title: str, caption: str, sizes: Mapping[str, Any]) -> Figure:
    """A figure with its title above and how to read it below."""
    with ui.element("section").classes("figure"):
        heading(3, title)
        shown = Figure(name, title, sizes)
        paragraph(caption, "remark")
    return shown
