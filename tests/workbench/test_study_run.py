"""A study is run once, stored whole and found again; many make one page."""

import json
from typing import Any

import numpy as np
import pytest

import lossatlas
import toy_study
from lossatlas import studies
from lossatlas._errors import InputError
from lossatlas._progress import NoProgress
from lossatlas.workbench import StudyRun, reproduce, run_study


@pytest.fixture
def toy():
    return toy_study.ToyMean


@pytest.fixture
def run(toy, tmp_path):
    assert studies.find_study("toy-mean").config is toy
    return run_study("toy-mean", preset="smoke", seed=3, out=tmp_path, progress="none")


def test_results_claims_and_page_are_stored(run):
    assert run.results["draws"]["value"].values == pytest.approx(np.random.default_rng(3).uniform(size=10))
    (claim,) = run.claims
    assert claim["measured"] == pytest.approx(float(run.results["draws"]["value"].mean()))
    text = run.report.read_text()
    assert "The mean is one half." in text
    assert "A straight line for uniform ones." in text
    assert "lossatlas study run toy-mean --count 10 --seed 3" in text
    assert run.verify() == ()
    assert "zhang2021embedding" in lossatlas.citation(run)
    json.dumps(run.record, allow_nan=False)


def test_the_same_is_found_again_and_other_settings_are_another_run(run, tmp_path):
    again = run_study("toy-mean", count=10, seed=3, out=tmp_path, progress="none")
    assert again.directory == run.directory
    assert again.record["created"] == run.record["created"]
    assert run_study("toy-mean", count=11, seed=3, out=tmp_path, progress="none").directory != run.directory
    forced = run_study("toy-mean", count=10, seed=3, out=tmp_path, force=True, progress="none")
    assert forced.directory == run.directory
    assert run.study == studies.configure(studies.find_study("toy-mean"), preset="smoke")


def test_a_configuration_runs_as_its_name_does(run, toy, tmp_path):
    assert run_study(toy(count=10), seed=3, out=tmp_path, progress="none").directory == run.directory
    with pytest.raises(InputError, match="has its settings already"):
        run_study(toy(count=10), count=11, out=tmp_path)


def test_a_lost_page_is_drawn_again_from_what_is_stored(run, tmp_path):
    run.report.unlink()
    again = run_study("toy-mean", count=10, seed=3, out=tmp_path, progress="none")
    assert "The mean is one half." in again.report.read_text()
    assert again.verify() == ()


def test_bad_settings_leave_nothing_behind(tmp_path):
    wrong: list[dict[str, Any]] = [{"cuont": 3}, {"preset": "smok"}, {"seed": -1}]
    for options in wrong:
        with pytest.raises(InputError):
            run_study("toy-mean", out=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(InputError, match="no finished study"):
        StudyRun(lossatlas_survey_folder(tmp_path))


def lossatlas_survey_folder(folder):
    from lossatlas.workbench._record import SCHEMA_VERSION, write_record

    write_record(folder, {"schema_version": SCHEMA_VERSION, "kind": "survey", "status": "finished"})
    return folder


def test_a_page_of_all_claims_and_of_what_failed_to_run(run, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy, "presets", {"smoke": {"count": 10}, "quick": {"kind": "broken"}, "paper": {}})
    found = reproduce(["toy-mean"], preset="smoke", seed=3, out=tmp_path, progress="none")
    assert [claim["study"] for claim in found.claims] == ["toy-mean"]
    text = found.page.read_text()
    assert f'href="study/{run.directory.name}/report.html"' in text
    assert sum(found.counts().values()) == 1
    found = reproduce(["toy-mean"], preset="quick", out=tmp_path, progress="none")
    assert "the generator broke" in found.failed["toy-mean"]
    assert "did not end: ArithmeticError: the generator broke" in found.page.read_text()
    assert "ArithmeticError" in capsys.readouterr().err
    with pytest.raises(InputError, match="toy-mean"):
        reproduce(["toy-maen"], out=tmp_path)


def test_a_study_in_parts_goes_on_with_the_part_that_was_interrupted(tmp_path):
    (tmp_path / "stop").touch()
    asked = {"folder": str(tmp_path), "out": tmp_path / "runs", "progress": "none"}
    with pytest.raises(KeyboardInterrupt):
        run_study("toy-parts", **asked)
    assert (tmp_path / "computed").read_text() == "first second "
    (tmp_path / "stop").unlink()
    run = run_study("toy-parts", **asked)
    assert (tmp_path / "computed").read_text() == "first second second third "
    # What was kept meanwhile is what would have been computed, names, dimensions, coordinates and attributes included.
    whole = toy_study.ToyParts(folder=str(tmp_path)).run(0, NoProgress())
    assert run.results.identical(whole)
    assert whole["more"].ds.identical(toy_study.ToyParts(folder=str(tmp_path))._compute("second", 0))
    assert run.verify() == ()
