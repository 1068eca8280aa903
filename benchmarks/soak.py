"""Breaks a cluster at random, every few seconds, while runs go through it; then checks that nothing is missing.

`python -m benchmarks.soak --seconds 600 --seed 7`

Every task must finish, every candidate be recorded once with a whole image and its judge's own scores, and no queue
hold anything at the end. The same seed draws the same faults (when they strike depends on the machine).
"""

import argparse
import contextlib
import logging
import os
import random
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from shared.outcome import TaskState
from shared.types import Task
from tests.chaos.disk import SmallDisk, small_disk
from tests.chaos.proxy import Proxy
from tests.fleet import Fleet, make_tasks

logger = logging.getLogger(__name__)

_PAUSE = (1.0, 5.0)
_PER_RUN, _OPEN_RUNS = 3, 2


@dataclass
class Soak:
    """A cluster, what is being done with it, and what is done to it."""

    fleet: Fleet
    proxy: Proxy
    disk: SmallDisk | None
    draw: random.Random
    #: Runs that are not known to be over, with their tasks.
    open: dict[str, tuple[Task, ...]] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    faults: dict[str, int] = field(default_factory=dict)

    def go_on(self, seconds: float) -> None:
        """Break things for so long."""
        faults = self._faults()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tend()
            time.sleep(self.draw.uniform(*_PAUSE))
            name = self.draw.choice(sorted(faults))
            logger.info("fault: %s", name, extra={"action": "fault", "fault": name})
            faults[name]()
            self.faults[name] = self.faults.get(name, 0) + 1

    def settle(self, timeout: float) -> float:
        """No more faults: everything must come to its end. Returns how long that took."""
        began = time.monotonic()
        for run in list(self.open):
            self._ended(run, max(1.0, timeout - (time.monotonic() - began)))
        took = time.monotonic() - began
        self.fleet.check(self.tasks)
        self.fleet.check_queues()
        return took

    def _tend(self) -> None:
        """New work where there is little, and processes again that nobody else starts."""
        for run in list(self.open):
            if self.fleet.client.progress(run).over:
                self._ended(run, 10)
        while len(self.open) < _OPEN_RUNS:
            new = make_tasks(self.fleet.folder / "in", _PER_RUN, first=len(self.tasks))
            self.open[self.fleet.submit(new).run] = new
            self.tasks += new
        pids = self.fleet.pids
        if "device.far.0" not in pids:
            self.fleet.join_device("far.0", url=self.proxy.url)
        if "second" not in pids:
            self.fleet.join_orchestrator("second")

    def _ended(self, run: str, timeout: float) -> None:
        tasks = self.open[run]
        outcomes = self.fleet.outcomes(run, timeout)
        wrong = [one for one in outcomes if one.state not in (TaskState.DONE, TaskState.UNCHANGED)]
        if wrong or sorted(one.task_id for one in outcomes) != sorted(task.id for task in tasks):
            raise AssertionError(f"run {run} did not end well: {outcomes}")
        del self.open[run]

    def _faults(self) -> Mapping[str, Callable[[], None]]:
        kills = {
            f"kill {name}": partial(self._kill, name)
            for name in ("device.sim.0", "device.sim.1", "device.far.0", "orchestrator", "second", "score", "valkey")
        }
        freezes = {
            f"freeze {name}": partial(self._freeze, name)
            for name in ("device.sim.0", "device.far.0", "orchestrator", "score")
        }
        others = {"kill child": self._kill_child, "cut the network": self._cut, "wipe the broker": self._wipe}
        return {**kills, **freezes, **others, **({"fill the disk": self._fill} if self.disk else {})}

    def _kill(self, name: str) -> None:
        pid = self.fleet.pids.get(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _kill_child(self) -> None:
        for name in ("device.sim.0", "device.sim.1"):
            with contextlib.suppress(psutil.NoSuchProcess, KeyError):
                for child in self.fleet.group(name)[1:]:
                    child.kill()

    def _freeze(self, name: str) -> None:
        with contextlib.suppress(psutil.NoSuchProcess, KeyError), self.fleet.frozen(name):
            time.sleep(self.draw.uniform(0.5, 4.0))

    def _cut(self) -> None:
        self.proxy.cut()
        time.sleep(self.draw.uniform(0.5, 6.0))
        self.proxy.mend()

    def _wipe(self) -> None:
        self.fleet.client.ledger.redis.flushall()
        time.sleep(self.draw.uniform(0.0, 1.0))
        for run in self.open:
            self.fleet.resume(run)

    def _fill(self) -> None:
        if self.disk is not None:
            self.disk.fill()
            time.sleep(self.draw.uniform(0.5, 4.0))
            self.disk.free()


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[SmallDisk | None]:
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(folder, megabytes=1024))
        except OSError as error:
            logger.warning("no disk will be full: %s", error, extra={"action": "soak_without_disk"})
            disk = None
        yield disk


def soak(folder: Path, seconds: float, seed: int, timeout: float = 300) -> Soak:
    """Break things for `seconds`, then check. Raises AssertionError or TimeoutError when anything is missing."""
    logger.info("seed %d", seed, extra={"action": "soak", "seed": seed})
    with _disk(folder / "out") as disk, Fleet(
        folder, devices=2, generate=0.3, judge=0.2,
        # A candidate may well be in the hands of many workers that are killed; and they are killed for other reasons.
        dispatch={"max_attempts": 100},
    ) as fleet, Proxy(fleet.cluster.url) as proxy:  # fmt: skip
        fleet.wait_until_ready(2)
        state = Soak(fleet, proxy, disk, random.Random(seed))
        state.go_on(seconds)
        took = state.settle(timeout)
        logger.info(
            "%d tasks whole after %s; the last %.1f s without faults",
            len(state.tasks),
            ", ".join(f"{number} x {name}" for name, number in sorted(state.faults.items())),
            took,
            extra={"action": "soak_over"},
        )
        return state


def main() -> None:
    """Soak for as long as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        soak(Path(folder), options.seconds, options.seed)


if __name__ == "__main__":
    main()
