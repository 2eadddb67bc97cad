"""Surveys that are made once, stored and found again; the survey itself takes no time here."""

import json
import shlex
import sys

import numpy as np
import pandas as pd
import pytest

import lossatlas
from lossatlas import atlas
from lossatlas._errors import InputError
from lossatlas.data import from_arrays, load
from lossatlas.workbench import SurveyRun
from lossatlas.workbench._command import survey_command


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    monkeypatch.delenv("LOSSATLAS_STORE", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("surveyed")
def test_a_run_has_its_files_and_they_are_intact(csv, tmp_path):
    run = lossatlas.survey(csv, out=tmp_path / "runs", hidden=(3,))
    assert run.directory.parent == tmp_path / "runs" / "survey"
    assert run.directory.name.startswith("my-table-")
    assert sorted(path.name for path in run.directory.iterdir()) == ["data.zarr", "networks", "report.html", "run.json"]
    assert sorted(path.name for path in (run.directory / "networks").iterdir()) == [
        "0-1.safetensors",
        "1-0a.safetensors",
        "big.safetensors",
        "recommended.safetensors",
    ]
    assert run.verify() == ()
    record = json.loads((run.directory / "run.json").read_text())
    assert record["config"]["hidden"] == [3]
    assert record["checksums"].keys() >= {"report.html", "networks/big.safetensors", "data.zarr/zarr.json"}
    path = run.directory / "networks" / "big.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert run.verify() == ("networks/big.safetensors",)


def test_the_same_survey_is_made_once_and_another_anew(csv, surveyed):
    first = lossatlas.survey(csv)
    again = lossatlas.survey(str(csv))
    assert again.directory == first.directory
    assert again.to_json() == first.to_json()
    assert len(surveyed) == 1
    assert lossatlas.survey(csv, seed=1).directory != first.directory
    assert lossatlas.survey(csv, force=True).directory == first.directory
    assert [config.seed for config in surveyed] == [0, 1, 0]


def test_naming_what_is_the_default_is_the_same_survey(csv, table, surveyed):
    first = lossatlas.survey(csv)
    same = [
        lossatlas.survey(csv, target="kind"),
        lossatlas.survey(csv, config=atlas.SurveyConfig(), hidden=[50, 50], seed=np.int64(0)),
        lossatlas.survey(csv, hold_out=np.float64(0.25)),
        lossatlas.survey(from_arrays(table, "kind", name="my table")),
    ]
    assert {run.directory for run in same} == {first.directory}
    assert len(surveyed) == 1


def test_arrays_frames_and_data_sets_are_surveyed(table, surveyed):
    runs = [
        lossatlas.survey(table, target="kind"),
        lossatlas.survey(table.drop(columns="kind"), table["kind"]),
        lossatlas.survey({"x": table["x"], "kind": table["kind"]}, target="kind"),
        lossatlas.survey(table[["x", "y"]].to_numpy(), table["kind"].to_list()),
    ]
    # The first two are the same data.
    assert runs[0].directory == runs[1].directory
    assert len(surveyed) == 3
    assert runs[0].regenerate == "lossatlas.survey(X, y)"


def test_whole_numbers_and_their_floats_are_the_same_survey(csv, surveyed):
    assert lossatlas.survey(csv, init=2).directory == lossatlas.survey(csv, init=2.0).directory
    assert len(surveyed) == 1


def test_other_data_is_another_run(table, surveyed):
    first = lossatlas.survey(table, target="kind")
    other = table.assign(x=np.nextafter(table["x"], 10))
    assert lossatlas.survey(other, target="kind").directory != first.directory
    assert len(surveyed) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((), {"hiden": (3,)}, "Unknown option 'hiden'. Did you mean 'hidden'"),
        (("irs",), {}, "Did you mean 'iris'"),
        ((np.zeros((3, 2)),), {}, r"survey\(X, y\), or survey\(table, target="),
        (("iris", [1, 2]), {}, "y goes with inputs in memory"),
        ((np.zeros((3, 2)), [1, 2, 3]), {"target": "a"}, "not both"),
    ],
)
def test_impossible_words_are_refused_and_nothing_is_left(surveyed, tmp_path, arguments, options, said):
    with pytest.raises(InputError, match=said):
        lossatlas.survey(*arguments, **options)
    assert surveyed == []
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_has_one_target(table, surveyed):
    with pytest.raises(InputError, match="The target of this data set is 'kind', not 'x'"):
        lossatlas.survey(from_arrays(table, "kind"), target="x")
    assert surveyed == []


