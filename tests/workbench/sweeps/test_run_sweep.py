"""What a sweep measures, keeps, takes over and goes on with; in this process."""

import contextlib
import functools as ft
import json
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr

import lossatlas
import sweep_studies
import toy_study
from lossatlas._errors import InputError
from lossatlas._progress import NoProgress
from lossatlas.workbench import Store, SweepRun, run_sweep, sweep_so_far
from lossatlas.workbench.sweeps import _measure, _pool


def sweep(tmp_path, name="toy-plane", **asked):
    return run_sweep(name, out=tmp_path, workers=0, progress="none", **asked)


@ft.partial(jax.jit, static_argnums=0)
def plain(width, gamma, seed):
    return gamma * jax.random.normal(jax.random.key(seed), (width,))


@pytest.fixture
def calls(monkeypatch):
    """The cells that each call measured."""
    found = []

    def measure_cells(task, **options):
        found.append([(*cell.values, cell.seed) for cell in task.cells])
        return original(task, **options)

    original = _pool.measure_cells
    monkeypatch.setattr(_pool, "measure_cells", measure_cells)
    return found


def test_each_cell_has_what_the_study_measures_there(tmp_path):
    run = sweep(tmp_path, grid={"width": (3, 4), "gamma": (0.5, -2.0)}, seeds=70)
    mean, largest = run.results.ds["mean"], run.results.ds["largest"]
    assert mean.dims == ("width", "gamma", "seed")
    for width in (3, 4):
        for gamma in (0.5, -2.0):
            numbers = np.array([plain(width, gamma, seed) for seed in range(70)])
            assert mean.sel(width=width, gamma=gamma).values == pytest.approx(numbers.mean(-1), rel=1e-14)
            assert np.array_equal(largest.sel(width=width, gamma=gamma), np.sort(numbers)[:, -2:])
    # A root of what is negative is no error; it is not finite.
    status = run.results.ds["status"].values
    assert np.array_equal(status == "non-finite", mean.values < 0)
    assert run.counts() == {"done": int((mean.values >= 0).sum()), "non-finite": int((mean.values < 0).sum())}
    assert run.results["is_positive"].dtype == bool
    assert (run.axes, run.seeds) == ({"width": [3, 4], "gamma": [0.5, -2.0]}, 70)
    assert "zhang2021embedding" in lossatlas.citation(run)
    json.dumps(run.record, allow_nan=False)
    assert run.verify() == ()


def test_a_setting_that_is_traced_needs_no_program_of_its_own(tmp_path, monkeypatch):
    traces = []
    measure = sweep_studies.ToyPlane.measure
    monkeypatch.setattr(
        sweep_studies.ToyPlane, "measure", lambda self, seed: traces.append(self.width) or measure(self, seed)
    )
    sweep(tmp_path, grid={"gamma": (1, 2, 3), "width": (5, 6)}, seeds=9)
    per_program = traces.count(5)
    assert traces.count(6) == per_program <= 4
    assert set(traces) == {5, 6}


def test_results_do_not_depend_on_what_is_measured_together(tmp_path):
    whole = sweep(tmp_path / "a", grid={"gamma": (0.3, 0.7)}, seeds=40).results
    for seeds in (1, 7):
        part = sweep(tmp_path / "b", grid={"gamma": (0.7,)}, seeds=seeds).results
        same = whole.ds.sel(gamma=[0.7]).isel(seed=slice(seeds))
        assert part.ds.drop_vars("status").identical(same.drop_vars("status"))


def test_cells_side_by_side_are_those_one_after_another(tmp_path, monkeypatch):
    asked = {"grid": {"gamma": (0.3, 0.7), "width": (6,)}, "seeds": 40}
    loop = sweep(tmp_path / "loop", **asked).results.ds
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    _measure._program.cache_clear()
    batch = sweep(tmp_path / "batch", **asked).results.ds
    _measure._program.cache_clear()
    xr.testing.assert_allclose(loop, batch, rtol=1e-14)


@pytest.mark.parametrize("study", ["toy-plane", "toy-dtype"])
def test_cells_are_measured_in_float64_whatever_the_global_setting(tmp_path, study):
    with jax.enable_x64(False):
        run = sweep(tmp_path, study, grid={"gamma": (1.0,)})
    assert run.results.ds["mean"].dtype == np.float64
    assert run.results.ds["mean"].item() == plain(5, 1.0, 0).mean()


