"""What a task needs next: judgements, further candidates, finals, or its results written.

Each function may be called at any time and any number of times; it does what is missing and nothing else.
"""

import logging
from collections.abc import Sequence

from orchestrator import observations, transitions
from orchestrator.changes import change_candidate, forget, waits
from orchestrator.context import Context, RunContext
from orchestrator.finals import Comparison, finalists, next_pairs
from orchestrator.potential import combine, gate_reason, next_judges
from orchestrator.records import TaskRecord
from shared.ledger import Command, Keys, moved, update
from shared.messages import CandidatesCompared, CompareJob, PublishJob, ScoreJob
from shared.outcome import TaskOutcome, TaskState
from shared.queues import PUBLISH
from shared.types import CRITERIA, Candidate, CandidateState, Failure, Prepared

logger = logging.getLogger(__name__)


def advance(context: Context, run_id: str, task_id: str) -> None:
    """Do whatever a task needs next."""
    run, record = context.run(run_id), context.task(run_id, task_id)
    if run is None or record is None or record.state is not TaskState.SEARCHING or record.prepared is None:
        return
    history = context.history(run_id, task_id)
    scored = [
        judge(context, run, record, candidate) for candidate in history if candidate.state is CandidateState.GENERATED
    ]
    if any(scored):
        history = context.history(run_id, task_id)
    step = run.search.ask(history)
    if step.specs:
        _ask(context, run, record, [transitions.asked(spec, context.ledger.now()) for spec in step.specs])
    if step.done and not _finals_open(context, run, record, history):
        _publish(context, run, record)


def judge(context: Context, run: RunContext, record: TaskRecord, candidate: Candidate) -> bool:
    """Ask the judges whose answers are needed next. With all answers in, score it. Returns whether it is scored now."""
    if candidate.generated is None or record.prepared is None:
        return False
    scoring = run.settings.scoring
    judges = next_judges(candidate.judgements, scoring, run.run.available)
    if not judges:
        return _score(context, run, record, candidate)
    jobs = [
        ScoreJob(
            run=run.run.id,
            task=record.task.id,
            character_name=record.task.character_name,
            store=run.run.store,
            prepared=record.prepared,
            candidate=candidate.spec.id,
            attempt=candidate.attempt,
            image=candidate.generated.image,
            judge=name,
            gates=scoring.gates and not candidate.judgements,
            preview=candidate.spec.is_preview,
        )
        for name in judges
    ]
    for job in jobs:
        command, outstanding = context.register(job, run.run.queue_of(job.judge))
        if context.ledger.compare_and_do(Keys.jobs, job.key, None, [command]):
            context.send_job(job.key, outstanding)
    return False


def _score(context: Context, run: RunContext, record: TaskRecord, candidate: Candidate) -> bool:
    scoring, now = run.settings.scoring, context.ledger.now()

    def change(old: Candidate) -> tuple[Candidate, Sequence[Command]] | None:
        if old.state is not CandidateState.GENERATED or old.judgements != candidate.judgements:
            return None
        combined = combine(old.judgements, scoring, run.run.available)
        return transitions.scored(old, combined, now), []

    new = change_candidate(context, run.run.id, record.task.id, candidate.spec.id, change)
    if new is None or new.combined is None:
        return False
    logger.info(
        "candidate %s of task %s: potential %s",
        new.spec.id,
        record.task.id,
        new.combined.potential,
        extra={
            "action": "candidate_scored" if new.combined.potential is not None else "candidate_unscored",
            "run": run.run.id,
            "task": record.task.id,
            "candidate": new.spec.id,
            "missing": dict(new.combined.missing),
        },
    )
    if scoring.on_failure == "fail" and new.combined.missing and gate_reason(new.judgements) is None:
        reasons = "; ".join(f"{term}: {why}" for term, why in new.combined.missing.items())
        message = (
            f"Candidate {new.spec.id} of task {record.task.id} could not be judged ({reasons}), "
            "and scoring.on_failure is fail, so the run ends."
        )
        end_run(context, run.run.id, TaskState.FAILED, Failure(kind="scoring", message=message))
    return True


def end_run(context: Context, run_id: str, state: TaskState, failure: Failure | None) -> int:
    """End every task of a run that is not over: cancelled, or failed with the reason. Returns how many there were."""
    context.ledger.do([("ZREM", Keys.waiting_runs, run_id)])
    ended = 0
    for task_id, text in context.ledger.hgetall(Keys.tasks(run_id)).items():
        record = TaskRecord.model_validate_json(text)
        ended += not record.state.over and finish(context, run_id, task_id, state, failure)
    return ended


def _ask(context: Context, run: RunContext, record: TaskRecord, candidates: Sequence[Candidate]) -> None:
    key = Keys.candidates(run.run.id, record.task.id)
    for candidate in candidates:
        commands: list[Command] = [
            ("HSET", key, candidate.spec.id, candidate.model_dump_json()),
            waits(run.run, record, candidate),
            *moved(Keys.counts(run.run.id), None, f"candidate:{candidate.spec.phase}:{candidate.state}"),
        ]
        if context.ledger.compare_and_do(key, candidate.spec.id, None, commands):
            logger.info(
                "candidate %s of task %s asked for",
                candidate.spec.id,
                record.task.id,
                extra={
                    "action": "candidate_asked",
                    "run": run.run.id,
                    "task": record.task.id,
                    "candidate": candidate.spec.id,
                },
            )


