"""The store of runs, with work that takes no time."""

import contextlib
import json
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest

from lossatlas._errors import InputError
from lossatlas._journal import Journal
from lossatlas._progress import NoProgress
from lossatlas.workbench._folder import check_folder, store_root
from lossatlas.workbench._record import damaged, is_finished, read_record, write_record
from lossatlas.workbench._store import Place, make_run, run_key


def place_in(root: pathlib.Path, name: str = "iris") -> Place:
    return Place(root, "survey", name, "0123456789ab")


def work(text: str = "1,2\n", calls: list[str] | None = None):
    """Work that writes one file in a folder, and counts how often it is done."""

    def write(folder: pathlib.Path, journal: Journal):
        del journal
        if calls is not None:
            calls.append(text)
        (folder / "values").mkdir()
        (folder / "values" / "table.csv").write_text(text)
        return {"tables": {"answer": text}}

    return write


def make(place: Place, write, *, force: bool = False) -> pathlib.Path:
    return make_run(place, {"config": {"seed": 0}}, write, meter=NoProgress(), force=force)


def visible(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (root / "survey").iterdir() if not path.name.startswith("."))


def test_a_key_is_known_and_does_not_depend_on_the_order_of_settings():
    key = run_key("survey", 1, {"seed": 0, "hidden": (4,)}, "ab")
    assert key == run_key("survey", 1, {"hidden": [4], "seed": 0}, "ab")
    # SHA-256 of {"config":{"hidden":[4],"seed":0},"data":"ab","kind":"survey","version":1}, by sha256sum.
    assert key == "6842cc033f68"


@pytest.mark.parametrize(
    "other",
    [
        ("study", 1, {"seed": 0}, "ab"),
        ("survey", 2, {"seed": 0}, "ab"),
        ("survey", 1, {"seed": 1}, "ab"),
        ("survey", 1, {"seed": 0}, "ac"),
    ],
)
def test_a_key_depends_on_kind_version_settings_and_data(other):
    assert run_key(*other) != run_key("survey", 1, {"seed": 0}, "ab")


@pytest.mark.parametrize("value", [float("nan"), max, {1, 2}])
def test_a_setting_that_cannot_be_written_down_is_refused(value):
    with pytest.raises(InputError, match="activation must be text, a finite number"):
        run_key("survey", 1, {"activation": value}, "ab")


def test_data_without_a_fingerprint_is_refused():
    with pytest.raises(InputError, match="fingerprint"):
        run_key("survey", 1, {}, "")


def test_a_finished_run_has_its_record_and_nothing_beside_it(tmp_path):
    place = place_in(tmp_path)
    assert make(place, work()) == place.directory == tmp_path / "survey" / "iris-0123456789ab"
    record = read_record(place.directory)
    assert (record["status"], record["config"], record["tables"]) == ("finished", {"seed": 0}, {"answer": "1,2\n"})
    assert {"jax", "lossatlas", "python", "numpy"} <= set(record["versions"])
    # sha256sum of the text "1,2\n"
    assert record["checksums"] == {
        "values/table.csv": "52186c933993da4082b3cdc7c40bb4bf735b391ff54a2ef78c037dda6c38a680"
    }
    assert visible(tmp_path) == [place.directory.name]


def test_a_finished_run_is_not_made_again_unless_forced(tmp_path):
    place, calls = place_in(tmp_path), []
    make(place, work("old", calls))
    make(place, work("new", calls))
    assert (place.directory / "values" / "table.csv").read_text() == "old"
    make(place, work("new", calls), force=True)
    assert (place.directory / "values" / "table.csv").read_text() == "new"
    assert calls == ["old", "new"]
    assert visible(tmp_path) == [place.directory.name]


def wrapped(cause):
    """An error as Python 3.11 makes it of one in the body of a class."""
    error = RuntimeError("Error calling __set_name__")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (wrapped(KeyboardInterrupt()), "interrupted"),
        (ZeroDivisionError("by zero"), "failed"),
        (wrapped(ZeroDivisionError("by zero")), "failed"),
    ],
)
def test_what_does_not_end_well_leaves_a_marked_partial_run_that_the_next_replaces(tmp_path, error, status):
    place = place_in(tmp_path)

    def stop(folder, journal):
        work()(folder, journal)
        raise error

    with pytest.raises(type(error)):
        make(place, stop)
    assert visible(tmp_path) == [place.partial.name]
    record = read_record(place.partial)
    assert record["status"] == status
    assert record["error"].startswith(type(error).__name__)
    assert not is_finished(place.partial)
    make(place, work())
    assert visible(tmp_path) == [place.directory.name]
    assert damaged(place.directory) == ()


