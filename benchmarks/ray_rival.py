"""The rival: Ray, an actor per device that is given the next candidate as it becomes free, and judges as tasks.

Run in a process of its own by `benchmarks.overhead`, with the load and the file for its figure as arguments.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray

PER_PHASE = 4


def main() -> None:
    """Do the load that the first argument says, write the figure where the second one says."""
    load = json.loads(sys.argv[1])
    ray.init(num_cpus=load["devices"] + 16, include_dashboard=False, log_to_driver=False, configure_logging=False)

    @ray.remote(num_cpus=1)
    class Device:
        def generate(self, task: int, seed: int) -> tuple[int, int]:
            time.sleep(load["seconds"])
            return task, seed

    @ray.remote(num_cpus=0.5)  # type: ignore[untyped-decorator]
    def score(made: tuple[int, int]) -> tuple[int, int, float]:
        time.sleep(load["judge"])
        return *made, random.Random(made[1]).random()

    devices: list[Any] = [Device.remote() for _ in range(load["devices"])]  # type: ignore[attr-defined]
    ray.get([device.generate.remote(0, 0) for device in devices])
    ray.get([score.remote((0, 0)) for _ in range(16)])

    cpu, began = cpu_seconds(), time.monotonic()
    fresh = [(task, 5000 + 31 * index) for task in range(load["tasks"]) for index in range(PER_PHASE)]
    deeper: list[tuple[int, int]] = []
    idle: list[Any] = list(devices)
    making: dict[Any, Any] = {}
    judging: list[Any] = []
    scored: dict[int, list[tuple[float, int]]] = {}
    refined: set[int] = set()
    done = 0
    while done < load["tasks"]:
        while idle and (deeper or fresh):
            device = idle.pop()
            # Refinements first, so that tasks finish.
            making[device.generate.remote(*(deeper or fresh).pop(0))] = device
        ready, _ = ray.wait([*making, *judging], num_returns=1)
        for reference in ready:
            if reference in making:
                idle.append(making.pop(reference))
                judging.append(score.remote(reference))
                continue
            judging.remove(reference)
            task, seed, value = ray.get(reference)
            scored.setdefault(task, []).append((value, seed))
            if len(scored[task]) == PER_PHASE and task not in refined:
                refined.add(task)
                best = sorted(scored[task], reverse=True)[:2]
                deeper += [(task, parent * 10 + child) for _, parent in best for child in (1, 2)]
            done += len(scored[task]) == 2 * PER_PHASE
    makespan = time.monotonic() - began
    count = load["tasks"] * 2 * PER_PHASE
    figure = {
        "system": "ray actors",
        "seconds": load["seconds"],
        "makespan": makespan,
        "ideal": count * load["seconds"] / load["devices"],
        "cpu_ms": 1000 * (cpu_seconds() - cpu) / count,
    }
    Path(sys.argv[2]).write_text(json.dumps(figure))
    ray.shutdown()


def cpu_seconds() -> float:
    """CPU time of this process and of all of Ray's, which are its descendants."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
