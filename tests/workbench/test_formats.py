"""Runs of every format that was ever written stay readable.

`stored/format-N` holds a study and a survey of format N, as they were written. A new format adds a folder, and an entry
in `_record._UPGRADES`; nothing here is ever written again.
"""

import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

from lossatlas._errors import InputError
from lossatlas.workbench import Store, StudyRun, SurveyRun, _record, _store
from lossatlas.workbench._record import SCHEMA_VERSION, damaged, read_record, write_record


STORED = pathlib.Path(__file__).parent / "stored"
FORMATS = sorted(STORED.glob("format-*"))


@pytest.fixture(params=FORMATS, ids=lambda path: path.name)
def root(request, tmp_path) -> pathlib.Path:
    """A copy, since a list writes an index."""
    return pathlib.Path(shutil.copytree(request.param, tmp_path / "runs"))


def test_every_format_up_to_ours_is_kept():
    assert [path.name for path in FORMATS] == [f"format-{version + 1}" for version in range(SCHEMA_VERSION)]


def test_a_stored_study_is_read(root):
    store = Store(root, index=f"sqlite:///{root}/index.sqlite")
    (run,) = store.runs(kind="study")
    assert (run.name, run.status, run.config, run.verdicts) == (
        "toy-mean", "finished", {"count": 10, "seed": 0}, {"holds": 1},
    )  # fmt: skip
    study = store.open(run.key)
    assert isinstance(study, StudyRun)
    curves = study.results["curves"].to_dataset()
    np.testing.assert_array_equal(curves["loss"].values, [[1.0, 0.5, np.nan], [2.0, 1.0, 0.25]])
    assert curves["word"].values.tolist() == ["stalls", "goes on"]
    assert curves.attrs["units"] == "mean squared error"
    assert study.results["curves/spectrum"].to_dataset()["value"].values.tolist() == [1 + 2j, 3.0]
    assert [claim["name"] for claim in study.claims] == ["mean"]
    assert store.verify() == ()


def test_a_stored_survey_is_read(root):
    (directory,) = root.glob("survey/*")
    survey = SurveyRun(directory)
    assert survey.headline == "A linear model <does> the job."
    assert survey.arrays["catalogue"].to_dataset()["loss"].values[0] == 0.5
    assert len(survey.table()) > 1
    # What the model predicted when it was stored.
    predicted = survey.model().predict(np.array([[1.0, 2.0]]))
    assert isinstance(predicted, pd.DataFrame)
    assert float(predicted["target"].iloc[0]) == pytest.approx(1.504143, abs=1e-6)
    assert survey.verify() == ()


def test_an_older_record_is_made_into_one_of_ours(tmp_path, monkeypatch):
    write_record(tmp_path, {"schema_version": 1, "status": "finished", "colour": "red"})
    upgrades = {
        1: lambda record: {**record, "hue": record["colour"]},
        2: lambda record: {**record, "hues": [record["hue"]]},
    }
    for module in (_record, _store):
        monkeypatch.setattr(module, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(_record, "_UPGRADES", upgrades)
    record = read_record(tmp_path)
    assert (record["schema_version"], record["hues"]) == (3, ["red"])
    # Its checksum is that of what was written.
    assert damaged(tmp_path) == ()
    monkeypatch.undo()
    assert "hue" not in read_record(tmp_path)


def test_a_newer_record_is_refused_wherever_it_is_met(root):
    (directory,) = root.glob("study/*")
    write_record(directory, {**read_record(directory), "schema_version": SCHEMA_VERSION + 1})
    store = Store(root, index=f"sqlite:///{root}/index.sqlite")
    assert [run.status for run in store.runs(kind="study")] == ["unreadable"]
    for action in (store.open, store.record, lambda key: store.export(key, root / "x.csv")):
        with pytest.raises(InputError, match="update lossatlas"):
            action(directory.name)
    assert [finding.is_damaged for finding in store.verify()] == [False]
