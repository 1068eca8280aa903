"""What a front door does with a run: submit, look, wait, cancel, try again. Needs a broker and nothing else."""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from orchestrator.advance import end_run, finish
from orchestrator.context import Context
from orchestrator.progress import RunProgress, measure
from orchestrator.records import TaskRecord
from shared.artifacts import ArtifactStore
from shared.celery_app import make_app, sender
from shared.errors import ConfigurationError, InputError
from shared.heartbeat import Heartbeat, live_devices
from shared.inbox import post
from shared.ledger import Command, Keys, Ledger
from shared.messages import Nudge, Run, stable_hash
from shared.outcome import TaskOutcome, TaskState
from shared.queues import device_queue
from shared.settings import Settings
from shared.settings.search import RAW_SWAP
from shared.types import Failure, Frozen, Task

logger = logging.getLogger(__name__)

_CHUNK = 500
#: Which section of the settings each generator draws by.
_SECTIONS = {"composite": "composite", "qwen-image-edit": "qwen", "openai-http": "openai_http", RAW_SWAP: "insightface"}
#: Seconds within which a submission enters its run; a task that one took up and never entered is free after that.
_ENTER_SECONDS = 900


class Submitted(Frozen):
    """What became of a submission."""

    run: str
    accepted: tuple[str, ...]
    #: Task id to the reason why it was left out.
    refused: Mapping[str, str]


