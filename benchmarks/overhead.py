"""What the queue costs: sleeping generators on simulated devices, beside rivals that do the same work in the same run.

`python -m benchmarks.overhead --devices 4 --tasks 50 --seconds 0.05 0.2`

Makespan over ideal (candidates x seconds / devices), CPU milliseconds per candidate over all processes, and of ours the
share of time that devices are busy while candidates wait for one: at the very end of a run, when the last tasks are
judged and refined, there is not enough work for all. Every rival has its processes up before its clock starts.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.table import markdown
from inpaint_eacps.supervisor import ChildSpec, Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.ledger import Keys
from tests.fleet import Fleet, make_tasks

PER_TASK = 8
#: Judgements that every system can have under way: more than 8 devices at 0.2 s and a judge of 0.5 s keep busy (20).
JUDGE_THREADS = 32


@dataclass(frozen=True)
class Figure:
    """One system at one generation time."""

    system: str
    seconds: float
    makespan: float
    ideal: float
    cpu_ms: float
    #: Share of device time spent generating while candidates wait, where it was looked at.
    busy: float | None = None

    @property
    def of_ideal(self) -> float:
        """Share of device time spent generating, from the submission to the last result."""
        return self.ideal / self.makespan


@dataclass(frozen=True)
class Load:
    """What every system has to do."""

    devices: int
    tasks: int
    seconds: float
    judge: float

    @property
    def ideal(self) -> float:
        """Seconds that no scheduler can beat."""
        return self.tasks * PER_TASK * self.seconds / self.devices


def cpu_seconds() -> float:
    """CPU time of all our descendants that live, and our own."""
    total = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def measured(system: str, load: Load, work: Callable[[], None]) -> Figure:
    """Time `work`."""
    cpu, began = cpu_seconds(), time.monotonic()
    work()
    makespan = time.monotonic() - began
    spent = cpu_seconds() - cpu
    return Figure(system, load.seconds, makespan, load.ideal, 1000 * spent / (load.tasks * PER_TASK))


def ours(load: Load, folder: Path) -> Figure:
    """Inpaint EACPS: the orchestrator, a score worker, and one worker per device."""
    tasks = make_tasks(folder / "in", load.tasks)
    dispatch = {"heartbeat_interval": 1.0, "heartbeat_ttl": 8.0, "reconcile_interval": 1.0, "lost_after": 10.0}
    with Fleet(
        folder, devices=load.devices, generate=load.seconds, judge=load.judge, score_threads=JUDGE_THREADS,
        dispatch=dispatch,
    ) as fleet:  # fmt: skip
        fleet.wait_until_ready(load.devices)
        with waiting_until(fleet) as last:
            figure = measured("inpaint-eacps", load, lambda: list_all(fleet, tasks))
        figure = replace(figure, busy=busy_share(load, [start.at for start in fleet.starts()], last[0]))
        outcomes = fleet.client.outcomes(fleet.client.runs()[-1])
    if len(outcomes) != load.tasks or any(outcome.total_candidates != PER_TASK for outcome in outcomes):
        raise RuntimeError(f"not all was done: {outcomes}")
    return figure


@contextmanager
def waiting_until(fleet: Fleet) -> Iterator[list[float]]:
    """Inside, a list whose one element is when candidates last waited for a device (time.monotonic)."""
    last, over = [time.monotonic()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            if fleet.client.ledger.redis.zcard(Keys.pending):
                last[0] = time.monotonic()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield last
    finally:
        over.set()
        thread.join()


def busy_share(load: Load, starts: Sequence[float], until: float) -> float:
    """Share of device time spent generating from the first start to `until`; each start works for `load.seconds`."""
    worked = sum(min(start + load.seconds, until) - start for start in starts if start < until)
    return worked / (load.devices * (until - min(starts)))


def list_all(fleet: Fleet, tasks: Sequence[Any]) -> None:
    """Submit and wait."""
    fleet.outcomes(fleet.submit(tuple(tasks)).run, timeout=3600)


def wait_for(there: Callable[[], bool], timeout: float = 120) -> None:
    """Wait until `there`. Raises TimeoutError."""
    deadline = time.monotonic() + timeout
    while not there():
        if time.monotonic() > deadline:
            raise TimeoutError("processes did not come up")
        time.sleep(0.05)


def chord(load: Load, folder: Path) -> Figure:
    """Plain Celery: a chord per task and phase, one shared GPU queue, a worker per device, a threaded score worker."""
    supervisor = Supervisor()
    valkey = EmbeddedValkey(folder / "valkey", supervisor)
    try:
        valkey.start()
        os.environ.update(
            NAIVE_BROKER=valkey.url,
            SIMULATED_GENERATE_SECONDS=str(load.seconds),
            SIMULATED_JUDGE_SECONDS=str(load.judge),
        )
        common = [sys.executable, "-m", "celery", "-A", "benchmarks.naive", "-q", "worker", "-l", "WARNING"]
        for number in range(load.devices):
            argv = [*common, "-P", "prefork", "-c", "1", "-Q", "gpu", "-n", f"gpu{number}@naive"]
            supervisor.start(ChildSpec(f"gpu{number}", argv, dict(os.environ), folder / f"gpu{number}.log"))
        argv = [*common, "-P", "threads", "-c", str(JUDGE_THREADS), "-Q", "score", "-n", "score@naive"]
        supervisor.start(ChildSpec("score", argv, dict(os.environ), folder / "score.log"))

        # Its app takes the broker when it is imported, and every load has a broker of its own.
        naive = importlib.reload(importlib.import_module("benchmarks.naive"))
        wait_for(lambda: len(naive.app.control.ping(timeout=1.0) or []) == load.devices + 1)
        client: redis.Redis = redis.Redis.from_url(valkey.url)

        def work() -> None:
            for task in range(load.tasks):
                naive.submit(task)
            wait_for(lambda: int(client.llen("naive-done")) == load.tasks, 3600)

        return measured("celery chord", load, work)
    finally:
        supervisor.stop()


def ray_actors(load: Load, folder: Path) -> Figure:
    """Ray: an actor per device, given candidates as it becomes free; judges as tasks. In a process of its own."""
    file = folder / "ray.json"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "benchmarks.ray_rival", json.dumps(asdict(load)), str(file)], check=True, timeout=3600
    )
    return Figure(**json.loads(file.read_text()))


SYSTEMS = {"ours": ours, "chord": chord, "ray": ray_actors}


def main() -> None:
    """Run the systems one after the other, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.05, 0.2])
    parser.add_argument("--judge", type=float, default=0.0)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["ours", "chord"])
    options = parser.parse_args()
    if "ray" in options.systems and importlib.util.find_spec("ray") is None:
        parser.error("ray is not installed: pip install -c constraints.txt '.[bench]', or leave it out of --systems")
    rows = []
    for seconds in options.seconds:
        load = Load(options.devices, options.tasks, seconds, options.judge)
        for system in options.systems:
            with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
                figure = SYSTEMS[system](load, Path(folder))
            rows.append(
                [
                    figure.system,
                    f"{seconds:g}",
                    f"{figure.ideal:.2f}",
                    f"{figure.makespan:.2f}",
                    f"{figure.of_ideal:.1%}",
                    "" if figure.busy is None else f"{figure.busy:.1%}",
                    f"{figure.cpu_ms:.1f}",
                ]
            )
            sys.stderr.write(f"{rows[-1]}\n")
    print(f"{options.tasks} tasks of 4+4 on {options.devices} simulated devices, judge {options.judge:g} s")
    print(markdown(["system", "s/candidate", "ideal s", "makespan s", "of ideal", "busy", "CPU ms/candidate"], rows))


if __name__ == "__main__":
    main()
