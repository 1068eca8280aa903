"""How many tasks are in flight, and whose turn it is."""

import logging
from collections.abc import Sequence

from orchestrator.context import Context, RunContext
from orchestrator.records import TaskRecord
from shared.ledger import Command, Keys, counts, moved, update
from shared.messages import PrepareJob
from shared.outcome import TaskState
from shared.queues import PREPARE

logger = logging.getLogger(__name__)

_LOCK = "admit"


def admit(context: Context) -> int:
    """Take up waiting tasks while there is room: higher priority first, and runs of equal priority in turn."""
    ledger, taken = context.ledger, 0
    if not ledger.redis.exists(Keys.waiting_runs) or not ledger.try_lock(_LOCK, 5.0):
        return 0
    try:
        room = context.dispatch.max_tasks_in_flight - int(ledger.redis.scard(Keys.in_flight))
        while room > taken:
            run = _next_run(context)
            if run is None:
                break
            if _take(context, run):
                taken += 1
    finally:
        ledger.unlock(_LOCK)
    return taken


def _next_run(context: Context) -> RunContext | None:
    """Of the runs with the highest priority, the one with the fewest tasks in flight."""
    waiting: list[tuple[str, float]] = context.ledger.redis.zrange(Keys.waiting_runs, 0, -1, withscores=True)  # type: ignore[assignment]
    best: tuple[int, float, RunContext] | None = None
    for run_id, score in waiting:
        if best is not None and score > waiting[0][1]:
            break
        run = context.run(run_id)
        if run is None:
            context.ledger.do([("ZREM", Keys.waiting_runs, run_id)])
            continue
        numbers = counts(context.ledger, run_id)
        busy = sum(numbers.get(f"task:{state}", 0) for state in ("preparing", "searching", "publishing"))
        if best is None or (busy, run.run.created) < best[:2]:
            best = (busy, run.run.created, run)
    return best[2] if best else None


def _take(context: Context, run: RunContext) -> bool:
    ledger, run_id = context.ledger, run.run.id
    task_id = ledger.redis.lindex(Keys.waiting(run_id), 0)
    if task_id is None:
        ledger.do([("ZREM", Keys.waiting_runs, run_id)])
        return False
    name, now = str(task_id), ledger.now()
    sequence = int(ledger.redis.incr(Keys.sequence))
    record = context.task(run_id, name)
    if record is None or record.state is not TaskState.WAITING:
        ledger.do([("LREM", Keys.waiting(run_id), 1, name)])
        return False
    job = PrepareJob(
        run=run_id,
        task=record.task,
        config_hash=run.run.config_hash,
        generation_hash=run.run.generation_hash,
        store=run.run.store,
        force=run.run.force,
    )
    command, outstanding = context.register(job, PREPARE)

    def change(old: TaskRecord) -> tuple[TaskRecord, Sequence[Command]] | None:
        if old.state is not TaskState.WAITING:
            return None
        new = old.model_copy(update={"state": TaskState.PREPARING, "sequence": sequence, "times": old.at("taken", now)})
        return new, [
            ("LREM", Keys.waiting(run_id), 1, name),
            ("SADD", Keys.in_flight, f"{run_id}|{name}"),
            command,
            *moved(Keys.counts(run_id), "task:waiting", "task:preparing"),
        ]

    if update(ledger, Keys.tasks(run_id), name, TaskRecord, change) is None:
        return False
    context.send_job(job.key, outstanding)
    logger.info("task %s taken up", name, extra={"action": "task_taken", "run": run_id, "task": name})
    return True
