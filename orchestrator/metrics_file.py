"""metrics.json: what a task came to, and everything needed to understand and repeat it.

A pure function from a task's history to a frozen value. The same history gives the same file, byte for byte.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue

from orchestrator.finals import Comparison, ties
from orchestrator.search.ranking import ranked
from orchestrator.usage import Answer, usage_by_judge, usage_of
from shared.messages import CandidatesCompared
from shared.outcome import TaskOutcome, TaskState, UsageMetrics
from shared.settings import Settings
from shared.types import (
    ArtifactRef,
    Candidate,
    CandidateId,
    CandidateSpec,
    CandidateState,
    Failure,
    Frozen,
    Judgement,
    Prepared,
    RunId,
    Start,
    Task,
    TaskId,
)

_VERSIONS = ("inpaint-eacps", "celery", "redis", "pydantic", "numpy", "Pillow")


@dataclass(frozen=True)
class TaskHistory:
    """All that is known of a task when its search is over, or when it could not be searched at all."""

    run_id: RunId
    config_hash: str
    settings: Settings
    #: The resolved names, never `auto`.
    generator: str
    judges: tuple[str, ...]
    task: Task
    #: `None` when the inputs could not be used.
    prepared: Prepared | None
    candidates: Sequence[Candidate] = ()
    #: Why the task ended early (bad input, cancelled); `None` when its search came to its end.
    failure: Failure | None = None
    #: The best few, the best first, if pairwise comparisons decided among them; else empty.
    finals: tuple[CandidateId, ...] = ()
    comparisons: tuple[CandidatesCompared, ...] = ()

    @property
    def answers(self) -> tuple[Comparison, ...]:
        """What was said in the finals."""
        return tuple(Comparison(said.first, said.second, said.preference) for said in self.comparisons)

    @property
    def ranking(self) -> tuple[Candidate, ...]:
        """Those that can win, the winner first: the finalists in their order, then the others by potential."""
        by_potential = ranked(self.candidates)
        place = {candidate_id: index for index, candidate_id in enumerate(self.finals)}
        return tuple(sorted(by_potential, key=lambda candidate: place.get(candidate.spec.id, len(place))))


class InputMetrics(Frozen):
    """One input image as it was used."""

    artifact: ArtifactRef
    #: Where it came from; of a URL neither query nor credentials, since it may be signed.
    source: str


class InputsMetrics(Frozen):
    """The three input images, and what was changed on the way."""

    init: InputMetrics
    mask: InputMetrics
    character: InputMetrics
    width: int
    height: int
    mask_fraction: float
    mask_box: tuple[int, int, int, int]
    notes: tuple[str, ...]


class CandidateMetrics(Frozen):
    """One candidate, explained."""

    id: CandidateId
    phase: str
    seed: int
    parent: CandidateId | None
    #: Candidates that were refined from it.
    children: tuple[CandidateId, ...]
    state: CandidateState
    #: 1 is the winner; `None` for one that cannot win.
    rank: int | None
    potential: float | None
    scores: Mapping[str, float]
    #: Criterion to the reason why there is no score.
    missing: Mapping[str, str]
    #: Criteria whose score is a configured default and no judgement.
    defaulted: tuple[str, ...]
    failure: Failure | None
    preview: bool
    start: Start
    strength: float | None
    spec: CandidateSpec
    generator: str | None
    device: str | None
    image: ArtifactRef | None
    extras: Mapping[str, ArtifactRef]
    key: str | None
    params: Mapping[str, JsonValue]
    timings: Mapping[str, float]
    times: Mapping[str, float]
    model_evaluations: int
    attempts: int
    earlier: tuple[Failure, ...]
    reused: bool
    notes: tuple[str, ...]
    judgements: tuple[Judgement, ...]


class Metrics(Frozen):
    """The content of metrics.json. The first seven fields are those that readers of older results know."""

    task_id: TaskId
    character_name: str
    best_seed: int | None
    best_phase: str | None
    best_potential: float | None
    #: `<judge>_<criterion>` of the winner, raw measures that the potential weighs included; `default_<criterion>` where
    #: a default stands in for a judgement.
    best_scores: Mapping[str, float]
    total_candidates: int

    version: Literal[1] = 1
    state: TaskState
    failure: Failure | None
    best_id: CandidateId | None
    #: Criteria of the winner that nobody judged.
    best_defaulted: tuple[str, ...]
    #: Candidates whose potential is closer to the winner's than `tie_margin` (or the same), and which no finals told
    #: apart from it.
    ties: tuple[CandidateId, ...]
    tie_margin: float
    failed_candidates: int
    unscored_candidates: int
    reused_candidates: int
    notes: tuple[str, ...]

    run_id: RunId
    config_hash: str
    generator: str
    judges: tuple[str, ...]
    #: Unix seconds of the first and the last event, and the time between them.
    started: float | None
    finished: float | None
    seconds: float | None
    #: Time that devices were busy with candidates, summed.
    device_seconds: float
    model_evaluations: int
    usage: UsageMetrics
    usage_by_judge: Mapping[str, UsageMetrics]
    inputs: InputsMetrics | None
    candidates: tuple[CandidateMetrics, ...]
    finals: tuple[CandidateId, ...]
    comparisons: tuple[CandidatesCompared, ...]
    settings: Mapping[str, Any] = Field(repr=False)
    versions: Mapping[str, str]

    @property
    def best(self) -> CandidateMetrics | None:
        """The winner."""
        return next((candidate for candidate in self.candidates if candidate.id == self.best_id), None)

    def outcome(self, result: ArtifactRef | None) -> TaskOutcome:
        """The short form; `result` is where the winner's image was published."""
        return TaskOutcome(
            task_id=self.task_id,
            character_name=self.character_name,
            state=self.state,
            best_id=self.best_id,
            best_seed=self.best_seed,
            best_phase=self.best_phase,
            best_potential=self.best_potential,
            total_candidates=self.total_candidates,
            failed_candidates=self.failed_candidates,
            result=result,
            failure=self.failure,
            seconds=self.seconds,
            best_defaulted=self.best_defaulted,
            usage_by_judge=self.usage_by_judge,
            notes=self.notes,
        )


