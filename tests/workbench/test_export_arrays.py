"""Arrays of runs as files that other programs read."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lossatlas._errors import InputError
from lossatlas.workbench import Store, export_arrays


@pytest.fixture
def store(tmp_path, make_study, monkeypatch):
    monkeypatch.delenv("LOSSATLAS_INDEX", raising=False)
    make_study(tmp_path / "runs")
    return Store(tmp_path / "runs")


@pytest.fixture
def key(store):
    return store.runs()[0].key


TABLES = ["curves.seed", "curves.seed.step", "curves.spectrum"]


def test_a_table_has_a_row_an_entry_and_a_column_a_dimension_and_variable(store, key, tmp_path):
    (file,) = store.export(key, tmp_path / "out.csv", part="curves.seed.step")
    expected = {"seed": [0, 0, 0, 1, 1, 1], "step": [0, 1, 2] * 2, "loss": [1.0, 0.5, np.nan, 2.0, 1.0, 0.1]}
    pd.testing.assert_frame_equal(pd.read_csv(file), pd.DataFrame(expected))
    (file,) = store.export(key, tmp_path / "out.csv", part="curves.seed")
    assert file.read_text() == "seed,final,word\n0,0.5,stalls\n1,0.1,goes on\n"
    (file,) = store.export(key, tmp_path / "out.csv", part="curves.spectrum")
    assert file.read_text() == "index,certified,value_imag,value_real\n0,True,2.0,1.0\n1,False,0.0,3.0\n"


def test_numbers_survive_text(tmp_path):
    values = np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)
    tree = xr.DataTree.from_dict({"/": xr.Dataset({"x": ("row", values)})})
    (file,) = export_arrays(tree, tmp_path / "x.csv")
    header, *rows = file.read_text().split()
    assert header == "row,x"
    assert [float(row.partition(",")[2]) for row in rows] == values.tolist()


def test_numbers_without_dimensions_are_a_row(tmp_path):
    tree = xr.DataTree.from_dict({"/a": xr.Dataset({"x": 2.5, "word": "w", "y": ("row", [1, 2])})})
    files = export_arrays(tree, tmp_path / "folder", form="csv")
    assert [file.name for file in files] == ["a.csv", "a.row.csv"]
    assert files[0].read_text() == "word,x\nw,2.5\n"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_folder_gets_a_file_a_table(store, key, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    files = store.export(key, tmp_path / "new" / "folder", form=form)
    assert sorted(file.name for file in files) == sorted(f"{name}.{form}" for name in TABLES)
    read = pd.read_csv if form == "csv" else pd.read_parquet
    assert read(tmp_path / "new" / "folder" / f"curves.seed.{form}")["word"].tolist() == ["stalls", "goes on"]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(f.name for f in files)


def test_netcdf_holds_the_whole_tree(store, key, tmp_path):
    pytest.importorskip("h5netcdf")
    (file,) = store.export(key, tmp_path / "all.nc")
    expected = store.open(key).results
    with xr.open_datatree(file, engine="h5netcdf") as tree:
        xr.testing.assert_identical(tree["curves"].to_dataset(), expected["curves"].to_dataset())
        assert tree["curves/spectrum"].to_dataset()["value_imag"].values.tolist() == [2.0, 0.0]
        assert tree["curves/spectrum"].to_dataset()["certified"].values.tolist() == [True, False]
    (file,) = store.export(key, tmp_path / "part.nc", part="curves.spectrum")
    with xr.open_dataset(file, engine="h5netcdf") as dataset:
        assert dataset["value_real"].values.tolist() == [1.0, 3.0]
    files = store.export(key, tmp_path / "parts", form="nc")
    assert [file.name for file in files] == ["curves.nc", "curves.spectrum.nc"]


def test_what_cannot_be_written_is_said_before_it_is_read(tmp_path, monkeypatch):
    def unread():
        pytest.fail("the arrays were read")

    for to, form, said in (
        ("x.xlsx", None, r"are written as nc, parquet, csv; got 'xlsx'"),
        ("folder", None, "a folder needs a form"),
        ("x.csv", "parquet", "contradict each other"),
    ):
        with pytest.raises(InputError, match=said):
            export_arrays(unread, tmp_path / to, form=form)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for ending, package in (("nc", "h5netcdf"), ("parquet", "pyarrow")):
        with pytest.raises(InputError, match=rf'needs {package}; install it with: pip install "lossatlas\[export\]"'):
            export_arrays(unread, tmp_path / f"x.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_several_tables_for_one_file_are_named(store, key, tmp_path):
    with pytest.raises(InputError, match=r"3 tables \(curves.seed, curves.seed.step, curves.spectrum\); name one"):
        store.export(key, tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"Unknown part 'curves.sead'\. Did you mean 'curves.seed'"):
        store.export(key, tmp_path / "x.csv", part="curves.sead")
    files = store.export(key, tmp_path / "folder", part="curves", form="csv")
    assert len(files) == 3


def test_a_place_that_cannot_be_written_is_said_and_keeps_what_was_there(store, key, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        store.export(key, tmp_path / "file" / "x.csv", part="curves.seed")
    (tmp_path / "x.csv").write_text("before")

    def full(_, path, **__):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(InputError, match="No space left on device"):
        store.export(key, tmp_path / "x.csv", part="curves.seed")
    assert (tmp_path / "x.csv").read_text() == "before"
    assert not list(tmp_path.glob(".lossatlas-*"))
