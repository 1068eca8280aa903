"""How far a run is, from counters and heartbeats."""

import math
from collections.abc import Mapping

from orchestrator.search import make_search
from shared.heartbeat import Heartbeat, live_devices
from shared.ledger import Ledger, counts
from shared.messages import Run
from shared.queues import PREPARE, SCORE
from shared.settings import Settings
from shared.types import Frozen


class Eta(Frozen):
    """Seconds that are left, and the standard error of that."""

    seconds: float
    error: float


class RunProgress(Frozen):
    """A run at one moment."""

    run: str
    total: int
    #: Tasks by state (`shared.outcome.TaskState`).
    tasks: Mapping[str, int]
    #: Candidates by phase, then by state (`shared.types.CandidateState`).
    candidates: Mapping[str, Mapping[str, int]]
    devices: tuple[Heartbeat, ...]
    #: Devices that fell silent.
    silent: tuple[str, ...]
    #: Judgements and preparations that wait for a thread.
    score_queue: int
    prepare_queue: int
    elapsed: float
    eta: Eta | None

    @property
    def finished(self) -> int:
        """Tasks that are over, however they ended."""
        return sum(self.tasks.get(state, 0) for state in ("done", "unchanged", "failed", "cancelled"))

    @property
    def over(self) -> bool:
        """Whether every task is."""
        return self.finished >= self.total

    @property
    def candidates_made(self) -> int:
        """Candidates that have an image."""
        return sum(states.get("generated", 0) + states.get("scored", 0) for states in self.candidates.values())


def measure(ledger: Ledger, run: Run) -> RunProgress:
    """Read everything in a handful of commands, whatever the size of the run."""
    numbers = counts(ledger, run.id)
    tasks: dict[str, int] = {}
    candidates: dict[str, dict[str, int]] = {}
    for name, number in numbers.items():
        kind, *rest = name.split(":")
        if kind == "task" and number:
            tasks[rest[0]] = number
        elif kind == "candidate" and number:
            candidates.setdefault(rest[0], {})[rest[1]] = number
    devices = live_devices(ledger)
    score, prepare = ledger.do([("LLEN", SCORE), ("LLEN", PREPARE)])
    elapsed = ledger.now() - run.created
    progress = RunProgress(
        run=run.id,
        total=run.total,
        tasks=tasks,
        candidates=candidates,
        devices=tuple(beat for beat in devices.values() if beat is not None),
        silent=tuple(name for name, beat in devices.items() if beat is None),
        score_queue=int(score),
        prepare_queue=int(prepare),
        elapsed=elapsed,
        eta=None,
    )
    return progress.model_copy(update={"eta": _eta(run, progress)})


def _eta(run: Run, progress: RunProgress) -> Eta | None:
    """What is left at the pace so far. The error is that of a Poisson count: pace is known to 1/sqrt(candidates made).

    `None` before anything was made, since there is no pace yet.
    """
    settled = sum(
        number
        for states in progress.candidates.values()
        for state, number in states.items()
        if state in ("scored", "failed", "cancelled")
    )
    if settled == 0 or progress.over:
        return None
    size = make_search(Settings.model_validate(run.settings).search).size()
    spared = progress.tasks.get("unchanged", 0) + progress.tasks.get("failed", 0) + progress.tasks.get("cancelled", 0)
    left = max(0, (progress.total - spared) * size - settled)
    seconds = left * progress.elapsed / settled
    return Eta(seconds=seconds, error=seconds / math.sqrt(settled))
