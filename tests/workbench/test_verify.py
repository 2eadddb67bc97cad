"""What a check of a store finds, and what it says to do."""

import shutil

import pytest

from lossatlas._errors import InputError
from lossatlas.workbench import Store, StudyRun
from lossatlas.workbench._record import read_record, write_record


@pytest.fixture
def run(tmp_path, make_study, monkeypatch):
    """A run among two others that are in order."""
    monkeypatch.delenv("LOSSATLAS_INDEX", raising=False)
    for seed in (1, 2):
        make_study(tmp_path, seed)
    return make_study(tmp_path, 0)


def only(tmp_path, *keys):
    """The one finding."""
    (finding,) = Store(tmp_path).verify(keys)
    return finding


def test_a_store_in_order_has_no_findings(run, tmp_path):
    assert Store(tmp_path).verify() == ()
    assert Store(tmp_path).verify([run.name]) == ()


def test_a_file_cut_short_is_found_by_its_checksum_and_never_read(run, tmp_path):
    chunk = next(path for path in run.rglob("c/*/*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    finding = only(tmp_path)
    assert (finding.path, finding.is_damaged) == (f"study/{run.name}", True)
    assert finding.files == (chunk.relative_to(run).as_posix(),)
    assert finding.remedy.startswith(
        "`lossatlas study run toy-mean --seed 0 --force` makes it again; `lossatlas store rm"
    )
    with pytest.raises(InputError, match=r"are damaged \(1 files, data.zarr/curves/.*--force` makes the run again"):
        _ = StudyRun(run).results


def test_a_file_that_is_missing_is_not_read_as_zeros(run, tmp_path):
    shutil.rmtree(run / "data.zarr" / "curves" / "loss" / "c")
    assert only(tmp_path).is_damaged
    with pytest.raises(InputError, match="are damaged"):
        _ = StudyRun(run).results


def test_a_record_that_was_tampered_with_is_found(run, tmp_path):
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"holds"', '"fails"'))
    assert only(tmp_path).files == ("run.json",)


@pytest.mark.parametrize("content", ["", "{", None, '{"schema_version": 1}'])
def test_a_record_that_is_cut_or_gone_is_found_and_listed(run, tmp_path, content):
    if content is None:
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_text(content)
    assert [found.path for found in Store(tmp_path).runs(status="unreadable")] == [f"study/{run.name}"]
    finding = only(tmp_path, run.name)
    assert finding.is_damaged
    assert f"`lossatlas store rm {run.name}`" in finding.remedy
    assert Store(tmp_path).remove(run.name[-12:]) == (run,)
    assert Store(tmp_path).verify() == ()


def test_a_page_of_another_hand_is_told_apart(run, tmp_path):
    (run / "report.html").write_text("<html>")
    finding = only(tmp_path)
    assert finding.problem == "its page is not the one that was written"
    assert "draws it anew; nothing is computed" in finding.remedy


def test_partial_runs_are_left_over_and_no_damage(run, tmp_path):
    partial = run.rename(run.with_name(run.name + ".partial"))
    write_record(partial, {**read_record(partial), "status": "failed", "error": "ValueError: no"})
    finding = only(tmp_path)
    assert (finding.problem, finding.is_damaged) == ("a partial run that was failed (ValueError: no)", False)
    (partial / "run.json").unlink()
    assert only(tmp_path).problem == "a partial run without a record"
    run_old = partial.rename(run.with_name(run.name + ".old"))
    assert only(tmp_path).remedy == f"`lossatlas store rm {run_old.name}` removes it"


def test_a_run_of_a_newer_version_is_no_damage(run, tmp_path):
    write_record(run, {**read_record(run), "schema_version": 99})
    finding = only(tmp_path)
    assert "format 99" in finding.problem
    assert "update lossatlas" in finding.problem
    assert not finding.is_damaged


def test_progress_names_every_run(run, tmp_path):
    notes = []

    class Meter:
        def task(self, label, total):
            import contextlib

            class Task:
                def update(self, done, note=""):
                    notes.append((label, done, total, note))

            return contextlib.nullcontext(Task())

    Store(tmp_path).verify(progress=Meter())
    assert [note[:3] for note in notes] == [("checksums", i, 3) for i in range(3)]
    assert f"study/{run.name}" in {note[3] for note in notes}
