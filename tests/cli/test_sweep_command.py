"""`lossatlas sweep` from the shell."""

import json

import pytest

import sweep_studies


GRID = ("--grid", "gamma=0.5:1.5:0.5", "--grid", "width=3,4")


@pytest.fixture(autouse=True)
def known():
    assert sweep_studies.ToyPlane.presets


def test_a_sweep_is_measured_and_found_again(lossatlas):
    words = ("sweep", "toy-plane", *GRID, "--seeds", "2", "--workers", "0")
    code, out, err = lossatlas(*words)
    assert (code, err) == (0, "")
    assert "toy-plane: " in out
    assert "report: lossatlas/sweep/toy-plane-" in out
    code, again, _ = lossatlas(*words, "--json")
    found = json.loads(again)
    assert found["config"]["axes"] == [["gamma", [0.5, 1.0, 1.5]], ["width", [3, 4]]]
    assert found["failed"] == []
    regenerate = found["regenerate"].split()[1:]
    assert json.loads(lossatlas(*regenerate, "--workers", "0", "--json")[1])["created"] == found["created"]
    code, out, _ = lossatlas("store", "show", found["key"])
    assert code == 0
    assert "toy-plane: " in out


def test_what_failed_is_told_and_is_no_failure_of_the_command(lossatlas):
    code, out, _ = lossatlas("sweep", "toy-trouble", "--grid", "what=well,raises", "--workers", "0", "--retries", "0")
    assert code == 0
    assert "1 done, 1 failed" in out
    assert "trouble with seed 0" in out
    assert "--retry-failed" in out


def test_a_dry_run_times_a_cell_and_writes_nothing(lossatlas, tmp_path):
    code, out, _ = lossatlas("sweep", "toy-plane", *GRID, "--seeds", "3", "--dry-run")
    assert code == 0
    assert "18 cells, 0 of them known; the others need 2 programs." in out
    assert "a program compiles in" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("toy-plan", *GRID), "Unknown study 'toy-plan'. Did you mean 'toy-plane'?"),
        (("toy-plane", "--grid", "gama=1,2"), "Did you mean 'gamma'?"),
        (("toy-plane", "--grid", "gamma"), "An axis of the grid is written name=1,2,3 or name=start:stop:step"),
        (("toy-plane", *GRID, "--grid", "gamma=7"), "gamma is on the grid twice"),
        (("toy-plane", *GRID, "--workers", "1", "--scheduler", "tcp://x:1"), "Give one of --workers, --scheduler"),
        (("toy-plane", *GRID, "--resources", "GPU"), "--resources is written NAME=amount"),
        (("toy-plane", *GRID, "--slurm", "missing.toml"), "Cannot read the profile 'missing.toml'"),
        (("toy-plane", *GRID, "--wait", "soon"), "wait must be a number, got 'soon'."),
        (("toy-plane",), "grid"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lossatlas, tmp_path, words, message):
    code, out, err = lossatlas("sweep", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("run.json"))
