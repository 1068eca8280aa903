"""Small tasks, and an embedded cluster with a generator that sleeps, for tests of the queue."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.simulated import drawn_scores
from inpaint_eacps.child import BROKER_VARIABLE, ChildPlan
from inpaint_eacps.embedded import EmbeddedCluster
from orchestrator.client import Client, Submitted, read_manifest
from orchestrator.records import Pending
from shared.artifacts import ArtifactStore
from shared.heartbeat import DeviceState, live_helpers
from shared.images import decode, encode_png, pixel_hash, to_rgb
from shared.ledger import Keys
from shared.lifeline import die_with_parent
from shared.messages import stable_hash
from shared.outcome import TaskOutcome, TaskState
from shared.queues import device_name
from shared.settings import Settings
from shared.types import CRITERIA, Task

GENERATOR = "benchmarks.simulated:SleepingGenerator"
SCORER = "benchmarks.simulated:SleepingScorer"
INPUTS = ("init", "mask", "character")
#: A process in one of these states runs nothing more.
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def make_tasks(folder: Path, count: int, size: int = 64, first: int = 0) -> tuple[Task, ...]:
    """Tasks whose images lie in `folder`: noise with a square mask. Ids count from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7 + first)
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 255
    if not (folder / "mask.png").exists():
        # Earlier tasks may be reading it.
        (folder / "mask.png").write_bytes(encode_png(mask))
    tasks = []
    for number in range(first, first + count):
        for role in ("init", "character"):
            pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
            (folder / f"{role}{number}.png").write_bytes(encode_png(pixels))
        tasks.append(
            Task(
                id=f"t{number:05d}",
                character_name="Mira",
                init=str(folder / f"init{number}.png"),
                mask=str(folder / "mask.png"),
                character=str(folder / f"character{number}.png"),
            )
        )
    return tuple(tasks)


@dataclass(frozen=True)
class Start:
    """One start of a generation, as `SleepingGenerator` left it in the trace."""

    task: str
    candidate: str
    pid: int
    #: time.monotonic(), the same in all processes of a machine.
    at: float