def comparisons(context: Context, run_id: str, task_id: str) -> tuple[CandidatesCompared, ...]:
    """Answers of the finals so far."""
    found = context.ledger.hgetall(Keys.comparisons(run_id, task_id))
    return tuple(CandidatesCompared.model_validate_json(text) for text in found.values())


def _finals_open(context: Context, run: RunContext, record: TaskRecord, history: Sequence[Candidate]) -> bool:
    """Send the comparisons that are missing. Returns whether any is still to come."""
    scoring, prepared = run.settings.scoring, record.prepared
    if scoring.finals == "off" or prepared is None:
        return False
    images = {each.spec.id: each.generated.image for each in history if each.generated is not None}
    # The judges that can compare are those that judge every criterion themselves; the preferred one decides.
    judge_name = next((name for name, criteria in run.run.judges.items() if set(CRITERIA) <= set(criteria)), None)
    if judge_name is None:
        return False
    answers = [
        Comparison(said.first, said.second, said.preference)
        for said in comparisons(context, run.run.id, record.task.id)
    ]
    missing = next_pairs(finalists(history, scoring.finals_top), answers)
    for first, second in missing:
        job = CompareJob(
            run=run.run.id,
            task=record.task.id,
            character_name=record.task.character_name,
            store=run.run.store,
            prepared=prepared,
            first=first,
            second=second,
            first_image=images[first],
            second_image=images[second],
            judge=judge_name,
        )
        command, outstanding = context.register(job, run.run.queue_of(judge_name))
        if context.ledger.compare_and_do(Keys.jobs, job.key, None, [command]):
            context.send_job(job.key, outstanding)
    return bool(missing)


def _publish(context: Context, run: RunContext, record: TaskRecord) -> None:
    publish_from(context, run, record.task.id, TaskState.SEARCHING, None)


def publish_from(context: Context, run: RunContext, task_id: str, state: TaskState, failure: Failure | None) -> bool:
    """Have a task's results written if it is in `state` still. Returns whether it was."""
    job = PublishJob(run=run.run.id, task=task_id)
    command, outstanding = context.register(job, PUBLISH)
    counts = Keys.counts(run.run.id)

    def change(old: TaskRecord) -> tuple[TaskRecord, Sequence[Command]] | None:
        if old.state is not state:
            return None
        new = old.model_copy(update={"state": TaskState.PUBLISHING, "failure": failure})
        return new, [
            command,
            ("HDEL", Keys.jobs, f"prepare:{run.run.id}:{task_id}"),
            ("HDEL", Keys.claims, f"prepare:{run.run.id}:{task_id}"),
            *moved(counts, f"task:{state}", "task:publishing"),
        ]

    if update(context.ledger, Keys.tasks(run.run.id), task_id, TaskRecord, change) is None:
        return False
    context.send_job(job.key, outstanding)
    return True


def finish(
    context: Context,
    run_id: str,
    task_id: str,
    state: TaskState,
    failure: Failure | None,
    prepared: Prepared | None = None,
    outcome: TaskOutcome | None = None,
) -> bool:
    """A task is over: count it, free its place, and forget its candidates (they are on disk)."""
    run = context.run(run_id)
    if run is None:
        return False
    now = context.ledger.now()

    def change(old: TaskRecord) -> tuple[TaskRecord, Sequence[Command]] | None:
        if old.state.over:
            return None
        told = outcome or TaskOutcome(
            task_id=task_id,
            character_name=old.task.character_name,
            state=state,
            failure=failure,
            notes=(prepared.notes if prepared else ()),
        )
        new = old.model_copy(
            update={
                "state": state,
                "failure": failure,
                "prepared": prepared or old.prepared,
                "outcome": told,
                "times": old.at("over", now),
            }
        )
        commands: list[Command] = [
            ("SREM", Keys.in_flight, f"{run_id}|{task_id}"),
            ("LREM", Keys.waiting(run_id), 1, task_id),
            ("RPUSH", Keys.outcomes(run_id), told.model_dump_json()),
            ("DEL", Keys.owner(run.run.store, task_id)),
            ("DEL", Keys.comparisons(run_id, task_id)),
            *moved(Keys.counts(run_id), f"task:{old.state}", f"task:{state}"),
            *observations.of_task(state),
        ]
        for kind in ("prepare", "publish"):
            commands.append(("HDEL", Keys.jobs, f"{kind}:{run_id}:{task_id}"))
            commands.append(("HDEL", Keys.claims, f"{kind}:{run_id}:{task_id}"))
        return new, commands

    done = update(context.ledger, Keys.tasks(run_id), task_id, TaskRecord, change)
    if done is None:
        return False
    _drop_candidates(context, run_id, done[1])
    logger.log(
        logging.ERROR if state is TaskState.FAILED else logging.INFO,
        "task %s is %s%s",
        task_id,
        state,
        f": {failure.message}" if failure else "",
        extra={"action": f"task_{state}", "run": run_id, "task": task_id},
    )
    return True


def _drop_candidates(context: Context, run_id: str, record: TaskRecord) -> None:
    commands: list[Command] = []
    for candidate in context.history(run_id, record.task.id):
        if not candidate.state.settled:
            commands += forget(run_id, record, candidate)
    commands.append(("DEL", Keys.candidates(run_id, record.task.id)))
    context.ledger.do(commands)
