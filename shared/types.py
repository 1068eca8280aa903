"""The nouns: frozen, typed, and the same in messages, in the ledger and on disk.

No Celery, no Redis, no torch here. Every model refuses unknown fields, so that a misspelt one is an error and not a
silent default.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

TASK_ID_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
CANDIDATE_ID_PATTERN = r"^[a-z][0-9]{2,6}(\.[0-9]{1,6})*$"

TaskId = Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN)]
CandidateId = Annotated[str, StringConstraints(pattern=CANDIDATE_ID_PATTERN)]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")]
#: A score is always within this range; a criterion that could not be judged has no score at all.
ScoreValue = Annotated[float, Field(ge=0.0, le=10.0, allow_inf_nan=False)]

IDENTITY, QUALITY, CONSISTENCY = "identity", "quality", "consistency"
CRITERIA = (IDENTITY, QUALITY, CONSISTENCY)


def is_task_id(text: str) -> bool:
    """Whether `text` may name a task (and so a folder and a part of a Redis key)."""
    return re.fullmatch(TASK_ID_PATTERN, text) is not None


class Frozen(BaseModel):
    """Base of all value objects."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Task(Frozen):
    """What to inpaint. `init`, `mask` and `character` are http(s) URLs or absolute local paths."""

    id: TaskId
    character_name: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]
    init: str
    mask: str
    character: str
    character_id: str | None = None
    #: Where the task was read from, for messages: a file, or "command line".
    origin: str = "command line"


class ArtifactRef(Frozen):
    """A file in the artifact store: its name relative to the store's root, and the SHA-256 of its bytes."""

    name: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Prepared(Frozen):
    """A task's inputs once fetched, checked and normalised into the artifact store.

    `init` is RGB, `mask` is L with values 0 and 255 (255 = edit), `character` is RGBA; init and mask have the same
    size. `notes` says aloud what was changed on the way (a mask resized, an image turned by its EXIF tag).
    """

    init: ArtifactRef
    mask: ArtifactRef
    character: ArtifactRef
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    #: Share of pixels to edit, 0 < fraction < 1.
    mask_fraction: Annotated[float, Field(gt=0, lt=1)]
    #: Bounding box of the edited pixels: left, top, right, bottom (right and bottom exclusive).
    mask_box: tuple[int, int, int, int]
    notes: tuple[str, ...] = ()


class Start(StrEnum):
    """Where a candidate's trajectory begins."""

    #: From the noise (or the pose) of its own seed.
    FRESH = "fresh"
    #: From its parent's finished trajectory, moved by `strength` with its own seed.
    REFINE = "refine"
    #: From where its parent stopped early; same seed, nothing is moved.
    RESUME = "resume"


class CandidateSpec(Frozen):
    """What a search asks for. Deterministic: the same history gives the same specs with the same ids."""

    id: CandidateId
    #: `global`, `local`, or a name of another search's own.
    phase: Annotated[str, StringConstraints(pattern=r"^[a-z-]{1,24}$")]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    #: Position in the search's own order; decides ties (the smaller wins) and dispatch (deeper goes first).
    order: tuple[int, ...]
    parent: CandidateId | None = None
    start: Start = Start.FRESH
    #: How far `refine` moves away from the parent, 0 (not at all) to 1 (forgets it).
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    #: Stop at this share of the schedule and deliver a preview; `None` runs to the end.
    stop_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    #: A generator other than the run's own, by registry name; `None` means the run's.
    generator: str | None = None

    @property
    def depth(self) -> int:
        """0 for the first phase of a search, 1 for the next, and so on."""
        return self.order[0]

    @property
    def is_preview(self) -> bool:
        """A preview is judged but can neither win nor be published as a result."""
        return self.stop_at is not None


