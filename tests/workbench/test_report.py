import html.parser
import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest
from plotly.offline import get_plotlyjs

from lossatlas.workbench._report import write_report
from survey_examples import EXAMPLES, iris


VERSIONS = {"python": "3.11.9", "lossatlas": "0.1.0"}
COMMAND = "lossatlas survey iris --seeds 3"


class Page(html.parser.HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.text, self.scripts, self.rows, self.headings = [], [], [], [], []
        self.tags, self.attributes = [], []
        self._skip, self._kind, self._in_cell = None, None, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, values))
        self.links += [values[name] for name in ("src", "href", "action", "data", "poster", "srcset") if name in values]
        if tag in ("script", "style"):
            self._skip, self._kind = tag, values
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        if tag == self._skip:
            self._skip = None
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._skip == "script":
            self.scripts.append((self._kind, data))
        elif self._skip is None:
            self.text.append(data)
            if self._in_cell:
                self.rows[-1][-1] += data

    def json(self, name: str):
        """The content of a script element by its id."""
        return json.loads("".join(data for kind, data in self.scripts if (kind or {}).get("id") == name))


def written(folder: pathlib.Path, tables, arrays, **changes) -> str:
    path = write_report(
        folder / "report.html", tables, arrays, **({"regenerate": COMMAND, "versions": VERSIONS} | changes)
    )
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=list(EXAMPLES))
def example(request, tmp_path_factory):
    """Tables, and the page made of them, of every example."""
    tables, arrays = EXAMPLES[request.param]()
    text = written(tmp_path_factory.mktemp("report"), tables, arrays)
    return tables, text.replace(get_plotlyjs(), ""), text


@pytest.fixture(scope="module")
def iris_page(tmp_path_factory):
    tables, arrays = iris()
    return tables, written(tmp_path_factory.mktemp("report"), tables, arrays).replace(get_plotlyjs(), "")


def test_plotly_is_embedded_exactly_once(example):
    assert example[2].count(get_plotlyjs()) == 1


def test_nothing_is_loaded_from_elsewhere(example):
    page = Page(example[1])
    assert all(link.startswith("#") for link in page.links)
    assert "@import" not in example[1]
    assert "url(" not in example[1]
    policy = next(a["content"] for tag, a in page.attributes if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_no_number_reads_nan_or_none(example):
    words = " ".join(Page(example[1]).text)
    assert not re.search(r"\b(nan|NaN|None|inf|null|undefined)\b", words)
    assert "{{" not in words
    assert not any(re.search(r"\b(nan|None)\b", a.get("title") or "") for _, a in Page(example[1]).attributes)


def test_every_entry_visit_and_candidate_has_a_row(example):
    tables, text, _ = example
    rows = Page(text).rows
    firsts = [row[0] for row in rows if row]
    for entry in tables["catalogue"]:
        assert entry["name"] in firsts
    for candidate in tables["selection"]["rows"]:
        assert any(row[0] == candidate["name"] or row[1] == candidate["words"] for row in rows if len(row) > 2)
    run = next(r for r in tables["trainings"] if r["seed"] == tables["best_seed"])
    cells = [cell for row in rows for cell in row]
    for visit in run["visits"]:
        assert any(cell.endswith(visit["name"]) for cell in cells)


def test_headline_command_and_versions_are_there(example):
    tables, text, _ = example
    words = " ".join(Page(text).text)
    assert tables["headline"] in words
    assert COMMAND in words
    assert VERSIONS["python"] in words
    assert tables["data"]["fingerprint"] in words
    for note in tables["data"]["notes"]:
        assert note in words


def test_the_page_is_accessible(example):
    page = Page(example[1])
    assert ("html", {"lang": "en"}) in page.attributes
    assert page.tags.count("h1") == 1
    assert page.tags.count("main") == 1
    plots = [a for tag, a in page.attributes if "plot" in a.get("class", "").split()]
    assert {a["data-figure"] for a in plots} == {"atlas", "distance", "tree", "reduction", "selection"}
    assert all(a["role"] == "img" and len(a["aria-label"]) > 30 for a in plots)
    assert page.tags.count("figure") == page.tags.count("figcaption") == len(plots)
    scrolling = [a for _, a in page.attributes if "scroll" in a.get("class", "").split()]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolling)
    tables = page.tags.count("table")
    assert tables == len(scrolling)
    identities = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(identities) == len(set(identities))
    assert {link[1:] for link in page.links} <= set(identities)


def test_figures_of_both_sizes_are_valid_json(example):
    page = Page(example[1])
    figures = page.json("figures")
    for name in ("atlas", "distance", "tree", "reduction", "selection"):
        assert set(figures[name]) == {"wide", "narrow"}
        assert figures[name]["wide"]["data"]
    assert page.json("dark")["#ffffff"] != "#ffffff"


def test_visits_are_told_in_words_with_both_numbers(iris_page):
    rows = Page(iris_page[1]).rows
    row = next(r for r in rows if r and r[0] == "2,100–3,300")
    assert row[1:] == ["a linear model (0,1)", "0.1717", "0.1709", "0.041", "0.43", "visit"]
    start = next(r for r in rows if r and r[0] == "0–1,400")
    assert start[5] == "starts here"
    near = next(r for r in rows if r and r[0] == "4,800")
    assert near[-1] == "near"


def test_exact_digits_are_in_the_tooltips(iris_page):
    titles = [a.get("title") for _, a in Page(iris_page[1]).attributes]
    assert "0.17168796760542" in titles
    assert "0.0291 ± 0.0076" in titles


