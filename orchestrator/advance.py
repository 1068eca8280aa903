"""What a task needs next: judgements, further candidates, finals, or its results written.

Each function may be called at any time and any number of times; it does what is missing and nothing else.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from orchestrator import observations, transitions
from orchestrator.changes import change_candidate, forget, waits
from orchestrator.context import Context, RunContext
from orchestrator.finals import Comparison, finalists, next_pairs
from orchestrator.potential import combine, gate_reason, next_judges
from orchestrator.records import Outstanding, TaskRecord
from orchestrator.usage import usage_by_judge
from shared.ledger import Command, Guard, Keys, moved, update
from shared.messages import CandidatesCompared, CompareJob, PublishJob, ScoreJob
from shared.outcome import TaskOutcome, TaskState, UsageMetrics
from shared.queues import PUBLISH
from shared.types import Candidate, CandidateState, Failure, Prepared

logger = logging.getLogger(__name__)

_KEPT_SECONDS = 14 * 24 * 3600


def advance(context: Context, run_id: str, task_id: str) -> bool:
    """Do whatever a task needs next. Returns whether candidates were asked for."""
    run = context.run(run_id)
    text = context.ledger.hget(Keys.tasks(run_id), task_id)
    if run is None or text is None:
        return False
    record = TaskRecord.model_validate_json(text)
    if record.state is not TaskState.SEARCHING or record.prepared is None:
        return False
    history = context.history(run_id, task_id)
    settled = [
        judge(context, run, record, candidate.spec.id, _still_generated)
        for candidate in history
        if candidate.state is CandidateState.GENERATED and not _asked_for(context, run, record, candidate)
    ]
    if settled:
        history = context.history(run_id, task_id)
    step = run.search.ask(history)
    if step.specs:
        now = context.ledger.now()
        unchanged = Guard(Keys.tasks(run_id), task_id, text)
        return _ask(context, run, record, [transitions.asked(spec, now) for spec in step.specs], unchanged)
    if step.done and not _finals_open(context, run, record, history):
        _publish(context, run, record)
    return False


def _still_generated(candidate: Candidate) -> Candidate | None:
    return candidate if candidate.state is CandidateState.GENERATED else None


def _asked_for(context: Context, run: RunContext, record: TaskRecord, candidate: Candidate) -> bool:
    """Whether all judges whose answers are still needed have been asked."""
    needed = next_judges(candidate.judgements, run.settings.scoring, run.run.available)
    keys = [_score_job(run, record, candidate, name).key for name in needed]
    return bool(keys) and all(context.ledger.read([("HEXISTS", Keys.jobs, key) for key in keys]))


def judge(
    context: Context,
    run: RunContext,
    record: TaskRecord,
    candidate: str,
    change: Callable[[Candidate], Candidate | None],
    commands: Callable[[Candidate], Sequence[Command]] = lambda _: (),
) -> Candidate | None:
    """Apply `change`, then ask the judges whose answers are needed next, or score it if all are in: in one step.

    `commands` are run in the same step. Returns the candidate as it is now, or `None` if `change` was not for it.
    """
    scoring, now = run.settings.scoring, context.ledger.now()
    jobs: dict[str, Outstanding] = {}

    def step(old: Candidate) -> tuple[Candidate, Sequence[Command]] | None:
        jobs.clear()
        new = change(old)
        if new is None or new.generated is None or record.prepared is None:
            return None
        names = next_judges(new.judgements, scoring, run.run.available)
        if not names:
            return transitions.scored(new, combine(new.judgements, scoring, run.run.available), now), commands(old)
        follow: list[Command] = [*commands(old)]
        for name in names:
            job = _score_job(run, record, new, name)
            command, jobs[job.key] = context.register(job, run.run.queue_of(name))
            follow.append(command)
        return new, follow

    new = change_candidate(context, run.run.id, record.task.id, candidate, step)
    if new is None:
        return None
    for key, job in jobs.items():
        context.send_job(key, job)
    if new.state is CandidateState.SCORED:
        _tell(context, run, record, new)
    return new


def _score_job(run: RunContext, record: TaskRecord, candidate: Candidate, name: str) -> ScoreJob:
    if candidate.generated is None or record.prepared is None:
        raise ValueError(f"candidate {candidate.spec.id} of task {record.task.id} has no image to be judged")
    return ScoreJob(
        run=run.run.id,
        task=record.task.id,
        character_name=record.task.character_name,
        store=run.run.store,
        prepared=record.prepared,
        candidate=candidate.spec.id,
        attempt=candidate.attempt,
        image=candidate.generated.image,
        judge=name,
        gates=run.settings.scoring.gates and not candidate.judgements,
        preview=candidate.spec.is_preview,
    )


def _tell(context: Context, run: RunContext, record: TaskRecord, candidate: Candidate) -> None:
    combined = candidate.combined
    if combined is None:
        return
    logger.info(
        "candidate %s of task %s: potential %s",
        candidate.spec.id,
        record.task.id,
        combined.potential,
        extra={
            "action": "candidate_scored" if combined.potential is not None else "candidate_unscored",
            "run": run.run.id,
            "task": record.task.id,
            "candidate": candidate.spec.id,
            "missing": dict(combined.missing),
        },
    )
    if run.settings.scoring.on_failure == "fail" and combined.missing and gate_reason(candidate.judgements) is None:
        reasons = "; ".join(f"{term}: {why}" for term, why in combined.missing.items())
        message = (
            f"Candidate {candidate.spec.id} of task {record.task.id} could not be judged ({reasons}), "
            "and scoring.on_failure is fail, so the run ends."
        )
        end_run(context, run.run.id, TaskState.FAILED, Failure(kind="scoring", message=message))


def end_run(context: Context, run_id: str, state: TaskState, failure: Failure | None) -> int:
    """End every task of a run that is not over: cancelled, or failed with the reason. Returns how many there were."""
    # First of all nothing more of it is taken up.
    context.ledger.do([("ZREM", Keys.waiting_runs, run_id), ("DEL", Keys.waiting(run_id))])
    ended = 0
    for task_id, text in context.ledger.hgetall(Keys.tasks(run_id)).items():
        record = TaskRecord.model_validate_json(text)
        ended += not record.state.over and finish(context, run_id, task_id, state, failure)
    return ended


def _ask(
    context: Context, run: RunContext, record: TaskRecord, candidates: Sequence[Candidate], unchanged: Guard
) -> bool:
    """Enter candidates all at once, unless another orchestrator did it, or the task is over meanwhile."""
    key = Keys.candidates(run.run.id, record.task.id)
    guards, commands = [unchanged], list[Command]()
    for candidate in candidates:
        guards.append(Guard(key, candidate.spec.id, None))
        commands.append(("HSET", key, candidate.spec.id, candidate.model_dump_json()))
        commands.append(waits(run.run, record, candidate))
        commands += moved(Keys.counts(run.run.id), None, f"candidate:{candidate.spec.phase}:{candidate.state}")
    if not context.ledger.compare_and_do(guards, commands):
        return False
    logger.info(
        "%d candidates of task %s asked for",
        len(candidates),
        record.task.id,
        extra={
            "action": "candidates_asked",
            "run": run.run.id,
            "task": record.task.id,
            "candidates": [candidate.spec.id for candidate in candidates],
        },
    )
    return True


def comparisons(context: Context, run_id: str, task_id: str) -> tuple[CandidatesCompared, ...]:
    """Answers of the finals so far."""
    found = context.ledger.hgetall(Keys.comparisons(run_id, task_id))
    return tuple(CandidatesCompared.model_validate_json(text) for text in found.values())


def _finals_open(context: Context, run: RunContext, record: TaskRecord, history: Sequence[Candidate]) -> bool:
    """Send the comparisons that are missing. Returns whether any is still to come."""
    scoring, prepared, comparer = run.settings.scoring, record.prepared, run.run.comparer
    if comparer is None or prepared is None:
        return False
    images = {each.spec.id: each.generated.image for each in history if each.generated is not None}
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
            judge=comparer,
        )
        command, outstanding = context.register(job, run.run.queue_of(comparer))
        if context.ledger.compare_and_do([Guard(Keys.jobs, job.key, None)], [command]):
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
    spent: Mapping[str, UsageMetrics] = {}
    if outcome is None:
        judgements = (judgement for each in context.history(run_id, task_id) for judgement in each.judgements)
        spent = usage_by_judge((*judgements, *comparisons(context, run_id, task_id)))

    def change(old: TaskRecord) -> tuple[TaskRecord, Sequence[Command]] | None:
        if old.state.over:
            return None
        told = outcome or TaskOutcome(
            task_id=task_id,
            character_name=old.task.character_name,
            state=state,
            failure=failure,
            usage_by_judge=spent,
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
    _let_expire(context, run)
    logger.log(
        logging.ERROR if state is TaskState.FAILED else logging.INFO,
        "task %s is %s%s",
        task_id,
        state,
        f": {failure.message}" if failure else "",
        extra={"action": f"task_{state}", "run": run_id, "task": task_id},
    )
    return True


def _let_expire(context: Context, run: RunContext) -> None:
    """Once a run is over its results are on disk; the ledger keeps it for a while, for those who still ask."""
    run_id = run.run.id
    ended = int(context.ledger.redis.llen(Keys.outcomes(run_id)))
    if ended >= run.run.total:
        keys = (Keys.run, Keys.tasks, Keys.counts, Keys.outcomes)
        context.ledger.do([("EXPIRE", key(run_id), _KEPT_SECONDS) for key in keys])


def _drop_candidates(context: Context, run_id: str, record: TaskRecord) -> None:
    commands: list[Command] = []
    for candidate in context.history(run_id, record.task.id):
        if not candidate.state.settled:
            commands += forget(run_id, record, candidate)
    commands.append(("DEL", Keys.candidates(run_id, record.task.id)))
    context.ledger.do(commands)
