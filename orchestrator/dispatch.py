"""Late binding: which pending candidate goes to which device, decided only when the device has room."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator import transitions
from orchestrator.changes import change_candidate
from orchestrator.context import Context
from orchestrator.records import Pending, TaskRecord
from shared.heartbeat import DeviceState, Heartbeat
from shared.ledger import Command, Keys, Room
from shared.messages import GenerateJob, generation_key, inputs_key
from shared.queues import GENERATE_TASK, device_queue
from shared.types import Candidate, CandidateState, Start

logger = logging.getLogger(__name__)

#: How far down the pending set to look, at most, for candidates to give out at once.
_WINDOW = 256


@dataclass(frozen=True)
class Waiting:
    """A pending candidate as the plan sees it: who it is, how urgent (smaller first), and who can make it."""

    pending: Pending
    urgency: float
    generator: str

    @property
    def task(self) -> str:
        """Its task, as devices name what they keep warm."""
        return f"{self.pending.run}|{self.pending.task}"


@dataclass(frozen=True)
class DeviceRoom:
    """A device that takes work: how much more it may hold, how much it holds, and the tasks it has encoded."""

    device: str
    free: int
    held: int
    generators: frozenset[str]
    warm: frozenset[str]


def plan(waiting: Sequence[Waiting], rooms: Sequence[DeviceRoom]) -> list[tuple[Waiting, str]]:
    """Give candidates to devices, in order of urgency, the emptiest device first.

    Among equally urgent candidates a device gets one whose task it has encoded already, else one whose task nobody
    has, else the first: affinity decides which candidate, never whether, so it leaves no device idle.
    """
    left = list(waiting)
    free = {room.device: room.free for room in rooms}
    held = {room.device: room.held for room in rooms}
    warm = {room.device: set(room.warm) for room in rooms}
    known = {room.device: room for room in rooms}
    given: list[tuple[Waiting, str]] = []
    while left:
        open_rooms = [name for name, places in free.items() if places > 0]
        best: tuple[Waiting, str] | None = None
        for device in sorted(open_rooms, key=lambda name: (held[name], name)):
            able = [one for one in left if one.generator in known[device].generators]
            if not able:
                continue
            peers = [one for one in able if one.urgency == able[0].urgency]
            elsewhere = set().union(*(tasks for name, tasks in warm.items() if name != device))
            chosen = next(
                (one for one in peers if one.task in warm[device]),
                next((one for one in peers if one.task not in elsewhere), peers[0]),
            )
            best = (chosen, device)
            break
        if best is None:
            break
        chosen, device = best
        given.append(best)
        left.remove(chosen)
        free[device] -= 1
        held[device] += 1
        warm[device].add(chosen.task)
    return given


def pump(context: Context) -> int:
    """Give pending candidates to devices that have room. Returns how many were given out.

    Several processes may do so at once: a candidate is given to one device only, and none beyond its depth.
    """
    ledger = context.ledger
    found, names, drains = ledger.read(
        [
            ("ZRANGE", Keys.pending, 0, _WINDOW - 1, "WITHSCORES"),
            ("SMEMBERS", Keys.devices),
            ("SMEMBERS", Keys.drains),
        ]
    )
    if not found or not names:
        return 0
    rooms = _rooms(context, sorted(names), set(drains))
    if not rooms:
        return 0
    return sum(_dispatch(context, one, device) for one, device in plan(_waiting(context, found), rooms))


def _rooms(context: Context, names: Sequence[str], drains: set[str]) -> list[DeviceRoom]:
    answers = context.ledger.read(
        [
            ("MGET", *(Keys.device(name) for name in names)),
            *(("HLEN", Keys.load(name)) for name in names),
        ]
    )
    depth, rooms = context.dispatch.depth, []
    for text, load in zip(answers[0], answers[1:], strict=True):
        if text is None or int(load) >= depth:
            continue
        beat = Heartbeat.model_validate_json(text)
        if beat.state is DeviceState.READY and not drains & {beat.device, beat.host}:
            held = int(load)
            rooms.append(DeviceRoom(beat.device, depth - held, held, frozenset(beat.generators), frozenset(beat.warm)))
    return rooms


def _waiting(context: Context, found: Sequence[tuple[str, float]]) -> list[Waiting]:
    waiting = []
    for member, urgency in found:
        pending = Pending.parse(member)
        run = context.run(pending.run)
        if run is None:
            context.ledger.do([("ZREM", Keys.pending, member)])
            continue
        generator = run.run.generator
        if pending.candidate.startswith("r"):
            generator = _own_generator(context, pending) or generator
        waiting.append(Waiting(pending, float(urgency), generator))
    return waiting


def _own_generator(context: Context, pending: Pending) -> str | None:
    candidate = context.candidate(pending.run, pending.task, pending.candidate)
    return candidate.spec.generator if candidate else None


def _dispatch(context: Context, waiting: Waiting, device: str) -> int:
    pending, now = waiting.pending, context.ledger.now()
    run, record = context.run(pending.run), context.searching(pending.run, pending.task)
    if run is None or record is None or record.prepared is None:
        context.ledger.do([("ZREM", Keys.pending, pending.member)])
        return 0

    def change(old: Candidate) -> tuple[Candidate, Sequence[Command]] | None:
        new = transitions.dispatched(old, device, now)
        if new is None:
            return None
        return new, [("ZREM", Keys.pending, pending.member), ("HSET", Keys.load(device), pending.member, now)]

    room = Room(Keys.load(device), context.dispatch.depth)
    candidate = change_candidate(context, pending.run, pending.task, pending.candidate, change, room)
    if candidate is None:
        _tidy(context, pending)
        return 0
    job = _job(context, waiting, record, candidate, device)
    context.send(
        GENERATE_TASK,
        device_queue(device),
        {"job": job.model_dump(mode="json")},
        job.message_id,
        f"task={job.task} candidate={job.spec.id} seed={job.spec.seed} attempt={job.attempt}",
    )
    logger.info(
        "candidate %s of task %s goes to %s",
        job.spec.id,
        job.task,
        device,
        extra={
            "action": "candidate_dispatched",
            "run": job.run,
            "task": job.task,
            "candidate": job.spec.id,
            "attempt": job.attempt,
            "queue": device_queue(device),
        },
    )
    return 1


def _tidy(context: Context, pending: Pending) -> None:
    """Take a member out of the pending set that waits for nothing any more."""
    candidate = context.candidate(pending.run, pending.task, pending.candidate)
    if candidate is None or candidate.state is not CandidateState.PENDING:
        context.ledger.do([("ZREM", Keys.pending, pending.member)])


def _job(context: Context, waiting: Waiting, record: TaskRecord, candidate: Candidate, device: str) -> GenerateJob:
    run = context.run(waiting.pending.run)
    if run is None or record.prepared is None:
        raise LookupError(waiting.pending.member)
    parent = None
    if candidate.spec.start is not Start.FRESH and candidate.spec.parent is not None:
        parent = context.candidate(run.run.id, record.task.id, candidate.spec.parent)
    made = parent.generated if parent else None
    common = inputs_key(run.run.generation_hash, record.prepared)
    return GenerateJob(
        run=run.run.id,
        task=record.task.id,
        character_name=record.task.character_name,
        store=run.run.store,
        prepared=record.prepared,
        spec=candidate.spec,
        attempt=candidate.attempt,
        generator=waiting.generator,
        device=device,
        inputs_key=common,
        key=generation_key(common, candidate.spec, made),
        parent_spec=parent.spec if parent else None,
        parent=made,
    )
