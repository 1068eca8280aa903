"""`worker` and `orchestrator`: the long-running parts of a cluster."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.child import BROKER_VARIABLE, ChildPlan, perform
from inpaint_eacps.cluster import cluster_url, connect
from inpaint_eacps.devices import NEEDS_GPU, choose_devices, cpu_workers
from inpaint_eacps.plans import device_plans, score_plan
from inpaint_eacps.supervisor import ChildSpec, Supervisor
from shared.errors import ExitCode
from shared.logs import set_up_logging
from workers.generation import registry as generators

_SCORE_THREADS = 16
#: A candidate in hand is finished before a worker goes: longer than the longest of them.
_GRACE = 900.0


def orchestrator(arguments: Arguments) -> ExitCode:
    """Orchestrate until SIGTERM."""
    settings = arguments.resolve().settings
    return _perform(ChildPlan(role="orchestrator", settings=settings), cluster_url(settings), arguments)


def worker(arguments: Arguments) -> ExitCode:
    """Work until SIGTERM; several devices are children, each with its own process."""
    settings = arguments.resolve().settings
    if arguments.drain is not None:
        sys.stdout.write("\n".join(connect(settings).drain(arguments.drain)) + "\n")
        return ExitCode.OK
    connect(settings)
    url = cluster_url(settings)
    if arguments.queue is not None:
        return _perform(score_plan(settings, arguments.queue, arguments.workers or _SCORE_THREADS), url, arguments)
    generator = generators.resolve_auto(settings)
    devices = choose_devices(arguments.device, generator in NEEDS_GPU)
    plans = device_plans(settings, generator, devices, cpu_workers(arguments.workers))
    return _perform(plans[0], url, arguments) if len(plans) == 1 else _supervise(plans, url)


def _perform(plan: ChildPlan, url: str, arguments: Arguments) -> ExitCode:
    set_up_logging(-1 if arguments.quiet else max(1, arguments.verbose))
    try:
        perform(plan, url)
    except SystemExit as end:
        return ExitCode(end.code) if isinstance(end.code, int) and end.code in list(ExitCode) else ExitCode.SOME_FAILED
    return ExitCode.OK


def _supervise(plans: Sequence[ChildPlan], url: str) -> ExitCode:
    """Run each plan in a child until SIGTERM, or until all of them have ended for good."""
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    supervisor = Supervisor()
    with tempfile.TemporaryDirectory(prefix="inpaint-eacps-") as name:
        folder = Path(name)
        for plan in plans:
            file = folder / f"{plan.device}.json"
            file.write_text(plan.model_dump_json(exclude={"settings": {"broker"}}), encoding="utf-8")
            argv = [sys.executable, "-m", "inpaint_eacps.child", str(file)]
            env = {**os.environ, BROKER_VARIABLE: url}
            supervisor.start(ChildSpec(f"device.{plan.device}", argv, env, Path("/dev/stderr")))
        while not stop.wait(0.5):
            ended = supervisor.ended()
            if len(ended) == len(plans):
                return ExitCode(max(ended.values()))
        supervisor.stop(_GRACE)
    return ExitCode.OK
