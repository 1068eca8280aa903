"""What is counted for Prometheus: increments written in the same atomic step as the change that they count.

So each change is counted exactly once, whatever restarts, and whoever asks later finds all of it. Labels are few and
small: a phase, an outcome, a generator, a judge; never a task, a run or a seed.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import product

from shared.ledger import Command, Keys
from shared.outcome import TaskState
from shared.types import Candidate, CandidateState, Judgement, Usage

#: Upper bounds in seconds. Candidates take fractions of a second (composite) to minutes (large models).
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 600)

#: Counters: name to label names. Prometheus appends `_total`.
COUNTERS: Mapping[str, tuple[str, ...]] = {
    "tasks": ("outcome",),
    "candidates": ("phase", "outcome"),
    "retries": ("reason",),
    "judgements": ("judge", "outcome"),
    "judge_calls": ("judge",),
    "judge_tokens": ("judge", "direction"),
    "judge_cost_usd": ("judge",),
}
#: Labels that are shown as 0 before anything happened, so that the first time is seen as an increase.
KNOWN: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "tasks": tuple((state.value,) for state in TaskState if state.over),
    "candidates": tuple(product(("global", "local"), ("scored", "unscored", "failed"))),
    "retries": (("generation",), ("lost",), ("given_back",)),
}
#: Histograms, like counters.
HISTOGRAMS: Mapping[str, tuple[str, ...]] = {
    "generation_seconds": ("generator",),
    "judgement_seconds": ("judge",),
    "candidate_wait_seconds": (),
}


def of_task(state: TaskState) -> list[Command]:
    """A task is over."""
    return [_add("tasks", (state.value,))]


def of_candidate(old: Candidate, new: Candidate) -> list[Command]:
    """Everything that is to be counted about one change of a candidate."""
    return [*_waited(old, new), *_made(old, new), *_judged(old, new), *_settled(old, new), *_retried(old, new)]


def of_comparison(judge: str, usage: Usage) -> list[Command]:
    """What a comparison of the finals cost (nothing, if it was cached)."""
    return list(_paid(judge, usage))


def _waited(old: Candidate, new: Candidate) -> Iterator[Command]:
    first = new.state is CandidateState.DISPATCHED and old.state is CandidateState.PENDING and not old.earlier
    if first and "asked" in new.times and "dispatched" in new.times:
        yield from _observe("candidate_wait_seconds", (), new.times["dispatched"] - new.times["asked"])


def _made(old: Candidate, new: Candidate) -> Iterator[Command]:
    if old.generated is None and new.generated is not None and not new.reused:
        seconds = new.generated.timings.get("generate")
        if seconds is not None:
            yield from _observe("generation_seconds", (new.generated.generator,), seconds)


def _judged(old: Candidate, new: Candidate) -> Iterator[Command]:
    for judgement in new.judgements[len(old.judgements) :]:
        yield _add("judgements", (judgement.judge, _outcome(judgement)))
        if judgement.cached:
            # What it took and cost was counted when it was made.
            continue
        if judgement.scores or judgement.measures:
            yield from _observe("judgement_seconds", (judgement.judge,), judgement.seconds)
        yield from _paid(judgement.judge, judgement.usage)


def _paid(judge: str, usage: Usage) -> Iterator[Command]:
    for name, labels, number in (
        ("judge_calls", (judge,), usage.calls),
        ("judge_tokens", (judge, "input"), usage.input_tokens),
        ("judge_tokens", (judge, "output"), usage.output_tokens),
        ("judge_cost_usd", (judge,), usage.cost_usd),
    ):
        if number:
            yield _add(name, labels, number)


def _outcome(judgement: Judgement) -> str:
    if judgement.cached:
        return "cached"
    return "missing" if judgement.missing else "scored"


def _settled(old: Candidate, new: Candidate) -> Iterator[Command]:
    if not new.state.settled or old.state.settled:
        return
    outcome = new.state.value
    if new.state is CandidateState.SCORED and new.potential is None:
        outcome = "unscored"
    yield _add("candidates", (new.spec.phase, outcome))


def _retried(old: Candidate, new: Candidate) -> Iterator[Command]:
    if new.attempt > old.attempt:
        # Without a failure it was taken back unstarted, from a device that left.
        reason = new.earlier[-1].kind if len(new.earlier) > len(old.earlier) else "given_back"
        yield _add("retries", (reason,))


def _add(name: str, labels: tuple[str, ...], number: float = 1) -> Command:
    return ("HINCRBYFLOAT", Keys.observations, field(name, labels), number)


def _observe(name: str, labels: tuple[str, ...], seconds: float) -> Iterator[Command]:
    bucket = next((bound for bound in BUCKETS if seconds <= bound), "+Inf")
    yield _add(name, (*labels, str(bucket)))
    yield _add(name, (*labels, "sum"), seconds)


def field(name: str, labels: tuple[str, ...]) -> str:
    """Where a number stands in the hash `Keys.observations`; a histogram's last label is a bucket's bound, or `sum`."""
    return json.dumps([name, *labels])
