"""What runs beside one device: takes candidates from its queue, has them generated, and reports.

A Celery worker with one process (prefork, so that it answers while it works). Its child loads the model before it says
that it is ready; encoding and writing of one candidate overlap the generation of the next.
"""

import json
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery.signals import worker_process_init, worker_process_shutdown, worker_shutting_down
from redis.exceptions import RedisError

from shared.artifacts import candidate_extra_name, candidate_image_name, candidate_record_name
from shared.celery_app import make_app, run_worker, sender, worker_arguments
from shared.errors import BrokerUnreachable, Cancelled, DeviceError, DeviceLost, InpaintError, Retryable
from shared.heartbeat import DeviceState, Heartbeat, Pulse, new_incarnation
from shared.images import encode_png
from shared.inbox import post
from shared.ledger import Guard, Keys, Ledger
from shared.lifeline import die_with_parent
from shared.messages import CandidateFailed, CandidateGenerated, GenerateJob, GenerationRecord, claim_key, stable_hash
from shared.queues import GENERATE_TASK, device_queue
from shared.settings import Settings
from shared.types import ArtifactRef, Candidate, CandidateState, Failure, Generated
from workers.generation.base import GeneratedImage, GenerationRequest, Generator, Parent
from workers.generation.registry import make_generator
from workers.inputs import Inputs, Recent, read_rgb

logger = logging.getLogger(__name__)

#: Exit status of a child that lost its device for good; its parent starts another.
_DEVICE_LOST = 75
#: Seconds for which a result that cannot be written is kept.
_WRITE_PATIENCE = 120.0
#: How many tasks a generator may be taken to have at hand.
_WARM = 4


@dataclass(frozen=True)
class DevicePlan:
    """Which device this worker stands beside, and with what."""

    #: `<host>.<index>`, see `shared.queues.device_name`.
    name: str
    #: As torch names it inside this process, such as `cuda` or `cpu`.
    torch_device: str
    #: Generators it can run; the first is loaded before it takes work.
    generators: tuple[str, ...]
    hardware: str = "cpu"


