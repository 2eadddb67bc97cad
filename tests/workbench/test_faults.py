"""Processes that die, disks that are full, and several processes at once: the store stays whole."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas.workbench import Store
from lossatlas.workbench._index import Index


DRIVER = pathlib.Path(__file__).with_name("fault_driver.py")
FOLDER = "toy-0123456789ab"
unix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")


def every_operation(folder: pathlib.Path, fate: str, how: str) -> list[dict[str, dict]]:
    """What is found before and after the run is asked for again, for a fate at each of its file operations."""
    words = [sys.executable, str(DRIVER), "faults", str(folder), fate, how]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@unix
@pytest.mark.parametrize("how", ["first", "resumed", "forced"])
@pytest.mark.parametrize("fate", ["kill", "full"])
def test_at_every_file_operation_a_run_is_whole_or_goes_on(tmp_path, fate, how):
    found = every_operation(tmp_path, fate, how)
    assert len(found) > 15
    assert [line["before"]["met"] for line in found] == [True] * (len(found) - 1) + [False]
    for line in found:
        before, after = line["before"], line["after"]
        # Nothing that could be taken for a run is damaged, and a former run is there until the new one is.
        assert before["damaged"] == after["damaged"] == [], line
        assert not before["running"], line
        if how == "forced":
            assert before["whole"], line
        # Asked for again, it is there; and no step is computed twice.
        assert after["whole"][FOLDER] in (("old", "new") if how == "forced" else ("new",)), line
        if how != "forced":
            assert before["whole"] or before["steps"] >= before["done"] >= (how == "resumed"), line
            assert after["computed"] == (0 if before["whole"] else 2 - before["steps"]), line
            assert after["listed"] == [f"study/{FOLDER}"], line
        assert after["indexed"] == after["listed"], line


@unix
def test_processes_that_write_into_one_store_lose_and_damage_nothing(tmp_path):
    # Each makes twelve runs of its own and the same twelve as all others, in another order.
    words = [sys.executable, str(DRIVER), "many", str(tmp_path)]
    writers = [subprocess.Popen([*words, str(i)], stderr=subprocess.PIPE, text=True) for i in range(3)]
    store = Store(tmp_path)
    while any(writer.poll() is None for writer in writers):
        store.runs()  # a reader that writes what it finds
    assert [writer.communicate(timeout=60)[1] for writer in writers] == [""] * 3
    assert [writer.returncode for writer in writers] == [0] * 3
    paths = {run.path for run in store.runs(status="finished")}
    assert len(paths) == 4 * 12
    assert set(Index(tmp_path).read() or ()) == paths
    assert store.verify() == ()
    # Of those that all wanted, each was made once.
    assert len((tmp_path / "made").read_text().split()) == 4 * 12


@unix
def test_an_index_deleted_and_garbled_while_processes_write_costs_no_run(tmp_path):
    random = np.random.default_rng(0)
    words = [sys.executable, str(DRIVER), "many", str(tmp_path)]
    writers = [subprocess.Popen([*words, str(i)], stderr=subprocess.PIPE, text=True) for i in range(2)]
    file = tmp_path / "index.sqlite"
    while any(writer.poll() is None for writer in writers):
        time.sleep(0.02)
        if random.uniform() < 0.5:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(random.bytes(10_000))
    said = [line for writer in writers for line in writer.communicate(timeout=60)[1].splitlines()]
    assert [writer.returncode for writer in writers] == [0] * 2
    # Nothing but warnings that say what happened.
    assert all(line.startswith(f"The index {file} ") for line in said), said
    for _ in range(2):
        assert len(Store(tmp_path).runs(status="finished")) == 3 * 12
    assert len(Index(tmp_path).read() or ()) == 3 * 12
    assert Store(tmp_path).verify() == ()


@unix
def test_the_index_is_written_by_the_process_that_makes_the_run(tmp_path):
    subprocess.run([sys.executable, str(DRIVER), "many", str(tmp_path), "0"], check=True, timeout=120)
    known = Index(tmp_path).read()
    assert known is not None
    assert len(known) == 24
    assert {run.status for _, run in known.values()} == {"finished"}


@unix
def test_a_process_killed_while_it_works_is_told_and_gone_on_with(tmp_path):
    words = [sys.executable, str(DRIVER), "hang", str(tmp_path)]
    store = Store(tmp_path)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            (run,) = store.runs()
            assert (run.status, run.path) == ("running", f"study/{FOLDER}.partial")
            assert store.verify() == ()
            with pytest.raises(InputError, match="is being made; stop the process"):
                store.remove("0123")
        finally:
            process.kill()
    (run,) = store.runs()
    assert run.status == "killed"
    (finding,) = store.verify()
    assert (finding.problem, finding.is_damaged) == ("a partial run that was killed", False)
    assert finding.remedy.startswith("`lossatlas study run toy` goes on with it")
    assert [path.name for path in store.remove("0123")] == [f"{FOLDER}.partial"]
    assert store.runs() == ()


@unix
def test_a_limit_of_the_size_of_files_fails_the_run_and_not_the_store(tmp_path):
    done = subprocess.run(
        [sys.executable, str(DRIVER), "limited", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    # 1. The data did not fit. 2. The data fitted, the index did not: the run is there, and the warning says so.
    assert first == "File-too-large:failed"
    assert second == "finished"
    assert "index.sqlite cannot be used" in done.stderr
    assert "The runs themselves are stored." in done.stderr
    assert [run.status for run in Store(tmp_path).runs()] == ["finished"]
    assert Store(tmp_path).verify() == ()


@unix
@pytest.mark.slow
def test_processes_killed_at_random_moments_lose_and_damage_nothing(tmp_path):
    random = np.random.default_rng(0)
    words = [sys.executable, str(DRIVER), "many", str(tmp_path)]
    writers = {i: subprocess.Popen([*words, str(i)]) for i in range(3)}
    kills = 0
    while writers:
        time.sleep(random.uniform(0.0, 0.5))
        number = int(random.choice(list(writers)))
        if kills < 40:
            writers[number].kill()
            kills += writers[number].wait() == -signal.SIGKILL
            writers[number] = subprocess.Popen([*words, str(number)])
        Store(tmp_path).runs()
        for i, writer in list(writers.items()):
            if kills >= 40 and writer.poll() == 0:
                del writers[i]
    store = Store(tmp_path)
    finished = store.runs(status="finished")
    assert len(finished) == len(store.runs()) == 4 * 12
    assert store.verify() == ()
    assert set(Index(tmp_path).read() or ()) == {run.path for run in finished}
    for run in finished:
        assert (store.directory(run.key) / "values").read_text() == run.key * 100
