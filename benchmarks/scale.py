"""What a task costs the queue, from hundreds to ten thousands: generators and judges that take no time.

`python -m benchmarks.scale --tasks 100 1000 10000`

Submit rate, CPU of each role per candidate, Valkey's memory per task (waiting, in flight, over), resident memory of
each process; and from the orchestrator's CPU, how many GPUs at 40 s per candidate one core could feed.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.table import markdown
from shared.ledger import Ledger
from shared.settings.dispatch import DispatchSettings
from tests.fleet import Fleet, make_tasks

PER_TASK = 8
GPU_SECONDS = 40
_ROLES = ("orchestrator", "score", "valkey", "device")


@dataclass(frozen=True)
class Cost:
    """One size of a batch."""

    tasks: int
    submit_seconds: float
    makespan: float
    #: CPU milliseconds per candidate by role; all devices together.
    cpu_ms: Mapping[str, float]
    #: Largest resident memory in MiB by role; of one device.
    resident: Mapping[str, float]
    #: Bytes in Valkey per task: waiting (after the submission), and at the end.
    waiting_bytes: float
    over_bytes: float
    #: Most bytes at any time beyond those of an empty ledger, per task.
    peak_bytes: float

    @property
    def total_ms(self) -> float:
        """CPU of all processes per candidate."""
        return sum(self.cpu_ms.values())


def measure(tasks: int, devices: int, folder: Path) -> Cost:
    """Run one batch."""
    batch = make_tasks(folder / "in", tasks, size=32)
    with Fleet(
        folder, devices=devices, generate=0.0, env={"SIMULATED_TRACE": ""}, dispatch=DispatchSettings().model_dump()
    ) as fleet:
        fleet.wait_until_ready(devices)
        ledger = Ledger(fleet.cluster.url)
        empty, cpu = _used(ledger), _cpu(fleet)
        began = time.monotonic()
        run = fleet.submit(batch).run
        submitted = time.monotonic() - began
        waiting, peak, stop = _used(ledger), [0.0], threading.Event()
        resident: dict[str, float] = dict.fromkeys(_ROLES, 0.0)

        def watch() -> None:
            while not stop.wait(1.0):
                peak[0] = max(peak[0], _used(ledger))
                for role, size in _resident(fleet).items():
                    resident[role] = max(resident[role], size)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        outcomes = fleet.outcomes(run, timeout=6 * 3600)
        makespan = time.monotonic() - began
        spent = {role: seconds - cpu[role] for role, seconds in _cpu(fleet).items()}
        stop.set()
        watcher.join()
        over = _used(ledger)
    if len(outcomes) != tasks or any(outcome.total_candidates != PER_TASK for outcome in outcomes):
        raise RuntimeError("not all was done")
    return Cost(
        tasks=tasks,
        submit_seconds=submitted,
        makespan=makespan,
        cpu_ms={role: 1000 * seconds / (tasks * PER_TASK) for role, seconds in spent.items()},
        resident=resident,
        waiting_bytes=(waiting - empty) / tasks,
        over_bytes=(over - empty) / tasks,
        peak_bytes=(max(peak[0], waiting, over) - empty) / tasks,
    )


def _used(ledger: Ledger) -> float:
    return float(ledger.redis.info("memory")["used_memory"])


def _cpu(fleet: Fleet) -> dict[str, float]:
    found = dict.fromkeys(_ROLES, 0.0)
    for name in fleet.pids:
        for process in fleet.group(name):
            times = process.cpu_times()
            found[name.partition(".")[0]] += times.user + times.system
    return found


def _resident(fleet: Fleet) -> dict[str, float]:
    found = dict.fromkeys(_ROLES, 0.0)
    for name in fleet.pids:
        role = name.partition(".")[0]
        try:
            size = sum(process.memory_info().rss for process in fleet.group(name)) / 2**20
        except psutil.NoSuchProcess:
            continue
        found[role] = max(found[role], size)
    return found


def tables(costs: Sequence[Cost]) -> str:
    """All figures as Markdown."""
    speed = [
        [
            f"{cost.tasks:,}",
            f"{cost.tasks / cost.submit_seconds:,.0f}",
            f"{cost.tasks * PER_TASK / cost.makespan:.1f}",
            *(f"{cost.cpu_ms[role]:.2f}" for role in _ROLES),
            f"{cost.total_ms:.2f}",
            f"{cost.total_ms / costs[0].total_ms:.2f}",
        ]
        for cost in costs
    ]
    memory = [
        [
            f"{cost.tasks:,}",
            *(f"{size:,.0f}" for size in (cost.waiting_bytes, cost.peak_bytes, cost.over_bytes)),
            *(f"{cost.resident[role]:.0f}" for role in _ROLES),
        ]
        for cost in costs
    ]
    head = ["tasks", "submitted/s", "candidates/s", *(f"{role} CPU ms" for role in _ROLES), "all CPU ms", "of first"]
    room = ["tasks", "bytes/task waiting", "at most", "over", *(f"{role} MiB" for role in _ROLES)]
    core = GPU_SECONDS * 1000 / costs[-1].cpu_ms["orchestrator"]
    return "\n\n".join(
        [
            "CPU per candidate (devices: all together)",
            markdown(head, speed),
            "Valkey's memory per task, and resident memory per process (a device: worker and its child)",
            markdown(room, memory),
            f"At {GPU_SECONDS} s per candidate, one orchestrator core could feed about {core:,.0f} GPUs.",
        ]
    )


def main() -> None:
    """Measure each size, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--devices", type=int, default=4)
    options = parser.parse_args()
    costs = []
    for tasks in options.tasks:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            costs.append(measure(tasks, options.devices, Path(folder)))
        sys.stderr.write(f"{costs[-1]}\n")
    print(tables(costs))


if __name__ == "__main__":
    main()
