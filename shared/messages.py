"""What travels through the queues: jobs to workers, events to the orchestrator.

Ids, names and numbers only: never an image, a key, or a signed URL of an artifact store.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from shared.queues import score_queue
from shared.types import (
    ArtifactRef,
    CandidateId,
    CandidateSpec,
    Failure,
    Frozen,
    Generated,
    Judgement,
    Prepared,
    RunId,
    Task,
    TaskId,
    Usage,
)


class Run(Frozen):
    """One submission of many tasks with one resolved configuration."""

    id: RunId
    #: `Settings` as JSON without the broker section; holds no secret.
    settings: dict[str, Any]
    #: Hash of all settings that change a result.
    config_hash: str
    #: Hash of those that change an image.
    generation_hash: str
    #: Larger goes first.
    priority: int = 0
    created: float
    #: URL of the artifact store.
    store: str
    #: Resolved names, never `auto`.
    generator: str
    #: Judges in order of preference, each with the criteria or measures that it judges.
    judges: dict[str, tuple[str, ...]]
    #: Judges that are asked on a queue of their own, since they need packages of their own.
    own_queue: tuple[str, ...] = ()
    #: The judge that compares candidates in the finals; `None` for no finals.
    comparer: str | None = None
    force: bool = False
    total: int = 0

    def queue_of(self, judge: str) -> str:
        """The queue on which a judge is asked."""
        return score_queue(judge, frozenset(self.own_queue))

    @property
    def available(self) -> dict[str, frozenset[str]]:
        """`judges` as sets."""
        return {judge: frozenset(criteria) for judge, criteria in self.judges.items()}


class PrepareJob(Frozen):
    """Fetch, check and normalise one task's inputs."""

    run: RunId
    task: Task
    config_hash: str
    generation_hash: str
    store: str
    force: bool

    @property
    def key(self) -> str:
        """Name of the job among the outstanding ones."""
        return f"prepare:{self.run}:{self.task.id}"


class GenerateJob(Frozen):
    """Make one candidate."""

    run: RunId
    task: TaskId
    character_name: str
    store: str
    prepared: Prepared
    spec: CandidateSpec
    attempt: int
    generator: str
    device: str
    #: What the image depends on, see `inputs_key` and `generation_key`.
    inputs_key: str
    key: str
    parent_spec: CandidateSpec | None = None
    parent: Generated | None = None

    @property
    def message_id(self) -> str:
        """Readable, and searchable in Flower by task id."""
        return f"gen-{self.run}-{self.task}-{self.spec.id}-{self.attempt}"


class ScoreJob(Frozen):
    """Ask one judge about one candidate."""

    run: RunId
    task: TaskId
    character_name: str
    store: str
    prepared: Prepared
    candidate: CandidateId
    attempt: int
    image: ArtifactRef
    judge: str
    #: Whether the free checks are still to be made.
    gates: bool
    preview: bool

    @property
    def key(self) -> str:
        """Name of the job among the outstanding ones."""
        return f"score:{self.run}:{self.task}:{self.candidate}:{self.attempt}:{self.judge}"


class CompareJob(Frozen):
    """Ask a judge which of two candidates is better (finals)."""

    run: RunId
    task: TaskId
    character_name: str
    store: str
    prepared: Prepared
    first: CandidateId
    second: CandidateId
    first_image: ArtifactRef
    second_image: ArtifactRef
    judge: str

    @property
    def key(self) -> str:
        """Name of the job among the outstanding ones."""
        return f"compare:{self.run}:{self.task}:{self.first}:{self.second}:{self.judge}"


class PublishJob(Frozen):
    """Write a task's results."""

    run: RunId
    task: TaskId

    @property
    def key(self) -> str:
        """Name of the job among the outstanding ones."""
        return f"publish:{self.run}:{self.task}"


class _Event(Frozen):
    run: RunId
    task: TaskId


class TaskPrepared(_Event):
    """Inputs are in the artifact store."""

    kind: Literal["prepared"] = "prepared"
    prepared: Prepared


class TaskRefused(_Event):
    """The inputs cannot be used."""

    kind: Literal["refused"] = "refused"
    failure: Failure


class CandidateGenerated(_Event):
    """An image exists. `reused` when it was found on disk."""

    kind: Literal["generated"] = "generated"
    candidate: CandidateId
    attempt: int
    generated: Generated
    reused: bool = False


class CandidateFailed(_Event):
    """An attempt came to nothing; `retryable` when another may succeed."""

    kind: Literal["failed"] = "failed"
    candidate: CandidateId
    attempt: int
    failure: Failure
    retryable: bool


class CandidateJudged(_Event):
    """A judge has answered (perhaps that it cannot judge)."""

    kind: Literal["judged"] = "judged"
    candidate: CandidateId
    attempt: int
    judge: str
    #: The judge's, and before it the gate's if this job made the free checks.
    judgements: tuple[Judgement, ...]

    @classmethod
    def of(cls, job: ScoreJob, judgement: Judgement) -> "CandidateJudged":
        """The answer to a job."""
        return cls(
            run=job.run,
            task=job.task,
            candidate=job.candidate,
            attempt=job.attempt,
            judge=job.judge,
            judgements=(judgement,),
        )


class CandidatesCompared(_Event):
    """A judge preferred one of two: 1 the first, -1 the second, 0 neither."""

    kind: Literal["compared"] = "compared"
    first: CandidateId
    second: CandidateId
    judge: str
    preference: Literal[-1, 0, 1] | None
    reason: str = ""
    seconds: float = 0.0
    cached: bool = False
    usage: Usage = Usage()

    @classmethod
    def of(
        cls, job: CompareJob, preference: Literal[-1, 0, 1] | None, reason: str, **cost: Any
    ) -> "CandidatesCompared":
        """The answer to a job, with what it cost."""
        return cls(
            run=job.run,
            task=job.task,
            first=job.first,
            second=job.second,
            judge=job.judge,
            preference=preference,
            reason=reason,
            **cost,
        )


class Nudge(_Event):
    """Nothing happened: look at the task again."""

    kind: Literal["nudge"] = "nudge"


Event = Annotated[
    TaskPrepared | TaskRefused | CandidateGenerated | CandidateFailed | CandidateJudged | CandidatesCompared | Nudge,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def stable_hash(value: object) -> str:
    """SHA-256 of `value` as canonical JSON, first 32 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def result_key(config_hash: str, prepared: Prepared) -> str:
    """Hash of everything that determines a task's result: settings of search, generation and scoring, and inputs."""
    return inputs_key(config_hash, prepared)


def inputs_key(generation_hash: str, prepared: Prepared) -> str:
    """Hash of what all candidates of a task have in common: settings of the generation, and the three images."""
    return stable_hash([generation_hash, prepared.init.sha256, prepared.mask.sha256, prepared.character.sha256])


def generation_key(common: str, spec: CandidateSpec, parent: Generated | None) -> str:
    """Hash of everything that determines a candidate's image, from `inputs_key`, its spec and its parent's image.

    A record on disk with the same key is the same candidate: it is taken over instead of made again.
    """
    return stable_hash([common, spec.model_dump(mode="json"), parent.image.sha256 if parent else None])


def claim_key(run: str, task: str, candidate: str, attempt: int) -> str:
    """Under which a device worker says that it has taken up an attempt."""
    return f"{run}|{task}|{candidate}|{attempt}"


class GenerationRecord(Frozen):
    """What stands on disk next to a candidate's image, so that a run can be taken up without Redis."""

    task_id: TaskId
    run: RunId
    spec: CandidateSpec
    generated: Generated
    inputs_key: str