def steps(calls: list[str], stop_before: str = ""):
    """Work of three steps."""

    def write(folder: pathlib.Path, journal: Journal):
        def compute(name: str) -> dict[str, np.ndarray]:
            if name == stop_before:
                raise KeyboardInterrupt
            calls.append(name)
            return {"value": np.array(len(name) / 3), "words": np.array([name, ""])}

        for name in ("one", "three", "seven"):
            step = journal(name, lambda name=name: compute(name))
            assert step["words"].tolist() == [name, ""]
        (folder / "values.csv").write_text(f"{step['value']}\n")
        return {}

    return write


def test_an_interrupted_run_says_where_it_is_and_goes_on_with_what_it_finished(tmp_path):
    place, calls = place_in(tmp_path), []
    with pytest.raises(KeyboardInterrupt) as caught:
        make(place, steps(calls, stop_before="seven"))
    assert caught.value.__notes__ == [f"What is finished is kept in {place.partial}; run the same again to go on."]
    make(place, steps(calls))
    assert calls == ["one", "three", "seven"]
    assert sorted(path.name for path in place.directory.iterdir()) == ["run.json", "values.csv"]
    assert damaged(place.directory) == ()


def test_bad_input_found_late_does_not_cost_what_is_finished(tmp_path):
    place, calls = place_in(tmp_path), []

    def refuse(folder, journal):
        steps(calls)(folder, journal)
        raise InputError("too large")

    with pytest.raises(InputError, match="too large"):
        make(place, refuse)
    make(place, steps(calls))
    assert calls == ["one", "three", "seven"]


