"""`lossatlas survey`: from words to a configuration, and what it prints (the survey itself is tested elsewhere)."""

import dataclasses
import datetime
import inspect
import json
import pathlib
import re

import pytest

import lossatlas
from lossatlas.atlas import SurveyConfig
from lossatlas.cli import _survey


ROWS = [
    {"network": "(0,1)", "parameters": 11, "loss": 0.1716879676, "kind": "critical point", "held-out loss": 0.18},
    {"network": "(1,0)", "parameters": 11, "loss": 1 / 6, "kind": "level at infinity", "held-out loss": None},
]


class FakeSurvey:
    directory = pathlib.Path("runs/a-very-long-name-that-a-table-would-wrap" * 4)
    report = directory / "report.html"
    created = datetime.datetime.max.replace(tzinfo=datetime.UTC)
    headline = "One linear unit [and one neuron] do the job of 2,953 parameters."

    def table(self):
        return ROWS

    def to_json(self):
        return {"headline": self.headline, "table": ROWS, "directory": str(self.directory)}


@pytest.fixture
def asked(monkeypatch):
    """The survey replaced by a record of what it was asked for."""
    calls = []

    def survey(data, **options):
        calls.append((data, options))
        return FakeSurvey()

    monkeypatch.setattr(lossatlas, "survey", survey, raising=False)
    return calls


def test_no_words_ask_for_the_defaults_of_the_library(lossatlas, asked):
    assert lossatlas("survey")[0] == 0
    assert asked == [("iris", {"config": SurveyConfig(), "out": None, "force": False, "progress": None})]


def test_options_have_the_names_and_defaults_of_the_configuration():
    options = inspect.signature(_survey.survey).parameters
    for field in dataclasses.fields(SurveyConfig):
        assert options[field.name].default == field.default, field.name


def test_every_word_reaches_the_survey(lossatlas, asked, tmp_path):
    words = (
        "table.csv --target y --hidden 3,4,5 --activation relu --loss mse --init 2 --learning-rate 0.1 --num-steps 9"
    )
    words += f" --seed 7 --seeds 3 --preset full --max-units 2 --hold-out 0.5 --out {tmp_path} --force --progress text"
    assert lossatlas("survey", *words.split())[0] == 0
    ((data, options),) = asked
    assert data == "table.csv"
    assert options["config"] == SurveyConfig(
        target="y", hidden=(3, 4, 5), activation="relu", loss="mse", init=2.0, learning_rate=0.1, num_steps=9, seed=7,
        seeds=3, preset="full", max_units=2, hold_out=0.5,
    )  # fmt: skip
    assert (options["out"], options["force"], options["progress"]) == (tmp_path, True, "text")


@pytest.mark.usefixtures("asked")
def test_output_is_headline_table_and_whole_paths(lossatlas):
    code, out, err = lossatlas("survey")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == FakeSurvey.headline
    assert any(line.split()[:3] == ["(0,1)", "11", "0.1717"] for line in lines)
    assert lines[-2:] == [f"report: {FakeSurvey.report}", f"run: {FakeSurvey.directory}"]


@pytest.mark.usefixtures("asked")
def test_a_survey_of_an_earlier_day_says_so(lossatlas, monkeypatch):
    monkeypatch.setattr(FakeSurvey, "created", datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC))
    code, _, err = lossatlas("survey")
    assert (code, err) == (0, "lossatlas: this survey was made on 2026-01-31; --force makes it again.\n")


@pytest.mark.usefixtures("asked")
def test_json_is_strict(lossatlas, monkeypatch):
    said = json.loads(lossatlas("survey", "--json")[1], parse_constant=pytest.fail)
    assert said == FakeSurvey().to_json()
    monkeypatch.setattr(FakeSurvey, "to_json", lambda _: {"loss": float("nan")})
    code, out, _ = lossatlas("survey", "--json")
    assert (code, out) == (1, "")


@pytest.mark.parametrize("widths", ["0", "50,0", "-3", "wide", "50,", "5.5", ""])
def test_impossible_widths_are_refused(lossatlas, asked, widths):
    code, out, err = lossatlas("survey", f"--hidden={widths}")
    assert (code, out, asked) == (2, "", [])
    assert "whole numbers above zero, like 50 or 50,50" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("iris --activation tnah", "Did you mean 'tanh'?"),
        ("irs", "Did you mean 'iris'?"),
        ("missing.csv", "missing.csv"),
        ("table.csv --target z", "z"),
        ("nan.csv", "nan.csv|NaN|missing"),
        ("one-class.csv", "class"),
        ("iris --num-steps 0", r"num_steps \(--num-steps\) must be at least 1"),
        ("iris --hold-out 1.5", r"hold_out \(--hold-out\), the share of rows"),
        ("diabetes --loss cross_entropy", "Use mse"),
        ("iris --out table.csv/runs", "is not a folder.*--out"),
    ],
)
def test_bad_input_is_one_line_before_any_work(lossatlas, tmp_path, words, said):
    (tmp_path / "table.csv").write_text("a,b,y\n" + "1,2,yes\n2,1,no\n" * 9)
    (tmp_path / "nan.csv").write_text("a,b,y\n" + "1,2,yes\n2,,no\n" * 9)
    (tmp_path / "one-class.csv").write_text("a,b,y\n" + "1,2,yes\n2,1,yes\n" * 9)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = lossatlas("survey", *words.split())
    assert (code, out) == (2, ""), err
    assert re.search(said, err), err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