class DeviceWorker:
    """The child process: one generator, one candidate at a time."""

    def __init__(self, url: str, settings: Settings, plan: DevicePlan) -> None:
        self._settings, self._plan = settings, plan
        self._ledger, self._inputs = Ledger(url), Inputs()
        self._send = sender(make_app(url, dispatch=settings.dispatch))
        self.incarnation = new_incarnation()
        self._state = DeviceState.LOADING
        self._current: GenerateJob | None = None
        self._step = self._total = self._done = 0
        self._busy, self._ready_at = 0.0, 0.0
        self._unwanted = threading.Event()
        self._finishing: dict[str, None] = {}
        self._warm: deque[str] = deque(maxlen=_WARM)
        # Two results may wait to be written; then generation waits for the disk instead of filling the memory.
        self._writing: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=2)
        self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
        self._generators: dict[str, Generator] = {}
        self._runs: Recent[tuple[str, Settings]] = Recent(16)
        self._pulse = Pulse(
            Ledger(url),
            Keys.device(plan.name),
            (Keys.devices, plan.name),
            self._beat,
            settings.dispatch.heartbeat_interval,
            settings.dispatch.heartbeat_ttl,
            self._look_around,
        )

    def start(self) -> None:
        """Beat, load, and say that this device is ready. Raises DeviceError and its kin when loading fails."""
        self._pulse.start()
        self._writer.start()
        started = time.monotonic()
        self._generator(self._plan.generators[0], self._settings)
        self._ready_at = time.monotonic()
        self._state = DeviceState.READY
        logger.info(
            "%s is ready with %s after %.1f s",
            self._plan.name,
            self._plan.generators[0],
            self._ready_at - started,
            extra={"action": "device_ready", "queue": device_queue(self._plan.name)},
        )
        self._pulse.soon()

    def stop(self) -> None:
        """Write what is still to be written, and sign off."""
        self._state = DeviceState.DRAINING
        self._writing.put(None)
        self._writer.join(timeout=60)
        self._pulse.stop()

    def generate(self, job: GenerateJob) -> None:
        """Make one candidate, unless it is not wanted any more or somebody has it."""
        if not self._claim(job):
            logger.info("candidate not wanted", extra={"action": "candidate_dropped", **_context(job)})
            return
        started = time.monotonic()
        self._unwanted.clear()
        self._current, self._step, self._total = job, 0, 0
        self._remember(f"{job.run}|{job.task}")
        try:
            fingerprint = self._fingerprint(job)
            record = self._on_disk(job, fingerprint)
            if record is not None:
                self._report(CandidateGenerated(**_address(job), generated=record.generated, reused=True))
                return
            generator = self._generator_of(job)
            request = self._request(job)
            begun = time.monotonic()
            made = generator.generate(request, self)
            seconds = time.monotonic() - begun
        except Cancelled:
            logger.info("candidate cancelled", extra={"action": "candidate_cancelled", **_context(job)})
            return
        except DeviceLost as error:
            self._failed(job, error, retryable=True)
            logger.critical("device lost: %s", error, extra={"action": "device_lost", **_context(job)})
            self._pulse.stop()
            os._exit(_DEVICE_LOST)
        except InpaintError as error:
            self._failed(job, error, retryable=isinstance(error, Retryable))
            return
        except Exception as error:
            logger.exception("generation failed", extra={"action": "generation_failed", **_context(job)})
            self._failed(job, error, retryable=True)
            return
        finally:
            self._busy += time.monotonic() - started
            self._done += 1
            self._current = None
        self._finishing[_claim(job)] = None
        self._writing.put(lambda: self._finish(job, made, seconds, fingerprint))

    # The generator's line to us (workers.generation.base.Control).

    def step(self, done: int, total: int) -> None:
        """Note progress. Raises Cancelled when the candidate is no longer wanted."""
        self._step, self._total = done, total
        if self._unwanted.is_set():
            raise Cancelled("The candidate is no longer wanted.")

    def _remember(self, task: str) -> None:
        if task in self._warm:
            self._warm.remove(task)
        self._warm.append(task)

    def _claim(self, job: GenerateJob) -> bool:
        """Take up the candidate if this very attempt is meant for this device, and nobody took it up before."""
        text = self._wanted(job)
        if text is None:
            return False
        claim = _claim(job)
        unchanged = Guard(Keys.candidates(job.run, job.task), job.spec.id, text)
        taken = [("HSET", Keys.claims, claim, self.incarnation)]
        if self._ledger.compare_and_do([unchanged, Guard(Keys.claims, claim, None)], taken):
            return True
        # Ours all the same when only the answer was lost, or when what we made of it was.
        return claim not in self._finishing and self._ledger.hget(Keys.claims, claim) == self.incarnation

    def _wanted(self, job: GenerateJob) -> str | None:
        """The candidate as it stands in the ledger, if this very attempt is meant for this device."""
        text = self._ledger.hget(Keys.candidates(job.run, job.task), job.spec.id)
        if text is None:
            return None
        candidate = Candidate.model_validate_json(text)
        ours = (
            candidate.state is CandidateState.DISPATCHED
            and candidate.attempt == job.attempt
            and candidate.device == self._plan.name
        )
        return text if ours else None

    def _fingerprint(self, job: GenerateJob) -> str:
        _, settings = self._of_run(job.run)
        return stable_hash(make_generator(job.generator, settings, self._plan.torch_device).fingerprint())

    def _on_disk(self, job: GenerateJob, fingerprint: str) -> GenerationRecord | None:
        """The record of this candidate from an earlier run or attempt, if its image is there and whole."""
        store = self._inputs.store(job.store)
        for attempt in range(1, job.attempt + 1):
            name = candidate_record_name(job.task, job.spec.id, attempt)
            if not store.exists(name):
                continue
            try:
                record = GenerationRecord.model_validate_json(store.read(name))
                if (record.generated.key, record.generated.fingerprint) == (job.key, fingerprint):
                    store.read(record.generated.image)
                    return record
            except (InpaintError, ValueError) as error:
                logger.warning(
                    "%s cannot be used: %s", name, error, extra={"action": "record_refused", **_context(job)}
                )
        return None

    def _generator_of(self, job: GenerateJob) -> Generator:
        """The generator that a run asks for, loaded. Raises Cancelled when the run was forgotten."""
        key, settings = self._of_run(job.run)
        return self._generator(job.generator, settings, key)

    def _of_run(self, run: str) -> tuple[str, Settings]:
        """Key of a run's generation settings, and all its settings. Raises Cancelled when the run was forgotten."""
        return self._runs.get(run, lambda: self._run_settings(run))

    def _run_settings(self, run: str) -> tuple[str, Settings]:
        text = self._ledger.redis.get(Keys.run(run))
        if text is None:
            raise Cancelled("The run is not in the ledger any more.")
        settings = Settings.model_validate(json.loads(str(text))["settings"])
        return stable_hash(settings.generation.model_dump(mode="json")), settings

    def _generator(self, name: str, settings: Settings, section: str | None = None) -> Generator:
        """The generator for these settings; loaded if it is another than the last."""
        section = section or stable_hash(settings.generation.model_dump(mode="json"))
        key = f"{name}:{section}"
        if key not in self._generators:
            # Two models seldom fit on one device: the other of the same name goes first.
            self._generators = {other: kept for other, kept in self._generators.items() if kept.name != name}
            generator = make_generator(name, settings, self._plan.torch_device)
            generator.load()
            self._generators[key] = generator
        return self._generators[key]

    def _request(self, job: GenerateJob) -> GenerationRequest:
        images = self._inputs.task(job.store, job.task, job.character_name, job.prepared)
        parent = None
        if job.parent is not None and job.parent_spec is not None:
            store = self._inputs.store(job.store)
            parent = Parent(
                spec=job.parent_spec,
                image=read_rgb(store, job.parent.image),
                params=job.parent.params,
                extras={kind: store.read(ref) for kind, ref in job.parent.extras.items()},
            )
        return GenerationRequest(images=images, spec=job.spec, parent=parent)

    def _finish(self, job: GenerateJob, made: GeneratedImage, seconds: float, fingerprint: str) -> None:
        """Encode, write, report: in the writer's thread, beside the next generation."""
        try:
            self._report(CandidateGenerated(**_address(job), generated=self._stored(job, made, seconds, fingerprint)))
        except Cancelled as error:
            logger.info("%s", error, extra={"action": "candidate_dropped", **_context(job)})
        except BrokerUnreachable:
            raise
        except InpaintError as error:
            self._failed(job, error, retryable=isinstance(error, Retryable))
        except Exception as error:
            logger.exception("writing failed", extra={"action": "generation_failed", **_context(job)})
            self._failed(job, error, retryable=True)
        finally:
            self._finishing.pop(_claim(job), None)

    def _stored(self, job: GenerateJob, made: GeneratedImage, seconds: float, fingerprint: str) -> Generated:
        """Write a result; while the disk is full or the store is away, keep it and try again: it was dear to make."""
        deadline, wait = time.monotonic() + _WRITE_PATIENCE, 0.5
        while True:
            try:
                return self._store(job, made, seconds, fingerprint)
            except (Retryable, RedisError) as error:
                if time.monotonic() > deadline:
                    raise
                logger.warning("result kept back: %s", error, extra={"action": "result_kept_back", **_context(job)})
            time.sleep(wait)
            wait = min(2 * wait, 5.0)

    def _store(self, job: GenerateJob, made: GeneratedImage, seconds: float, fingerprint: str) -> Generated:
        store = self._inputs.store(job.store)
        name, key = job.spec.id, job.key
        started = time.monotonic()
        params = dict(made.params)
        text = {
            "inpaint_eacps": json.dumps(
                {
                    "task_id": job.task,
                    "character_name": job.character_name,
                    "run": job.run,
                    "generator": job.generator,
                    "spec": job.spec.model_dump(mode="json"),
                    "params": params,
                    "key": key,
                },
                sort_keys=True,
            )
        }
        data = encode_png(made.image, text)
        encoded = time.monotonic()
        if self._ledger.redis.hget(Keys.claims, _claim(job)) != self.incarnation:
            raise Cancelled("The candidate was given to another device in the meantime.")
        image = store.write(candidate_image_name(job.task, name, job.attempt), data)
        extras: dict[str, ArtifactRef] = {
            kind: store.write(candidate_extra_name(job.task, name, job.attempt, kind), extra)
            for kind, extra in made.extras.items()
        }
        generated = Generated(
            image=image,
            extras=extras,
            key=key,
            fingerprint=fingerprint,
            generator=job.generator,
            device=self._plan.name,
            attempt=job.attempt,
            params=params,
            timings={
                **made.timings,
                "generate": seconds,
                "encode": encoded - started,
                "write": time.monotonic() - encoded,
            },
            model_evaluations=made.model_evaluations,
            notes=made.notes,
        )
        record = GenerationRecord(
            task_id=job.task, run=job.run, spec=job.spec, generated=generated, inputs_key=job.inputs_key
        )
        store.write(candidate_record_name(job.task, name, job.attempt), record.model_dump_json(indent=1).encode())
        return generated

    def _failed(self, job: GenerateJob, error: Exception, *, retryable: bool) -> None:
        message = str(error) if isinstance(error, InpaintError) else f"{type(error).__name__}: {error}"
        failure = Failure(kind="generation", message=message, attempt=job.attempt, device=self._plan.name)
        self._report(CandidateFailed(**_address(job), failure=failure, retryable=retryable))

    def _report(self, event: CandidateGenerated | CandidateFailed) -> None:
        post(self._ledger, self._send, event)

    def _write(self) -> None:
        while (work := self._writing.get()) is not None:
            try:
                work()
            except (InpaintError, RedisError):
                # The report did not get through; reconciling notices that this device no longer has the candidate.
                logger.exception("a result could not be reported", extra={"action": "report_failed"})

    def _beat(self) -> Heartbeat:
        job = self._current
        return Heartbeat(
            device=self._plan.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            incarnation=self.incarnation,
            state=self._state,
            generators=self._plan.generators,
            current=_claim(job) if job else None,
            finishing=tuple(self._finishing),
            step=self._step,
            total=self._total,
            warm=tuple(self._warm),
            done=self._done,
            busy_seconds=self._busy,
            ready_seconds=time.monotonic() - self._ready_at if self._ready_at else 0.0,
            hardware=self._plan.hardware,
        )

    def _look_around(self) -> None:
        """Between two beats: is what is in hand still wanted?"""
        job = self._current
        if job is None:
            return
        if self._wanted(job) is None:
            self._unwanted.set()


