"""The orchestrator as a process: Celery tasks on its queues, and a thread that reconciles."""

import logging
import os
import socket
import threading
from typing import Any

from celery import Celery
from celery.signals import worker_ready, worker_shutdown
from redis.exceptions import RedisError

from orchestrator.admit import admit
from orchestrator.advance import comparisons, finish
from orchestrator.collect import collect
from orchestrator.context import Context
from orchestrator.dispatch import pump
from orchestrator.finals import Comparison, final_ranking, finalists
from orchestrator.metrics_file import TaskHistory
from orchestrator.publish import publish
from orchestrator.reconcile import Reconciler
from shared.artifacts import ArtifactStore
from shared.celery_app import make_app, run_worker, sender, worker_arguments
from shared.claims import claim
from shared.errors import InpaintError, Retryable
from shared.heartbeat import HelperBeat, Pulse, new_incarnation
from shared.inbox import drain
from shared.ledger import Keys, Ledger
from shared.messages import Event, Nudge, PublishJob, TaskPrepared, result_key
from shared.outcome import TaskState
from shared.queues import COLLECT_TASK, ORCHESTRATOR, PUBLISH, PUBLISH_TASK
from shared.settings import Settings
from shared.types import Failure

logger = logging.getLogger(__name__)

_QUEUES = (ORCHESTRATOR, PUBLISH)


class Orchestrator:
    """Holds what lives as long as the process."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.app: Celery = make_app(url, _QUEUES, settings.dispatch)
        self.ledger = Ledger(url)
        self.context = Context(self.ledger, sender(self.app), settings.dispatch)
        self.incarnation = new_incarnation()
        self._reconciler = Reconciler(self.context)
        self._stop = threading.Event()
        self._interval = settings.dispatch.reconcile_interval
        self._pulse = Pulse(
            Ledger(url),
            Keys.helper(self.incarnation),
            (Keys.helpers, self.incarnation),
            self._beat,
            settings.dispatch.heartbeat_interval,
            settings.dispatch.heartbeat_ttl,
        )
        self.app.task(name=COLLECT_TASK, ignore_result=True)(self.collect)
        self.app.task(name=PUBLISH_TASK, ignore_result=True)(self.publish)

    def _beat(self) -> HelperBeat:
        return HelperBeat(incarnation=self.incarnation, host=socket.gethostname(), pid=os.getpid(), queues=_QUEUES)

    def start(self) -> None:
        """Begin to beat and to reconcile."""
        self._pulse.start()
        threading.Thread(target=self._reconcile, name="reconcile", daemon=True).start()

    def stop(self) -> None:
        """End both."""
        self._stop.set()
        self._pulse.stop()

    def collect(self) -> None:
        """Celery task: process the events that have come in, and hand out work where there is room."""
        drain(self.ledger, self._process, lambda: pump(self.context))

    def _process(self, event: Event) -> None:
        collect(self.context, event)
        if isinstance(event, TaskPrepared | Nudge):
            # Its task may be over at once (bad input, done before), so that there is room for another.
            admit(self.context)

    def publish(self, job: dict[str, Any]) -> None:
        """Celery task: write a task's results, then take up the next."""
        parsed = PublishJob.model_validate(job)
        if not claim(self.ledger, parsed.key, self.incarnation):
            return
        try:
            self._publish(parsed)
        except Retryable as error:
            # It stays outstanding, unclaimed: reconciling sends it again.
            logger.warning(
                "results of task %s not written: %s",
                parsed.task,
                error,
                extra={"action": "publish_retried", "run": parsed.run, "task": parsed.task},
            )
            self.ledger.do([("HDEL", Keys.claims, parsed.key)])
        except InpaintError as error:
            failure = Failure(kind="internal", message=str(error))
            finish(self.context, parsed.run, parsed.task, TaskState.FAILED, failure)
        admit(self.context)
        pump(self.context)

    def _publish(self, job: PublishJob) -> None:
        run, record = self.context.run(job.run), self.context.task(job.run, job.task)
        if run is None or record is None or record.state.over:
            return
        history = self.context.history(job.run, job.task)
        said = comparisons(self.context, job.run, job.task)
        answers = [Comparison(each.first, each.second, each.preference) for each in said]
        top = run.settings.scoring.finals_top
        decided = final_ranking(history, answers, top)[: len(finalists(history, top))] if answers else ()
        outcome = publish(
            ArtifactStore(run.run.store),
            TaskHistory(
                run_id=job.run,
                config_hash=result_key(run.run.config_hash, record.prepared)
                if record.prepared
                else run.run.config_hash,
                settings=run.settings,
                generator=run.run.generator,
                judges=tuple(run.run.judges),
                task=record.task,
                prepared=record.prepared,
                candidates=history,
                failure=record.failure,
                finals=tuple(each.spec.id for each in decided),
                comparisons=said,
            ),
        )
        finish(self.context, job.run, job.task, outcome.state, outcome.failure, record.prepared, outcome)

    def _reconcile(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self.context.refresh()
                self.collect()
                self._reconciler.once()
            except (RedisError, InpaintError) as error:
                logger.warning("reconciling put off: %s", error, extra={"action": "reconcile_failed"})
            except Exception:
                # The thread that notices losses must not be lost itself.
                logger.exception("reconciling failed", extra={"action": "reconcile_failed"})


def serve(url: str, settings: Settings, concurrency: int = 2) -> None:
    """Run an orchestrator until SIGTERM. Several may run at once.

    Raises BrokerUnreachable when there is no broker to begin with.
    """
    orchestrator = Orchestrator(url, settings)
    orchestrator.ledger.ping()

    @worker_ready.connect(weak=False)
    def _ready(**_: object) -> None:
        orchestrator.start()
        logger.info("orchestrator is ready", extra={"action": "orchestrator_ready"})

    @worker_shutdown.connect(weak=False)
    def _down(**_: object) -> None:
        orchestrator.stop()

    name = f"orchestrator@{socket.gethostname()}-{os.getpid()}"
    arguments = worker_arguments(name, "threads", concurrency, _QUEUES, settings.dispatch.events)
    run_worker(orchestrator.app, arguments)