class Client:
    """A connection to a broker, as the command line uses it."""

    def __init__(self, url: str, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self.ledger = Ledger(url)
        self._app = make_app(url, dispatch=self._settings.dispatch)
        self._send = sender(self._app)
        self._context = Context(self.ledger, self._send, self._settings.dispatch)

    def ping(self) -> None:
        """Raises BrokerUnreachable."""
        self.ledger.ping()

    def submit(
        self,
        tasks: Sequence[Task],
        settings: Settings,
        *,
        generator: str,
        judges: Mapping[str, frozenset[str]],
        own_queue: Sequence[str] = (),
        comparer: str | None = None,
        priority: int = 0,
        force: bool = False,
        run_id: str | None = None,
    ) -> Submitted:
        """Put a run's tasks into the ledger. `generator` and `judges` are resolved names, never `auto`; `comparer` is
        the judge of the finals.

        A task that another run is working on in the same artifact store is refused. Raises BrokerUnreachable.
        """
        if not tasks:
            raise InputError("There is nothing to submit: no task was selected.")
        store = ArtifactStore(settings.publish.output_dir)
        where = store.where() if "://" not in store.url else store.url
        now = self.ledger.now()
        run = Run(
            id=run_id or time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + secrets.token_hex(3),
            settings=settings.model_dump(mode="json", exclude={"broker"}),
            config_hash=config_hash(settings, generator, tuple(judges)),
            generation_hash=generation_hash(settings, generator),
            priority=priority,
            created=now,
            store=where,
            generator=generator,
            judges={name: tuple(sorted(criteria)) for name, criteria in judges.items()},
            own_queue=tuple(own_queue),
            comparer=comparer,
            force=force,
            total=len(tasks),
        )
        accepted, refused = self._own(run, tasks)
        manifest = Manifest(run=run, tasks=tuple(accepted))
        store.write(manifest_name(run.id), manifest.model_dump_json(indent=1).encode())
        self._enter(run, accepted)
        for task in accepted[:1]:
            post(self.ledger, self._send, Nudge(run=run.id, task=task.id))
        logger.info("%d tasks submitted", len(accepted), extra={"action": "run_submitted", "run": run.id})
        return Submitted(run=run.id, accepted=tuple(task.id for task in accepted), refused=refused)

    def _own(self, run: Run, tasks: Sequence[Task]) -> tuple[list[Task], dict[str, str]]:
        accepted: list[Task] = []
        refused: dict[str, str] = {}
        for chunk in _chunks(tasks):
            # It runs out by itself should this process die before the run is entered.
            taken = self.ledger.do(
                [("SET", Keys.owner(run.store, task.id), run.id, "NX", "EX", _ENTER_SECONDS) for task in chunk]
            )
            for task, mine in zip(chunk, taken, strict=True):
                if mine:
                    accepted.append(task)
                    continue
                refused[task.id] = self._refusal(task.id, str(self.ledger.redis.get(Keys.owner(run.store, task.id))))
        return accepted, refused

    def _refusal(self, task_id: str, run_id: str) -> str:
        if not self.ledger.redis.exists(Keys.run(run_id)):
            return (
                f"task {task_id} is just being submitted by somebody else (run {run_id}); if that submission died, "
                f"the task is free again within {_ENTER_SECONDS // 60} minutes"
            )
        return (
            f"run {run_id} is working on task {task_id}; wait for it, or cancel it with `inpaint-eacps cancel {run_id}`"
        )

    def _enter(self, run: Run, tasks: Sequence[Task]) -> None:
        run = run.model_copy(update={"total": len(tasks)})
        self.ledger.do([("SET", Keys.run(run.id), run.model_dump_json()), ("ZADD", Keys.runs, run.created, run.id)])
        for chunk in _chunks(tasks):
            commands: list[Command] = []
            for task in chunk:
                record = TaskRecord(task=task, times={"submitted": run.created})
                commands.append(("HSET", Keys.tasks(run.id), task.id, record.model_dump_json()))
            commands.append(("RPUSH", Keys.waiting(run.id), *(task.id for task in chunk)))
            commands.append(("HINCRBY", Keys.counts(run.id), "task:waiting", len(chunk)))
            commands += [("PERSIST", Keys.owner(run.store, task.id)) for task in chunk]
            self.ledger.do(commands)
        if tasks:
            self.ledger.do([("ZADD", Keys.waiting_runs, -run.priority, run.id)])

    def run(self, run_id: str) -> Run:
        """A run by its id. Raises InputError when the broker knows none of that id."""
        found = self._context.run(run_id)
        if found is None:
            known = ", ".join(self.runs()[-5:]) or "none"
            raise InputError(f"There is no run {run_id}; the latest are: {known}.")
        return found.run

    def runs(self) -> tuple[str, ...]:
        """Ids of all runs, oldest first."""
        return tuple(str(name) for name in self.ledger.redis.zrange(Keys.runs, 0, -1))

    def runs_of(self, task_id: str) -> tuple[str, ...]:
        """Ids of the runs that have a task of this id which is not over."""
        runs = self.runs()
        found = self.ledger.read([("HGET", Keys.tasks(run), task_id) for run in runs]) if runs else []
        return tuple(
            run
            for run, text in zip(runs, found, strict=True)
            if text is not None and not TaskRecord.model_validate_json(text).state.over
        )

    def progress(self, run_id: str) -> RunProgress:
        """How far a run is; one pass over counters, cheap enough to ask every second."""
        return measure(self.ledger, self.run(run_id))

    def outcomes(self, run_id: str, start: int = 0) -> tuple[TaskOutcome, ...]:
        """How tasks ended, in the order in which they did, from the `start`-th on."""
        texts: list[str] = self.ledger.redis.lrange(Keys.outcomes(run_id), start, -1)  # type: ignore[assignment]
        return tuple(TaskOutcome.model_validate_json(text) for text in texts)

    def follow(
        self, run_id: str, interval: float = 0.5, each: Callable[[RunProgress], None] = lambda _: None
    ) -> Iterator[TaskOutcome]:
        """Outcomes as they come, until the run is over; `each` sees the progress at every look."""
        seen = 0
        while True:
            progress = self.progress(run_id)
            each(progress)
            new = self.outcomes(run_id, seen)
            yield from new
            seen += len(new)
            if progress.over and seen >= progress.total:
                return
            time.sleep(interval)

    def cancel(self, run_id: str, task_id: str | None = None) -> int:
        """End a run, or one of its tasks. Returns how many tasks were ended; what is on disk stays there."""
        self.run(run_id)
        failure = Failure(kind="cancelled", message="cancelled by the user")
        if task_id is None:
            return end_run(self._context, run_id, TaskState.CANCELLED, failure)
        return int(finish(self._context, run_id, task_id, TaskState.CANCELLED, failure))

    def failed_tasks(self, run_id: str) -> tuple[Task, ...]:
        """Tasks of a run that failed or were cancelled, to be submitted again."""
        records = (TaskRecord.model_validate_json(text) for text in self.ledger.hgetall(Keys.tasks(run_id)).values())
        return tuple(record.task for record in records if record.state in (TaskState.FAILED, TaskState.CANCELLED))

    def devices(self) -> dict[str, Heartbeat | None]:
        """Every known device with its last sign of life."""
        return live_devices(self.ledger)

    def drain(self, name: str) -> tuple[str, ...]:
        """Have a device, or all devices of a host, finish what they have in hand and end. Returns their names."""
        chosen = tuple(
            beat.device for beat in self.devices().values() if beat is not None and name in (beat.device, beat.host)
        )
        if not chosen:
            known = ", ".join(sorted(self.devices())) or "none"
            raise InputError(f"There is no device or host {name}; known devices: {known}.")
        self.ledger.do([("SADD", Keys.drains, device) for device in chosen])
        hosts = {beat.device: beat.host for beat in self.devices().values() if beat is not None}
        self._app.control.shutdown(
            destination=[f"{device_queue(device)}@{hosts[device]}" for device in chosen if device in hosts]
        )
        return chosen


class Manifest(Frozen):
    """A run as it stands in the artifact store, so that it can be taken up when the broker has forgotten it."""

    run: Run
    tasks: tuple[Task, ...]


def manifest_name(run_id: str) -> str:
    """Where a run's manifest lies in the artifact store."""
    return f"runs/{run_id}/run.json"


def read_manifest(store: ArtifactStore, run_id: str) -> Manifest:
    """A run's manifest. Raises InputError when there is none."""
    name = manifest_name(run_id)
    if not store.exists(name):
        raise InputError(f"{store.where(name)} does not exist: no run {run_id} was submitted with this output folder.")
    return Manifest.model_validate_json(store.read(name))


def config_hash(settings: Settings, generator: str, judges: Sequence[str]) -> str:
    """Hash of all settings that change a result, with the resolved names in place of `auto`."""
    dump = settings.model_dump(mode="json", include={"search": True, "scoring": True}, exclude={"scoring": {"judges"}})
    return stable_hash([dump, generation_hash(settings, generator), list(judges)])


def generation_hash(settings: Settings, generator: str) -> str:
    """Hash of the settings that change an image, with the resolved name; those of generators not used change none."""
    used = {generator} | ({RAW_SWAP} if settings.search.swaps else set())
    dump = settings.model_dump(mode="json", include={"generation"})["generation"]
    known = {name: dump.pop(section) for name, section in _SECTIONS.items()}
    # A generator of somebody else's may read any of them.
    read = [known[name] for name in sorted(used)] if used <= known.keys() else known
    dump.pop("generator")
    return stable_hash([dump, read, generator])


def generator_of(devices: Mapping[str, Heartbeat | None], wanted: str) -> str:
    """The generator of a run in a cluster: `auto` means what its devices run, the model before the composite.

    Raises ConfigurationError when it cannot be told because no device is there.
    """
    if wanted != "auto":
        return wanted
    offered = [beat.generators[0] for beat in devices.values() if beat is not None]
    if not offered:
        raise ConfigurationError(
            "generation.generator is auto, and no device is up that could say what it runs: start a worker, "
            "or name the generator with --generator."
        )
    return next((name for name in offered if name != "composite"), offered[0])


def _chunks(tasks: Sequence[Task]) -> Iterator[Sequence[Task]]:
    for start in range(0, len(tasks), _CHUNK):
        yield tasks[start : start + _CHUNK]