def test_a_forced_run_starts_over_once_and_then_goes_on_too(tmp_path):
    place, calls = place_in(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        make(place, steps(calls, stop_before="seven"))
    with pytest.raises(KeyboardInterrupt):
        make(place, steps(calls, stop_before="three"), force=True)
    make(place, steps(calls), force=True)
    assert calls == ["one", "three", "one", "three", "seven"]


def test_steps_of_other_versions_are_not_gone_on_with(tmp_path, monkeypatch):
    place, calls = place_in(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        make(place, steps(calls, stop_before="three"))
    monkeypatch.setattr("lossatlas.workbench._store.versions", lambda: {"jax": "0.0.1"})
    make(place, steps(calls))
    assert calls == ["one", "one", "three", "seven"]


def test_a_step_that_cannot_be_read_is_computed_again(tmp_path):
    place, calls = place_in(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        make(place, steps(calls, stop_before="seven"))
    first, second = sorted(place.partial.rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:50])
    second.write_bytes(b"")
    make(place, steps(calls))
    assert calls == ["one", "three", "one", "three", "seven"]


def test_a_forced_run_that_fails_leaves_the_former_one(tmp_path):
    place = place_in(tmp_path)
    make(place, work("old"))

    def fail(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(place, fail, force=True)
    assert (place.directory / "values" / "table.csv").read_text() == "old"
    assert damaged(place.directory) == ()


def test_bad_input_found_during_the_work_leaves_nothing(tmp_path):
    def refuse(folder, journal):
        work()(folder, journal)
        raise InputError("too small")

    with pytest.raises(InputError, match="too small"):
        make(place_in(tmp_path), refuse)
    assert visible(tmp_path) == []


def test_entries_that_json_lacks_are_a_failure_and_no_finished_run(tmp_path):
    place = place_in(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        make(place, lambda *_: {"loss": float("nan")})
    assert not place.directory.exists()
    assert read_record(place.partial)["status"] == "failed"


def test_threads_that_want_the_same_run_make_it_once(tmp_path):
    place, calls, directories = place_in(tmp_path), [], []
    entered, released = threading.Event(), threading.Event()

    def slow(folder, journal):
        entered.set()
        assert released.wait(30)
        return work("first", calls)(folder, journal)

    waiting = threading.Event()

    class Meter(NoProgress):
        @contextlib.contextmanager
        def task(self, label, total):
            assert "another process" in label
            waiting.set()
            with super().task(label, total) as task:
                yield task

    first = threading.Thread(target=lambda: directories.append(make(place, slow)))
    second = threading.Thread(
        target=lambda: directories.append(make_run(place, {}, work("second", calls), meter=Meter()))
    )
    first.start()
    assert entered.wait(30)
    second.start()
    assert waiting.wait(30)
    released.set()
    first.join(30)
    second.join(30)
    assert directories == [place.directory] * 2
    assert calls == ["first"]
    assert damaged(place.directory) == ()


def test_processes_that_want_the_same_run_make_it_once(tmp_path):
    code = """
import pathlib, sys, time
from lossatlas._progress import NoProgress
from lossatlas.workbench._store import Place, make_run

root = pathlib.Path(sys.argv[1])

def write(folder, journal):
    (root / f"made-by-{sys.argv[2]}").write_text("")
    (folder / "half").write_text("")
    time.sleep(0.5)
    (folder / "whole").write_text("")
    return {}

print(make_run(Place(root, "survey", "iris", "0123456789ab"), {}, write, meter=NoProgress()))
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    directory = place_in(tmp_path).directory
    assert [racer.communicate(timeout=120)[0].strip() for racer in racers] == [str(directory)] * 2
    assert len(list(tmp_path.glob("made-by-*"))) == 1
    assert damaged(directory) == ()
    assert visible(tmp_path) == [directory.name]


def test_without_locks_the_second_to_finish_takes_over_the_first(tmp_path, monkeypatch):
    place = place_in(tmp_path)
    monkeypatch.setattr("lossatlas.workbench._store._locked", lambda *_: contextlib.nullcontext())

    def overtaken(folder, journal):
        # Another process makes the same run meanwhile, from the start to the end.
        other = Place(tmp_path / "elsewhere", "survey", "iris", place.key)
        make(other, work("theirs")).rename(place.directory)
        return work("ours")(folder, journal)

    assert make(place, overtaken) == place.directory
    assert (place.directory / "values" / "table.csv").read_text() == "theirs"
    assert damaged(place.directory) == ()
    assert visible(tmp_path) == [place.directory.name]


def test_a_run_that_cannot_take_its_place_leaves_the_former_one(tmp_path, monkeypatch):
    place = place_in(tmp_path)
    make(place, work("old"))
    rename = pathlib.Path.rename

    def full(self, target):
        if self == place.partial:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        make(place, work("new"), force=True)
    assert (place.directory / "values" / "table.csv").read_text() == "old"
    # What is complete is not made again.
    monkeypatch.undo()
    calls: list[str] = []
    make(place, work("newer", calls), force=True)
    assert (place.directory / "values" / "table.csv").read_text() == "new"
    assert calls == []
    assert visible(tmp_path) == [place.directory.name]


def test_checksums_tell_changed_missing_and_added_files(tmp_path):
    directory = make(place_in(tmp_path), work())
    assert damaged(directory) == ()
    table = directory / "values" / "table.csv"
    table.write_text("1,3\n")
    assert damaged(directory) == ("values/table.csv",)
    table.rename(directory / "moved.csv")
    assert damaged(directory) == ("moved.csv", "values/table.csv")


def test_a_record_edited_by_hand_is_told(tmp_path):
    directory = make(place_in(tmp_path), work())
    text = (directory / "run.json").read_text()
    (directory / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    assert damaged(directory) == ("run.json",)


def test_a_record_of_another_format_or_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no run: it has no run\.json"):
        read_record(tmp_path)
    write_record(tmp_path, {"schema_version": 99, "status": "finished"})
    with pytest.raises(InputError, match=r"format 99, .* reads up to 1; update lossatlas"):
        read_record(tmp_path)
    assert not is_finished(tmp_path)
    for wrong in (0, "1", None, True):
        write_record(tmp_path, {"schema_version": wrong, "status": "finished"})
        with pytest.raises(InputError, match="damaged"):
            read_record(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        read_record(tmp_path)
    assert not is_finished(tmp_path)


def test_the_record_is_strict_json(tmp_path):
    directory = make(place_in(tmp_path), work())
    json.loads((directory / "run.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("my data (2)", "my-data-2-0123456789ab"), ("../../etc", "etc-0123456789ab"), ("Ø", "data-0123456789ab")],
)
def test_names_of_data_become_plain_folder_names(tmp_path, name, folder):
    assert place_in(tmp_path, name).directory == tmp_path / "survey" / folder


def test_the_folder_of_runs_is_the_given_one_else_that_of_the_environment_else_here(monkeypatch):
    monkeypatch.delenv("LOSSATLAS_STORE", raising=False)
    assert store_root() == pathlib.Path("lossatlas")
    monkeypatch.setenv("LOSSATLAS_STORE", "/runs")
    assert store_root() == pathlib.Path("/runs")
    assert store_root("here") == pathlib.Path("here")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"is not a folder.*--out"):
        check_folder(tmp_path / "file" / "runs")
    check_folder(tmp_path / "new" / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
