"""The process that measures cells, and what becomes of it when a cell hangs, takes all memory or kills it."""

import os
import signal
import subprocess
import sys

import cloudpickle
import psutil
import pytest

import sweep_studies
from lossatlas.workbench.sweeps._grid import Cell
from lossatlas.workbench.sweeps._measure import Started, Task
from lossatlas.workbench.sweeps._outcome import Outcome
from lossatlas.workbench.sweeps._worker import CellProcess, Limits


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.fixture(scope="module")
def process():
    made = CellProcess()
    yield made
    made.close()


def task(*what, study=None, names=("what",), retries=0):
    cells = tuple(Cell(i, (word,), i) for i, word in enumerate(what))
    content = cloudpickle.dumps(study or sweep_studies.ToyTrouble())
    return Task(content, tuple(sys.path), names, cells, retries)


def outcomes(process, asked, **limits):
    found = [event for event in process.measure(asked, Limits(**limits)) if isinstance(event, Outcome)]
    assert sorted(outcome.place for outcome in found) == list(range(len(asked.cells)))
    return {asked.cells[outcome.place].values[0]: outcome for outcome in found}


def test_a_cell_that_hangs_raises_or_kills_its_process_costs_no_other_cell(process):
    found = outcomes(process, task("well", "hangs", "dies", "raises", "nan"), seconds=2.0)
    assert {what: (outcome.status, outcome.error) for what, outcome in found.items()} == {
        "well": ("done", ""),
        "hangs": ("timed out", "It took more than 2 seconds."),
        "dies": ("killed", "Its process ended with exit code 7."),
        "raises": ("failed", "ArithmeticError: trouble with seed 3"),
        "nan": ("non-finite", ""),
    }


def test_a_cell_that_ends_a_compiled_program_of_several_is_the_only_one_blamed(process):
    asked = task(*(1.0 + i for i in range(9)), study=sweep_studies.ToyPlane(deadly=6.0), names=("gamma",))
    found = outcomes(process, asked, retries=0)
    assert {gamma for gamma, outcome in found.items() if outcome.status == "killed"} == {6.0}
    assert {outcome.status for gamma, outcome in found.items() if gamma != 6.0} <= {"done", "non-finite"}


def test_a_cell_that_takes_all_memory_is_ended_when_it_did_so_in_a_process_of_its_own(process):
    found = outcomes(process, task("well", "takes", "nan"), memory=int(0.7e9))
    assert {what: outcome.status for what, outcome in found.items()} == {
        "well": "done",
        "takes": "out of memory",
        "nan": "non-finite",
    }
    assert found["takes"].error == "Its process took more than 0.7 GB."


def test_a_process_that_is_killed_between_is_started_again_and_blames_nobody(process):
    assert outcomes(process, task("well"))["well"].status == "done"
    children = psutil.Process().children()
    (child,) = [one for one in children if "lossatlas.workbench.sweeps._child" in one.cmdline()]
    os.kill(child.pid, signal.SIGKILL)
    assert outcomes(process, task("well"), retries=0)["well"].status == "done"


def test_the_limit_of_time_holds_for_each_cell_of_a_compiled_program(process):
    study = sweep_studies.ToyPlane(wait=0.1)
    asked = task(*(0.5 + i for i in range(12)), study=study, names=("gamma",))
    # All twelve take longer than the limit, each does not.
    assert {outcome.status for outcome in outcomes(process, asked, seconds=0.8).values()} <= {"done", "non-finite"}
    slow = task(1.0, 2.0, study=sweep_studies.ToyPlane(wait=5.0), names=("gamma",))
    assert [outcome.status for outcome in outcomes(process, slow, seconds=0.5).values()] == ["timed out"] * 2


def test_a_study_that_cannot_be_imported_fails_in_its_cells(process):
    content = cloudpickle.dumps(sweep_studies.ToyTrouble()).replace(b"sweep_studies", b"sweep_studiez")
    found = outcomes(process, Task(content, (), ("what",), (Cell(0, ("well",), 0),), 0))
    assert found["well"].error == "ModuleNotFoundError: No module named 'sweep_studiez'"


def test_the_process_ends_with_whoever_started_it(tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "import sweep_studies, test_worker as t\n"
        "for event in t.CellProcess().measure(t.task('hangs'), t.Limits()):\n"
        "    print('started', flush=True)\n"
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "started\n"
        (child,) = psutil.Process(starter.pid).children()
        starter.kill()
    child.wait(timeout=20)
    assert not child.is_running()


def test_every_call_is_told_before_it_is_made(process):
    asked = task(1.0, 2.0, 3.0, study=sweep_studies.ToyPlane(), names=("gamma",))
    events = list(process.measure(asked, Limits()))
    started = [event for event in events if isinstance(event, Started)]
    assert started[0] == Started(0, 1, compiles=True)
    assert [(event.first, event.count) for event in started[1:]] == [(0, 1), (1, 2)]
    assert isinstance(events[-1], Outcome)
