"""What judging cost: of a task, and of a run."""

import math
from collections.abc import Iterable, Mapping, Sequence

from shared.messages import CandidatesCompared
from shared.outcome import TaskOutcome, TaskState, UsageMetrics
from shared.types import Frozen, Judgement, RunId, TaskId

Answer = Judgement | CandidatesCompared


class RunMetrics(Frozen):
    """The content of a run's metrics.json: its tasks' in sum."""

    run_id: RunId
    #: Number of tasks by how they ended.
    tasks: Mapping[TaskState, int]
    #: Tasks whose winner was chosen on a default score.
    defaulted: tuple[TaskId, ...]
    candidates: int
    failed_candidates: int
    usage: UsageMetrics
    usage_by_judge: Mapping[str, UsageMetrics]


def usage_of(answers: Iterable[Answer]) -> UsageMetrics:
    """What these answers cost, and how long they took."""
    every = tuple(answers)
    paid = [answer for answer in every if not answer.cached]
    seconds = [answer.seconds for answer in paid]
    return UsageMetrics(
        judgements=sum(isinstance(answer, Judgement) for answer in every),
        comparisons=sum(isinstance(answer, CandidatesCompared) for answer in every),
        cached=len(every) - len(paid),
        calls=sum(answer.usage.calls for answer in paid),
        input_tokens=sum(answer.usage.input_tokens for answer in paid),
        output_tokens=sum(answer.usage.output_tokens for answer in paid),
        cost_usd=math.fsum(answer.usage.cost_usd for answer in paid),
        seconds=math.fsum(seconds),
        mean_seconds=math.fsum(seconds) / len(seconds) if seconds else None,
        max_seconds=max(seconds, default=None),
    )


def usage_by_judge(answers: Sequence[Answer]) -> Mapping[str, UsageMetrics]:
    """The same of each judge."""
    judges = sorted({answer.judge for answer in answers})
    return {judge: usage_of(answer for answer in answers if answer.judge == judge) for judge in judges}


def total(usages: Iterable[UsageMetrics]) -> UsageMetrics:
    """The sum of several."""
    every = tuple(usages)
    paid = sum(each.judgements + each.comparisons - each.cached for each in every)
    seconds = math.fsum(each.seconds for each in every)
    return UsageMetrics(
        judgements=sum(each.judgements for each in every),
        comparisons=sum(each.comparisons for each in every),
        cached=sum(each.cached for each in every),
        calls=sum(each.calls for each in every),
        input_tokens=sum(each.input_tokens for each in every),
        output_tokens=sum(each.output_tokens for each in every),
        cost_usd=math.fsum(each.cost_usd for each in every),
        seconds=seconds,
        mean_seconds=seconds / paid if paid else None,
        max_seconds=max((each.max_seconds for each in every if each.max_seconds is not None), default=None),
    )


def run_metrics(run_id: RunId, outcomes: Sequence[TaskOutcome]) -> RunMetrics:
    """Sum a run's tasks up."""
    judges = sorted({judge for outcome in outcomes for judge in outcome.usage_by_judge})
    by_judge = {
        judge: total(outcome.usage_by_judge[judge] for outcome in outcomes if judge in outcome.usage_by_judge)
        for judge in judges
    }
    states = [outcome.state for outcome in outcomes]
    return RunMetrics(
        run_id=run_id,
        tasks={state: states.count(state) for state in TaskState if state in states},
        defaulted=tuple(outcome.task_id for outcome in outcomes if outcome.best_defaulted),
        candidates=sum(outcome.total_candidates for outcome in outcomes),
        failed_candidates=sum(outcome.failed_candidates for outcome in outcomes),
        usage=total(by_judge.values()),
        usage_by_judge=by_judge,
    )
