"""The verbs of a store."""

import html
import json
import pathlib
import sys

import pytest

from lossatlas._errors import InputError
from lossatlas.workbench import Runs, Store, StudyRun
from lossatlas.workbench._record import read_record, write_record


@pytest.fixture
def root(tmp_path, make_study, monkeypatch) -> pathlib.Path:
    """A store of three runs, the last of them failed, and things that are no runs."""
    monkeypatch.delenv("LOSSATLAS_INDEX", raising=False)
    store = tmp_path / "runs"
    made = [make_study(store, seed, verdict) for seed, verdict in enumerate(["holds", "fails", "undecided"])]
    for seed, directory in enumerate(made):
        write_record(directory, {**read_record(directory), "created": f"2026-11-2{seed}T10:00:00+00:00"})
    partial = made[-1].rename(made[-1].with_name(made[-1].name + ".partial"))
    write_record(partial, {**read_record(partial), "status": "failed", "error": "ValueError: no"})
    (store / "diagnosis").mkdir()
    (store / "reproduction.html").write_text("")
    (store / "study" / "notes").mkdir()
    return store


def test_runs_are_listed_newest_first_and_chosen(root):
    store = Store(root)
    runs = store.runs()
    assert [run.config["seed"] for run in runs] == [2, 1, 0]
    assert [run.status for run in runs] == ["failed", "finished", "finished"]
    assert [run.config["seed"] for run in store.runs(status="finished")] == [1, 0]
    assert len(store.runs(kind="study", name="toy-*")) == 3
    assert store.runs(kind="survey") == ()
    assert [row["outcome"] for row in runs.table()] == ["1 undecided", "1 fails", "1 holds"]


def test_a_store_without_runs_is_empty_and_leaves_nothing(tmp_path):
    assert Store(tmp_path / "none").runs() == ()
    assert Store(tmp_path / "none").verify() == ()
    assert Store(tmp_path / "none").rebuild() == ()
    assert list(tmp_path.iterdir()) == []
    assert Store(tmp_path).runs() == ()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        Store(tmp_path / "file")


def test_a_notebook_shows_the_runs(root):
    store = Store(root)
    shown = store._repr_html_()
    assert shown.count("<tr>") == 4
    assert "1 undecided" in shown
    assert html.escape(repr(store.runs())) in shown
    many = Runs([*store.runs()] * 30, root)
    assert "and 40 more" in many._repr_html_()
    assert repr(many) == f"90 runs in {str(root)!r}"


def test_a_run_is_found_by_beginning_folder_and_path(root, monkeypatch):
    store = Store(root)
    run = store.runs(status="finished")[0]
    monkeypatch.chdir(root / "study")
    folder = run.path.partition("/")[2]
    for key in (run.key, run.key[:8], folder, run.path, root / run.path, str(root / run.path) + "/", f"./{folder}"):
        assert store.find(key) == run
    found = store.open(run.key)
    assert isinstance(found, StudyRun)
    assert found.directory == store.directory(run.key) == root / run.path
    assert found.results["curves"].to_dataset()["final"].values.tolist() == [0.5, 0.1]
    assert store.record(run.key)["config"]["seed"] == 1


def test_a_key_that_fits_none_or_several_is_refused(root):
    store = Store(root)
    with pytest.raises(InputError, match=r"No run 'xyz' in .*; `lossatlas store list` lists them"):
        store.find("xyz")
    with pytest.raises(InputError, match="key is empty"):
        store.find("")
    first = store.runs()[0]
    write_record(root / first.path, {**read_record(root / first.path), "key": store.runs()[1].key[:4] + "00000000"})
    with pytest.raises(InputError, match=r"fits 2 runs \(study/toy-mean-.*give more of the key"):
        store.find(store.runs()[1].key[:4])


def test_a_finished_run_is_meant_before_what_lies_beside_it(root, make_study):
    store = Store(root)
    run = store.runs(status="finished")[0]
    former = root / run.path
    for ending in (".partial", ".old"):
        make_study(root / "other", 1).rename(former.with_name(former.name + ending))
    assert store.find(run.key).path == run.path
    assert store.find(f"{former.name}.old").status == "replaced"
    assert [path.name for path in store.remove(f"{former.name}.old")] == [f"{former.name}.old"]
    assert [path.name for path in store.remove(run.key)] == [former.name, f"{former.name}.partial"]
    assert not any(run.key in path.name for path in (root / "study").glob("[!.]*"))
    assert run.path not in {run.path for run in store.runs()}


def test_a_run_that_did_not_end_says_so(root):
    store = Store(root)
    failed = store.runs(status="failed")[0]
    assert store.record(failed.key)["error"] == "ValueError: no"
    with pytest.raises(InputError, match="holds no finished study"):
        store.open(failed.key)


def test_a_removal_is_undone_in_name_first(root, monkeypatch):
    store = Store(root)
    run = store.runs(status="finished")[0]

    def refuse(path):
        raise OSError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", refuse)
        with pytest.raises(InputError, match="Cannot remove .*Permission denied"):
            store.remove(run.key)
    assert run.path not in {run.path for run in store.runs()}
    (finding,) = [finding for finding in store.verify() if ".removed-" in finding.path]
    assert finding.remedy.startswith("delete the folder")
    assert not finding.is_damaged


def test_listing_imports_no_jax(root):
    import subprocess

    code = f"""
import json, sys
from lossatlas.workbench import Store
runs = Store({str(root)!r}).runs()
print(json.dumps([len(runs), "jax" in sys.modules, "xarray" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == [3, False, False]
