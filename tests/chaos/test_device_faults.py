"""Device workers that die, freeze and come back: every task finishes, every candidate is recorded once."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.settings.dispatch import DispatchSettings
from tests.fleet import Fleet, make_tasks

pytestmark = [pytest.mark.valkey, pytest.mark.timeout(300)]
Told = Callable[[str, float], None]

_AHEAD = """\
import time
_real = time.time
time.time = lambda: _real() + float({skew})
"""


@pytest.mark.parametrize("who", ["child", "parent", "both"])
def test_a_killed_device_worker_loses_nothing(tmp_path: Path, recovered: Told, who: str) -> None:
    tasks = make_tasks(tmp_path / "in", 3)
    with Fleet(tmp_path, generate=1.0) as fleet:
        fleet.wait_until_ready(2)
        run = fleet.submit(tasks)
        with fleet.caught("sim.0") as lost:
            chosen = {"child": [lost.pid], "parent": [fleet.pids["device.sim.0"]]}
            for pid in chosen.get(who, [each.pid for each in fleet.group("device.sim.0")]):
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
        again = fleet.restarted(lost)
        recovered(f"device worker's {who} killed: candidate begun again", again.at - killed)
        fleet.finish(run.run, tasks)
    (made,) = [each for each in fleet.metrics(lost.task)["candidates"] if each["id"] == lost.candidate]
    assert made["attempts"] == 2
    assert [failure["kind"] for failure in made["earlier"]] == ["lost"]


def test_candidates_of_a_killed_device_run_elsewhere_within_15_seconds_with_default_settings(
    tmp_path: Path, recovered: Told
) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    defaults = DispatchSettings().model_dump()
    with Fleet(tmp_path, generate=1.0, dispatch=defaults) as fleet:
        fleet.join_device("far.0")
        fleet.wait_until_ready(3)
        run = fleet.submit(tasks)
        with fleet.caught("far.0") as lost:
            # The host is gone: nothing of it comes back.
            for process in fleet.group("device.far.0"):
                process.kill()
            killed = time.monotonic()
        again = fleet.restarted(lost)
        recovered("device's host gone, default settings: candidate runs elsewhere", again.at - killed)
        assert again.at - killed < 15
        fleet.finish(run.run, tasks)


def test_a_frozen_worker_that_comes_back_overwrites_nothing(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 2)
    with Fleet(tmp_path, generate=2.0) as fleet:
        fleet.wait_until_ready(2)
        run = fleet.submit(tasks)
        with fleet.caught("sim.0") as lost:
            stopped = time.monotonic()
            again = fleet.restarted(lost)
            recovered("device worker frozen: candidate begun again", again.at - stopped)
        fleet.finish(run.run, tasks)
        (made,) = [each for each in fleet.metrics(lost.task)["candidates"] if each["id"] == lost.candidate]
        assert made["attempts"] == 2
        assert made["image"]["name"].endswith("-2.png")
        # It is the same process that works again.
        assert fleet.child_pid("sim.0") == lost.pid
        log = fleet.folder / "cluster" / "logs" / "device.sim.0.log"

        def given_up() -> bool:
            return any(action in log.read_text() for action in ("candidate_dropped", "candidate_cancelled"))

        fleet.wait(given_up, "the zombie gives up", 30)


def test_devices_whose_clocks_differ_by_a_minute_work_together(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 3)
    with Fleet(tmp_path, devices=1, generate=0.5) as fleet:
        for name, skew in (("ahead.0", 60), ("behind.0", -60)):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(_AHEAD.format(skew=skew))
            path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
            fleet.join_device(name, env={"PYTHONPATH": path})
        fleet.wait_until_ready(3)
        run = fleet.submit(tasks)
        with fleet.caught("ahead.0") as lost:
            os.kill(fleet.pids["device.ahead.0"], signal.SIGKILL)
            killed = time.monotonic()
        again = fleet.restarted(lost)
        recovered("device killed whose clock is a minute ahead: candidate begun again", again.at - killed)
        fleet.finish(run.run, tasks)
    devices = {each["device"] for task in tasks for each in fleet.metrics(task.id)["candidates"]}
    assert "behind.0" in devices
    for task in tasks:
        for each in fleet.metrics(task.id)["candidates"]:
            times = [each["times"][name] for name in ("asked", "dispatched", "generated", "scored")]
            assert times == sorted(times), "all times are by the broker's clock"


def test_a_candidate_that_kills_every_worker_fails_and_nothing_else_does(tmp_path: Path, recovered: Told) -> None:
    tasks = make_tasks(tmp_path / "in", 4)
    # So short that another candidate is often still being written when the process dies.
    with Fleet(tmp_path, generate=0.02, env={"SIMULATED_POISON": "g01"}) as fleet:
        fleet.wait_until_ready(2)
        began = time.monotonic()
        outcomes = fleet.outcomes(fleet.submit(tasks).run, 180)
        recovered("four tasks, each with a candidate that kills three workers: all over", time.monotonic() - began)
    fleet.check_outcomes(outcomes, tasks)
    for task in tasks:
        candidates = {each["id"]: each for each in fleet.metrics(task.id)["candidates"]}
        assert len(candidates) == 8
        assert candidates["g01"]["state"] == "failed"
        assert candidates["g01"]["scores"] == {}
        assert {each["state"] for name, each in candidates.items() if name != "g01"} == {"scored"}
    assert len([start for start in fleet.starts() if start.candidate == "g01"]) == 4 * 3
