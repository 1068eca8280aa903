"""Orchestrators, score workers, broker, network, disk and judge that fail: nothing is lost, nothing is made up."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.heartbeat import live_helpers
from shared.ledger import Keys
from shared.outcome import TaskState
from shared.types import CRITERIA
from tests import gemini_server as gs
from tests.chaos.disk import small_disk
from tests.chaos.proxy import Proxy
from tests.fleet import Fleet, make_tasks

pytestmark = [pytest.mark.valkey, pytest.mark.timeout(300)]
Told = Callable[[str, float], None]


@pytest.mark.parametrize("orchestrators", [1, 2])
def test_a_killed_orchestrator_loses_nothing(tmp_path: Path, recovered: Told, orchestrators: int) -> None:
    tasks = make_tasks(tmp_path / "in", 4)
    with Fleet(tmp_path, generate=0.3, judge=0.2) as fleet:
        for number in range(1, orchestrators):
            fleet.join_orchestrator(f"orchestrator{number}")
        fleet.wait_until_ready(2, orchestrators + 1)
        run = fleet.submit(tasks)
        fleet.wait_until_busy("sim.0")
        for _ in range(2):
            known = fleet.given_out()
            os.kill(fleet.pids["orchestrator"], signal.SIGKILL)
            killed = time.monotonic()
            again = fleet.next_given_out(known)
            recovered(f"one of {orchestrators} orchestrators killed: new work given out", again.at - killed)
            fleet.wait(lambda: "orchestrator" in fleet.pids, "orchestrator started again")
        fleet.finish(run.run, tasks)


def test_a_killed_score_worker_loses_no_judgement(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 3)
    with Fleet(tmp_path, generate=0.2, judge=1.0) as fleet:
        fleet.wait_until_ready(2)
        ledger = fleet.client.ledger
        pid = fleet.pids["score"]
        (scorer,) = [name for name, beat in live_helpers(ledger).items() if beat and beat.pid == pid]

        def judging() -> set[str]:
            claims = ledger.hgetall(Keys.claims).items()
            return {job for job, by in claims if by == scorer and job.startswith("score:")}

        run = fleet.submit(tasks)
        fleet.wait(lambda: len(judging()) >= 2, "two judgements in hand")
        lost = judging()
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        fleet.wait(lambda: not lost & set(ledger.redis.hkeys(Keys.jobs)), "lost judgements made again", 180)
        recovered("score worker killed: its judgements made again", time.monotonic() - killed)
        fleet.finish(run.run, tasks)


def test_a_broker_that_is_killed_and_restarted_goes_on_from_its_file(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 5)
    with Fleet(tmp_path, generate=0.5, judge=0.2) as fleet:
        fleet.wait_until_ready(2)
        others = {name: pid for name, pid in fleet.pids.items() if name != "valkey"}
        run = fleet.submit(tasks)
        for _ in range(3):
            fleet.wait_until_busy("sim.0")
            known = fleet.given_out()
            os.kill(fleet.pids["valkey"], signal.SIGKILL)
            killed = time.monotonic()
            again = fleet.next_given_out(known, 120)
            recovered("Valkey killed, and restarted with its file: new work given out", again.at - killed)
        fleet.finish(run.run, tasks)
        assert {name: pid for name, pid in fleet.pids.items() if name != "valkey"} == others, "nobody dies of it"
    for task in tasks:
        for each in fleet.metrics(task.id)["candidates"]:
            assert len(each["earlier"]) <= 1, "a broker's absence is not a candidate's fault"


def test_a_run_goes_on_from_disk_when_the_broker_forgets_everything_in_its_midst(
    tmp_path: Path, recovered: Told
) -> None:
    tasks = make_tasks(tmp_path / "in", 6)
    with Fleet(tmp_path, generate=0.4, dispatch={"max_tasks_in_flight": 2}) as fleet:
        fleet.wait_until_ready(2)
        run = fleet.submit(tasks)
        fleet.wait(lambda: len(list((tmp_path / "out").glob("task_*/metrics.json"))) >= 2, "two tasks over", 120)
        fleet.client.ledger.redis.flushall()
        wiped = time.monotonic()
        fleet.wait(lambda: all(fleet.client.devices().get(name) for name in ("sim.0", "sim.1")), "devices beat again")
        records = {
            (file.parent.parent.name.removeprefix("task_"), file.stem.partition("-")[0])
            for file in (tmp_path / "out").glob("task_*/candidates/*.json")
        }
        again = fleet.resume(run.run)
        resumed = time.monotonic()
        assert again.run == run.run
        first = fleet.next_given_out(set())
        recovered("Valkey wiped: devices beat again", resumed - wiped)
        recovered("run resumed from disk: new work given out", first.at - resumed)
        outcomes = fleet.outcomes(run.run, 240)
        assert sorted(outcome.task_id for outcome in outcomes) == sorted(task.id for task in tasks)
        states = [outcome.state for outcome in outcomes]
        assert set(states) == {TaskState.DONE, TaskState.UNCHANGED}
        assert states.count(TaskState.UNCHANGED) >= 2
        fleet.check(tasks)
        fleet.check_queues()
    made_again = {(start.task, start.candidate) for start in fleet.starts() if start.at > resumed} & records
    assert not made_again


@pytest.mark.slow
def test_a_worker_cut_off_for_twenty_seconds_is_replaced_and_comes_back(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 7)
    with Fleet(tmp_path, devices=1, generate=1.0) as fleet, Proxy(fleet.cluster.url) as proxy:
        fleet.join_device("far.0", url=proxy.url)
        fleet.wait_until_ready(2)
        run = fleet.submit(tasks)
        with fleet.caught("far.0") as lost:
            proxy.cut()
            cut = time.monotonic()
        again = fleet.restarted(lost)
        recovered("device cut off: candidate begun elsewhere", again.at - cut)
        fleet.wait(lambda: time.monotonic() > cut + 20, "twenty seconds")
        proxy.mend()
        mended = time.monotonic()
        fleet.wait(lambda: any(each.pid == lost.pid and each.at > mended for each in fleet.starts()), "work again", 120)
        recovered("device reachable again: works again", time.monotonic() - mended)
        fleet.finish(run.run, tasks)


def test_a_full_disk_costs_time_and_nothing_else(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 3)
    try:
        mounted = small_disk(tmp_path / "out", megabytes=4)
        disk = mounted.__enter__()
    except OSError as error:
        pytest.skip(str(error))
    try:
        with Fleet(tmp_path, generate=0.3, judge=0.1) as fleet:
            fleet.wait_until_ready(2)
            run = fleet.submit(tasks)
            fleet.wait(lambda: len(list((tmp_path / "out").glob("task_*/candidates/*.json"))) >= 3, "first results")
            disk.fill()
            fleet.wait(lambda: "disk is full" in _logs(fleet), "somebody says that the disk is full")
            full = time.monotonic()
            fleet.wait(lambda: time.monotonic() > full + 5, "five seconds")
            known = fleet.given_out()
            disk.free()
            freed = time.monotonic()
            again = fleet.next_given_out(known)
            recovered("disk full for five seconds: new work given out", again.at - freed)
            fleet.finish(run.run, tasks)
        assert not [name for name in fleet.store.list() if name.endswith(".part")]
    finally:
        mounted.__exit__(None, None, None)


def _logs(fleet: Fleet) -> str:
    return "".join(file.read_text() for file in (fleet.folder / "cluster" / "logs").iterdir())


def test_a_judge_that_is_down_makes_no_score_and_costs_none(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    up = time.monotonic() + 3600
    retry = {"backoff": 0.2, "backoff_max": 0.5, "max_attempts": 100}
    with gs.GeminiServer() as server:
        server.answer = lambda _: gs.verdict(6, 5, 4) if time.monotonic() >= up else gs.failure(503)
        gemini = {"base_url": server.url, "retry": retry, "limits": {"requests_per_minute": 100_000}}
        scoring = {"judges": ["gemini"], "gemini": gemini}
        with Fleet(tmp_path, generate=0.1, env={"GEMINI_API_KEY": "no-key"}, scoring=scoring) as fleet:
            fleet.wait_until_ready(2)
            run = fleet.client.submit(
                tasks, fleet.settings, generator=fleet.generator, judges={"gemini": frozenset(CRITERIA)}
            )
            fleet.wait(lambda: len(server.seen) >= 8, "judge asked in vain")
            progress = fleet.client.progress(run.run)
            assert not any("scored" in states for states in progress.candidates.values())
            down = time.monotonic()
            fleet.wait(lambda: time.monotonic() > down + 6, "six seconds")
            assert not fleet.client.outcomes(run.run)
            up = time.monotonic()
            known = fleet.given_out()
            again = fleet.next_given_out(known)
            recovered("judge up again: new work given out", again.at - up)
            fleet.check_outcomes(fleet.outcomes(run.run, 120), tasks)
            fleet.check_ledger(run.run, len(tasks))
    for task in tasks:
        for each in fleet.metrics(task.id)["candidates"]:
            assert each["scores"] == {"identity": 6, "quality": 5, "consistency": 4}
