"""What should be running, compared with what is: the answer to every process, message or broker that was lost."""

import logging
from collections.abc import Mapping

from orchestrator import transitions
from orchestrator.admit import admit
from orchestrator.advance import advance
from orchestrator.changes import change_candidate, forget, waits
from orchestrator.collect import collect
from orchestrator.context import Context
from orchestrator.dispatch import pump
from orchestrator.records import Outstanding, Pending
from shared.heartbeat import DeviceState, Heartbeat, live_devices, live_helpers
from shared.ledger import Command, Guard, Keys
from shared.messages import (
    CandidateFailed,
    CandidateJudged,
    CandidatesCompared,
    CompareJob,
    ScoreJob,
    claim_key,
)
from shared.queues import device_queue
from shared.types import CRITERIA, Candidate, CandidateState, Failure, Judgement

logger = logging.getLogger(__name__)

_LOCK = "reconcile"
#: Score workers that may die over one job, or never answer, before it counts as what kills them. More than that many
#: attempts at a candidate, since a worker that dies takes along what its other threads had in hand.
_MOST_LOST = 5


class Reconciler:
    """Compares every few seconds. Keeps what it saw the last time, since some losses only time can tell."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: Claims that their device did not mention, and since when (by the broker's clock).
        self._unmentioned: dict[str, float] = {}
        self._round = 0

    def once(self) -> None:
        """One comparison; does nothing while another process is at it."""
        context = self._context
        if not context.ledger.try_lock(_LOCK, max(5.0, 3 * context.dispatch.reconcile_interval)):
            return
        try:
            self._round += 1
            devices = live_devices(context.ledger)
            for name, beat in devices.items():
                self._device(name, beat)
            self._jobs()
            if self._round % 10 == 1:
                self._tasks()
        finally:
            context.ledger.unlock(_LOCK)
        admit(context)
        pump(context)

    def _device(self, device: str, beat: Heartbeat | None) -> None:
        ledger = self._context.ledger
        load = ledger.hgetall(Keys.load(device))
        if beat is None:
            self._lost(device, load, f"device {device} stopped answering")
            # Whatever is still in its queue was just given back; a claim would refuse it anyway.
            ledger.do([("SREM", Keys.devices, device), ("DEL", device_queue(device)), ("DEL", Keys.load(device))])
            logger.warning("device %s is gone", device, extra={"action": "device_lost", "device": device})
            return
        if not load:
            return
        now, lost_after = ledger.now(), self._context.dispatch.lost_after
        drains = {str(name) for name in ledger.redis.smembers(Keys.drains)}
        draining = beat.state is DeviceState.DRAINING or device in drains or beat.host in drains
        idle = beat.current is None and not ledger.redis.llen(device_queue(device))
        busy_with = {beat.current, *beat.finishing}
        died: dict[str, str] = {}
        for member, since in load.items():
            pending = Pending.parse(member)
            candidate = self._context.candidate(pending.run, pending.task, pending.candidate)
            if candidate is None or candidate.state is not CandidateState.DISPATCHED or candidate.device != device:
                ledger.do([("HDEL", Keys.load(device), member)])
                continue
            claim = claim_key(pending.run, pending.task, pending.candidate, candidate.attempt)
            by = ledger.hget(Keys.claims, claim)
            if by is None:
                if draining or (idle and now - float(since) > lost_after):
                    self._give_back(device, member, candidate)
            elif by != beat.incarnation:
                died[member] = since
            elif claim not in busy_with:
                first = self._unmentioned.setdefault(claim, now)
                if now - first > lost_after and not ledger.redis.llen(Keys.inbox):
                    self._lost(device, {member: since}, f"device {device} no longer knows of it")
                continue
            self._unmentioned.pop(claim, None)
        self._lost(device, died, f"its worker process on {device} died")

    def _lost(self, device: str, load: Mapping[str, str], reason: str) -> None:
        """Members of a device's load start again.

        Of what a worker process took up, only the last counts as an attempt: that was in hand when it died, and what
        it took up before was only being written.
        """
        found, latest = list[tuple[str, Candidate]](), dict[str, str]()
        # A device takes its queue in the order in which it was filled.
        for member in sorted(load, key=lambda member: float(load[member])):
            pending = Pending.parse(member)
            candidate = self._context.candidate(pending.run, pending.task, pending.candidate)
            if candidate is None or candidate.device != device:
                continue
            found.append((member, candidate))
            claim = claim_key(pending.run, pending.task, pending.candidate, candidate.attempt)
            by = self._context.ledger.hget(Keys.claims, claim)
            if by is not None:
                latest[by] = member
        for member, candidate in found:
            if member in latest.values():
                self._attempt_lost(device, member, candidate, reason)
            else:
                self._give_back(device, member, candidate)

    def _attempt_lost(self, device: str, member: str, candidate: Candidate, reason: str) -> None:
        pending = Pending.parse(member)
        failure = Failure(kind="lost", message=reason, attempt=candidate.attempt, device=device)
        collect(
            self._context,
            CandidateFailed(
                run=pending.run,
                task=pending.task,
                candidate=pending.candidate,
                attempt=candidate.attempt,
                failure=failure,
                retryable=True,
            ),
        )

    def _give_back(self, device: str, member: str, candidate: Candidate) -> None:
        """Not taken up, or lost by no fault of its own: it waits again, and no attempt is held against it."""
        pending = Pending.parse(member)
        run = self._context.run(pending.run)
        record = self._context.task(pending.run, pending.task)
        if run is None or record is None:
            return

        def change(old: Candidate) -> tuple[Candidate, list[Command]] | None:
            new = transitions.given_back(old, candidate.attempt)
            return (new, [*forget(pending.run, record, old), waits(run.run, record, new)]) if new else None

        if change_candidate(self._context, pending.run, pending.task, pending.candidate, change):
            logger.warning(
                "candidate %s of task %s taken back from %s",
                pending.candidate,
                pending.task,
                device,
                extra={
                    "action": "candidate_given_back",
                    "run": pending.run,
                    "task": pending.task,
                    "candidate": pending.candidate,
                    "queue": device_queue(device),
                },
            )

    def _jobs(self) -> None:
        """Send jobs again whose worker died, or whose message nobody ever took up."""
        ledger, dispatch = self._context.ledger, self._context.dispatch
        jobs = ledger.hgetall(Keys.jobs)
        if not jobs:
            return
        now = ledger.now()
        helpers = live_helpers(ledger)
        for name, beat in helpers.items():
            if beat is None:
                ledger.do([("SREM", Keys.helpers, name)])
                logger.warning("score worker %s is gone", name, extra={"action": "helper_lost", "helper": name})
        known = {key: Outstanding.model_validate_json(text) for key, text in jobs.items()}
        queues = sorted({job.queue for job in known.values()})
        claims, *lengths = ledger.read([("HMGET", Keys.claims, *known), *(("LLEN", queue) for queue in queues)])
        queued = dict(zip(queues, lengths, strict=True))
        for (key, job), by in zip(known.items(), claims, strict=True):
            age = now - job.sent
            if by is None:
                again = age > dispatch.lost_after and not queued[job.queue]
            else:
                again = helpers.get(by) is None or age > dispatch.score_timeout
            if again:
                self._send_again(key, jobs[key], job.model_copy(update={"lost": job.lost + (by is not None)}), now)

    def _send_again(self, key: str, text: str, job: Outstanding, now: float) -> None:
        if job.lost >= _MOST_LOST and (answer := self._no_answer(job)) is not None:
            logger.error("%s given up", key, extra={"action": "job_given_up", "job": key, "tries": job.tries})
            collect(self._context, answer)
            return
        new = job.model_copy(update={"sent": now, "tries": job.tries + 1})
        commands: list[Command] = [("HSET", Keys.jobs, key, new.model_dump_json()), ("HDEL", Keys.claims, key)]
        if self._context.ledger.compare_and_do([Guard(Keys.jobs, key, text)], commands):
            self._context.send_job(key, new)
            logger.warning("%s sent again", key, extra={"action": "job_sent_again", "job": key, "tries": new.tries})

    def _no_answer(self, job: Outstanding) -> CandidateJudged | CandidatesCompared | None:
        """What stands in for the answer to a judge's job that no worker lived to give; `None` for other jobs."""
        reason = f"no score worker lived to answer: {job.lost} of them took it up"
        if job.kind == "score":
            asked = ScoreJob.model_validate(job.payload)
            run = self._context.run(asked.run)
            criteria = run.run.judges.get(asked.judge, CRITERIA) if run else CRITERIA
            judgement = Judgement(judge=asked.judge, missing=dict.fromkeys(criteria, reason))
            return CandidateJudged.of(asked, judgement)
        if job.kind == "compare":
            return CandidatesCompared.of(CompareJob.model_validate(job.payload), None, reason)
        return None

    def _tasks(self) -> None:
        """Look at every task in flight: an orchestrator may have died between two steps."""
        members: set[str] = self._context.ledger.redis.smembers(Keys.in_flight)  # type: ignore[assignment]
        for member in members:
            run, _, task = member.partition("|")
            if self._context.run(run) is None:
                self._context.ledger.do([("SREM", Keys.in_flight, member)])
            else:
                self._waiting(run, task)
                advance(self._context, run, task)

    def _waiting(self, run_id: str, task_id: str) -> None:
        """Every pending candidate is in the pending set; put back one that a crash left out."""
        run, record = self._context.run(run_id), self._context.task(run_id, task_id)
        if run is None or record is None:
            return
        for candidate in self._context.history(run_id, task_id):
            if candidate.state is CandidateState.PENDING:
                self._context.ledger.do([waits(run.run, record, candidate)])