def _claim(job: GenerateJob) -> str:
    return claim_key(job.run, job.task, job.spec.id, job.attempt)


def _address(job: GenerateJob) -> dict[str, Any]:
    return {"run": job.run, "task": job.task, "candidate": job.spec.id, "attempt": job.attempt}


def _context(job: GenerateJob) -> dict[str, Any]:
    return {**_address(job), "queue": device_queue(job.device)}


def _unexpected(generator: str, error: Exception) -> DeviceError:
    return DeviceError(
        f"The generator {generator} could not be loaded ({type(error).__name__}: {error}); the log of its device says "
        "where that happened."
    )


def serve(url: str, settings: Settings, plan: DevicePlan) -> None:
    """Run the worker of one device until SIGTERM: it then finishes the candidate in hand, and gives the rest back.

    Raises BrokerUnreachable when there is no broker to begin with.
    """
    Ledger(url).ping()
    # Of the process that will generate, whose parent may be gone by the time it could ask.
    parent = os.getpid()
    own_queue = device_queue(plan.name)
    app = make_app(url, [own_queue], settings.dispatch)
    state: dict[str, DeviceWorker] = {}

    def generate(job: dict[str, Any]) -> None:
        state["worker"].generate(GenerateJob.model_validate(job))

    app.task(name=GENERATE_TASK, ignore_result=True)(generate)

    @worker_process_init.connect(weak=False)
    def _start(**_: object) -> None:
        die_with_parent(parent)
        worker = state["worker"] = DeviceWorker(url, settings, plan)
        try:
            worker.start()
        except Exception as error:
            refusal = error if isinstance(error, InpaintError) else _unexpected(plan.generators[0], error)
            logger.critical(
                "%s cannot work: %s",
                plan.name,
                refusal,
                exc_info=None if refusal is error else error,
                extra={"action": "device_refused", "queue": own_queue},
            )
            # Starting again would fail again: take the parent down as well, whose exit code tells its supervisor.
            Ledger(url).do([("HSET", Keys.refused, plan.name, str(refusal))])
            worker.stop()
            os.kill(os.getppid(), signal.SIGTERM)
            os._exit(int(refusal.exit_code))

    @worker_process_shutdown.connect(weak=False)
    def _stop(**_: object) -> None:
        state["worker"].stop()

    @worker_shutting_down.connect(weak=False)
    def _drain(**_: object) -> None:
        try:
            Ledger(url).do([("SADD", Keys.drains, plan.name)])
        except RedisError as error:
            logger.warning("draining not announced: %s", error, extra={"action": "drain_failed", "queue": own_queue})

    Ledger(url).do([("SREM", Keys.drains, plan.name), ("HDEL", Keys.refused, plan.name)])
    name = f"{own_queue}@{socket.gethostname()}"
    run_worker(app, worker_arguments(name, "prefork", 1, [own_queue], settings.dispatch.events))
    refused = Ledger(url).hget(Keys.refused, plan.name)
    if refused:
        raise DeviceError(refused)
