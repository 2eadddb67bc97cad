"""Figures as files: their sizes in print, and what is said where they cannot be drawn."""

import asyncio
import re
import struct
import sys
import warnings

import numpy as np
import pytest

from lossatlas import figures
from lossatlas._errors import InputError
from survey_examples import iris


@pytest.fixture
def figure():
    curve = {"curve": (np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 2.0]))}
    return figures.curves_figure(curve, x="time (s)", y="loss")


@pytest.fixture
def browser():
    pytest.importorskip("kaleido")
    try:
        figures.check_export()
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("browser")
def test_files_have_their_sizes_in_print_even_where_a_loop_runs(figure, tmp_path):
    async def notebook():  # a notebook's cells run inside a loop
        return figures.save_all({tmp_path / f"one.{end}": figure for end in figures.FORMATS}, width=85, dpi=200)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of asyncio's pipes, at the end of its loop
        svg, pdf, png = asyncio.run(notebook())
    drawn = svg.read_text()
    ((width, height), *_) = re.findall(r'width="([\d.]+)" height="([\d.]+)"', drawn)
    width, height = float(width), float(height)
    assert width / 96 * 25.4 == pytest.approx(85)
    assert height == pytest.approx(figure.layout.height * 0.8)  # a pixel of the figure is 0.6 points, one of CSS 0.75
    assert "time (s)" in drawn
    (box,) = re.findall(rb"/MediaBox \[(.*?)\]", pdf.read_bytes())
    left, bottom, right, top = (float(edge) for edge in box.split())
    assert (right - left) / 72 * 25.4 == pytest.approx(85, abs=0.5)
    assert (top - bottom) / 72 == pytest.approx(height / 96, abs=0.02)
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = struct.unpack(">II", content[16:24])
    assert pixels == pytest.approx((width / 96 * 200, height / 96 * 200), abs=1.5)
    assert content[37:41] == b"pHYs"
    assert struct.unpack(">IIB", content[41:50]) == (round(200 / 0.0254), round(200 / 0.0254), 1)


def test_without_kaleido_it_is_said_how_to_get_it(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(InputError, match=r"needs kaleido 1 or newer; get it by `pip install 'lossatlas\[paper\]'`"):
        figures.save(figure, tmp_path / "one.pdf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/nowhere/chrome", None])
def test_without_a_browser_it_is_said_how_to_get_one(figure, tmp_path, monkeypatch, path):
    pytest.importorskip("kaleido")
    from choreographer.browsers.chromium import Chromium

    monkeypatch.setattr(Chromium, "find_browser", lambda **_: None)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    if path is not None:
        monkeypatch.setenv("BROWSER_PATH", path)
    said = "none was found" if path is None else "there is none at BROWSER_PATH=/nowhere/chrome"
    with pytest.raises(InputError, match=rf"needs Chromium or Chrome, and {said}; install one .* BROWSER_PATH"):
        figures.save(figure, tmp_path / "one.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("one.pfd", {}, "Unknown format of a figure 'pfd'. Did you mean 'pdf'"),
        ("one", {}, "Known: pdf, png, svg"),
        ("missing/one.pdf", {}, "is not there"),
        ("one.pdf", {"width": 0.0}, r"width \(--width\) must be a positive number of mm, got 0.0"),
        ("one.pdf", {"height": float("nan")}, "height"),
        ("one.png", {"dpi": -1.0}, r"dpi \(--dpi\) must be a positive number, got"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_browser_starts(figure, tmp_path, monkeypatch, name, options, said):
    monkeypatch.setattr("lossatlas.figures._export._draw", None)
    with pytest.raises(InputError, match=said):
        figures.save(figure, tmp_path / name, **options)


@pytest.mark.usefixtures("browser")
def test_a_browser_that_ends_at_once_is_a_clear_error(figure, tmp_path, monkeypatch):
    broken = tmp_path / "chrome"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(broken))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(InputError, match="The browser that draws the figures ended"):
            figures.save(figure, tmp_path / "one.svg")
    assert not (tmp_path / "one.svg").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_every_figure_of_a_survey_is_drawn_in_both_widths(tmp_path):
    from lossatlas.workbench._report import survey_figures

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for compact, width in ((False, figures.TWO_COLUMNS), (True, figures.ONE_COLUMN)):
            makers = survey_figures(*iris())
            drawn = {tmp_path / f"{name}-{compact}.svg": make(compact) for name, make in makers.items()}
            for path in figures.save_all(drawn, width=width):
                assert path.read_text().count('class="trace') >= 2, path.name
