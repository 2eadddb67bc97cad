"""`lossatlas figures`."""

import json
import pathlib
import sys

import pytest

import toy_study  # noqa: F401  (registers toy-mean)
from lossatlas.workbench import figures_of, run_study


@pytest.fixture
def stored():
    return run_study("toy-mean", count=10, progress="none")


def test_figures_of_a_run_and_of_a_page_are_written(lossatlas, stored, monkeypatch):
    monkeypatch.setattr("lossatlas.figures.check_export", lambda: None)
    monkeypatch.setattr("lossatlas.figures.save_all", lambda drawn, **_: [pathlib.Path(path) for path in drawn])
    names = list(figures_of(stored))
    code, out, err = lossatlas("figures", stored.directory.name, "--format", "svg, pdf")
    assert (code, err) == (0, "")
    assert out.split() == [f"figures/{name}.{end}" for name in names for end in ("svg", "pdf")]
    code, out, _ = lossatlas("figures", str(stored.report), "--to", "paper", "--narrow", "--json")
    assert json.loads(out) == {"files": [f"paper/{name}.pdf" for name in names]}


def test_without_kaleido_one_line_says_how_to_get_it(lossatlas, stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    code, out, err = lossatlas("figures", stored.directory.name)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "pip install 'lossatlas[paper]'" in err
    assert not pathlib.Path("figures").exists()


def test_unknown_runs_and_formats_are_told(lossatlas):
    assert "No run 'abc'" in lossatlas("figures", "abc")[2]
    assert "Did you mean 'svg'" in lossatlas("figures", "abc.html", "--format", "svgz")[2]
