"""`status`, `wait`, `cancel`, `retry`, `resume`: what can be done with a run that was submitted."""

import sys
import time

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.cluster import connect
from inpaint_eacps.follow import follow, live
from inpaint_eacps.lines import progress_line
from orchestrator.client import Client, Submitted, read_manifest
from orchestrator.search import make_search
from shared.artifacts import ArtifactStore
from shared.errors import ExitCode, InputError
from shared.messages import Run
from shared.settings import Settings
from shared.types import Task

_LOOK_EVERY = 1.0


def status(arguments: Arguments) -> ExitCode:
    """Print how far a run is; with --watch, show it live until it is over."""
    client = connect(arguments.resolve().settings)
    run = client.run(arguments.run_id)
    expected = run.total * make_search(Settings.model_validate(run.settings).search).size()
    if arguments.watch and sys.stderr.isatty() and not arguments.json:
        return _watch(client, run.id, expected)
    while True:
        progress = client.progress(run.id)
        text = progress.model_dump_json() if arguments.json else progress_line(progress, expected)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        if not arguments.watch or progress.over:
            return ExitCode.OK
        time.sleep(_LOOK_EVERY)


def _watch(client: Client, run_id: str, expected: int) -> ExitCode:
    try:
        with live(expected, keep=True) as show:
            while True:
                progress = client.progress(run_id)
                show(progress)
                if progress.over:
                    return ExitCode.OK
                time.sleep(_LOOK_EVERY)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def wait(arguments: Arguments) -> ExitCode:
    """Follow a run to its end, from its first outcome on."""
    client = connect(arguments.resolve().settings)
    try:
        return follow(client, arguments.run_id, as_json=arguments.json, quiet=arguments.quiet)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nNo longer watching; run {arguments.run_id} goes on.\n")
        return ExitCode.INTERRUPTED


def cancel(arguments: Arguments) -> ExitCode:
    """End a run, or the tasks named; an id that is no run's is taken as that of a task in whichever run works on it."""
    client = connect(arguments.resolve().settings)
    wanted: tuple[tuple[str, str | None], ...] = tuple((arguments.run_id, task) for task in arguments.task_id)
    if not wanted:
        wanted = ((arguments.run_id, None),)
        if arguments.run_id not in client.runs():
            wanted = tuple((run, arguments.run_id) for run in client.runs_of(arguments.run_id)) or wanted
    ended = sum(client.cancel(run, task) for run, task in wanted)
    sys.stdout.write(f"{ended} tasks cancelled; what is finished stays on disk.\n")
    return ExitCode.OK


def retry(arguments: Arguments) -> ExitCode:
    """Submit a run's failed and cancelled tasks again, as a new run; finished candidates are reused."""
    client = connect(arguments.resolve().settings)
    run = client.run(arguments.run_id)
    tasks = client.failed_tasks(run.id)
    if not tasks:
        sys.stderr.write(f"Run {arguments.run_id} has no failed or cancelled tasks.\n")
        return ExitCode.OK
    return _printed(_again(client, run, tasks))


def resume(arguments: Arguments) -> ExitCode:
    """Submit a run again under its own id, from its manifest on disk.

    Raises InputError when the broker still knows the run: then it goes on by itself.
    """
    settings = arguments.resolve().settings
    client = connect(settings)
    if arguments.run_id in client.runs():
        raise InputError(f"Run {arguments.run_id} is not lost: follow it with `inpaint-eacps wait {arguments.run_id}`.")
    manifest = read_manifest(ArtifactStore(settings.publish.output_dir), arguments.run_id)
    return _printed(_again(client, manifest.run, manifest.tasks, manifest.run.id))


def _again(client: Client, run: Run, tasks: tuple[Task, ...], run_id: str | None = None) -> Submitted:
    settings = Settings.model_validate(run.settings)
    publish = settings.publish.model_copy(update={"output_dir": run.store})
    return client.submit(
        tasks,
        settings.model_copy(update={"publish": publish}),
        generator=run.generator,
        judges=run.available,
        own_queue=run.own_queue,
        comparer=run.comparer,
        priority=run.priority,
        force=run.force,
        run_id=run_id,
    )


def _printed(submitted: Submitted) -> ExitCode:
    for reason in submitted.refused.values():
        sys.stderr.write(f"Left out: {reason}\n")
    sys.stdout.write(submitted.run + "\n")
    return ExitCode.SOME_FAILED if submitted.refused else ExitCode.OK