def test_kinds_are_told_apart(iris_page):
    rows = {r[0]: r for r in Page(iris_page[1].replace("\N{NO-BREAK SPACE}", " ")).rows if r and len(r) == 8}
    assert rows["(0,1)"][4] == "critical point, minimum (0, 1, 9)zeros: 1 by linear mixing"
    assert rows["(1,1)c"][4].startswith("critical point, saddle (2, 1, 15)")
    assert rows["(1,0)"][4] == "level at infinityneuron 1 becomes a step"
    assert rows["(2,1)a"][4] == "not certified"


def test_what_runs_away_is_said_once(tmp_path):
    tables, arrays = iris()
    step = "hidden[0][{}] becomes a step (pre-activations of {} or more on all data)"
    tables["catalogue"][2]["runaway"] = "the weights run away"
    tables["catalogue"][7]["runaway"] = "; ".join([step.format(1, 7.5), step.format(0, 10.2)])
    rows = {r[0]: r for r in Page(written(tmp_path, tables, arrays)).rows if r and len(r) == 8}
    assert rows["(1,0)"][4] == "level at infinitythe weights run away"
    assert rows["(2,0)"][4].endswith("neurons 1 and 2 become steps (pre-activations of 7.5 or more on all data)")


def test_the_sentences_count_what_is_there(iris_page):
    words = re.sub(r"\s+", " ", " ".join(Page(iris_page[1]).text))
    assert "it slows down near the losses of tiny networks (0.3333, 0.1717 and 0.0065)" in words
    assert "Of eight different functions in the catalogue, the run visits four: (0,0), (0,1), (1,1)b and (2,0)" in words
    assert "It comes near two others: (0,2) and (1,1)a." in words
    assert "Training slows down four times; one slow-down is at no entry and left unnamed." in words
    assert "6 critical points (5 certified minima and 1 saddle), 2 levels at infinity" in words
    assert "it is behind the best, (2,0), two neurons, by 0.0021 ± 0.004" in words
    assert "Three seeds were trained, with 4 visits each; the report shows seed 1" in words


def test_no_match_is_said(tmp_path):
    words = re.sub(r"\s+", " ", " ".join(Page(written(tmp_path, *EXAMPLES["nothing visited"]())).text))
    assert "No match: the nearest is a constant (0,0), at distance 0.31." in words
    assert "comes near none of the small networks of this data" in words
    assert "it stalls" not in words
    assert "No slow-down stands out" in words


def test_regression_has_no_accuracy(tmp_path):
    page = Page(written(tmp_path, *EXAMPLES["diabetes"]()))
    assert not any("accuracy" in cell for row in page.rows for cell in row)
    assert "no hidden layer is left: it is an affine map" in " ".join(page.text)


def test_what_the_user_named_is_escaped(tmp_path):
    tables, arrays = iris()
    attack = "</script><script>alert(1)</script><img src=http://x.y/z onerror=alert(1)>"
    tables["data"] |= {"name": attack, "notes": [attack], "classes": [attack] * 3}
    tables["headline"] = tables["ending"]["words"] = attack
    tables["catalogue"][1]["words"] = tables["catalogue"][2]["runaway"] = attack
    text = written(tmp_path, tables, arrays, regenerate=attack, versions={attack: attack})
    page = Page(text.replace(get_plotlyjs(), ""))
    assert page.tags.count("script") == 4
    assert "img" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert attack in "".join(page.text)


def test_the_saved_network_is_named_where_it_lies_beside(tmp_path):
    tables, arrays = iris()
    assert "recommended.safetensors" not in written(tmp_path, tables, arrays)
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "recommended.safetensors").touch()
    assert "networks/recommended.safetensors" in written(tmp_path, tables, arrays)


def test_a_failure_leaves_the_old_report_and_nothing_else(tmp_path, monkeypatch):
    tables, arrays = iris()
    (tmp_path / "report.html").write_text("old")

    def fail(self, target):
        del self, target
        raise OSError("no space left on device")

    monkeypatch.setattr(pathlib.Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        written(tmp_path, tables, arrays)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_broken_table_writes_no_file(tmp_path):
    tables, arrays = iris()
    del tables["selection"]
    with pytest.raises(KeyError):
        written(tmp_path, tables, arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_others_may_read_the_report_as_the_umask_says(tmp_path):
    written(tmp_path, *iris())
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o666 & ~mask


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-default-apps --disable-dev-shm-usage --virtual-time-budget=5000"
)


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium, which is not installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_every_figure(tmp_path, width):
    assert CHROMIUM is not None
    written(tmp_path, *iris())
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    done = subprocess.run(
        [
            CHROMIUM, *FLAGS.split(), *sandbox, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
            "--enable-logging=stderr", "--dump-dom", (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if not done.stdout and done.returncode:
        pytest.skip(f"chromium does not start here: {done.stderr[-300:]}")
    dom = done.stdout
    plots = dom.split('data-figure="')[1:]
    assert len(plots) == 5
    for plot in plots:
        assert 'class="main-svg"' in plot
    atlas = plots[0]
    assert atlas.count('class="trace scatter') >= 8
    assert 'class="js-line"' in atlas
    assert "one neuron" in atlas or width < 640
    assert "(0,1)" in re.sub(r"<[^>]*>", "", atlas)
    assert "Uncaught" not in done.stderr
    assert "Content Security Policy" not in done.stderr
