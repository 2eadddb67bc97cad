"""The index follows the folders, whatever happens to it."""

import os
import shutil
import sqlite3
import sys
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from lossatlas._errors import InputError
from lossatlas.workbench import Store
from lossatlas.workbench import _runs as runs_module
from lossatlas.workbench._index import Index
from lossatlas.workbench._record import read_record, write_record


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("LOSSATLAS_INDEX", raising=False)


@pytest.fixture
def looks(monkeypatch) -> list[str]:
    """The folders whose records are read."""
    seen: list[str] = []
    look = runs_module.look

    def count(root, path):
        seen.append(path)
        return look(root, path)

    monkeypatch.setattr(runs_module, "look", count)
    return seen


def known(root):
    """What the index knows, whatever the folders hold."""
    found = Index(root).read()
    assert found is not None
    return found


def test_a_finished_run_is_in_the_index_and_not_opened_to_be_listed(tmp_path, make_study, looks):
    directory = make_study(tmp_path, 3)
    ((stamp, run),) = known(tmp_path).values()
    assert stamp
    assert (run.kind, run.name, run.status) == ("study", "toy-mean", "finished")
    assert (run.config, run.verdicts) == ({"seed": 3, "width": 10}, {"holds": 1})
    assert run.key == directory.name[-12:]
    record = read_record(directory)
    assert (run.created, run.seconds) == (record["created"], record["seconds"])
    assert Store(tmp_path).runs() == (run,)
    assert looks == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b"no database at all, but long enough to be one" * 100),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(file.read_bytes()[:4096] + os.urandom(8192)),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["deleted", "text", "empty", "cut", "garbled", "a folder"],
)
def test_whatever_becomes_of_the_file_the_runs_are_listed(tmp_path, make_study, damage, looks):
    paths = {f"study/{make_study(tmp_path, seed).name}" for seed in range(2)}
    damage(tmp_path / "index.sqlite")
    for _ in range(2):
        assert {run.path for run in Store(tmp_path).runs()} == paths
    make_study(tmp_path, 2)
    assert len(Store(tmp_path).runs()) == 3
    if (tmp_path / "index.sqlite").is_file():
        # Made anew once; then remembered.
        assert sorted(looks) == sorted(paths)
        assert len(known(tmp_path)) == 3


def test_a_garbled_index_that_cannot_be_removed_is_out_of_reach(tmp_path, make_study, monkeypatch, caplog):
    make_study(tmp_path)
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 500)

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    assert len(Store(tmp_path).runs()) == 1
    assert "cannot be used (file is not a database). Every run is read from its folder." in caplog.text


def test_a_value_that_is_no_json_is_a_garbled_index(tmp_path, make_study, caplog):
    make_study(tmp_path)
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        connection.execute("UPDATE lossatlas_runs_1 SET config = '{'")
    connection.close()
    assert [run.config["seed"] for run in Store(tmp_path).runs()] == [0]
    assert "was garbled" in caplog.text
    assert len(known(tmp_path)) == 1


def test_folders_that_came_went_and_changed_are_followed(tmp_path, make_study, looks):
    first, second = make_study(tmp_path, 0), make_study(tmp_path, 1)
    shutil.rmtree(first)
    write_record(second, {**read_record(second), "name": "renamed"})
    shutil.copytree(second, tmp_path / "study" / "copied-0123456789ab")
    found = {run.path: run.name for run in Store(tmp_path).runs()}
    assert found == {f"study/{second.name}": "renamed", "study/copied-0123456789ab": "renamed"}
    assert len(looks) == 2
    assert set(known(tmp_path)) == set(found)


def test_a_store_that_is_moved_takes_its_index_along(tmp_path, make_study, looks):
    make_study(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert len(Store(tmp_path / "there").runs()) == 1
    assert looks == []


def test_an_index_that_another_process_holds_is_a_warning(tmp_path, make_study, monkeypatch, caplog):
    monkeypatch.setattr("lossatlas.workbench._index._PATIENCE", 0.1)
    make_study(tmp_path, 0)
    with sqlite3.connect(tmp_path / "index.sqlite") as holder:
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("lossatlas.workbench._index._engine", fresh_engine())
        directory = make_study(tmp_path, 1)
        assert "database is locked" in caplog.text
        assert len(Store(tmp_path).runs()) == 2
        holder.rollback()
    holder.close()
    assert directory.is_dir()
    assert len(known(tmp_path)) == 1
    assert len(Store(tmp_path).runs()) == 2
    assert len(known(tmp_path)) == 2


def fresh_engine():
    """Engines that are not those of earlier tests."""
    from lossatlas.workbench import _index

    return _index._engine.__wrapped__


def urls(tmp_path) -> list[str]:
    """SQLite elsewhere, and a server where the tests are told of one."""
    told = os.environ.get("LOSSATLAS_TEST_INDEX")
    return [f"sqlite:///{tmp_path / 'elsewhere.sqlite'}", *([told] if told else [])]


def test_another_database_by_url_serves_several_stores(tmp_path, make_study, monkeypatch, looks):
    for url in urls(tmp_path):
        monkeypatch.setenv("LOSSATLAS_INDEX", url)
        for name in ("one", "two"):
            root = tmp_path / url[:6] / name
            for seed in range(3 if name == "one" else 1):
                make_study(root, seed)
        for name, count in (("one", 3), ("two", 1)):
            root = tmp_path / url[:6] / name
            assert len(Store(root).runs()) == count
            assert len(known(root)) == count
            assert not (root / "index.sqlite").exists()
        assert looks == []
        Store(root).remove(Store(root).runs()[0].key)
        assert known(root) == {}
        monkeypatch.delenv("LOSSATLAS_INDEX")
        # By argument the same.
        one = tmp_path / url[:6] / "one"
        assert len(Store(one, index=url).rebuild()) == 3
        Index(one, url).clear()
        looks.clear()


@pytest.mark.parametrize(
    ("url", "said"),
    [("nonsense", "no database that SQLAlchemy knows"), ("nosuch://host/name", "no database that SQLAlchemy knows")],
)
def test_a_url_that_means_nothing_is_refused_by_a_list_and_a_warning_after_a_run(
    tmp_path, make_study, monkeypatch, caplog, url, said
):
    monkeypatch.setenv("LOSSATLAS_INDEX", url)
    with pytest.raises(InputError, match=said):
        Store(tmp_path).runs()
    assert make_study(tmp_path).is_dir()
    assert "The run itself is stored." in caplog.text


def test_a_driver_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"postgresql needs the package 'psycopg'; install it"):
        Store(tmp_path, index="postgresql+psycopg://user:secret@127.0.0.1:1/name").runs()


def test_a_file_of_the_user_is_never_replaced(tmp_path, make_study, caplog):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes" * 1000)
    make_study(tmp_path / "runs")
    assert len(Store(tmp_path / "runs", index=f"sqlite:///{notes}").runs()) == 1
    assert "file is not a database" in caplog.text
    assert notes.read_text() == "my notes" * 1000


def test_a_place_that_is_missing_is_told_and_a_password_is_not(tmp_path, caplog, monkeypatch):
    assert Index(tmp_path, f"sqlite:///{tmp_path}/no/folder.sqlite").read() is None
    assert "folder.sqlite cannot be used (unable to open database file). Every run is read" in caplog.text
    monkeypatch.setattr("lossatlas.workbench._index._engine", lambda url: SimpleNamespace(url=sa.make_url(url)))
    index = Index(tmp_path, "postgresql+psycopg://user:secret@host/name")
    assert index.place == "postgresql+psycopg://user:***@host/name"
