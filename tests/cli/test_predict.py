"""`lossatlas predict`: files in, CSV out; the model is replaced by one that adds its columns."""

import numpy as np
import pandas as pd
import pytest


class SumModel:
    def __init__(self, run, network="recommended"):
        self.run, self.network = run, network

    def predict(self, table):
        total = table.sum(axis=1)
        if self.network == "labels":
            return pd.DataFrame({"label": np.where(total > 4, "big", "small"), "big": total / 10})
        return np.stack([total, -total], axis=1) if self.network == "two" else total.to_numpy()


@pytest.fixture
def run_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("lossatlas.atlas.load", SumModel, raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "new.csv").write_text("a,b\n1,2\n3,4\n")
    return str(folder)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "prediction\n3\n7\n"),
        (["--network", "two"], "prediction[0],prediction[1]\n3,-3\n7,-7\n"),
        (["--network", "labels"], "label,big\nsmall,0.3\nbig,0.7\n"),
    ],
)
def test_predictions_are_csv_on_stdout(lossatlas, run_folder, options, expected):
    assert lossatlas("predict", run_folder, "--data", "new.csv", *options) == (0, expected, "")


def test_predictions_go_to_a_file(lossatlas, run_folder, tmp_path):
    code, out, _ = lossatlas("predict", run_folder, "--data", "new.csv", "--out", "answer.csv")
    assert (code, out) == (0, "")
    assert (tmp_path / "answer.csv").read_text() == "prediction\n3\n7\n"


def test_parquet_is_read(lossatlas, run_folder, tmp_path):
    pytest.importorskip("pyarrow")
    pd.read_csv(tmp_path / "new.csv").to_parquet(tmp_path / "new.parquet")
    assert lossatlas("predict", run_folder, "--data", "new.parquet")[1] == "prediction\n3\n7\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("missing.csv", None, "no file"),
        ("new.txt", "a,b\n1,2\n", ".csv or .parquet"),
        ("empty.csv", "", "Cannot read"),
        ("header.csv", "a,b\n", "no rows"),
        ("ragged.csv", "a,b\n1,2\n1,2,3,4\n", "Cannot read"),
    ],
)
def test_unusable_data_is_one_line_and_exit_code_2(lossatlas, run_folder, tmp_path, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    code, out, err = lossatlas("predict", run_folder, "--data", name)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("run_folder")
def test_a_missing_run_is_one_line_and_exit_code_2(lossatlas):
    code, _, err = lossatlas("predict", "nowhere", "--data", "new.csv")
    assert code == 2
    assert "'nowhere'" in err
    assert err.count("\n") == 1
