"""How a task ended."""

from collections.abc import Mapping
from enum import StrEnum

from shared.types import ArtifactRef, CandidateId, Failure, Frozen, TaskId


class TaskState(StrEnum):
    """Where a task is in its life."""

    #: Submitted, and not yet taken up (the number of tasks in flight is bounded).
    WAITING = "waiting"
    #: Its images are being fetched and checked.
    PREPARING = "preparing"
    #: Candidates are generated and judged.
    SEARCHING = "searching"
    #: The search is over; results are being written.
    PUBLISHING = "publishing"
    DONE = "done"
    #: The same task with the same configuration was done before; nothing was made again.
    UNCHANGED = "unchanged"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Nothing more will happen to it."""
        return self in (TaskState.DONE, TaskState.UNCHANGED, TaskState.FAILED, TaskState.CANCELLED)


class UsageMetrics(Frozen):
    """What judging cost. Cached answers cost nothing and are counted apart."""

    judgements: int = 0
    #: Pairs of candidates compared in finals, each order by itself.
    comparisons: int = 0
    cached: int = 0
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    #: Time spent waiting for judges, summed over judgements and comparisons (they overlap).
    seconds: float = 0.0
    mean_seconds: float | None = None
    max_seconds: float | None = None


class TaskOutcome(Frozen):
    """What a finished task came to: one line of `run --json`, one row of the run's index."""

    task_id: TaskId
    character_name: str
    state: TaskState
    best_id: CandidateId | None = None
    best_seed: int | None = None
    best_phase: str | None = None
    best_potential: float | None = None
    total_candidates: int = 0
    failed_candidates: int = 0
    #: The best image, in the artifact store; `None` when the task failed.
    result: ArtifactRef | None = None
    failure: Failure | None = None
    #: Seconds from the first candidate asked for to the result.
    seconds: float | None = None
    #: Criteria of the winner whose score is a configured default, and no judgement.
    best_defaulted: tuple[str, ...] = ()
    #: What this run paid each judge for the task; nothing for a task that was done before.
    usage_by_judge: Mapping[str, UsageMetrics] = {}
    #: What a reader should know: a winner on default scores, ties with the runner-up, a mask that was resized.
    notes: tuple[str, ...] = ()
