"""Sweeps on workers: killed at random, with a scheduler that goes away, two at once, on a disk that is full."""

import contextlib
import json
import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

import sweep_studies
from lossatlas._errors import InputError
from lossatlas.workbench import Store, run_sweep
from lossatlas.workbench._run import ARRAYS
from lossatlas.workbench.sweeps import _pool


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
DRIVER = pathlib.Path(__file__).with_name("sweep_driver.py")


def start(root, workers, study="toy-plane", seeds=8, **options):
    words = [sys.executable, str(DRIVER), str(root), str(workers), study, str(seeds)]
    words += [f"{name}={value}" for name, value in options.items()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(driver, code=0):
    out, err = driver.communicate(timeout=240)
    assert driver.returncode == code, err
    return out, err


def measured_bytes(folder):
    """Every file of what was measured, by name; how long it took may differ."""
    (run,) = Store(folder).runs(kind="sweep", status="finished")
    arrays = folder / run.path / ARRAYS
    files = (path for path in sorted(arrays.rglob("*")) if path.is_file())
    return {
        name: path.read_bytes() for path in files if not (name := str(path.relative_to(arrays))).startswith("how/s")
    }


def kill_at_random(folder, random, *, kills, workers, **asked):
    """Kill the driver, a worker or a process that measures, again and again, until the sweep is finished."""
    killed = {"driver": 0, "worker": 0, "child": 0}
    driver = start(folder, workers, **asked)
    while driver.poll() is None or sum(killed.values()) < kills:
        if driver.poll() is not None:
            assert driver.returncode == -signal.SIGKILL, driver.communicate()[1]
            driver.communicate()
            driver = start(folder, workers, **asked)
        time.sleep(random.uniform(0.3, 5.0))
        if sum(killed.values()) >= kills:
            driver.wait(timeout=300)
            continue
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(driver.pid).children(recursive=True)
            kinds = {
                "driver": [psutil.Process(driver.pid)],
                "child": [one for one in family if any("sweeps._child" in word for word in one.cmdline())],
                "worker": [one for one in family if any("spawn_main" in word for word in one.cmdline())],
            }
            kind = str(random.choice(["driver", "worker", "child"]))
            if kinds[kind]:
                kinds[kind][random.integers(len(kinds[kind]))].kill()
                killed[kind] += 1
        if driver.poll() == 0:
            break
    return finish(driver)[0], killed


@pytest.mark.slow
def test_killed_at_random_every_cell_is_there_once_and_the_same(tmp_path):
    for workers in (1, 2):
        finish(start(tmp_path / f"undisturbed-{workers}", workers, wait=0.02))
    expected = measured_bytes(tmp_path / "undisturbed-1")
    assert measured_bytes(tmp_path / "undisturbed-2") == expected
    said, killed = kill_at_random(tmp_path / "killed", np.random.default_rng(0), kills=4, workers=2, wait=0.02)
    assert sum(killed.values()) >= 2
    assert "failed" not in said
    assert "killed" not in said
    assert measured_bytes(tmp_path / "killed") == expected
    assert Store(tmp_path / "killed").verify() == ()


@pytest.mark.slow
def test_a_thousand_cells_killed_at_random_are_there_once_and_the_same(tmp_path):
    asked = {"study": "large", "seeds": 2, "wait": 0.05}
    for workers in (1, 2):
        finish(start(tmp_path / f"undisturbed-{workers}", workers, **asked))
    expected = measured_bytes(tmp_path / "undisturbed-1")
    assert measured_bytes(tmp_path / "undisturbed-2") == expected
    said, killed = kill_at_random(tmp_path / "killed", np.random.default_rng(1), kills=25, workers=2, **asked)
    assert min(killed.values()) >= 3, killed
    assert "failed" not in said
    assert measured_bytes(tmp_path / "killed") == expected
    assert Store(tmp_path / "killed").verify() == ()


def test_two_drivers_of_one_sweep_measure_each_cell_once(tmp_path):
    drivers = [start(tmp_path / "runs", 0, "toy-trouble", 12, folder=tmp_path) for _ in range(2)]
    counts = [int(finish(driver)[0].split()[0]) for driver in drivers]
    # The one that waited takes over the record of the other.
    assert counts == [12, 12]
    assert [(tmp_path / f"well-{seed}").read_text() for seed in range(12)] == ["."] * 12
    assert Store(tmp_path / "runs").verify() == ()


def test_a_full_disk_stops_the_sweep_and_loses_nothing_that_was_kept(tmp_path):
    _, said = finish(start(tmp_path, 0, seeds=200, most_bytes=3_000), code=1)
    assert "File too large" in said
    assert "run the same again to go on" in said
    (run,) = Store(tmp_path).runs()
    assert run.status == "failed"
    assert finish(start(tmp_path, 0, seeds=200))[0].startswith("1600 ")
    assert Store(tmp_path).verify() == ()


def test_a_scheduler_out_of_reach_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(_pool, "_PATIENCE", 1)
    with pytest.raises(InputError, match=r"The scheduler at tcp://127.0.0.1:9 cannot be reached within 1 seconds"):
        run_sweep("toy-plane", grid={"gamma": (1,)}, out=tmp_path, workers="tcp://127.0.0.1:9", progress="none")
    assert list(tmp_path.rglob("run.json")) == []


@contextlib.contextmanager
def scheduler(tmp_path):
    """A scheduler of its own, with a worker; its address and both processes."""
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    with contextlib.ExitStack() as stack:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        server = stack.enter_context(subprocess.Popen([*words, "--scheduler-file", str(file)], **quiet))
        stack.callback(server.kill)
        words = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1"]
        words += ["--no-dashboard", "--no-nanny", "--resources", "GPU=1", "--local-directory", str(tmp_path)]
        worker = stack.enter_context(subprocess.Popen(words, **quiet))
        stack.callback(worker.kill)
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], server


