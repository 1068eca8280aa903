"""The queue with real processes: a real Valkey, real Celery workers, real files."""

import os
import signal
import time
from pathlib import Path

import pytest

from shared.outcome import TaskState
from tests.fleet import Fleet, make_tasks

pytestmark = pytest.mark.valkey


def test_every_task_gets_all_its_candidates_and_the_best_one_wins(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 4)
    with Fleet(tmp_path) as fleet:
        run = fleet.submit(tasks)
        outcomes = fleet.outcomes(run.run)
        progress = fleet.client.progress(run.run)
    assert {outcome.task_id for outcome in outcomes} == {task.id for task in tasks}
    assert all(outcome.state is TaskState.DONE for outcome in outcomes)
    fleet.check(tasks)
    assert progress.candidates == {"global": {"scored": 16}, "local": {"scored": 16}}
    assert len(list(fleet.trace.iterdir())) == 32


def test_the_same_task_with_the_same_configuration_is_not_made_again(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path) as fleet:
        fleet.outcomes(fleet.submit(tasks).run)
        made = len(list(fleet.trace.iterdir()))
        again = fleet.outcomes(fleet.submit(tasks).run)
        assert [outcome.state for outcome in again] == [TaskState.UNCHANGED] * 2
        assert all(outcome.best_potential is not None for outcome in again)
        assert len(list(fleet.trace.iterdir())) == made
        forced = fleet.outcomes(fleet.submit(tasks[:1], force=True).run)
        assert forced[0].state is TaskState.DONE
        assert len(list(fleet.trace.iterdir())) == made + 8


def test_a_run_is_taken_up_from_disk_when_the_broker_has_forgotten_everything(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=0.3) as fleet:
        fleet.submit(tasks)
        while len(list((tmp_path / "out").glob("task_*/candidates/g*.json"))) < 4:
            time.sleep(0.05)
    written = len(list((tmp_path / "out").glob("task_*/candidates/*.json")))
    before = len(list(fleet.trace.iterdir()))
    with Fleet(tmp_path, generate=0.3) as fleet:
        fleet.outcomes(fleet.submit(tasks).run)
    fleet.check(tasks)
    assert len(list(fleet.trace.iterdir())) - before == 16 - written
    reused = sum(each["reused"] for task in tasks for each in fleet.metrics(task.id)["candidates"])
    assert reused == written


def test_images_of_a_generator_that_draws_otherwise_now_are_made_again(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 1)
    made = []
    for version in ("1", "2", "2"):
        with Fleet(tmp_path, env={"SIMULATED_VERSION": version}) as fleet:
            fleet.outcomes(fleet.submit(tasks).run)
            # As if the run had died before its task was published.
            fleet.store.delete(f"task_{tasks[0].id}/metrics.json")
            made.append(len(fleet.starts()))
    assert made == [8, 16, 16]


def test_bad_input_fails_its_task_and_no_other(tmp_path: Path) -> None:
    good, bad = make_tasks(tmp_path / "in", 2)
    (tmp_path / "in" / "init1.png").write_bytes(b"no image at all")
    with Fleet(tmp_path) as fleet:
        outcomes = {each.task_id: each for each in fleet.outcomes(fleet.submit((good, bad)).run)}
    assert outcomes[good.id].state is TaskState.DONE
    failed = outcomes[bad.id]
    assert failed.state is TaskState.FAILED
    assert failed.failure is not None
    assert "init" in failed.failure.message
    assert fleet.metrics(bad.id)["state"] == "failed"


def test_killing_a_device_worker_in_the_middle_of_a_candidate_loses_nothing(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=0.5) as fleet:
        run = fleet.submit(tasks)
        fleet.wait_until_busy("sim.0")
        os.kill(fleet.cluster.pids["device.sim.0"], signal.SIGKILL)
        outcomes = fleet.outcomes(run.run)
    assert all(outcome.state is TaskState.DONE for outcome in outcomes)
    fleet.check(tasks)


def test_killing_the_process_that_generates_loses_nothing(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=0.5) as fleet:
        run = fleet.submit(tasks)
        fleet.wait_until_busy("sim.1")
        os.kill(fleet.child_pid("sim.1"), signal.SIGKILL)
        outcomes = fleet.outcomes(run.run)
    assert all(outcome.state is TaskState.DONE for outcome in outcomes)
    fleet.check(tasks)


def test_a_candidate_that_kills_every_worker_fails_and_its_task_goes_on(tmp_path: Path) -> None:
    (task,) = make_tasks(tmp_path / "in", 1)
    with Fleet(tmp_path, env={"SIMULATED_POISON": "g01"}, dispatch={"max_attempts": 2}) as fleet:
        (outcome,) = fleet.outcomes(fleet.submit((task,)).run)
    assert outcome.state is TaskState.DONE
    assert outcome.failed_candidates == 1
    poison = next(each for each in fleet.metrics(task.id)["candidates"] if each["id"] == "g01")
    assert poison["state"] == "failed"
    assert len([name for name in fleet.trace.iterdir() if ".g01." in name.name]) == 2


def test_cancelling_ends_what_waits_and_what_runs(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 3)
    with Fleet(tmp_path, generate=5.0) as fleet:
        run = fleet.submit(tasks)
        fleet.wait_until_busy("sim.0")
        began = time.monotonic()
        assert fleet.client.cancel(run.run) == 3
        outcomes = fleet.outcomes(run.run, 10)
        while any(beat and beat.current for beat in fleet.client.devices().values()):
            assert time.monotonic() - began < 4
            time.sleep(0.05)
    assert {outcome.state for outcome in outcomes} == {TaskState.CANCELLED}


def test_no_process_outlives_the_cluster(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        fleet.outcomes(fleet.submit(make_tasks(tmp_path / "in", 1)).run)
        pids = [*fleet.cluster.pids.values(), fleet.child_pid("sim.0")]
    assert len(pids) == 6
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_drained_device_finishes_what_it_has_and_gives_the_rest_back(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=0.5) as fleet:
        run = fleet.submit(tasks)
        fleet.wait_until_busy("sim.0")
        assert fleet.client.drain("sim.0") == ("sim.0",)
        outcomes = fleet.outcomes(run.run)
        assert "device.sim.0" not in fleet.cluster.pids
        assert fleet.client.devices().get("sim.0") is None
    assert all(outcome.state is TaskState.DONE for outcome in outcomes)
    fleet.check(tasks)
    failures = [each["earlier"] for task in tasks for each in fleet.metrics(task.id)["candidates"]]
    assert not any(failures), "what is given back is not held against a candidate"


def test_a_task_that_another_run_works_on_is_refused(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=1.0) as fleet:
        first = fleet.submit(tasks[:1])
        second = fleet.submit(tasks)
        assert second.accepted == (tasks[1].id,)
        assert first.run in second.refused[tasks[0].id]
        fleet.client.cancel(first.run)
        fleet.client.cancel(second.run)
