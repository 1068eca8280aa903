"""Whose turn it is: real queues, devices that sleep."""

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from shared.heartbeat import DeviceState
from shared.ledger import Keys
from shared.settings.dispatch import DispatchSettings
from shared.types import Task
from tests.fleet import Fleet, Start, make_tasks

pytestmark = pytest.mark.valkey


def begun(starts: Iterable[Start], tasks: tuple[Task, ...]) -> dict[str, float]:
    """When each of these tasks had its first start."""
    found: dict[str, float] = {}
    for start in starts:
        if start.task in {task.id for task in tasks}:
            found.setdefault(start.task, start.at)
    return found


def ended(starts: Iterable[Start], tasks: tuple[Task, ...]) -> float:
    """When the last start of these tasks was."""
    return max(start.at for start in starts if start.task in {task.id for task in tasks})


def test_a_device_that_joins_has_work_within_two_seconds_and_a_slow_one_takes_less(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 5)
    with Fleet(tmp_path, devices=1, generate=0.25, dispatch=DispatchSettings().model_dump()) as fleet:
        fleet.wait_until_ready(1)
        run = fleet.submit(tasks)
        fleet.wait_until_busy("sim.0")
        fleet.join_device("late.0", env={"SIMULATED_GENERATE_SECONDS": "1.0"})

        def ready() -> bool:
            beat = fleet.client.devices().get("late.0")
            return beat is not None and beat.state is DeviceState.READY

        fleet.wait(ready, "the newcomer is ready")
        since = time.monotonic()
        fleet.wait(lambda: bool(fleet.starts_of("late.0")), "the newcomer at work")
        first = fleet.starts_of("late.0")[0]
        assert first.at - since < 2
        fleet.finish(run.run, tasks)
        starts = [start for start in fleet.starts() if start.at >= first.at]
    slow = sum(start.pid == first.pid for start in starts)
    # Four times slower: a fifth of the work. A static split would give it half.
    assert slow <= 0.35 * len(starts)


def test_tasks_in_flight_are_bounded_and_refinements_go_before_new_tasks(tmp_path: Path) -> None:
    tasks, bound = make_tasks(tmp_path / "in", 8), 3
    with Fleet(tmp_path, devices=1, generate=0.1, dispatch={"max_tasks_in_flight": bound}) as fleet:
        fleet.wait_until_ready(1)
        run = fleet.submit(tasks)
        most = 0
        while not fleet.client.progress(run.run).over:
            most = max(most, int(fleet.client.ledger.redis.scard(Keys.in_flight)))
            time.sleep(0.02)
        fleet.finish(run.run, tasks)
        starts = fleet.starts()
    assert most == bound
    for task in tasks:
        places = {start.candidate: place for place, start in enumerate(starts) if start.task == task.id}
        last_global = max(place for name, place in places.items() if name.startswith("g"))
        first_local = min(place for name, place in places.items() if name.startswith("l"))
        # What is at the device already, and what it begins while the last global is judged, goes first.
        assert first_local - last_global <= 4


def test_a_run_of_higher_priority_goes_first(tmp_path: Path) -> None:
    patient, urgent = make_tasks(tmp_path / "in", 8), make_tasks(tmp_path / "in", 3, first=100)
    with Fleet(tmp_path, generate=0.1, dispatch={"max_tasks_in_flight": 2}) as fleet:
        fleet.wait_until_ready(2)
        first = fleet.submit(patient)
        fleet.wait_until_busy("sim.0")
        submitted = time.monotonic()
        second = fleet.submit(urgent, priority=5)
        fleet.outcomes(second.run)
        fleet.outcomes(first.run)
        starts = fleet.starts()
    over = ended(starts, urgent)
    # One place becomes free for a patient task while the last urgent one is under way.
    assert sum(submitted < at < over for at in begun(starts, patient).values()) <= 2
    assert ended(starts, patient) > over


def test_runs_of_equal_priority_take_turns(tmp_path: Path) -> None:
    first, second = make_tasks(tmp_path / "in", 10), make_tasks(tmp_path / "in", 10, first=100)
    with Fleet(tmp_path, generate=0.05, dispatch={"max_tasks_in_flight": 4}) as fleet:
        fleet.wait_until_ready(2)
        early = fleet.submit(first)
        late = fleet.submit(second)
        fleet.outcomes(early.run)
        fleet.outcomes(late.run)
        starts = fleet.starts()
    order = sorted(begun(starts, first + second).items(), key=lambda item: item[1])
    shares = [sum(task >= "t00100" for task, _ in order[:taken]) / taken for taken in (12, 16)]
    # Four of the first run were taken up before the second came; from then on they alternate.
    assert all(0.25 <= share <= 0.6 for share in shares), order
