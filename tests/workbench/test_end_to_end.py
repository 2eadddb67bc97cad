"""A real survey of a small table, from the file to predictions, with nothing replaced."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lossatlas
from lossatlas import atlas, data
from lossatlas._errors import InputError
from lossatlas._progress import NoProgress


SETTINGS = {"hidden": (4,), "max_units": 1, "num_steps": 300}


@pytest.fixture(scope="module")
def run(csv, tmp_path_factory):
    return lossatlas.survey(csv, out=tmp_path_factory.mktemp("runs"), progress="none", **SETTINGS)


def test_everything_is_stored_and_intact(run):
    assert run.verify() == ()
    assert {"recommended", "big", "(0,0)", "(0,1)"} <= set(run.network_names)
    entries = [entry["name"] for entry in run.tables["catalogue"]]
    assert list(run.arrays["/catalogue"]["entry"].values) == entries
    assert run.report.read_text(encoding="utf-8").startswith("<!")
    assert run.tables["headline"] in run.headline


def test_the_constant_and_linear_levels_are_those_of_least_squares(run, table):
    levels = {entry["name"]: entry["loss"] for entry in run.tables["catalogue"]}
    onehot = np.stack([table["kind"] == "no", table["kind"] == "yes"], axis=1).astype(float)
    # 1/2 |f - y|^2, mean over the rows
    assert levels["(0,0)"] == pytest.approx(0.5 * onehot.var(axis=0).sum(), rel=1e-12)
    columns = [table["x"], table["y"], table["colour"] == "green", table["colour"] == "red", np.ones(len(table))]
    residuals = np.linalg.lstsq(np.stack(columns, axis=1).astype(float), onehot, rcond=None)[1]
    assert levels["(0,1)"] == pytest.approx(0.5 * residuals.sum() / len(table), rel=1e-10)


def test_a_finished_survey_is_not_computed_again(run, csv, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("computed again")

    monkeypatch.setattr(atlas, "survey", refuse)
    again = lossatlas.survey(csv, out=run.directory.parent.parent, **SETTINGS)
    assert again.directory == run.directory
    assert again.table() == run.table()


@pytest.mark.parametrize("moment", ["training", "held-out figures"])
def test_an_interrupted_survey_goes_on_to_the_same_bytes(run, csv, tmp_path, monkeypatch, moment):
    class Stop(NoProgress):
        def task(self, label: str, total: int | float):
            if label == moment:
                raise KeyboardInterrupt
            return super().task(label, total)

    with pytest.raises(KeyboardInterrupt):
        lossatlas.survey(csv, out=tmp_path, progress=Stop(), **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("lossatlas.atlas._catalogue.search_levels", lambda *_: pytest.fail("a size was searched again"))
        again = lossatlas.survey(csv, out=tmp_path, progress="none", **SETTINGS)
    assert again.verify() == ()
    assert again.to_json()["checksums"].keys() == run.to_json()["checksums"].keys()
    for name in run.network_names:
        file = f"networks/{name.strip('()').replace(')', '').replace(',', '-')}.safetensors"
        assert (again.directory / file).read_bytes() == (run.directory / file).read_bytes()
    xr.testing.assert_identical(again.arrays, run.arrays)
    tables = [{name: value for name, value in r.tables.items() if name != "seconds"} for r in (run, again)]
    assert tables[0] == tables[1]


def test_raw_rows_are_predicted_as_the_survey_saw_them(run, csv, table):
    surveyed = data.load(csv)
    stored = run.arrays["/catalogue/predictions"]
    for name in ("(0,1)", "(1,0)"):
        answer = run.model(name).predict(table.drop(columns="kind"))
        in_memory = stored.sel(entry=name).values
        np.testing.assert_allclose(answer[["score[no]", "score[yes]"]], in_memory, atol=1e-12)
        assert list(answer["kind"]) == [surveyed.classes[i] for i in in_memory.argmax(axis=1)]


def test_a_file_is_predicted_like_its_table(run, csv, table):
    pd.testing.assert_frame_equal(run.model().predict(csv), run.model().predict(table))
    with pytest.raises(InputError, match="There is no file 'new.csv'"):
        run.model().predict("new.csv")


def test_predictions_make_the_round_trip_of_files(run, table, tmp_path):
    new = table.sample(frac=0.5, random_state=1)
    new.to_csv(tmp_path / "new.csv", index=False)
    model = lossatlas.load(run.directory)
    answer = model.predict(data.read_table(tmp_path / "new.csv"))
    answer.to_csv(tmp_path / "answer.csv", index=False)
    read = pd.read_csv(tmp_path / "answer.csv")
    assert list(read["kind"]) == list(model.predict(table)["kind"][new.index])


def test_a_missing_column_is_named(run, table):
    with pytest.raises(InputError, match="The column 'colour' is missing"):
        run.model().predict(table.drop(columns="colour"))


def test_the_report_is_written_anew_without_computation(run, monkeypatch):
    monkeypatch.setattr(atlas, "survey", None)
    text = run.report.read_text(encoding="utf-8")
    assert run.write_report().read_text(encoding="utf-8") == text
    assert run.verify() == ()
