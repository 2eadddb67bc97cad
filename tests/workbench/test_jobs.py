"""Jobs: started, watched, stopped, lost, found again, one after the other."""

import json
import os
import pathlib
import signal
import time

import pytest

import lossatlas
import steady_study
from lossatlas._errors import InputError
from lossatlas.workbench import Jobs, Store, _job_run, read_partial, run_job
from lossatlas.workbench import _jobs as jobs_module
from lossatlas.workbench._job_events import Events, JobProgress, partial_results


SOURCES = pathlib.Path(lossatlas.__file__).parents[1]


def asked(**options):
    return {"study": "steady-count", "preset": "smoke", "seed": 0, "options": options}


def wait_until(condition, seconds=40.0):
    """What a condition returns, as soon as that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    msg = "it did not happen in time"
    raise AssertionError(msg)


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Jobs of one process at a time, which know the steady study; none is left running."""
    steady_study.install(tmp_path / "package")
    places = [tmp_path / "package", pathlib.Path(steady_study.__file__).parent, SOURCES]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    monkeypatch.delenv("LOSSATLAS_INDEX", raising=False)
    made = Jobs(tmp_path / "runs", at_most=1)
    yield made
    monkeypatch.setattr(jobs_module, "GRACE", 0.0)
    for job in made.list():
        made.cancel(job.name)
    wait_until(lambda: made.start_waiting() or all(job.has_ended for job in made.list()))


@pytest.fixture
def held(jobs, monkeypatch):
    """Jobs that nothing starts."""
    monkeypatch.setattr(Jobs, "start_waiting", lambda _: None)
    monkeypatch.setattr(_job_run, "prepare_jax", lambda: None)  # this process is set up
    return jobs


def status(jobs, name):
    return jobs.find(name).status


def test_jobs_run_one_after_the_other_without_anyone_looking_on(jobs):
    first = jobs.add("study", "count to three", asked())
    second = jobs.add("study", "count to four", asked(steps=4))
    assert first.status == "running"
    assert second.status == "waiting"
    done = wait_until(lambda: (job := jobs.find(second.name)).has_ended and job)  # nobody starts it but the first
    assert [job.status for job in jobs.list()] == ["finished", "finished"]
    assert done.seconds > 0
    assert done.page is not None
    assert (jobs.root / done.page).is_file()
    assert partial_results(done.folder) == []
    runs = Store(jobs.root).runs()
    assert sorted(run.config["steps"] for run in runs) == [3, 4]
    assert {run.kind for run in runs} == {"study"}  # jobs are no runs


def test_a_job_is_watched_cancelled_killed_and_gone_on_with(jobs):
    name = jobs.add("study", "count for long", asked(steps=10_000)).name
    running = wait_until(lambda: (job := jobs.find(name)).tasks and job)
    assert running.tasks[0]["label"] == "counting"
    assert running.tasks[0]["total"] == 10_000
    jobs.start_again(name)  # a job that runs is left alone
    jobs.cancel(name)
    wait_until(lambda: status(jobs, name) == "cancelled")
    assert [run.status for run in Store(jobs.root).runs()] == ["interrupted"]

    jobs.start_again(name)
    newest, results = wait_until(lambda: read_partial(jobs.find(name).folder))
    assert len(results["count"]["value"]) >= 1
    later = wait_until(lambda: read_partial(jobs.find(name).folder, other_than=newest))
    assert len(later[1]["count"]["value"]) > len(results["count"]["value"])
    os.kill(Events(jobs.find(name).folder).last()["pid"], signal.SIGKILL)
    wait_until(lambda: status(jobs, name) == "killed")
    assert [run.status for run in Store(jobs.root).runs()] == ["killed"]
    assert Jobs(jobs.root).find(name).title == "count for long"  # whoever comes later finds it

    jobs.remove(name)
    assert jobs.list() == []
    with pytest.raises(InputError, match="There is no job"):
        jobs.find(name)


def test_a_job_stops_when_the_signal_is_lost(jobs):
    """The exception of a signal is thrown away when it comes in a callback of the garbage collector."""
    name = jobs.add("study", "deaf", asked(steps=10_000, deaf=True)).name
    wait_until(lambda: jobs.find(name).tasks)
    jobs.cancel(name)
    wait_until(lambda: status(jobs, name) == "cancelled")
    assert [run.status for run in Store(jobs.root).runs()] == ["interrupted"]