def test_settings_are_checked_before_anything_is_written(csv, tmp_path):
    with pytest.raises(InputError, match="hidden"):
        lossatlas.survey(csv, hidden=(0,))
    with pytest.raises(InputError, match="tanh"):
        lossatlas.survey(csv, activation="tahn")
    with pytest.raises(InputError, match=r"^seed \(--seed\) must lie in 0\.\.2"):
        lossatlas.survey(csv, seed=-1)
    for name, word in (("preset", "fulll"), ("loss", "mes")):
        config = atlas.SurveyConfig()
        object.__setattr__(config, name, word)  # as without a type checker
        with pytest.raises(InputError, match=f"Unknown {name} {word!r}. Did you mean"):
            atlas.check_config(load(csv), config, "mse")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(csv, surveyed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        lossatlas.survey(csv, out=tmp_path / "file" / "runs")
    assert surveyed == []


@pytest.mark.usefixtures("surveyed")
@pytest.mark.parametrize(("error", "word"), [(KeyboardInterrupt, "interrupted"), (ZeroDivisionError, "failed")])
def test_what_did_not_end_well_is_no_run(csv, tmp_path, monkeypatch, error, word):
    def stop(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(atlas, "survey", stop)
        with pytest.raises(error):
            lossatlas.survey(csv)
    (left,) = (path for path in (tmp_path / "lossatlas" / "survey").iterdir() if path.is_dir())
    assert left.name.endswith(".partial")
    with pytest.raises(InputError, match=rf"was {word}; run `lossatlas survey .*my table.csv'` again"):
        SurveyRun(left)
    with pytest.raises(InputError, match="no finished survey"):
        lossatlas.load("lossatlas")
    assert lossatlas.survey(csv).verify() == ()
    assert not left.exists()


@pytest.mark.usefixtures("surveyed")
def test_the_table_has_the_lowest_of_every_size_what_is_visited_and_the_big_network(csv):
    rows = lossatlas.survey(csv).table()
    # (1,0)c is neither the lowest of its size nor visited.
    assert [row["network"] for row in rows] == ["(0,1)", "(1,0)a", "(1,0)b", "big"]
    assert rows[0] == {
        "network": "(0,1)", "words": "a linear model of rank 1", "parameters": 8, "loss": 0.17,
        "kind": "critical point", "held-out loss": 0.03, "standard error": 0.01, "accuracy": 0.9, "R²": None,
        "visited": "2,100-3,300", "note": "recommended",
    }  # fmt: skip
    assert rows[1]["visited"] == "near 5,000"
    assert rows[3]["parameters"] == 1234
    assert [row["note"] for row in rows] == ["recommended", None, None, None]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


@pytest.mark.usefixtures("surveyed")
def test_arrays_come_back_as_they_were(csv):
    run = lossatlas.survey(csv)
    catalogue = run.arrays["/catalogue"].to_dataset()
    assert catalogue["entry"].dtype.kind == "U"
    assert list(catalogue["entry"].values) == ["(0,1)", "(1,0)a"]
    np.testing.assert_array_equal(catalogue["loss"], [0.5, np.nan])
    assert run.arrays["/data/targets"].values.tolist() == [1.0, 2.0]


@pytest.mark.usefixtures("surveyed")
def test_stored_networks_predict_on_raw_columns(csv, table):
    run = lossatlas.survey(csv, hidden=(3,))
    assert run.network_names == ("recommended", "big", "(0,1)", "(1,0)a")
    assert run.network("big").widths == (4, 3, 2)
    for name in ("(1,0)a", "1,0a", "(1, 0)a"):
        np.testing.assert_array_equal(run.model(name).predict(table), run.model("(1,0)a").predict(table))
    assert run.model().predict(table)["kind"].isin(["no", "yes"]).all()
    with pytest.raises(InputError, match=r"Unknown network of the survey 'recomended'. Did you mean 'recommended'"):
        run.model("recomended")


@pytest.mark.usefixtures("surveyed")
def test_models_say_what_they_are(csv):
    run = lossatlas.survey(csv)
    assert run.model().summary == (
        "recommended: a linear model of rank 1 (0,1), 8 parameters, on my table, 40 rows; "
        "held-out loss 0.03 ± 0.01, accuracy 90.0 %"
    )
    assert run.model("(1,0)a").summary == "(1,0)a: one neuron, 8 parameters, critical point of my table, 40 rows"
    assert "1,234 parameters" in repr(run.model("big"))


@pytest.mark.usefixtures("surveyed")
def test_models_are_loaded_from_a_run_its_files_and_a_folder_with_one_run(csv, table, tmp_path):
    run = lossatlas.survey(csv)
    expected = run.model().predict(table)
    file = run.directory / "networks" / "recommended.safetensors"
    for path in (run.directory, str(run.directory), run.directory / "run.json", file, "lossatlas", "lossatlas/survey"):
        pd.testing.assert_frame_equal(lossatlas.load(path).predict(table), expected)
    assert lossatlas.load(run.directory, network="big").network.widths == (4, 50, 50, 2)
    other = lossatlas.survey(csv, seed=1)
    with pytest.raises(InputError, match="holds 2 surveys; give one of them") as refused:
        lossatlas.load("lossatlas")
    assert str(other.directory) in str(refused.value)
    with pytest.raises(InputError, match="There is no run 'nowhere'"):
        lossatlas.load("nowhere")
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(InputError, match=r"'notes\.txt' is no readable safetensors file"):
        lossatlas.load(tmp_path / "notes.txt")


@pytest.mark.usefixtures("surveyed")
def test_a_report_is_written_anew_from_what_is_stored(csv, monkeypatch):
    run = lossatlas.survey(csv)
    text = run.report.read_text()
    assert "'jax'" in text
    monkeypatch.setattr(atlas, "survey", None)
    run.report.unlink()
    assert lossatlas.survey(csv).report.read_text() == text
    run.report.write_text("scribbled on")
    assert SurveyRun(run.directory).verify() == ("report.html",)
    run = SurveyRun(run.directory)
    run.write_report()
    assert run.report.read_text() == text
    assert run.verify() == ()
    assert not list(run.directory.glob("*.new"))


def test_a_report_that_fails_costs_no_survey(csv, surveyed, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["lossatlas.workbench._report"], "write_report", fail)
        with pytest.raises(ZeroDivisionError):
            lossatlas.survey(csv)
    run = lossatlas.survey(csv)
    assert run.report.exists()
    assert run.verify() == ()
    assert len(surveyed) == 1


@pytest.mark.usefixtures("surveyed")
def test_a_notebook_shows_the_headline_and_the_table_escaped(csv):
    shown = lossatlas.survey(csv)._repr_html_()
    assert "A linear model &lt;does&gt; the job." in shown
    assert shown.count("<tr>") == 5
    assert "<td>0.17</td>" in shown


@pytest.mark.parametrize(
    ("options", "origin", "command"),
    [
        ({}, "iris", "lossatlas survey iris"),
        ({"hidden": (3, 4), "max_units": 1, "seed": 0}, "iris", "lossatlas survey iris --hidden 3,4 --max-units 1"),
        ({"target": "a b", "init": 1.5}, "my table.csv", "lossatlas survey 'my table.csv' --target 'a b' --init 1.5"),
        ({"hidden": (3,), "preset": "full"}, None, "lossatlas.survey(X, y, hidden=(3,), preset='full')"),
    ],
)
def test_the_command_has_the_settings_that_are_not_the_default(options, origin, command):
    assert survey_command(atlas.SurveyConfig(**options), origin) == command


@pytest.mark.usefixtures("surveyed")
def test_the_command_makes_the_same_run_again(csv, monkeypatch, capsys):
    from lossatlas.cli._app import app
    from lossatlas.cli._run import run as call

    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    run = lossatlas.survey(csv, hidden=(3, 2), seed=4, init=1.5, loss="cross_entropy")
    assert call(app, [*shlex.split(run.regenerate)[1:], "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["directory"] == str(run.directory)
    assert said["table"] == run.table()


@pytest.mark.usefixtures("surveyed")
def test_control_c_on_the_command_line_is_exit_code_130_and_marked(csv, monkeypatch, tmp_path, capsys):
    from lossatlas.cli._app import app
    from lossatlas.cli._run import run as call

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    monkeypatch.setattr(atlas, "survey", stop)
    assert call(app, ["survey", str(csv)]) == 130
    said = capsys.readouterr().err
    assert said.startswith("lossatlas: interrupted. What is finished is kept in lossatlas/survey/my-table-")
    assert said.endswith(".partial; run the same again to go on.\n")
    (record,) = tmp_path.glob("lossatlas/survey/*.partial/run.json")
    assert json.loads(record.read_text())["status"] == "interrupted"


@pytest.mark.usefixtures("surveyed")
def test_predictions_on_the_command_line_are_those_of_the_model(csv, table, monkeypatch, tmp_path, capsys):
    from lossatlas.cli._app import app
    from lossatlas.cli._run import run as call

    monkeypatch.setattr("lossatlas._cache.use_compilation_cache", lambda: None)
    run = lossatlas.survey(csv)
    words = ["predict", str(run.directory), "--data", str(csv), "--network", "(1,0)a", "--out", str(tmp_path / "a.csv")]
    assert call(app, words) == 0
    answer = pd.read_csv(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(answer, run.model("(1,0)a").predict(table), check_dtype=False, rtol=1e-14)
    assert call(app, [*words[:4], "--network", "(1,0)", "--out", str(tmp_path / "b.csv")]) == 0
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()  # the lowest of its size
    assert call(app, [*words[:4], "--network", "(1,0)z"]) == 2
    assert "Did you mean '(1,0)a'" in capsys.readouterr().err
