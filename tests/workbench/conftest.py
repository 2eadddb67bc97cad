"""A small table with text columns, and a survey of it that takes no time."""

import pathlib
import sys
import types
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lossatlas import atlas, data, networks


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    """40 rows: two numbers, a text column, and two classes that are mostly told by one number."""
    random = np.random.default_rng(0)
    x, y = random.normal(3, 2, 40), random.normal(-1, 5, 40)
    colour = random.choice(["red", "green", "blue"], 40)
    kind = np.where(x + (colour == "red") + 0.3 * random.normal(size=40) > 3, "yes", "no")
    return pd.DataFrame({"x": x, "colour": colour, "y": y, "kind": kind})


@pytest.fixture(scope="session")
def csv(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The table as a file."""
    path = tmp_path_factory.mktemp("table") / "my table.csv"
    table.to_csv(path, index=False)
    return path


class FakeSurvey:
    """What `atlas.survey` returns, as far as storing it goes."""

    def __init__(self, dataset: data.DataSet, config: atlas.SurveyConfig):
        self.data, self.config = dataset, config
        self.loss = "mse" if config.loss == "auto" else config.loss

    def networks(self) -> dict[str, networks.Dense]:
        d, o = self.data.num_inputs, self.data.num_outputs(self.loss)
        sizes = {"recommended": ([d, 0, o], 1), "big": ([d, *self.config.hidden, o], 0), "(0,1)": ([d, 0, o], 1)}
        sizes["(1,0)a"] = ([d, 1, o], 0)
        key = jax.random.key(self.config.seed)
        return {
            name: networks.Dense(jax.random.fold_in(key, i), widths, num_linear=[r] + [0] * (len(widths) - 3))
            for i, (name, (widths, r)) in enumerate(sizes.items())
        }


def entry(name: str, size: str, loss: float | None, visit: dict[str, Any]) -> dict[str, Any]:
    words = {"(0,1)": "a linear model of rank 1", "(1,0)": "one neuron"}[size]
    held_out = {"held_out_loss": 0.03, "held_out_error": 0.01, "held_out_accuracy": 0.9, "held_out_r_squared": None}
    row = {"name": name, "size": size, "words": words, "parameters": 8, "loss": loss, "kind": "critical point"}
    return row | held_out | {"visit": visit}


def fake_tables(survey: FakeSurvey) -> dict[str, Any]:
    missed = {"verdict": "no match", "step": 1, "first_step": 1, "last_step": 1, "distance": 0.4, "control": None}
    visit = {
        "verdict": "visit",
        "step": 2400,
        "first_step": 2100,
        "last_step": 3300,
        "distance": 0.041,
        "control": 0.43,
    }
    near = {"verdict": "near", "step": 5000, "first_step": 5000, "last_step": 5000, "distance": 0.2, "control": 0.37}
    rows = [
        {"name": "(0,1)", "words": "a linear model of rank 1", "parameters": 8, "loss": 0.03, "standard_error": 0.01,
         "accuracy": 0.9, "r_squared": None},
        {"name": "big network", "words": "the big network", "parameters": 1234, "loss": 0.029, "standard_error": 0.01,
         "accuracy": 0.95, "r_squared": None},
    ]  # fmt: skip
    return {
        "headline": "A linear model <does> the job.",
        "data": {"name": survey.data.name, "rows": survey.data.num_rows},
        "catalogue": [
            entry("(0,1)", "(0,1)", 0.17, visit),
            entry("(1,0)a", "(1,0)", 0.1, near),
            entry("(1,0)b", "(1,0)", 0.12, visit),
            entry("(1,0)c", "(1,0)", None, missed),
        ],
        "trainings": [
            {"seed": 0, "final_loss": 0.01, "status": "ran all steps", "settings": {"widths": [4, 3, 2]}},
        ],
        "best_seed": 0,
        "selection": {"rows": rows, "best": "big network", "recommended": "(0,1)"},
    }  # fmt: skip


def fake_arrays(survey: FakeSurvey) -> xr.DataTree:
    del survey
    loss = xr.Dataset({"loss": ("entry", [0.5, np.nan])}, coords={"entry": ["(0,1)", "(1,0)a"]})
    return xr.DataTree.from_dict({"/catalogue": loss, "/data": xr.Dataset({"targets": (("row",), [1.0, 2.0])})})


@pytest.fixture
def surveyed(monkeypatch) -> list[atlas.SurveyConfig]:
    """`atlas.survey` and the report replaced by ones that take no time; the settings of every survey made."""
    calls = []

    def survey(dataset, *, config, progress, journal):
        del progress, journal
        calls.append(config)
        return FakeSurvey(dataset, config)

    def write_report(path, tables, arrays, *, regenerate, versions):
        path.write_text(f"{tables['headline']} {arrays['/catalogue'].sizes['entry']} {regenerate} {sorted(versions)}")

    monkeypatch.setattr(atlas, "survey", survey)
    monkeypatch.setattr(atlas, "check_config", lambda *_: None)
    monkeypatch.setattr(atlas, "survey_tables", fake_tables)
    monkeypatch.setattr(atlas, "survey_arrays", fake_arrays)
    report = types.ModuleType("lossatlas.workbench._report")
    monkeypatch.setattr(report, "write_report", write_report, raising=False)
    monkeypatch.setitem(sys.modules, report.__name__, report)
    return calls


@pytest.fixture
def make_study():
    """Store a study that takes no time: `make_study(root, seed)` -> its folder."""
    from lossatlas._progress import NoProgress
    from lossatlas.workbench._arrays import write_arrays
    from lossatlas.workbench._store import Place, make_run, run_key

    curves = xr.Dataset(
        {
            "loss": (("seed", "step"), np.array([[1.0, 0.5, np.nan], [2.0, 1.0, 0.1]])),
            "final": ("seed", [0.5, 0.1]),
            "word": ("seed", ["stalls", "goes on"]),
        },
        coords={"seed": [0, 1]},
    )
    eigenvalues = xr.Dataset({"value": ("index", np.array([1 + 2j, 3.0])), "certified": ("index", [True, False])})

    def make(root: pathlib.Path, seed: int = 0, verdict: str = "holds", **header: Any) -> pathlib.Path:
        arrays = xr.DataTree.from_dict({"/curves": curves.copy(), "/curves/spectrum": eigenvalues})
        arrays["/curves"].attrs["seed"] = seed
        claim = {"name": "one", "text": "One.", "expected": 1.0, "measured": 1.0, "deviation": 0.0, "note": ""}

        def write(folder: pathlib.Path, journal) -> dict[str, Any]:
            del journal
            write_arrays(folder / "data.zarr", arrays)
            return {"claims": [{**claim, "verdict": verdict}]}

        config = {"seed": seed, "width": 10}
        place = Place(root, "study", "toy-mean", run_key("study", 1, config, "toy"))
        header = {"config": config, "papers": [], "regenerate": f"lossatlas study run toy-mean --seed {seed}"} | header
        return make_run(place, header, write, meter=NoProgress())

    return make