def test_a_job_that_does_not_stop_is_ended_by_force(jobs, monkeypatch):
    monkeypatch.setattr(jobs_module, "GRACE", 0.5)
    name = jobs.add("study", "stubborn", asked(seconds=60.0, deaf=True)).name
    wait_until(lambda: jobs.find(name).tasks)
    jobs.cancel(name)
    assert status(jobs, name) == "stopping"
    jobs.start_waiting()
    assert status(jobs, name) == "stopping"  # it has half a second
    wait_until(lambda: jobs.start_waiting() or status(jobs, name) == "cancelled")


def test_a_job_that_waits_is_taken_from_the_queue_and_may_come_back(held):
    name = held.add("study", "count", asked()).name
    with pytest.raises(InputError, match="cancel it first"):
        held.remove(name)
    held.cancel(name)
    assert status(held, name) == "cancelled"
    held.start_again(name)
    assert status(held, name) == "waiting"


@pytest.mark.parametrize(
    ("kind", "content", "error"),
    [
        ("study", asked(steps="many"), "steps must be a whole number, got 'many'."),
        ("study", asked() | {"study": "steady-cuont"}, "Did you mean 'steady-count'?"),
        ("survey", {"data": "irsi", "options": {}}, "Did you mean 'iris'?"),
        ("reproduction", {"studies": ["steady-cuont"], "preset": "smoke", "seed": 0}, "Did you mean 'steady-count'?"),
    ],
)
def test_what_cannot_be_used_is_one_line(held, kind, content, error):
    job = held.add(kind, "wrong", content)
    with pytest.raises(InputError):
        run_job(job.folder)
    failed = held.find(job.name)
    assert failed.status == "failed"
    assert error in failed.error
    assert "\n" not in failed.error


def test_an_error_of_ours_is_told_with_its_type(held, monkeypatch):
    def broken(*_):
        msg = "two\nlines"
        raise ArithmeticError(msg)

    monkeypatch.setattr(steady_study.SteadyCount, "run", broken)
    job = held.add("study", "broken", asked())
    with pytest.raises(ArithmeticError):
        run_job(job.folder)
    assert held.find(job.name).error == "ArithmeticError: two lines"


def test_a_job_cancelled_while_it_starts_does_nothing(held):
    job = held.add("study", "count", asked())
    Events(job.folder).append("starting")
    assert status(held, job.name) == "running"
    held.cancel(job.name)
    with pytest.raises(KeyboardInterrupt):
        run_job(job.folder)
    assert status(held, job.name) == "cancelled"
    assert Store(held.root).runs() == ()


def test_unknown_kinds_and_no_room_at_all_are_refused(held, tmp_path):
    with pytest.raises(InputError, match="Did you mean 'study'"):
        held.add("studdy", "wrong", {})
    with pytest.raises(InputError, match="At least one job"):
        Jobs(tmp_path, at_most=0)
    assert held.list() == []


def test_the_newest_whole_event_counts_whatever_a_killed_process_left(tmp_path):
    events = Events(tmp_path)
    with pytest.raises(FileNotFoundError):
        events.last()
    events.append("running", tasks=[{"note": "long " * 5000}])
    assert events.last()["event"] == "running"
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 1, "event": "fini')
    assert events.last()["event"] == "running"
    events.append("waiting")
    assert events.last()["event"] == "waiting"
    assert [json.loads(line)["event"] for line in _whole_lines(tmp_path)] == ["running", "waiting"]
    (tmp_path / "events.jsonl").write_text("garbled\n")
    with pytest.raises(ValueError, match="has no event"):
        events.last()


def _whole_lines(folder):
    return [line for line in (folder / "events.jsonl").read_text().splitlines() if line.endswith("}")]


def test_a_busy_meter_tells_little(tmp_path):
    meter = JobProgress(tmp_path)
    with meter.task("outer", 10) as outer, meter.task("inner", 5):
        for step in range(1000):
            outer.update(step / 100, "on")
    assert len(_whole_lines(tmp_path)) < 20
    told = [json.loads(line)["tasks"] for line in _whole_lines(tmp_path)]
    assert told[1] == [{"label": "outer", "total": 10.0, "done": 0.0, "note": ""}]
