"""Late binding: which pending candidate goes to which device, decided only when the device has room."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator import transitions
from orchestrator.changes import change_candidate
from orchestrator.context import Context
from orchestrator.records import Pending, TaskRecord
from shared.heartbeat import DeviceState, Heartbeat, live_devices
from shared.ledger import Command, Keys
from shared.messages import GenerateJob, generation_key, inputs_key
from shared.queues import GENERATE_TASK, device_queue
from shared.types import Candidate, Start

logger = logging.getLogger(__name__)

_LOCK = "dispatch"
_LOCK_SECONDS = 5.0
#: How far down the pending set to look for a candidate that suits a device better than the very first.
_WINDOW = 64


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
class Room:
    """A device that takes work: how much more it may hold, how much it holds, and the tasks it has encoded."""

    device: str
    free: int
    held: int
    generators: frozenset[str]
    warm: frozenset[str]


def plan(waiting: Sequence[Waiting], rooms: Sequence[Room]) -> list[tuple[Waiting, str]]:
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
            peers = [one for one in able[:_WINDOW] if one.urgency == able[0].urgency]
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

    One process at a time does it; a process that finds it being done leaves word, so that nothing is left lying.
    """
    given, again = 0, _LOCK + "-again"
    for _ in range(2):
        while context.ledger.try_lock(_LOCK, _LOCK_SECONDS):
            try:
                context.ledger.unlock(again)
                given += _pump(context)
            finally:
                context.ledger.unlock(_LOCK)
            if not context.ledger.redis.exists(Keys.lock(again)):
                return given
        context.ledger.try_lock(again, _LOCK_SECONDS)
    return given


def _pump(context: Context) -> int:
    if not context.ledger.redis.exists(Keys.pending):
        return 0
    rooms = _rooms(context, live_devices(context.ledger))
    places = sum(room.free for room in rooms)
    if not places:
        return 0
    waiting = _waiting(context, places + _WINDOW)
    return sum(_dispatch(context, one, device) for one, device in plan(waiting, rooms))


def _rooms(context: Context, devices: Mapping[str, Heartbeat | None]) -> list[Room]:
    depth = context.dispatch.depth
    ready = [beat for beat in devices.values() if beat is not None and beat.state is DeviceState.READY]
    if not ready:
        return []
    draining = {str(name) for name in context.ledger.redis.smembers(Keys.drains)}
    ready = [beat for beat in ready if beat.device not in draining and beat.host not in draining]
    loads = context.ledger.do([("HLEN", Keys.load(beat.device)) for beat in ready])
    return [
        Room(beat.device, depth - int(load), int(load), frozenset(beat.generators), frozenset(beat.warm))
        for beat, load in zip(ready, loads, strict=True)
        if int(load) < depth
    ]


def _waiting(context: Context, most: int) -> list[Waiting]:
    found: list[tuple[str, float]] = context.ledger.redis.zrange(Keys.pending, 0, most - 1, withscores=True)  # type: ignore[assignment]
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
        waiting.append(Waiting(pending, urgency, generator))
    return waiting


def _own_generator(context: Context, pending: Pending) -> str | None:
    candidate = context.candidate(pending.run, pending.task, pending.candidate)
    return candidate.spec.generator if candidate else None


def _dispatch(context: Context, waiting: Waiting, device: str) -> int:
    pending, now = waiting.pending, context.ledger.now()
    run, record = context.run(pending.run), context.task(pending.run, pending.task)
    if run is None or record is None or record.prepared is None:
        context.ledger.do([("ZREM", Keys.pending, pending.member)])
        return 0

    def change(old: Candidate) -> tuple[Candidate, Sequence[Command]] | None:
        new = transitions.dispatched(old, device, now)
        if new is None:
            return None
        return new, [("ZREM", Keys.pending, pending.member), ("HSET", Keys.load(device), pending.member, now)]

    candidate = change_candidate(context, pending.run, pending.task, pending.candidate, change)
    if candidate is None:
        context.ledger.do([("ZREM", Keys.pending, pending.member)])
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