def test_the_same_is_found_again_and_a_larger_grid_takes_over(tmp_path, calls):
    first = sweep(tmp_path, grid={"width": (3,), "gamma": (1, 2)}, seeds=2)
    assert sweep(tmp_path, grid={"width": "3", "gamma": [1.0, 2.0]}, seeds=2).directory == first.directory
    assert sum(map(len, calls)) == 4
    calls.clear()
    larger = sweep(tmp_path, grid={"gamma": (2, 4), "width": (5, 3)}, seeds=3)
    # Known: width 3, gamma 2, seeds 0 and 1.
    assert sorted(cell for call in calls for cell in call) == sorted(
        [(g, w, s) for g in (2.0, 4.0) for w in (5, 3) for s in range(3) if (g, w) != (2.0, 3) or s == 2]
    )
    fresh = sweep(tmp_path / "fresh", grid={"gamma": (2, 4), "width": (5, 3)}, seeds=3)
    assert larger.results.ds.identical(fresh.results.ds)
    calls.clear()
    forced = sweep(tmp_path, grid={"width": (3,), "gamma": (1, 2)}, seeds=2, force=True)
    assert forced.directory == first.directory
    assert sum(map(len, calls)) == 4


def test_a_sweep_that_was_interrupted_goes_on_with_what_is_missing(tmp_path, calls):
    class Impatient(NoProgress):
        @contextlib.contextmanager
        def task(self, label, total):
            with super().task(label, total) as task:
                task.update = self.update
                yield task

        def update(self, done, note=""):
            del note
            if done >= 3:
                raise KeyboardInterrupt

    grid = {"grid": {"what": ("well",)}, "seeds": 6}
    undisturbed = sweep(tmp_path / "undisturbed", "toy-trouble", **grid)
    calls.clear()
    with pytest.raises(KeyboardInterrupt) as caught:
        run_sweep("toy-trouble", out=tmp_path, workers=0, progress=Impatient(), **grid)
    assert "run the same again to go on" in caught.value.__notes__[0]
    (partial,) = (tmp_path / "sweep").glob("*.partial")
    so_far = sweep_so_far(partial)
    finished = int((so_far.ds["status"] == "done").sum())
    assert 3 <= finished < 6
    assert int((so_far.ds["status"] == "waiting").sum()) == 6 - finished
    before = [cell for call in calls for cell in call]
    calls.clear()
    run = sweep(tmp_path, "toy-trouble", **grid)
    assert not {cell for call in calls for cell in call} & set(before)
    assert run.results.ds.identical(undisturbed.results.ds)
    assert sweep_so_far(run.directory).ds.identical(run.results.ds)


def test_a_cell_that_raises_is_recorded_and_can_be_measured_again_alone(tmp_path, calls):
    asked = {"grid": {"what": ("well", "raises", "recovers", "nothing", "shape", "nan")}, "folder": str(tmp_path)}
    run = sweep(tmp_path, "toy-trouble", retries=1, **asked)
    assert {row["what"]: (row["status"], row["error"]) for row in run.failed()} == {
        "raises": ("failed", "ArithmeticError: trouble with seed 0"),
        "recovers": ("failed", "ArithmeticError: trouble with seed 0"),
        "nothing": ("failed", "TypeError: measure must return numbers by name, like {'loss': 0.1}, got None."),
        "shape": (
            "failed",
            "measure returned {'seed_squared': (2,)}, but {'seed_squared': ()} in another cell; "
            "the shapes must be the same in all.",
        ),
    }
    assert run.counts() == {"done": 1, "failed": 4, "non-finite": 1}
    assert np.isnan(run.results["seed_squared"].sel(what="raises").item())
    assert (tmp_path / "raises-0").read_text() == ".." and (tmp_path / "well-0").read_text() == "."
    text = run.report.read_text()
    assert "trouble with seed 0" in text
    assert "--retry-failed" in text
    calls.clear()
    # Without a word failed cells stay; asked for, they alone are measured, and the third try works.
    assert sweep(tmp_path, "toy-trouble", retries=1, **asked).counts() == run.counts()
    assert calls == []
    again = sweep(tmp_path, "toy-trouble", retries=1, retry_failed=True, **asked)
    assert again.counts() == {"done": 2, "failed": 3, "non-finite": 1}
    assert {cell[0] for call in calls for cell in call} == {"raises", "recovers", "nothing", "shape"}
    assert (tmp_path / "well-0").read_text() == "."