def test_a_scheduler_by_address_and_one_that_goes_away(tmp_path):
    with scheduler(tmp_path) as (address, server):
        asked = {"workers": address, "out": tmp_path / "runs", "progress": "none"}
        run = run_sweep("toy-plane", grid={"gamma": (1.0, 2.0)}, seeds=3, resources={"GPU": 1.0}, **asked)
        assert set(run.counts()) <= {"done", "non-finite"}
        driver = start(tmp_path / "lost", address, study="toy-plane", seeds=200, wait=0.1)
        while not list((tmp_path / "lost").rglob("cells-*.npz")):
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        server.kill()
        said = finish(driver, code=1)[1]
    assert "SchedulerLostError: The scheduler went away." in said
    assert "run the same again to go on" in said
    (lost,) = Store(tmp_path / "lost").runs()
    assert lost.status == "failed"


def test_a_batch_system_starts_workers_as_a_profile_says(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    # A batch system that runs each job at once, here.
    for name, script in {
        "sbatch": 'cp "$1" "$1.kept"\nbash "$1.kept" > "$1.log" 2>&1 &\necho "Submitted batch job $!"\n',
        "scancel": 'kill "$@"\n',
    }.items():
        path = tmp_path / name
        path.write_text("#!/bin/bash\n" + script)
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    profile = tmp_path / "cluster.toml"
    profile.write_text('system = "slurm"\njobs = 1\n[arguments]\ncores = 1\nmemory = "1GB"\nqueue = "short"\n')
    assert sweep_studies.ToyPlane.presets
    run = run_sweep(
        "toy-plane", grid={"gamma": (1.0,)}, seeds=3, out=tmp_path / "runs", workers=profile, progress="none"
    )
    assert sum(run.counts().values()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system = 'slurn'", "Unknown batch system 'slurn'. Did you mean 'slurm'"),
        ("jobs = 0", "jobs (a whole number from 1)"),
        ("queue = 'short'", "nothing else; got queue"),
        ("jobs = ", "Cannot read the profile"),
        ("[arguments]\ncorse = 1", "of dask_jobqueue.SLURMCluster 'corse'. Did you mean 'cores'"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused(tmp_path, text, message):
    pytest.importorskip("dask_jobqueue", reason="needs dask-jobqueue")
    profile = tmp_path / "cluster.toml"
    profile.write_text(text)
    with pytest.raises(InputError) as caught:
        run_sweep("toy-plane", grid={"gamma": (1.0,)}, out=tmp_path, workers=profile, progress="none")
    assert message in str(caught.value)
