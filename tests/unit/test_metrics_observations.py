"""What is counted about each change of a candidate, and how Prometheus gets to see it."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import transitions
from orchestrator.observations import BUCKETS, COUNTERS, HISTOGRAMS, of_candidate, of_task
from shared.ledger import Command, Keys
from shared.outcome import TaskState
from shared.types import ArtifactRef, Candidate, CandidateSpec, Combined, Failure, Generated, Judgement, Usage

SPEC = CandidateSpec(id="g00", phase="global", seed=5000, order=(0, 0))
LOST = Failure(kind="lost", message="device sim.0 stopped answering", attempt=1, device="sim.0")


def counted(commands: list[Command]) -> dict[tuple[str, ...], float]:
    """Increments by name and labels."""
    found: Counter[tuple[str, ...]] = Counter()
    for command, key, name, number in commands:
        assert (command, key) == ("HINCRBYFLOAT", Keys.observations)
        found[tuple(json.loads(str(name)))] += float(number)  # type: ignore[assignment]
    return dict(found)


def changed(old: Candidate, new: Candidate | None) -> tuple[Candidate, dict[tuple[str, ...], float]]:
    assert new is not None
    return new, counted(of_candidate(old, new))


def made(seconds: float = 4.0) -> Generated:
    return Generated(
        image=ArtifactRef(name="candidates/g00.png", sha256="0" * 64),
        key="k",
        generator="composite",
        device="sim.0",
        attempt=1,
        timings={"generate": seconds, "write": 0.1},
    )


def test_a_candidate_from_asked_to_scored_is_counted_once_at_each_step() -> None:
    candidate = transitions.asked(SPEC, 100.0)
    candidate, waited = changed(candidate, transitions.dispatched(candidate, "sim.0", 103.0))
    assert waited == {("candidate_wait_seconds", "5"): 1, ("candidate_wait_seconds", "sum"): 3.0}
    candidate, generated = changed(candidate, transitions.generated(candidate, 1, made(), False, 108.0))
    assert generated == {("generation_seconds", "composite", "5"): 1, ("generation_seconds", "composite", "sum"): 4.0}
    usage = Usage(calls=2, input_tokens=900, output_tokens=70, cost_usd=0.0125)
    judgement = Judgement(judge="gemini", scores={"identity": 7.0}, seconds=1.5, usage=usage)
    candidate, judged = changed(candidate, transitions.judged(candidate, 1, (judgement,)))
    assert judged == {
        ("judgements", "gemini", "scored"): 1,
        ("judgement_seconds", "gemini", "2.5"): 1,
        ("judgement_seconds", "gemini", "sum"): 1.5,
        ("judge_calls", "gemini"): 2,
        ("judge_tokens", "gemini", "input"): 900,
        ("judge_tokens", "gemini", "output"): 70,
        ("judge_cost_usd", "gemini"): 0.0125,
    }
    scored = transitions.scored(candidate, Combined(potential=20.0), 110.0)
    assert counted(of_candidate(candidate, scored)) == {("candidates", "global", "scored"): 1}
    assert of_candidate(scored, scored) == []


def test_what_came_from_disk_or_cache_took_no_time_and_cost_nothing() -> None:
    candidate = transitions.asked(SPEC, 100.0)
    reused, counts = changed(candidate, transitions.generated(candidate, 1, made(), True, 101.0))
    assert counts == {}
    cached = Judgement(judge="gemini", scores={"identity": 7.0}, cached=True, usage=Usage(calls=1, cost_usd=0.01))
    _, counts = changed(reused, transitions.judged(reused, 1, (cached,)))
    assert counts == {("judgements", "gemini", "cached"): 1}


def test_a_judgement_that_failed_costs_what_it_cost_and_is_no_score() -> None:
    candidate = transitions.asked(SPEC, 100.0)
    candidate, _ = changed(candidate, transitions.generated(candidate, 1, made(), True, 101.0))
    failed = Judgement(judge="gemini", missing={"identity": "refused"}, usage=Usage(calls=1, cost_usd=0.01))
    candidate, counts = changed(candidate, transitions.judged(candidate, 1, (failed,)))
    assert counts == {
        ("judgements", "gemini", "missing"): 1,
        ("judge_calls", "gemini"): 1,
        ("judge_cost_usd", "gemini"): 0.01,
    }
    unscored = transitions.scored(candidate, Combined(potential=None, missing={"identity": "refused"}), 110.0)
    assert counted(of_candidate(candidate, unscored)) == {("candidates", "global", "unscored"): 1}


def test_retries_say_why_and_a_candidate_that_never_started_is_given_back() -> None:
    candidate = transitions.asked(SPEC, 100.0)
    candidate, _ = changed(candidate, transitions.dispatched(candidate, "sim.0", 101.0))
    again, counts = changed(candidate, transitions.failed(candidate, 1, LOST, True, 3, 109.0))
    assert counts == {("retries", "lost"): 1}
    again, counts = changed(again, transitions.dispatched(again, "sim.1", 110.0))
    assert counts == {}, "a second wait would be counted with the first attempt's time in it"
    again, counts = changed(again, transitions.given_back(again, 2))
    assert counts == {("retries", "given_back"): 1}
    last, _ = changed(again, transitions.dispatched(again, "sim.1", 111.0))
    _, counts = changed(last, transitions.failed(last, 3, LOST, False, 3, 112.0))
    assert counts == {("candidates", "global", "failed"): 1}


@pytest.mark.parametrize("state", [state for state in TaskState if state.over])
def test_tasks_are_counted_by_how_they_ended(state: TaskState) -> None:
    assert counted(of_task(state)) == {("tasks", state.value): 1}


@given(st.floats(min_value=0, max_value=1e6))
def test_every_duration_falls_into_exactly_one_bucket_that_holds_it(seconds: float) -> None:
    candidate = transitions.asked(SPEC, 100.0)
    _, counts = changed(candidate, transitions.generated(candidate, 1, made(seconds), False, 108.0))
    ((bound,),) = [key[2:] for key in counts if key[-1] != "sum"]
    assert seconds <= float(bound)
    assert all(seconds > lower for lower in BUCKETS if lower < float(bound))


def test_no_label_can_grow_with_the_number_of_tasks() -> None:
    labels = {label for names in (*COUNTERS.values(), *HISTOGRAMS.values()) for label in names}
    assert labels <= {"outcome", "phase", "reason", "judge", "direction", "generator"}