def test_a_program_that_cannot_be_traced_fails_in_its_cells_only(tmp_path, monkeypatch):
    measure = sweep_studies.ToyPlane.measure

    def breaks(self, seed):
        if self.width == 4:
            msg = "no such width"
            raise LookupError(msg)
        return measure(self, seed)

    monkeypatch.setattr(sweep_studies.ToyPlane, "measure", breaks)
    run = sweep(tmp_path, grid={"width": (3, 4)}, seeds=2)
    assert [(row["width"], row["error"]) for row in run.failed()] == [(4, "LookupError: no such width")] * 2
    # What was measured beside them is whole, though whole numbers and truth values have holes now.
    assert run.results.ds["is_positive"].sel(width=3).values.tolist() == [
        bool(plain(3, 1.0, s).mean() > 0) for s in range(2)
    ]
    monkeypatch.setattr(sweep_studies.ToyPlane, "measure", measure)
    mended = sweep(tmp_path, grid={"width": (3, 4)}, seeds=2, retry_failed=True)
    fresh = sweep(tmp_path / "fresh", grid={"width": (3, 4)}, seeds=2)
    assert mended.results.ds.identical(fresh.results.ds)


def test_a_study_without_a_measure_runs_as_a_whole_and_is_a_run_of_the_store(tmp_path, calls):
    assert toy_study.ToyMean.presets["smoke"] == {"count": 10}
    alone = lossatlas.run_study("toy-mean", count=10, seed=1, out=tmp_path, progress="none")
    run = sweep(tmp_path, "toy-mean", grid={"count": (10, 20)}, seeds=2)
    assert run.results["mean"].sel(count=10, seed=1).item() == alone.claims[0]["measured"]
    assert set(run.results.ds["mean verdict"].values.ravel()) <= {"holds", "fails"}
    assert [cell for call in calls for cell in call] == [(10, 0), (20, 0), (20, 1)]
    kinds = [stored.kind for stored in Store(tmp_path).runs(status="finished")]
    assert (kinds.count("study"), kinds.count("sweep")) == (4, 1)
    calls.clear()
    found = lossatlas.run_study("toy-mean", count=20, seed=1, out=tmp_path, progress="none")
    assert found.results["draws"]["value"].values == pytest.approx(np.random.default_rng(1).uniform(size=20))
    assert Store(tmp_path).verify() == ()


def test_the_store_lists_opens_exports_and_removes_a_sweep(tmp_path):
    run = sweep(tmp_path / "runs", grid={"gamma": (1, 2)}, seeds=2)
    store = Store(tmp_path / "runs")
    (stored,) = store.runs(kind="sweep")
    assert stored.verdicts == run.counts()
    assert store.runs().table()[0]["outcome"] == ", ".join(f"{n} {word}" for word, n in sorted(run.counts().items()))
    opened = store.open(stored.key)
    assert isinstance(opened, SweepRun)
    assert opened.counts() == run.counts()
    (path,) = store.export(stored.key, tmp_path / "out.csv", part="root.gamma.seed")
    assert "mean" in path.read_text().partition("\n")[0]
    store.remove(stored.key)
    assert store.runs() == ()


def test_bad_limits_and_workers_are_refused(tmp_path):
    wrong: dict[str, Any]
    for wrong in ({"retries": -1}, {"cell_seconds": 0.0}, {"cell_memory": -1.0}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} must be"):
            run_sweep("toy-plane", grid={"gamma": (1,)}, out=tmp_path, **wrong)
    with pytest.raises(InputError, match="workers must be a number from 0"):
        run_sweep("toy-plane", grid={"gamma": (1,)}, out=tmp_path, workers=-2, progress="none")
    with pytest.raises(InputError, match="holds no finished sweep"):
        SweepRun(lossatlas.run_study("toy-mean", count=10, out=tmp_path, progress="none").directory)