def metrics_of(history: TaskHistory) -> Metrics:
    """Sum a task's history up."""
    ranking = history.ranking
    failure = history.failure or (None if ranking else _no_winner(history.candidates))
    winner = ranking[0] if ranking and failure is None else None
    state = TaskState.DONE if failure is None else TaskState.FAILED
    if failure is not None and failure.kind == "cancelled":
        state = TaskState.CANCELLED
    ranks = {candidate.spec.id: rank for rank, candidate in enumerate(ranking, 1)}
    margin = history.settings.scoring.tie_margin
    close = ties(ranking, margin, history.finals, history.answers) if winner else ()
    tied = tuple(candidate.spec.id for candidate in close)
    defaulted = winner.combined.defaulted if winner and winner.combined else ()
    in_order = sorted(history.candidates, key=lambda candidate: candidate.spec.order)
    children: dict[str, list[str]] = defaultdict(list)
    for candidate in in_order:
        children[candidate.spec.parent or ""].append(candidate.spec.id)
    answers: list[Answer] = [judgement for candidate in in_order for judgement in candidate.judgements]
    answers += history.comparisons
    times = [time for candidate in in_order for time in candidate.times.values()]
    return Metrics(
        task_id=history.task.id,
        character_name=history.task.character_name,
        best_seed=winner.spec.seed if winner else None,
        best_phase=winner.spec.phase if winner else None,
        best_potential=_rounded(winner.potential) if winner else None,
        best_scores=_best_scores(winner) if winner else {},
        total_candidates=len(in_order),
        state=state,
        failure=failure,
        best_id=winner.spec.id if winner else None,
        best_defaulted=defaulted,
        ties=tied,
        tie_margin=margin,
        failed_candidates=sum(candidate.state is CandidateState.FAILED for candidate in in_order),
        unscored_candidates=sum(
            candidate.state is CandidateState.SCORED and candidate.potential is None for candidate in in_order
        ),
        reused_candidates=sum(candidate.reused for candidate in in_order),
        notes=_notes(history, winner, tied),
        run_id=history.run_id,
        config_hash=history.config_hash,
        generator=history.generator,
        judges=history.judges,
        started=min(times, default=None),
        finished=max(times, default=None),
        seconds=max(times) - min(times) if times else None,
        device_seconds=sum(
            busy_seconds(candidate.generated.timings) for candidate in in_order if candidate.generated is not None
        ),
        model_evaluations=sum(
            candidate.generated.model_evaluations for candidate in in_order if candidate.generated is not None
        ),
        usage=usage_of(answers),
        usage_by_judge=usage_by_judge(answers),
        inputs=_inputs(history.task, history.prepared) if history.prepared else None,
        candidates=tuple(_candidate(candidate, ranks, children[candidate.spec.id]) for candidate in in_order),
        finals=history.finals,
        comparisons=history.comparisons,
        settings=history.settings.model_dump(mode="json", exclude={"broker"}),
        versions=versions(),
    )


