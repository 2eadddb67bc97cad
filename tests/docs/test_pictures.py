"""The pictures of the pages show what the library computes."""

import importlib.util
import re

import numpy as np
import pytest
from site_pages import DOCS


def load():
    spec = importlib.util.spec_from_file_location("docs_pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PICTURES = load()


def words(svg: str) -> set[str]:
    """The texts of a picture, names of levels and ticks."""
    return set(re.findall(r"<text[^>]*>([^<]+)</text>", svg))


def test_the_one_picture_has_the_embedded_line_and_the_valley():
    figure = PICTURES.landscape_picture()
    contour, line, star = figure.data
    names = words((DOCS / "pictures" / "landscape.svg").read_text("utf-8"))
    assert {line.name, star.name} <= names
    # Along the split the loss is that of one neuron, whatever the share; the star is the lowest point of the plane.
    row = int(np.abs(np.asarray(contour.y)).argmin())
    on_line = np.interp(0.0, contour.y, np.arange(len(contour.y)))
    assert abs(on_line - row) <= 1
    level = float(line.name.rpartition(" ")[2])
    assert np.ptp(10 ** np.asarray(contour.z)[row]) < 0.02
    assert level == pytest.approx(0.0684, abs=1e-4)
    assert 10 ** float(np.min(contour.z)) == pytest.approx(float(star.name.rpartition(" ")[2]), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PICTURES.FAST))
def test_pictures_made_anew_say_what_the_pages_show(name):
    pytest.importorskip("kaleido")
    try:
        svg = PICTURES.as_svg(PICTURES.FAST[name]())
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"no picture can be written here: {type(error).__name__}: {error}")
    assert words(svg) == words((DOCS / "pictures" / f"{name}.svg").read_text("utf-8"))
