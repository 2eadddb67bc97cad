import sys

import numpy as np
import pandas as pd
import pytest

from lossatlas import data
from lossatlas._errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_text(content, encoding=encoding)
        return path

    return write


_TABLE = "a,b,label\n1,0.1,x\n2,0.25,y\n3,1e-3,x\n"


def test_all_formats_give_the_same_data(write, tmp_path):
    csv = write("t.csv", _TABLE)
    frame = data.read_table(csv)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    np.savez(
        tmp_path / "t.npz", X=frame[["a", "b"]].to_numpy(), y=frame["label"].to_numpy(str), columns=np.array(["a", "b"])
    )
    loaded = [data.load(tmp_path / f"t.{end}") for end in ("csv", "tsv", "parquet", "npz")]
    assert len({d.fingerprint() for d in loaded}) == 1
    assert (loaded[0].name, loaded[0].source) == ("t", "file t.csv")
    assert loaded[0].classes == ("x", "y")


def test_csv_keeps_every_bit_of_a_number(write, rng):
    values = rng.normal(size=20) * 10.0 ** rng.integers(-300, 150, 20)
    path = write("t.csv", "a,y\n" + "".join(f"{v!r},{i}\n" for i, v in enumerate(values.tolist())))
    np.testing.assert_array_equal(data.load(path).features[:, 0], values)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffa,b,label\n1,0.1,x\n2,0.25,y\n3,0.001,x\n",
        "a; b; label\n1; 0.1; x\n2; 0.25; y\n3; 0.001; x\n",
        "a;b;label\n1;0,1;x\n2;0,25;y\n3;0,001;x\n",
        "\na, b, label\r\n1, 0.1, x\r\n2, 0.25, y\r\n3, 0.001, x\r\n",
    ],
)
def test_csv_of_other_habits_is_read_alike(write, content):
    assert data.load(write("o.csv", content)).fingerprint() == data.load(write("t.csv", _TABLE)).fingerprint()


def test_target_column_is_the_last_or_the_named_one(write):
    path = write("t.csv", _TABLE)
    assert data.load(path).preprocessing.target == "label"
    by_name = data.load(path, target="b")
    assert (by_name.kind, by_name.columns) == ("regression", ("a", "label=y"))
    with pytest.raises(InputError, match="Unknown target column 'lable'. Did you mean 'label'"):
        data.load(path, target="lable")
    assert data.load(path, drop=["b"]).columns == ("a",)


def test_npz_with_a_named_target(tmp_path, rng):
    np.savez(tmp_path / "t.npz", X=rng.normal(size=(9, 2)), energy=rng.normal(size=9))
    assert data.load(tmp_path / "t.npz", target="energy").kind == "regression"
    with pytest.raises(InputError, match="holds the arrays X, energy; it needs X"):
        data.load(tmp_path / "t.npz")
    with pytest.raises(InputError, match="Unknown target array 'enrgy'. Did you mean 'energy'"):
        data.load(tmp_path / "t.npz", target="enrgy")


def test_npz_with_python_objects_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.array([{"a": 1}], dtype=object), y=np.zeros(1))
    with pytest.raises(InputError, match="cannot be read as NPZ: Object arrays cannot be loaded"):
        data.load(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "\n\n", "is empty"),
        ("t.csv", "a,b\n", "no rows below its header"),
        ("t.csv", "a,b,a\n1,2,3\n4,5,6\n", "'a' occurs twice"),
        ("t.csv", "1,2.5\n3,4\n5,6\n", "first line of 't.csv' holds numbers; add a line"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", "cannot be read as CSV"),
        ("t.csv", "a,b\n1,2,3\n3,4,5\n", "cannot be read as CSV"),
        ("t.csv", "a,b,y\n1,2,3\n3,,5\n6,7,8\n", r"Column 'b' has no value \(NaN\) in row 2, 1 of 3 rows"),
        ("t.csv", "a,y\n1,2.5\n?,3.5\n6,7\n", "Column 'a' holds numbers, but '\\?' in row 2"),
        ("t.csv", "y\n1\n2\n", "no input column"),
        ("t.xlsx", "x", r"format of 't.xlsx' is not read; give a file ending in .csv"),
        ("t", "x", "format of 't' is not read"),
        ("t.npz", "no zip", "cannot be read as NPZ"),
        ("t.parquet", "no parquet", "cannot be read as Parquet"),
    ],
)
def test_bad_files_are_refused_in_one_line(write, name, content, message):
    with pytest.raises(InputError, match=message) as caught:
        data.load(write(name, content))
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused(write):
    with pytest.raises(InputError, match="not text in UTF-8"):
        data.load(write("t.csv", "größe,y\n1,2\n3,4\n", encoding="latin-1"))


def test_missing_file_suggests_its_neighbour(write, tmp_path):
    write("flowers.csv", _TABLE)
    with pytest.raises(InputError, match=r"There is no file .*flower.csv'. Did you mean .*flowers.csv'\?"):
        data.load(tmp_path / "flower.csv")
    with pytest.raises(InputError, match="There is no file"):
        data.load(tmp_path / "nowhere" / "t.csv")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        data.load(tmp_path / "dir.csv")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    pd.DataFrame({"a": [1.0, 2.0], "y": [0.5, 1.5]}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'pip install "lossatlas\[export\]"'):
        data.load(tmp_path / "t.parquet")


def test_read_table_refuses_what_is_no_table(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.zeros(1))
    with pytest.raises(InputError, match="'t.npz' is no table"):
        data.read_table(tmp_path / "t.npz")


def test_saved_preprocessing_reads_a_new_file(write):
    training = data.load(write("t.csv", _TABLE))
    new = data.read_table(write("new.csv", "extra,b,a\nq,0.25,2\n"))
    np.testing.assert_array_equal(training.preprocessing.inputs(new), training.arrays()[0][[1]])
