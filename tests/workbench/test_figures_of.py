"""The figures of runs, results and pages, and their names as files."""

import pathlib

import jax
import pytest

import toy_study  # noqa: F401  (registers toy-mean)
from lossatlas import networks
from lossatlas._errors import InputError
from lossatlas.workbench import Model, Shrunk, Size, figures_of, reproduce, save_figures, write_report
from lossatlas.workbench import write_shrink_page as write_page
from survey_examples import iris


@pytest.fixture(scope="module")
def reproduction(tmp_path_factory):
    return reproduce(["toy-mean"], preset="smoke", out=tmp_path_factory.mktemp("runs"), progress="none")


@pytest.fixture
def written(monkeypatch):
    """What would be drawn, by the browser's start."""
    calls = []

    def save_all(drawn, **options):
        calls.append((drawn, options))
        return [pathlib.Path(path) for path in drawn]

    monkeypatch.setattr("lossatlas.figures.save_all", save_all)
    monkeypatch.setattr("lossatlas.figures.check_export", lambda: None)
    return calls


@pytest.mark.parametrize("compact", [False, True])
def test_a_run_its_folder_and_its_page_have_the_same_figures(reproduction, compact):
    (run,) = reproduction.runs
    found = figures_of(run, compact=compact)
    assert list(found) == list(run.study.figures(run.results))
    for other in (run.directory, str(run.report)):
        assert figures_of(other, compact=compact) == found


def test_a_reproduction_and_its_page_have_the_figures_of_their_studies(reproduction):
    (run,) = reproduction.runs
    names = list(figures_of(run))
    assert list(figures_of(reproduction)) == [f"toy-mean-{name}" for name in names]
    assert list(figures_of(reproduction.page)) == [f"{run.directory.name}-{name}" for name in names]


def test_pages_of_surveys_and_shrinkings_have_theirs(tmp_path):
    page = write_report(tmp_path / "report.html", *iris(), regenerate="lossatlas survey", versions={})
    assert list(figures_of(page)) == ["atlas", "distance", "tree", "reduction", "selection"]
    size = Size("4-1-3", 11, 0.1, None, None, None)
    model = Model(networks.Dense(jax.random.key(0), [4, 1, 3]), None, None, "a model")
    found = Shrunk(model, (), size, size, (size,), 0.1, None, 30, 10, {})
    page = write_page(tmp_path / "small.html", found, name="model", data="iris", regenerate="lossatlas shrink")
    assert figures_of(page) == figures_of(found)


def test_all_figures_of_a_call_are_drawn_at_once(reproduction, written, tmp_path):
    (run,) = reproduction.runs
    files = save_figures(run, tmp_path / "new" / "folder", formats=["svg", "PNG", "svg"], dpi=100)
    assert [path.name for path in files] == [f"{name}.{end}" for name in figures_of(run) for end in ("svg", "png")]
    assert files[0].parent.is_dir()
    ((_, options),) = written
    assert options == {"width": None, "height": None, "dpi": 100}
    save_figures(run, tmp_path, narrow=True, name="*")
    drawn, options = written[1]
    assert options["width"] == 85
    assert list(drawn.values()) == list(figures_of(run, compact=True).values())


@pytest.mark.usefixtures("written")
def test_what_has_no_figures_is_refused_with_nothing_written(reproduction, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<p>Not ours.</p>")
    with pytest.raises(InputError, match="is no page of LossAtlas"):
        figures_of(page)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        figures_of(tmp_path / "other.html")
    with pytest.raises(InputError, match="int has no figures here"):
        figures_of(3)
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"No figure is called 'atlas\?' \(--name\); there are "):
        save_figures(reproduction, out, name="atlas?")
    with pytest.raises(InputError, match="Name a format"):
        save_figures(reproduction, out, formats=[])
    with pytest.raises(InputError, match="Unknown format of a figure 'jpg'"):
        save_figures(reproduction, out, formats=["jpg"])
    assert not out.exists()
    with pytest.raises(InputError, match="cannot be made"):
        save_figures(reproduction, page)
