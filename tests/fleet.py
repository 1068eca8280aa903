"""Small tasks, and an embedded cluster with a generator that sleeps, for tests of the queue."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inpaint_eacps.child import ChildPlan
from inpaint_eacps.embedded import EmbeddedCluster
from orchestrator.client import Client, Submitted
from shared.artifacts import ArtifactStore
from shared.images import decode, encode_png
from shared.outcome import TaskOutcome
from shared.queues import device_name
from shared.settings import Settings
from shared.types import CRITERIA, Task

GENERATOR = "benchmarks.simulated:SleepingGenerator"
SCORER = "benchmarks.simulated:SleepingScorer"


def make_tasks(folder: Path, count: int, size: int = 64) -> tuple[Task, ...]:
    """Tasks whose images lie in `folder`: noise with a square mask."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(7)
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : size // 2, size // 4 : size // 2] = 255
    (folder / "mask.png").write_bytes(encode_png(mask))
    tasks = []
    for number in range(count):
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


class Fleet:
    """An embedded cluster of `devices` simulated devices, and a client to it. A context manager."""

    def __init__(
        self,
        folder: Path,
        devices: int = 2,
        generate: float = 0.1,
        judge: float = 0.0,
        env: Mapping[str, str] | None = None,
        **sections: dict[str, Any],
    ) -> None:
        self.folder = folder
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
        self.cluster = EmbeddedCluster(self.settings, folder / "cluster", plans, env=variables)
        self.store = ArtifactStore(self.settings.publish.output_dir)

    def __enter__(self) -> "Fleet":
        self.cluster.__enter__()
        self.client = Client(self.cluster.url, self.settings)
        return self

    def __exit__(self, *what: Any) -> None:
        self.cluster.__exit__(*what)

    def submit(self, tasks: tuple[Task, ...], **more: Any) -> Submitted:
        """Submit with the simulated generator and judge."""
        return self.client.submit(
            tasks, self.settings, generator=GENERATOR, judges={SCORER: frozenset(CRITERIA)}, **more
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

    def wait_until_busy(self, device: str, timeout: float = 20) -> None:
        """Wait until a device has a candidate in hand."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            beat = self.client.devices().get(device)
            if beat is not None and beat.current is not None:
                return
            time.sleep(0.05)
        raise TimeoutError(f"{device} was not busy within {timeout} s")

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
        """Every task has all its candidates exactly once, with whole images and real scores."""
        for task in tasks:
            metrics = self.metrics(task.id)
            assert metrics["state"] == "done", metrics
            ids = [each["id"] for each in metrics["candidates"]]
            assert len(ids) == len(set(ids)) == candidates, ids
            init = decode(self.store.read(f"task_{task.id}/init.png")).pixels
            mask = decode(self.store.read(f"task_{task.id}/mask.png")).pixels
            for each in metrics["candidates"]:
                assert each["image"] is not None, each
                image = decode(self.store.read(each["image"]["name"])).pixels
                assert (image[mask == 0] == init[mask == 0]).all()
                assert each["potential"] is not None or each["missing"], each
            best = max(each["potential"] for each in metrics["candidates"] if each["potential"] is not None)
            assert metrics["best_potential"] == best
