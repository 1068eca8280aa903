"""Follow a run: progress on stderr, live on a terminal and as lines elsewhere; outcomes on stdout."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inpaint_eacps.interrupts import check_interrupted
from inpaint_eacps.lines import judging_lines, outcome_json, outcome_line, progress_line, summary_line
from orchestrator.client import Client
from orchestrator.progress import RunProgress
from orchestrator.publish import publish_index, publish_run_metrics
from orchestrator.search import make_search
from orchestrator.usage import run_metrics
from shared.artifacts import ArtifactStore
from shared.errors import ExitCode
from shared.outcome import TaskOutcome, TaskState
from shared.settings import Settings

_LINE_EVERY = 5.0
_LOOK_EVERY = 0.5
#: Longest wait, at the end of a run, for results that are still being pushed.
_PUSH_PATIENCE = 600.0

Show = Callable[[RunProgress], None]


def follow(
    client: Client, run_id: str, *, as_json: bool, quiet: bool, check: Callable[[], None] = lambda: None
) -> ExitCode:
    """Show a run until it is over. `check` is called at every look and raises when going on is of no use.

    Prints one line per finished task on stdout, or one JSON object with `as_json`.
    """
    run = client.run(run_id)
    settings = Settings.model_validate(run.settings)
    expected = run.total * make_search(settings.search).size()
    store = ArtifactStore(run.store)
    outcomes: list[TaskOutcome] = []
    started = time.monotonic()
    with _pushing(settings, store, quiet) as push, _shown(expected, quiet) as show:

        def look(progress: RunProgress) -> None:
            check_interrupted()
            check()
            show(progress)

        for outcome in client.follow(run_id, _LOOK_EVERY, look):
            outcomes.append(outcome)
            push(outcome)
            place = store.where(outcome.result.name) if outcome.result else ""
            text = outcome_json(outcome, place) if as_json else outcome_line(outcome, place)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            if not quiet:
                for note in outcome.notes:
                    sys.stderr.write(f"  {outcome.task_id}: {note}\n")
    where = publish_index(store, run_id, outcomes)
    metrics = run_metrics(run_id, outcomes)
    publish_run_metrics(store, metrics)
    if not quiet:
        for line in judging_lines(metrics):
            sys.stderr.write(line + "\n")
        sys.stderr.write(summary_line(tuple(outcomes), time.monotonic() - started, where) + "\n")
    return exit_code(outcomes)


@contextmanager
def _pushing(settings: Settings, store: ArtifactStore, quiet: bool) -> Iterator[Callable[[TaskOutcome], None]]:
    """Hand finished tasks to git in the background, if that is wished; what fails is said, and fails nothing else."""
    if not settings.publish.git:
        yield lambda outcome: None
        return
    from orchestrator.gitpublish import GitPublisher, GitQueue

    queue = GitQueue(GitPublisher(settings.publish, store))
    try:
        yield queue.submit
    finally:
        publications = queue.close(_PUSH_PATIENCE)
        for publication in publications:
            if publication.state == "failed":
                sys.stderr.write(f"Not pushed: {publication.message}\n")
        pushed = sum(publication.state == "pushed" for publication in publications)
        if not quiet:
            sys.stderr.write(f"git: {pushed} tasks pushed.\n")


def exit_code(outcomes: list[TaskOutcome]) -> ExitCode:
    """0 when every task has a result."""
    good = (TaskState.DONE, TaskState.UNCHANGED)
    return ExitCode.OK if all(outcome.state in good for outcome in outcomes) else ExitCode.SOME_FAILED


@contextmanager
def _shown(expected: int, quiet: bool) -> Iterator[Show]:
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with live(expected) as show:
            yield show
    else:
        yield _lines(expected)


@contextmanager
def live(expected: int, *, keep: bool = False) -> Iterator[Show]:
    """The dashboard on stderr; `keep` leaves its last state on the screen."""
    from rich.console import Console
    from rich.live import Live

    from inpaint_eacps.dashboard import dashboard

    console = Console(stderr=True)
    # Output for the same terminal has to pass through the picture; output for a file must not.
    with Live(console=console, transient=not keep, redirect_stdout=sys.stdout.isatty(), auto_refresh=False) as picture:
        yield lambda progress: picture.update(dashboard(progress, expected), refresh=True)


def _lines(expected: int) -> Show:
    """A line when something was finished, and every few seconds."""
    last = [0.0, -1.0]

    def show(progress: RunProgress) -> None:
        now = time.monotonic()
        if now - last[0] >= _LINE_EVERY or progress.finished != last[1]:
            last[:] = [now, progress.finished]
            sys.stderr.write(progress_line(progress, expected) + "\n")
            sys.stderr.flush()

    return show
