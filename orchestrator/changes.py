"""Changes to a candidate together with all that is counted and queued about it, in one atomic step."""

from collections.abc import Callable, Sequence

from orchestrator import observations
from orchestrator.context import Context
from orchestrator.records import Pending, TaskRecord, pending_score
from shared.ledger import Command, Keys, Room, moved, update
from shared.messages import Run, claim_key
from shared.types import Candidate

Change = Callable[[Candidate], tuple[Candidate, Sequence[Command]] | None]


def change_candidate(
    context: Context, run: str, task: str, candidate: str, change: Change, room: Room | None = None
) -> Candidate | None:
    """Change one candidate and count it in its new state; returns it as it is now, or `None` if nothing changed."""

    def counted(old: Candidate) -> tuple[Candidate, Sequence[Command]] | None:
        changed = change(old)
        if changed is None:
            return None
        new, commands = changed
        counting = [*moved(Keys.counts(run), _state(old), _state(new)), *observations.of_candidate(old, new)]
        return new, [*commands, *counting]

    done = update(context.ledger, Keys.candidates(run, task), candidate, Candidate, counted, room)
    return done[1] if done else None


def _state(candidate: Candidate) -> str:
    return f"candidate:{candidate.spec.phase}:{candidate.state}"


def waits(run: Run, record: TaskRecord, candidate: Candidate) -> Command:
    """The command that puts a candidate among those that wait for a device."""
    member = Pending.of(run.id, record, candidate.spec).member
    return ("ZADD", Keys.pending, pending_score(run.priority, candidate.spec.depth, candidate.attempt), member)


def forget(run: str, record: TaskRecord, candidate: Candidate) -> list[Command]:
    """Commands that take a candidate off every queue: it is settled, made, or starts again."""
    member = Pending.of(run, record, candidate.spec).member
    commands: list[Command] = [
        ("ZREM", Keys.pending, member),
        ("HDEL", Keys.claims, claim_key(run, record.task.id, candidate.spec.id, candidate.attempt)),
    ]
    if candidate.device is not None:
        commands.append(("HDEL", Keys.load(candidate.device), member))
    return commands
