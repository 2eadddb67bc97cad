"""`lossatlas study` and `lossatlas reproduce`."""

import json

import pytest

import toy_study  # noqa: F401  (registers toy-mean)


def test_studies_are_listed_and_explained(lossatlas):
    code, out, _ = lossatlas("study", "list")
    assert code == 0
    assert "embedding-width" in out
    assert "Means of random numbers" in out
    code, out, _ = lossatlas("study", "list", "--json")
    assert {"study": "toy-mean", "title": "Means of random numbers", "papers": ["zhang2021embedding"]} in json.loads(
        out
    )
    code, out, _ = lossatlas("study", "show", "toy-mean")
    assert code == 0
    for words in ("one half", "--count", "5000", "@"):
        assert words in out


def test_a_study_is_run_with_options_and_a_file(lossatlas, tmp_path):
    (tmp_path / "settings.toml").write_text("[toy-mean]\nscale = 1.5\n")
    code, out, _ = lossatlas(
        "study", "run", "toy-mean", "--preset", "smoke", "--config", "settings.toml", "--count", "20"
    )
    assert code == 0
    assert "report: lossatlas/study/toy-mean-" in out
    code, out, _ = lossatlas(
        "study", "run", "toy-mean", "--preset", "smoke", "--config", "settings.toml", "--count", "20", "--json"
    )
    record = json.loads(out)
    assert (record["config"]["count"], record["config"]["scale"]) == (20, 1.5)
    assert record["claims"][0]["verdict"] in ("holds", "fails")


def test_a_claim_that_fails_is_no_error_and_a_study_that_breaks_is(lossatlas):
    code, out, _ = lossatlas("study", "run", "toy-mean", "--scale", "9")
    assert code == 0
    assert "0 holds, 1 fails" in out
    code, _, err = lossatlas("study", "run", "toy-mean", "--kind", "broken")
    assert code == 1
    assert "the generator broke" in err


def test_one_page_of_all_that_was_asked_for(lossatlas, tmp_path):
    code, out, _ = lossatlas("reproduce", "toy-mean", "--preset", "smoke")
    assert code == 0
    assert "page: lossatlas/reproduction.html" in out
    assert "lossatlas reproduce toy-mean --preset smoke" in (tmp_path / "lossatlas/reproduction.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("study", "run", "toy-maen"), "toy-mean"),
        (("study", "show", "toy-maen"), "toy-mean"),
        (("study", "run", "toy-mean", "--cuont", "3"), "count"),
        (("study", "run", "toy-mean", "--count", "many"), "count must be a whole number"),
        (("study", "run", "toy-mean", "--config", "missing.toml"), "No such file"),
        (("reproduce",), "--all"),
        (("reproduce", "toy-maen"), "toy-mean"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_code_2(lossatlas, words, message):
    code, _, err = lossatlas(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