def shown_source(source: str) -> str:
    """A path as it is; a URL without query, fragment and credentials, any of which may hold a secret."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def busy_seconds(timings: Mapping[str, float]) -> float:
    """How long a device was busy: `generate`, of which a generator's own stages are parts. Encoding and writing
    overlap the next candidate."""
    return timings.get("generate", 0.0)


@cache
def versions() -> Mapping[str, str]:
    """What this process runs on (workers elsewhere may differ; candidates name their generator)."""
    found = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def _candidate(candidate: Candidate, ranks: Mapping[str, int], children: Iterable[str]) -> CandidateMetrics:
    spec, made, combined = candidate.spec, candidate.generated, candidate.combined
    return CandidateMetrics(
        id=spec.id,
        phase=spec.phase,
        seed=spec.seed,
        parent=spec.parent,
        children=tuple(children),
        state=candidate.state,
        rank=ranks.get(spec.id),
        potential=_rounded(candidate.potential),
        scores=combined.scores if combined else {},
        missing=combined.missing if combined else {},
        defaulted=combined.defaulted if combined else (),
        failure=candidate.failure,
        preview=spec.is_preview,
        start=spec.start,
        strength=spec.strength,
        spec=spec,
        generator=made.generator if made else spec.generator,
        device=made.device if made else candidate.device,
        image=made.image if made else None,
        extras=made.extras if made else {},
        key=made.key if made else None,
        params=made.params if made else {},
        timings=made.timings if made else {},
        times=candidate.times,
        model_evaluations=made.model_evaluations if made else 0,
        attempts=candidate.attempt,
        earlier=candidate.earlier,
        reused=candidate.reused,
        notes=made.notes if made else (),
        judgements=candidate.judgements,
    )


def _rounded(potential: float | None) -> float | None:
    """Without the noise of binary fractions; ranks are those of the exact values."""
    return None if potential is None else round(potential, 6)


def _best_scores(winner: Candidate) -> dict[str, float]:
    weighed = winner.combined.scores if winner.combined else {}
    scores = {
        f"{judgement.judge}_{term}": value
        for judgement in winner.judgements
        for term, value in (*judgement.scores.items(), *judgement.measures.items())
        if term in judgement.scores or term in weighed
    }
    if winner.combined:
        scores |= {f"default_{name}": winner.combined.scores[name] for name in winner.combined.defaulted}
    return scores


def _inputs(task: Task, prepared: Prepared) -> InputsMetrics:
    return InputsMetrics(
        init=InputMetrics(artifact=prepared.init, source=shown_source(task.init)),
        mask=InputMetrics(artifact=prepared.mask, source=shown_source(task.mask)),
        character=InputMetrics(artifact=prepared.character, source=shown_source(task.character)),
        width=prepared.width,
        height=prepared.height,
        mask_fraction=prepared.mask_fraction,
        mask_box=prepared.mask_box,
        notes=prepared.notes,
    )


def reasons(candidate: Candidate) -> tuple[str, ...]:
    """Why a candidate has no potential; empty when it has one. Criteria that share a reason are named together."""
    if candidate.failure is not None:
        return (candidate.failure.message,)
    missing = candidate.combined.missing if candidate.combined and candidate.potential is None else {}
    return grouped_reasons(missing)


def grouped_reasons(missing: Mapping[str, str]) -> tuple[str, ...]:
    """`missing` as sentences, one for each reason."""
    by_reason: dict[str, list[str]] = {}
    for criterion, reason in missing.items():
        by_reason.setdefault(reason, []).append(criterion)
    return tuple(f"{', '.join(criteria)}: {reason}" for reason, criteria in by_reason.items())


def _no_winner(candidates: Sequence[Candidate]) -> Failure:
    """Say why nobody won, the commonest reasons first."""
    if not candidates:
        return Failure(kind="internal", message="The search asked for no candidate at all.")
    counted = Counter(reason for candidate in candidates for reason in set(reasons(candidate)))
    told = "; ".join(f"{reason} ({count} of {len(candidates)})" for reason, count in counted.most_common(3))
    drawn = any(candidate.generated is not None for candidate in candidates)
    what = "could be scored" if drawn else "could be generated"
    return Failure(
        kind="scoring" if drawn else "generation",
        message=f"None of {len(candidates)} candidates {what}: {told or 'all were cancelled'}.",
    )


def _notes(history: TaskHistory, winner: Candidate | None, tied: Sequence[CandidateId]) -> tuple[str, ...]:
    notes = list(history.prepared.notes) if history.prepared else []
    if winner and winner.combined and winner.combined.defaulted:
        names = ", ".join(winner.combined.defaulted)
        notes.append(f"Nobody judged {names} of any candidate: the winner was chosen on a default score.")
    if tied:
        names = ", ".join(tied[:5]) + (f" and {len(tied) - 5} more" if len(tied) > 5 else "")
        notes.append(f"{names} came within {history.settings.scoring.tie_margin:g} of the winner: count it as a tie.")
    if failed := sum(candidate.state is CandidateState.FAILED for candidate in history.candidates):
        notes.append(f"{failed} of {len(history.candidates)} candidates failed.")
    return tuple(notes)
