"""Events in, changes out: record what happened, and let the task go on."""

import logging
from collections.abc import Sequence

from orchestrator import observations, transitions
from orchestrator.advance import advance, finish, judge, publish_from
from orchestrator.changes import change_candidate, forget, waits
from orchestrator.context import Context
from orchestrator.publish import published_outcome
from orchestrator.records import TaskRecord
from shared.artifacts import ArtifactStore
from shared.ledger import Command, Guard, Keys, moved, update
from shared.messages import (
    CandidateFailed,
    CandidateGenerated,
    CandidateJudged,
    CandidatesCompared,
    Event,
    Nudge,
    TaskPrepared,
    TaskRefused,
    result_key,
)
from shared.outcome import TaskState
from shared.types import Candidate, CandidateState

logger = logging.getLogger(__name__)


def collect(context: Context, event: Event) -> bool:
    """Process one event. Returns whether it changed anything; a late or doubled one does not."""
    match event:
        case TaskPrepared():
            changed = _prepared(context, event)
        case TaskRefused():
            run = context.run(event.run)
            changed = run is not None and publish_from(context, run, event.task, TaskState.PREPARING, event.failure)
        case CandidateGenerated():
            changed = _generated(context, event)
        case CandidateFailed():
            changed = _failed(context, event)
        case CandidateJudged():
            changed = _judged(context, event)
        case CandidatesCompared():
            changed = _compared(context, event)
        case Nudge():
            advance(context, event.run, event.task)
            changed = True
    logger.debug(
        "%s %s",
        event.kind,
        "recorded" if changed else "ignored",
        extra={
            "action": f"{event.kind}_{'recorded' if changed else 'ignored'}",
            "run": event.run,
            "task": event.task,
            "candidate": getattr(event, "candidate", None),
        },
    )
    return changed


def _prepared(context: Context, event: TaskPrepared) -> bool:
    key = f"prepare:{event.run}:{event.task}"
    run = context.run(event.run)
    if run is None:
        return False
    if not run.run.force:
        done = published_outcome(
            ArtifactStore(run.run.store), event.task, result_key(run.run.config_hash, event.prepared)
        )
        if done is not None:
            return finish(context, event.run, event.task, TaskState.UNCHANGED, None, event.prepared, done)
    now = context.ledger.now()

    def change(record: TaskRecord) -> tuple[TaskRecord, Sequence[Command]] | None:
        if record.state is not TaskState.PREPARING:
            return None
        new = record.model_copy(
            update={
                "state": TaskState.SEARCHING,
                "prepared": event.prepared,
                "times": record.at("prepared", now),
            }
        )
        return new, [
            ("HDEL", Keys.jobs, key),
            ("HDEL", Keys.claims, key),
            *moved(Keys.counts(event.run), "task:preparing", "task:searching"),
        ]

    changed = update(context.ledger, Keys.tasks(event.run), event.task, TaskRecord, change)
    advance(context, event.run, event.task)
    return changed is not None


def _generated(context: Context, event: CandidateGenerated) -> bool:
    run, record = context.run(event.run), context.searching(event.run, event.task)
    if run is None or record is None:
        return False
    now = context.ledger.now()
    new = judge(
        context,
        run,
        record,
        event.candidate,
        lambda old: transitions.generated(old, event.attempt, event.generated, event.reused, now),
        lambda old: forget(event.run, record, old),
    )
    if new is None:
        # Perhaps the event comes a second time because an orchestrator died over the first.
        advance(context, event.run, event.task)
    return new is not None


def _failed(context: Context, event: CandidateFailed) -> bool:
    run, record = context.run(event.run), context.searching(event.run, event.task)
    if run is None or record is None:
        return False
    now, most = context.ledger.now(), run.settings.dispatch.max_attempts

    def change(old: Candidate) -> tuple[Candidate, Sequence[Command]] | None:
        new = transitions.failed(old, event.attempt, event.failure, event.retryable, most, now)
        if new is None:
            return None
        commands = forget(event.run, record, old)
        if new.state is CandidateState.PENDING:
            commands.append(waits(run.run, record, new))
        return new, commands

    new = change_candidate(context, event.run, event.task, event.candidate, change)
    if new is None:
        advance(context, event.run, event.task)
        return False
    logger.log(
        logging.ERROR if new.state is CandidateState.FAILED else logging.WARNING,
        "candidate %s of task %s: %s",
        event.candidate,
        event.task,
        event.failure.message,
        extra={
            "action": "candidate_failed" if new.state is CandidateState.FAILED else "candidate_retried",
            "run": event.run,
            "task": event.task,
            "candidate": event.candidate,
            "attempt": event.attempt,
            "device": event.failure.device,
        },
    )
    if new.state is CandidateState.FAILED:
        advance(context, event.run, event.task)
    return True


def _judged(context: Context, event: CandidateJudged) -> bool:
    run, record = context.run(event.run), context.searching(event.run, event.task)
    if run is None or record is None:
        return False
    key = f"score:{event.run}:{event.task}:{event.candidate}:{event.attempt}:{event.judge}"
    answered: list[Command] = [("HDEL", Keys.jobs, key), ("HDEL", Keys.claims, key)]
    new = judge(
        context,
        run,
        record,
        event.candidate,
        lambda old: transitions.judged(old, event.attempt, event.judgements),
        lambda _: answered,
    )
    if new is None:
        context.ledger.do(answered)
    if new is None or new.state is CandidateState.SCORED:
        advance(context, event.run, event.task)
    return new is not None


def _compared(context: Context, event: CandidatesCompared) -> bool:
    key = f"compare:{event.run}:{event.task}:{event.first}:{event.second}:{event.judge}"
    answered: list[Command] = [("HDEL", Keys.jobs, key), ("HDEL", Keys.claims, key)]
    record = context.task(event.run, event.task)
    if record is None or record.state.over:
        context.ledger.do(answered)
        return False
    answers, pair = Keys.comparisons(event.run, event.task), f"{event.first}:{event.second}"
    new = context.ledger.compare_and_do(
        [Guard(answers, pair, None)],
        [
            ("HSET", answers, pair, event.model_dump_json()),
            *answered,
            *observations.of_comparison(event.judge, event.usage),
        ],
    )
    if not new:
        context.ledger.do(answered)
    advance(context, event.run, event.task)
    return new