class Generated(Frozen):
    """The outcome of one generation: the image's reference and all that explains it."""

    image: ArtifactRef
    #: Further artifacts by kind, such as `latents` (safetensors).
    extras: Mapping[str, ArtifactRef] = Field(default_factory=dict)
    #: Hash of everything that determines the image: inputs, generator settings, spec, parent's image.
    key: str
    #: Hash of what the generator says of itself: of another release that draws otherwise, an image is not used again.
    fingerprint: str = ""
    generator: str
    device: str
    attempt: Annotated[int, Field(ge=1)]
    #: The generator's own parameters of this candidate (a pose, a step count); enough to refine it.
    params: Mapping[str, JsonValue] = Field(default_factory=dict)
    #: Seconds by stage, such as `generate`, `encode`, `write`.
    timings: Mapping[str, float] = Field(default_factory=dict)
    #: Forward passes of the denoising network (0 for generators that have none).
    model_evaluations: Annotated[int, Field(ge=0)] = 0
    #: What a reader of the result should know, such as "retried with a lower pixel cap after out-of-memory".
    notes: tuple[str, ...] = ()


class Usage(Frozen):
    """What a judgement cost."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class Judgement(Frozen):
    """One judge's view of one candidate.

    A criterion is in `scores` or in `missing`, never in both; one the judge does not judge is in neither.
    """

    judge: str
    model: str | None = None
    scores: Mapping[str, ScoreValue] = Field(default_factory=dict)
    #: Criterion to the reason why there is no score.
    missing: Mapping[str, str] = Field(default_factory=dict)
    #: Raw measures that are no 0-10 score, such as `lpips_inside`; also the spread over samples.
    measures: Mapping[str, float] = Field(default_factory=dict)
    #: The judge's own explanation (untrusted text).
    words: str = ""
    seconds: float = 0.0
    cached: bool = False
    usage: Usage = Usage()


class Failure(Frozen):
    """Why something ended without a result."""

    kind: Literal["generation", "input", "lost", "scoring", "gate", "cancelled", "internal"]
    message: str
    attempt: int = 0
    device: str | None = None


class Combined(Frozen):
    """All judgements of a candidate, combined.

    `potential` is `None` while a needed criterion is missing. `defaulted` names criteria whose score is a configured
    default and not a judgement; such a potential ranks below every real one.
    """

    potential: float | None
    scores: Mapping[str, float] = Field(default_factory=dict)
    missing: Mapping[str, str] = Field(default_factory=dict)
    defaulted: tuple[str, ...] = ()


class CandidateState(StrEnum):
    """Where a candidate is in its life."""

    #: Waits for a device.
    PENDING = "pending"
    #: In a device's queue or running there.
    DISPATCHED = "dispatched"
    #: Its image exists; its judgement does not yet.
    GENERATED = "generated"
    #: Judged; `combined` says how (perhaps: not at all, with the reason).
    SCORED = "scored"
    #: Ended without an image.
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def settled(self) -> bool:
        """Nothing more will happen to it."""
        return self in (CandidateState.SCORED, CandidateState.FAILED, CandidateState.CANCELLED)


class Candidate(Frozen):
    """One candidate of a task, as the ledger knows it."""

    spec: CandidateSpec
    state: CandidateState = CandidateState.PENDING
    attempt: Annotated[int, Field(ge=1)] = 1
    device: str | None = None
    generated: Generated | None = None
    judgements: tuple[Judgement, ...] = ()
    combined: Combined | None = None
    failure: Failure | None = None
    #: Unix seconds by event: `asked`, `dispatched`, `generated`, `scored`.
    times: Mapping[str, float] = Field(default_factory=dict)
    #: Earlier attempts that came to nothing, oldest first.
    earlier: tuple[Failure, ...] = ()
    #: Taken over from disk instead of being made in this run.
    reused: bool = False

    @property
    def potential(self) -> float | None:
        """The combined score, or `None` when it failed or a criterion is missing."""
        if self.state is not CandidateState.SCORED or self.combined is None:
            return None
        return self.combined.potential

    @property
    def can_win(self) -> bool:
        """Finished, scored on every needed criterion, and no preview."""
        return self.potential is not None and not self.spec.is_preview

    @property
    def rank_key(self) -> tuple[bool, float, tuple[int, ...]]:
        """Sorts the best first: real scores before defaults, then potential, then the search's own order.

        Raises ValueError for a candidate without a potential: there is nothing to rank.
        """
        if self.potential is None or self.combined is None:
            raise ValueError(f"candidate {self.spec.id} has no potential and cannot be ranked")
        return (bool(self.combined.defaulted), -self.potential, self.spec.order)
