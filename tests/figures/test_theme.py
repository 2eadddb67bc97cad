import json
import re
from typing import Any

import plotly.io as pio
import pytest

from lossatlas import figures
from survey_examples import EXAMPLES


def _channel(value):
    value /= 255
    return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour):
        r, g, b = (_channel(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("compact", [False, True])
def test_every_colour_of_a_figure_has_a_dark_one(name, compact):
    tables, arrays = EXAMPLES[name]()
    drawn = [
        figures.atlas_figure(tables, arrays, compact=compact),
        figures.distance_figure(tables, arrays, compact=compact),
        figures.selection_figure(tables, compact=compact),
        figures.tree_figure(tables, compact=compact),
        figures.reduction_figure(tables, compact=compact),
    ]
    for figure in drawn:
        content = json.loads(str(figure.to_json()))
        content["layout"].pop("template")
        used = set(re.findall(r"#[0-9a-f]{6}", json.dumps(content)))
        assert used <= figures.dark_colours().keys()
        assert not re.search(r"rgba?\(", json.dumps(content))


def test_text_has_contrast_on_light_and_on_dark():
    dark = figures.dark_colours()
    layout: Any = pio.templates["lossatlas"].layout
    font, paper, tick = layout.font.color, layout.paper_bgcolor, layout.xaxis.tickfont.color
    assert contrast(font, paper) > 7
    assert contrast(dark[font], dark[paper]) > 7
    assert contrast(tick, paper) > 4.5
    assert contrast(dark[tick], dark[paper]) > 4.5


def test_dark_colours_are_one_to_one():
    dark = figures.dark_colours()
    assert len(set(dark.values())) == len(dark)


def test_importing_figures_leaves_the_default_template_alone():
    assert pio.templates.default == "plotly"
