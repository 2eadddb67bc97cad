"""`lossatlas predict`: files in, CSV out. The model is replaced by one that adds its columns."""

import pathlib

import pandas as pd
import pytest

import lossatlas as package
from lossatlas.data import read_table


class SumModel:
    def __init__(self, run, network, **options):
        self.run, self.network, self.options = run, network, options

    def predict(self, table):
        total = read_table(pathlib.Path(table)).sum(axis=1)
        if self.network == "recommended":
            return pd.DataFrame({"y": total / 10})
        return pd.DataFrame({"label": ["big" if value > 4 else "small" for value in total], "score[big]": total})


@pytest.fixture
def new_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(package, "load", SumModel, raising=False)
    (tmp_path / "new.csv").write_text("a,b\n1,2\n3,4\n")
    return tmp_path / "new.csv"


@pytest.mark.parametrize(
    ("options", "expected"),
    [([], "y\n0.3\n0.7\n"), (["--network", "(1,1)"], "label,score[big]\nsmall,3\nbig,7\n")],
)
def test_predictions_are_csv_on_stdout(lossatlas, new_rows, options, expected):
    assert lossatlas("predict", "run", "--data", str(new_rows), *options) == (0, expected, "")


@pytest.mark.usefixtures("new_rows")
def test_predictions_go_to_a_file(lossatlas):
    assert lossatlas("predict", "run", "--data", "new.csv", "--out", "answer.csv") == (0, "", "")
    assert pathlib.Path("answer.csv").read_text() == "y\n0.3\n0.7\n"


def test_parquet_is_read(lossatlas, new_rows):
    pytest.importorskip("pyarrow")
    pd.read_csv(new_rows).to_parquet("new.parquet")
    assert lossatlas("predict", "run", "--data", "new.parquet")[1] == "y\n0.3\n0.7\n"


@pytest.mark.usefixtures("new_rows")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.csv", None, "missing.csv"),
        ("new.txt", "a,b\n1,2\n", ".csv, .tsv or .parquet"),
        ("empty.csv", "", "is empty"),
        ("header.csv", "a,b\n", "no rows"),
        ("ragged.csv", "a,b\n1,2\n1,2,3,4\n", "cannot be read"),
    ],
)
def test_unusable_data_is_one_line_and_exit_code_2(lossatlas, name, text, said):
    if text is not None:
        pathlib.Path(name).write_text(text)
    code, out, err = lossatlas("predict", "run", "--data", name)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("new_rows")
def test_a_file_that_cannot_be_written_is_one_line_and_exit_code_2(lossatlas):
    code, out, err = lossatlas("predict", "run", "--data", "new.csv", "--out", "nowhere/answer.csv")
    assert (code, out) == (2, "")
    assert "nowhere/answer.csv" in err
    assert "--out" in err
    assert err.count("\n") == 1


def test_a_missing_run_is_one_line_and_exit_code_2(lossatlas):
    code, _, err = lossatlas("predict", "nowhere", "--data", "new.csv")
    assert code == 2
    assert "There is no run 'nowhere'" in err
    assert err.count("\n") == 1