class Fleet:
    """An embedded cluster of `devices` simulated devices, and a client to it. A context manager."""

    generator = GENERATOR

    def __init__(
        self,
        folder: Path,
        devices: int = 2,
        generate: float = 0.1,
        judge: float = 0.0,
        env: Mapping[str, str] | None = None,
        score_threads: int = 16,
        **sections: dict[str, Any],
    ) -> None:
        self.folder, self._generate_seconds = folder, generate
        self.trace = folder / "trace"
        self.trace.mkdir(parents=True, exist_ok=True)
        dispatch = {
            "heartbeat_interval": 0.3,
            "heartbeat_ttl": 2.0,
            "reconcile_interval": 0.3,
            "lost_after": 2.0,
            "events": False,
            **sections.pop("dispatch", {}),
        }
        self.settings = Settings.model_validate(
            {
                "publish": {"output_dir": str(folder / "out"), "report": False, **sections.pop("publish", {})},
                "dispatch": dispatch,
                "scoring": {"gates": False, **sections.pop("scoring", {})},
                "input": {"cache_dir": str(folder / "cache")},
                **sections,
            }
        )
        plans = [
            ChildPlan(role="device", settings=self.settings, device=device_name("sim", number), generators=(GENERATOR,))
            for number in range(devices)
        ]
        variables = {
            **os.environ,
            "SIMULATED_GENERATE_SECONDS": str(generate),
            "SIMULATED_JUDGE_SECONDS": str(judge),
            "SIMULATED_TRACE": str(self.trace),
            **(env or {}),
        }
        self._variables = variables
        self._guests: dict[str, subprocess.Popen[bytes]] = {}
        self.cluster = EmbeddedCluster(self.settings, folder / "cluster", plans, score_threads, env=variables)
        self.store = ArtifactStore(self.settings.publish.output_dir)

    def __enter__(self) -> "Fleet":
        self.cluster.__enter__()
        self.client = Client(self.cluster.url, self.settings)
        return self

    def __exit__(self, *what: Any) -> None:
        for guest in self._guests.values():
            # Its own child dies with it.
            guest.kill()
            guest.wait()
        self.cluster.__exit__(*what)

    def join(self, name: str, plan: ChildPlan, url: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start one more process beside the cluster, with another broker URL or environment if need be.

        Nobody starts it again when it dies.
        """
        file = self.folder / "cluster" / "plans" / f"{name}.json"
        file.write_text(json.dumps(plan.model_dump(mode="json", exclude={"settings": {"broker"}})), encoding="utf-8")
        variables = {**self._variables, **(env or {}), BROKER_VARIABLE: url or self.cluster.url}
        argv = [sys.executable, "-m", "inpaint_eacps.child", str(file)]
        with (self.folder / "cluster" / "logs" / f"{name}.log").open("ab") as log:
            self._guests[name] = subprocess.Popen(
                argv, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 (one prctl call, and no lock is taken)
            )  # fmt: skip

    def join_device(self, device: str, url: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """Start one more device worker."""
        plan = ChildPlan(role="device", settings=self.settings, device=device, generators=(GENERATOR,))
        self.join(f"device.{device}", plan, url, env)

    def join_orchestrator(self, name: str) -> None:
        """Start one more orchestrator."""
        self.join(name, ChildPlan(role="orchestrator", settings=self.settings))

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of all living children, by name."""
        guests = {name: guest.pid for name, guest in self._guests.items() if guest.poll() is None}
        return {**self.cluster.pids, **guests}

    def group(self, name: str) -> list[psutil.Process]:
        """A child process and all of its own children."""
        process = psutil.Process(self.pids[name])
        return [process, *process.children(recursive=True)]

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Inside, a child process and all of its own children are stopped; at the end those that still live go on."""
        group = self.group(name)
        try:
            for process in group:
                process.suspend()
            while any(process.status() not in _STOPPED for process in group):
                time.sleep(0.001)
            yield
        finally:
            for process in group:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def wait(self, there: Callable[[], bool], what: str, timeout: float = 60) -> float:
        """Wait until `there`; returns the seconds that it took. Raises TimeoutError."""
        began = time.monotonic()
        while not there():
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{what}: not within {timeout} s")
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_until_ready(self, devices: int, helpers: int = 2) -> None:
        """Wait until so many devices are ready and so many orchestrators and score workers beat."""

        def there() -> bool:
            beats = [beat for beat in self.client.devices().values() if beat is not None]
            ready = sum(beat.state is DeviceState.READY for beat in beats)
            return ready >= devices and sum(map(bool, live_helpers(self.client.ledger).values())) >= helpers

        self.wait(there, f"{devices} devices and {helpers} others ready", 120)

    def starts(self) -> list[Start]:
        """Every start of a generation so far, in order of time."""
        found = []
        for file in self.trace.iterdir():
            name, pid, at = file.name.rsplit(".", 2)
            task, candidate = name.split(".", 1)
            found.append(Start(task, candidate, int(pid), int(at) / 1e9))
        return sorted(found, key=lambda start: start.at)

    def starts_of(self, device: str) -> list[Start]:
        """Starts by the processes that a device has now."""
        pids = {process.pid for process in self.group(f"device.{device}")}
        return [start for start in self.starts() if start.pid in pids]

    @contextmanager
    def caught(self, device: str, timeout: float = 60) -> Iterator[Start]:
        """Stop a device in the midst of a candidate, of which this is the start; on leaving, what still lives goes on.

        A heartbeat is too old to tell: what it names may be done before anybody is killed.
        """

        def midst() -> bool:
            last = self.starts_of(device)[-1:]
            return bool(last) and time.monotonic() - last[0].at < self._generate_seconds

        deadline = time.monotonic() + timeout
        while True:
            self.wait(midst, f"{device} at a candidate", deadline - time.monotonic())
            with self.frozen(f"device.{device}"):
                if midst():
                    yield self.starts_of(device)[-1]
                    return

    def given_out(self) -> set[tuple[str, str]]:
        """Task and candidate of all that devices hold by now."""
        members = [member for name in self.client.devices() for member in self.client.ledger.hgetall(Keys.load(name))]
        return {(pending.task, pending.candidate) for pending in map(Pending.parse, members)}

    def next_given_out(self, known: set[tuple[str, str]], timeout: float = 60) -> Start:
        """Wait until something is begun that was not among `known`: the orchestrator works (again)."""
        known = known | {(start.task, start.candidate) for start in self.starts()}

        def new() -> list[Start]:
            return [start for start in self.starts() if (start.task, start.candidate) not in known]

        self.wait(lambda: bool(new()), "new work given out", timeout)
        return new()[0]

    def finish(self, run: str, tasks: tuple[Task, ...], timeout: float = 240) -> None:
        """Wait until a run is over, and check all that can be checked of it."""
        self.check_outcomes(self.outcomes(run, timeout), tasks)
        self.check(tasks)
        self.check_ledger(run, len(tasks))

    def restarted(self, lost: Start, timeout: float = 60) -> Start:
        """Wait until a candidate is begun again, and return that start."""

        def again() -> list[Start]:
            same = (lost.task, lost.candidate)
            return [one for one in self.starts() if (one.task, one.candidate) == same and one.at > lost.at]

        self.wait(lambda: bool(again()), f"{lost} begun again", timeout)
        return again()[0]

    def submit(self, tasks: tuple[Task, ...], **more: Any) -> Submitted:
        """Submit with the simulated generator and judge."""
        return self.client.submit(
            tasks, self.settings, generator=GENERATOR, judges={SCORER: frozenset(CRITERIA)}, **more
        )

    def resume(self, run: str) -> Submitted:
        """Submit a run again under its own id, from its manifest on disk, as `inpaint-eacps resume` does."""
        manifest = read_manifest(self.store, run)
        return self.client.submit(
            manifest.tasks, self.settings, generator=manifest.run.generator, judges=manifest.run.available, run_id=run
        )

    def outcomes(self, run: str, timeout: float = 60) -> list[TaskOutcome]:
        """Wait for a run, and return how its tasks ended. Raises TimeoutError with what the run looks like."""
        deadline = time.monotonic() + timeout
        found = []

        def patience(progress: object) -> None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout} s: {progress}")

        for outcome in self.client.follow(run, 0.1, patience):
            found.append(outcome)
        return found

    def wait_until_busy(self, device: str, timeout: float = 60) -> None:
        """Wait until a device has a candidate in hand."""

        def busy() -> bool:
            beat = self.client.devices().get(device)
            return beat is not None and beat.current is not None

        self.wait(busy, f"{device} busy", timeout)

    def child_pid(self, device: str) -> int:
        """Process id of the process that generates for a device (the worker's own child)."""
        beat = self.client.devices()[device]
        assert beat is not None
        return beat.pid

    def metrics(self, task: str) -> dict[str, Any]:
        """A task's metrics.json."""
        found: dict[str, Any] = json.loads(self.store.read(f"task_{task}/metrics.json"))
        return found

    def check(self, tasks: tuple[Task, ...], candidates: int = 8) -> None:
        """Every task has all its candidates exactly once, with whole images and the scores that its judge gave them."""
        for task in tasks:
            metrics = self.metrics(task.id)
            assert metrics["state"] == "done", metrics
            ids = [each["id"] for each in metrics["candidates"]]
            assert len(ids) == len(set(ids)) == candidates, ids
            init = decode(self.store.read(f"task_{task.id}/init.png")).pixels
            mask = decode(self.store.read(f"task_{task.id}/mask.png")).pixels
            inputs = stable_hash([metrics["inputs"][role]["artifact"]["sha256"] for role in INPUTS])
            for each in metrics["candidates"]:
                assert each["image"] is not None, each
                data = self.store.read(each["image"]["name"])
                pixels = to_rgb(decode(data).pixels)
                assert hashlib.sha256(data).hexdigest() == each["image"]["sha256"], each
                assert (pixels[mask == 0] == init[mask == 0]).all()
                said = drawn_scores(stable_hash([inputs, task.character_name, pixel_hash(pixels)]))
                assert each["scores"] == said, each
                assert not each["missing"], each
                assert not each["defaulted"], each
            best = max(metrics["candidates"], key=lambda each: float(each["potential"]))
            assert metrics["best_id"] == best["id"]
            assert metrics["best_potential"] == best["potential"]
            assert self.store.read(f"task_{task.id}/result.png") == self.store.read(best["image"]["name"])

    def check_ledger(self, run: str, tasks: int, phases: tuple[str, ...] = ("global", "local"), each: int = 4) -> None:
        """The ledger counts every candidate once, and nothing is left over in any queue. Call it while all is up."""
        progress = self.client.progress(run)
        assert progress.tasks == {"done": tasks}
        assert progress.candidates == {phase: {"scored": each * tasks} for phase in phases}
        self.check_queues()

    def check_queues(self) -> None:
        """Nothing is left over in any queue once all is done."""

        def left() -> dict[str, Any]:
            ledger = self.client.ledger
            names = [device_name("sim", number) for number in range(8)] + sorted(self.client.devices())
            keys = {"jobs": Keys.jobs, "claims": Keys.claims, **{name: Keys.load(name) for name in names}}
            found: dict[str, Any] = {name: ledger.hgetall(key) for name, key in keys.items()}
            found["pending"] = ledger.redis.zrange(Keys.pending, 0, -1)
            found["in flight"] = ledger.redis.smembers(Keys.in_flight)
            found["inbox"] = ledger.redis.lrange(Keys.inbox, 0, -1)
            return {name: value for name, value in found.items() if value}

        # A process that was taken for dead may still be saying what nobody wants to hear.
        self.wait(lambda: not left(), f"queues empty (left: {left()})", 30)

    def check_outcomes(self, outcomes: list[TaskOutcome], tasks: tuple[Task, ...]) -> None:
        """Every task ended once, and well."""
        assert sorted(outcome.task_id for outcome in outcomes) == sorted(task.id for task in tasks)
        assert {outcome.state for outcome in outcomes} == {TaskState.DONE}, outcomes
