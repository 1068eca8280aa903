"""What the orchestrator keeps of a task, and how pending candidates are ordered."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from shared.outcome import TaskOutcome, TaskState
from shared.types import CandidateSpec, Failure, Frozen, Prepared, Task


class TaskRecord(Frozen):
    """One task of a run, as the ledger knows it."""

    task: Task
    state: TaskState = TaskState.WAITING
    #: Order in which tasks were taken up, over all runs.
    sequence: int = 0
    prepared: Prepared | None = None
    failure: Failure | None = None
    outcome: TaskOutcome | None = None
    #: Unix seconds by event: `submitted`, `taken`, `prepared`, `over`.
    times: Mapping[str, float] = Field(default_factory=dict)

    def at(self, event: str, now: float) -> dict[str, float]:
        """`times` with one event added."""
        return {**self.times, event: now}


class Outstanding(Frozen):
    """A job that was sent and not yet answered: enough to send it again."""

    kind: Literal["prepare", "score", "compare", "publish"]
    queue: str
    payload: dict[str, Any]
    sent: Annotated[float, Field(ge=0)]
    tries: int = 1
    #: How often a worker had taken it up, and died or never answered.
    lost: int = 0


class Pending(Frozen):
    """A candidate that waits for a device, as a member of the pending set.

    Members of equal score sort by text, so the text begins with what orders them: when the task was taken up, then
    the search's own order.
    """

    sequence: int
    order: tuple[int, ...]
    run: str
    task: str
    candidate: str

    @property
    def member(self) -> str:
        """The text of the member."""
        order = ".".join(f"{part:06d}" for part in self.order)
        return f"{self.sequence:010d}:{order}:{self.run}|{self.task}|{self.candidate}"

    @classmethod
    def parse(cls, member: str) -> "Pending":
        """From the text of a member."""
        sequence, order, name = member.split(":")
        run, task, candidate = name.split("|")
        return cls(
            sequence=int(sequence),
            order=tuple(int(part) for part in order.split(".")),
            run=run,
            task=task,
            candidate=candidate,
        )

    @classmethod
    def of(cls, run: str, record: TaskRecord, spec: CandidateSpec) -> "Pending":
        """For a candidate of a task."""
        return cls(sequence=record.sequence, order=spec.order, run=run, task=record.task.id, candidate=spec.id)


def pending_score(priority: int, depth: int, attempt: int = 1) -> int:
    """Smaller goes first: higher priority, then what was begun before (its task waits for it), then deeper phases."""
    return -(priority * 1000 + (999 if attempt > 1 else min(depth, 998)))
