"""Seconds from `kill -9` of a device worker until its candidate runs elsewhere, beside plain Celery.

`python -m benchmarks.recovery --kills 20`

Ours runs with its default settings, once with a host that starts the worker again, and once with a host that is gone.
Celery loses five workers at once in each round. Its visibility timeout is 15 s here; by default it is 3600 s, which
comes on top. A candidate that does not run again within `--patience` seconds counts as lost.
"""

import argparse
import importlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from celery import Celery

from benchmarks.recovery_celery import BROKER, LATE, OPTIONS, TRACE, VISIBILITY_SECONDS
from benchmarks.table import markdown
from inpaint_eacps.supervisor import Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.settings.dispatch import DispatchSettings
from tests.fleet import Fleet, make_tasks

logger = logging.getLogger(__name__)

_AT_ONCE = 5


def ours_restarted(kills: int, folder: Path) -> list[float]:
    """A device worker and its child are killed, and started again by their supervisor."""
    return _ours(kills, folder, guest=False)


def ours_gone(kills: int, folder: Path) -> list[float]:
    """A device worker and its child are killed, and nothing of that host comes back."""
    return _ours(kills, folder, guest=True)


def _ours(kills: int, folder: Path, *, guest: bool) -> list[float]:
    tasks = make_tasks(folder / "in", 64)
    found = []
    # A worker that dies six times in quick succession is given up: nobody is killed so often.
    devices = 3 if guest else max(3, kills // 4)
    with Fleet(folder, devices=devices, generate=3.0, dispatch=DispatchSettings().model_dump()) as fleet:
        fleet.wait_until_ready(devices)
        run = fleet.submit(tasks)
        for number in range(kills):
            victim = f"victim.{number}" if guest else f"sim.{number % devices}"
            if guest:
                fleet.join_device(victim)
            with fleet.caught(victim) as lost:
                killed = time.monotonic()
                for process in fleet.group(f"device.{victim}"):
                    process.kill()
            found.append(fleet.restarted(lost, 120).at - killed)
            logger.info("%s: %.2f s", victim, found[-1], extra={"action": "recovered"})
            if not guest:
                fleet.wait_until_ready(devices)
        fleet.client.cancel(run.run)
    return found


def _celery(kills: int, folder: Path, patience: float, *, late: bool, tuned: bool) -> list[float | None]:
    supervisor, found = Supervisor(), list[float | None]()
    valkey, trace = EmbeddedValkey(folder / "valkey", supervisor), folder / "trace"
    trace.mkdir(parents=True)
    try:
        valkey.start()
        os.environ.update({BROKER: valkey.url, TRACE: str(trace), LATE: "yes" if late else "no"})
        os.environ[OPTIONS] = "tuned" if tuned else ""
        # Its app takes the broker when it is imported, and every rival has a broker of its own.
        app = importlib.reload(importlib.import_module("benchmarks.recovery_celery")).app
        for first in range(0, kills, _AT_ONCE):
            found += _celery_round(app, folder, range(first, min(first + _AT_ONCE, kills)), patience)
    finally:
        supervisor.stop(1.0)
    return found


def _celery_round(app: Celery, folder: Path, numbers: Sequence[int], patience: float) -> list[float | None]:
    """Every number is a victim with one task in hand; all are killed at once, and one survivor has room for all."""

    def begun(number: int) -> list[float]:
        return sorted(int(file.name.rsplit(".", 1)[1]) / 1e9 for file in (folder / "trace").glob(f"{number}.*"))

    def running(number: int) -> bool:
        return len(begun(number)) == 1

    def wait(there: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not there() and time.monotonic() < deadline:
            time.sleep(0.02)
        return there()

    common = [sys.executable, "-m", "celery", "-A", "benchmarks.recovery_celery", "-q", "worker", "-l", "WARNING"]
    workers: list[subprocess.Popen[bytes]] = []

    def start(name: str, *pool: str) -> None:
        with (folder / f"{name}.log").open("ab") as log:
            argv = [*common, "-n", f"{name}@here", *pool]
            workers.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    try:
        for number in numbers:
            start(f"victim{number}", "-P", "solo")
            app.send_task("recovery.generate", args=[number])
            if not wait(partial(running, number), 60):
                raise TimeoutError(f"victim {number} did not begin")
        victims = list(workers)
        start(f"survivor{numbers[0]}", "-P", "threads", "-c", "16")
        if not wait(lambda: bool(app.control.ping(timeout=1.0)), 60):
            raise TimeoutError("the survivor did not come up")
        killed = time.monotonic()
        for victim in victims:
            victim.kill()
        wait(lambda: all(len(begun(number)) >= 2 for number in numbers), patience)
        return [begun(number)[1] - killed if len(begun(number)) >= 2 else None for number in numbers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def row(name: str, seconds: Sequence[float | None]) -> list[str]:
    """A line of the table."""
    back = sorted(each for each in seconds if each is not None)
    lost = len(seconds) - len(back)
    median = f"{statistics.median(back):.1f}" if back else "never"
    worst = f"{back[-1]:.1f}" if back and not lost else "never"
    return [name, str(len(seconds)), median, worst, str(lost)]


def _rivals(kills: int, patience: float, base: Path) -> list[list[str]]:
    kept = f"visibility_timeout {VISIBILITY_SECONDS} s"
    lost = _celery(min(kills, _AT_ONCE), base / "c", min(60.0, patience), late=False, tuned=False)
    late = _celery(kills, base / "d", patience, late=True, tuned=False)
    tuned = _celery(kills, base / "e", patience, late=True, tuned=True)
    return [
        row(f"celery, defaults (acks early), {kept}", lost),
        row(f"celery, acks_late, {kept}", late),
        row(f"celery, acks_late, {kept}, unacked_restore_interval 2 s, throttle 1", tuned),
    ]


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--celery-kills", type=int, default=10, help="of each rival; 0 leaves them out")
    parser.add_argument("--patience", type=float, default=180.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rows = []
    with tempfile.TemporaryDirectory(prefix="recovery-") as name:
        base = Path(name)
        rows.append(row("inpaint-eacps, worker started again", ours_restarted(options.kills, base / "a")))
        rows.append(row("inpaint-eacps, host gone", ours_gone(options.kills, base / "b")))
        rows += _rivals(options.celery_kills, options.patience, base) if options.celery_kills else []
    print(markdown(["system", "kills", "median s", "worst s", "lost"], rows))


if __name__ == "__main__":
    main()
