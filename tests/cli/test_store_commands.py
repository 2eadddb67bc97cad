"""`lossatlas store`."""

import csv
import json
import pathlib

import pytest

import toy_study  # noqa: F401  (registers toy-mean)
from lossatlas.workbench import run_study


@pytest.fixture
def runs(monkeypatch):
    """Two runs in the folder of runs, without their pages."""
    monkeypatch.delenv("LOSSATLAS_INDEX", raising=False)
    monkeypatch.setattr("lossatlas.workbench._study.StudyRun.write_report", lambda _: None)
    return [run_study("toy-mean", count=10, seed=seed, progress="none") for seed in range(2)]


def test_runs_are_listed_for_people_and_machines(lossatlas, runs):
    code, out, _ = lossatlas("store", "list")
    assert code == 0
    for word in ("toy-mean", "study", "finished", "1 holds", "2 runs in 'lossatlas'"):
        assert word in out
    code, out, _ = lossatlas("store", "list", "--name", "toy-*", "--json")
    assert {run["path"] for run in json.loads(out)} == {f"study/{run.directory.name}" for run in runs}
    assert {run["config"]["seed"] for run in json.loads(out)} == {0, 1}
    _, out, _ = lossatlas("store", "list", "--limit", "1")
    assert "2 runs in 'lossatlas', the newest 1 shown (--limit 0 shows all)" in out
    assert lossatlas("store", "list", "--status", "failed", "--kind", "survey")[:2] == (0, "0 runs in 'lossatlas'\n")
    assert lossatlas("store", "list", "--out", "nowhere") == (0, "0 runs in 'nowhere'\n", "")


def test_a_run_is_shown(lossatlas, runs):
    folder = runs[0].directory.name
    code, out, _ = lossatlas("store", "show", folder)
    assert code == 0
    for word in (
        'config: {"count": 10',
        "regenerate: lossatlas study run toy-mean --count 10",
        "mean",
        f"run: {folder}",
    ):
        assert word.replace("run: ", "run: lossatlas/study/") in out if word.startswith("run:") else word in out
    code, out, _ = lossatlas("store", "show", folder[-12:-2], "--json")
    assert json.loads(out)["checksums"] == runs[0].record["checksums"]


def test_a_run_is_exported(lossatlas, runs):
    code, out, _ = lossatlas("store", "export", runs[1].directory.name, "--to", "draws.csv")
    assert (code, out) == (0, "draws.csv\n")
    with pathlib.Path("draws.csv").open() as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    assert values == runs[1].results["draws"]["value"].values.tolist()
    code, out, _ = lossatlas("store", "export", runs[1].directory.name, "--to", "all", "--format", "csv", "--json")
    assert json.loads(out) == {"files": ["all/draws.csv"]}


def test_a_run_is_removed_and_the_index_made_anew(lossatlas, runs):
    code, out, _ = lossatlas("store", "rm", runs[0].directory.name)
    assert (code, out) == (0, f"removed: {runs[0].directory}\n")
    assert not runs[0].directory.exists()
    pathlib.Path("lossatlas/index.sqlite").unlink()
    assert lossatlas("store", "rebuild")[:2] == (0, "index made anew: 1 run in 'lossatlas'\n")
    assert pathlib.Path("lossatlas/index.sqlite").exists()


def test_damage_is_exit_code_1_and_what_was_left_over_is_not(lossatlas, runs):
    assert lossatlas("store", "verify") == (0, "0 damaged, 0 left over in 'lossatlas'\n", "")
    left = runs[1].directory.rename(f"{runs[1].directory}.partial")
    code, out, err = lossatlas("store", "verify")
    assert (code, err) == (0, "")
    assert f"left over: study/{left.name}: a partial run that was killed\n  `lossatlas study run toy-mean" in out
    (runs[0].directory / "data.zarr" / "zarr.json").write_text("{}")
    code, out, err = lossatlas("store", "verify")
    assert (code, err) == (1, "")
    assert "damaged: study/toy-mean-" in out
    assert "    data.zarr/zarr.json\n  `lossatlas study run toy-mean --count 10 --force` makes it again" in out
    assert out.endswith("1 damaged, 1 left over in 'lossatlas'\n")
    code, out, _ = lossatlas("store", "verify", runs[0].directory.name, "--json")
    assert code == 1
    assert [finding["is_damaged"] for finding in json.loads(out)] == [True]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("store", "show", "xyz"), "No run 'xyz'"),
        (("store", "rm", "xyz"), "No run 'xyz'"),
        (("store", "verify", "xyz"), "No run 'xyz'"),
        (("store", "export", "xyz", "--to", "x.csv"), "No run 'xyz'"),
        (("store", "export", "xyz"), "--to"),
        (("store", "list", "--index", "nonsense"), "no database that SQLAlchemy knows"),
        (("store", "list", "--sttaus", "failed"), "--status"),
        (("store", "lst"), "list"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_code_2(lossatlas, words, message):
    code, _, err = lossatlas(*words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
