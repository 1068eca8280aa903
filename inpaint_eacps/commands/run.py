"""`run`: submit and wait, on this machine or on a cluster."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.choice import Order, choose_for_cluster, choose_here, submit
from inpaint_eacps.devices import CPU, NEEDS_GPU, choose_devices, cpu_workers
from inpaint_eacps.follow import follow
from inpaint_eacps.places import check_writable
from inpaint_eacps.plans import device_plans
from inpaint_eacps.selection import Selection, select_tasks
from orchestrator.client import Client, Submitted
from shared.errors import ExitCode
from shared.queues import score_queue
from shared.settings import Settings
from workers.generation.registry import check_found
from workers.scoring.keys import api_key

logger = logging.getLogger(__name__)


def run(arguments: Arguments) -> ExitCode:
    """Do the tasks; 0 when every one of them has a result."""
    settings = arguments.resolve().settings
    selection = select_tasks(arguments, settings, os.environ)
    for problem in selection.problems:
        sys.stderr.write(f"Left out: {problem}\n")
    url = settings.broker.connection_url()
    code = _on_cluster(arguments, settings, selection, url) if url else _here(arguments, settings, selection)
    return ExitCode.SOME_FAILED if code is ExitCode.OK and selection.problems else code


def _on_cluster(arguments: Arguments, settings: Settings, selection: Selection, url: str) -> ExitCode:
    client = Client(url, settings)
    client.ping()
    choice = choose_for_cluster(client, settings, os.environ)
    submitted = submit(client, selection.tasks, settings, choice, Order(arguments.priority, arguments.force))
    _say(arguments, f"{choice.line()} Run {submitted.run} on the cluster.")
    try:
        return _follow(client, submitted, arguments)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nNo longer watching; run {submitted.run} goes on. `inpaint-eacps wait {submitted.run}` watches again, "
            f"`inpaint-eacps cancel {submitted.run}` stops it.\n"
        )
        return ExitCode.INTERRUPTED


def _here(arguments: Arguments, settings: Settings, selection: Selection) -> ExitCode:
    from inpaint_eacps.embedded import EmbeddedCluster, run_folder_name, sweep

    choice = choose_here(settings, os.environ)
    if tuple(choice.judges) == ("gemini",):
        api_key(settings.scoring.gemini, os.environ)
    check_found(choice.generator)
    check_writable(settings)
    devices = choose_devices(arguments.device, choice.generator in NEEDS_GPU)
    workers = cpu_workers(arguments.workers)
    plans = device_plans(settings, choice.generator, devices, workers)
    runs = Path(settings.input.cache_dir) / "runs"
    sweep(runs)
    folder = runs / run_folder_name()
    _say(arguments, f"{choice.line()} Devices: {_devices_words(devices, workers)}.")
    try:
        own_queues = [score_queue(name, frozenset(choice.own_queue)) for name in choice.own_queue]
        with EmbeddedCluster(settings, folder, plans, extra_queues=own_queues) as cluster:
            client = Client(cluster.url, settings)
            submitted = submit(client, selection.tasks, settings, choice, Order(arguments.priority, arguments.force))
            code = _follow(client, submitted, arguments, cluster.check)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. What is finished is kept: the same command goes on from there.\n")
        code = ExitCode.INTERRUPTED
    except BaseException:
        sys.stderr.write(f"The logs of this run are in {folder / 'logs'}.\n")
        raise
    if code is not ExitCode.OK:
        _say(arguments, f"The logs of this run are in {folder / 'logs'}.")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _follow(
    client: Client, submitted: Submitted, arguments: Arguments, check: Callable[[], None] = lambda: None
) -> ExitCode:
    if not submitted.accepted:
        return ExitCode.SOME_FAILED
    code = follow(client, submitted.run, as_json=arguments.json, quiet=arguments.quiet, check=check)
    return ExitCode.SOME_FAILED if submitted.refused else code


def _devices_words(devices: Sequence[str], workers: int) -> str:
    return ", ".join(f"{workers} workers on the CPU" if device == CPU else device for device in devices)


def _say(arguments: Arguments, text: str) -> None:
    if not arguments.quiet:
        sys.stderr.write(text + "\n")
