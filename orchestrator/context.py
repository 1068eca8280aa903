"""What every step of the orchestrator works with."""

from dataclasses import dataclass, field

from orchestrator.records import Outstanding, TaskRecord
from orchestrator.search import Search, make_search
from shared.celery_app import Send
from shared.ledger import Command, Keys, Ledger
from shared.messages import CompareJob, PrepareJob, PublishJob, Run, ScoreJob
from shared.queues import COMPARE_TASK, PREPARE_TASK, PUBLISH_TASK, SCORE_TASK
from shared.settings import Settings
from shared.settings.dispatch import DispatchSettings
from shared.types import Candidate

Job = PrepareJob | ScoreJob | CompareJob | PublishJob

_TASKS = {"prepare": PREPARE_TASK, "score": SCORE_TASK, "compare": COMPARE_TASK, "publish": PUBLISH_TASK}


@dataclass(frozen=True)
class RunContext:
    """A run with what follows from its settings."""

    run: Run
    settings: Settings
    search: Search


@dataclass
class Context:
    """The ledger, the way to send a message, and runs that were read before (a run never changes)."""

    ledger: Ledger
    send: Send
    dispatch: DispatchSettings
    _runs: dict[str, RunContext] = field(default_factory=dict)
    _tasks: dict[str, TaskRecord] = field(default_factory=dict)

    def run(self, run_id: str) -> RunContext | None:
        """A run by its id; `None` when the broker has forgotten it (its data was wiped)."""
        known = self._runs.get(run_id)
        if known is None:
            text = self.ledger.redis.get(Keys.run(run_id))
            if text is None:
                return None
            run = Run.model_validate_json(str(text))
            settings = Settings.model_validate(run.settings)
            known = RunContext(run, settings, make_search(settings.search))
            if len(self._runs) > 64:
                self._runs.pop(next(iter(self._runs)))
            self._runs[run_id] = known
        return known

    def refresh(self) -> None:
        """Forget what is remembered of runs that the broker lost, even if they were submitted again under their ids."""
        known = [(run_id, run.run.created) for run_id, run in list(self._runs.items())]
        found = self.ledger.read([("ZSCORE", Keys.runs, run_id) for run_id, _ in known]) if known else []
        for (run_id, created), score in zip(known, found, strict=True):
            if score is None or float(score) != created:
                self._runs.pop(run_id, None)
                for key in [key for key in list(self._tasks) if key.startswith(f"{run_id}|")]:
                    self._tasks.pop(key, None)

    def task(self, run_id: str, task_id: str) -> TaskRecord | None:
        """A task's record as it stands."""
        text = self.ledger.hget(Keys.tasks(run_id), task_id)
        return TaskRecord.model_validate_json(text) if text else None

    def searching(self, run_id: str, task_id: str) -> TaskRecord | None:
        """A task's record as it was when its search began: what it is and in which order never changes afterwards."""
        key = f"{run_id}|{task_id}"
        known = self._tasks.get(key)
        if known is None:
            known = self.task(run_id, task_id)
            if known is not None and known.prepared is not None:
                self._tasks[key] = known
                while len(self._tasks) > 1024:
                    self._tasks.pop(next(iter(self._tasks)))
        return known

    def candidate(self, run_id: str, task_id: str, candidate_id: str) -> Candidate | None:
        """A candidate as it stands."""
        text = self.ledger.hget(Keys.candidates(run_id, task_id), candidate_id)
        return Candidate.model_validate_json(text) if text else None

    def history(self, run_id: str, task_id: str) -> tuple[Candidate, ...]:
        """All candidates of a task."""
        found = self.ledger.hgetall(Keys.candidates(run_id, task_id))
        return tuple(Candidate.model_validate_json(text) for text in found.values())

    def register(self, job: Job, queue: str) -> tuple[Command, Outstanding]:
        """The command that notes a job as outstanding, to be run in the step that decides on it."""
        kind = job.key.partition(":")[0]
        outstanding = Outstanding.model_validate(
            {"kind": kind, "queue": queue, "payload": job.model_dump(mode="json"), "sent": self.ledger.now()}
        )
        return ("HSET", Keys.jobs, job.key, outstanding.model_dump_json()), outstanding

    def send_job(self, key: str, job: Outstanding) -> None:
        """Send (again) what was registered."""
        candidate = job.payload.get("candidate", job.payload.get("first", ""))
        task = job.payload["task"]
        task_id = task["id"] if isinstance(task, dict) else task
        shown = " ".join(part for part in (f"task={task_id}", f"candidate={candidate}" if candidate else "") if part)
        if judge := job.payload.get("judge"):
            shown += f" judge={judge}"
        self.send(_TASKS[job.kind], job.queue, {"job": job.payload}, f"{key.replace(':', '-')}-{job.tries}", shown)
