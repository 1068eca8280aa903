"""What runs beside no GPU: a Celery worker of threads that prepares inputs, and asks judges about results."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import redis
from celery.signals import worker_ready, worker_shutdown

from shared.artifacts import ArtifactMissing, ArtifactStore
from shared.celery_app import make_app, run_worker, sender, worker_arguments
from shared.claims import claim
from shared.errors import BrokerUnreachable, Permanent, Retryable
from shared.heartbeat import HelperBeat, Pulse, new_incarnation
from shared.images import pixel_hash
from shared.inbox import post
from shared.ledger import Keys, Ledger
from shared.messages import (
    CandidateJudged,
    CandidatesCompared,
    CompareJob,
    Event,
    PrepareJob,
    Run,
    ScoreJob,
    stable_hash,
)
from shared.queues import (
    COMPARE_TASK,
    PREPARE,
    PREPARE_TASK,
    SCORE,
    SCORE_TASK,
)
from shared.settings import Settings
from shared.types import CRITERIA, ArtifactRef, Judgement
from workers.generation.base import TaskImages
from workers.inputs import Inputs, Recent, read_rgb
from workers.preparation.access import LabelStudioAccess
from workers.preparation.fetch import Fetcher
from workers.preparation.job import prepare_task
from workers.scoring.base import Comparer, Preference, Scorer, ScoreRequest
from workers.scoring.cache import JudgementCache
from workers.scoring.context import ScoringContext
from workers.scoring.gate import GateLimits, check_gates
from workers.scoring.judging import compare_two, judge_one
from workers.scoring.registry import make_comparer, make_scorer

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

#: Queues of a score worker that is given none.
DEFAULT_QUEUES = (SCORE, PREPARE)
#: How long an image may be late on a shared file system before it counts as gone.
_LATE_SECONDS = 30.0
#: How long the broker may be away before a job that was put off is left to its time-out.
_BROKER_SECONDS = 300.0


class ScoreWorker:
    """Holds what lives as long as the process; its methods run in many threads at once."""

    def __init__(self, url: str, settings: Settings, queues: Sequence[str]) -> None:
        self._settings, self._queues = settings, tuple(queues)
        self._ledger, self._inputs = Ledger(url), Inputs(tasks=32)
        self._redis: redis.Redis = redis.Redis.from_url(url, socket_timeout=20, socket_connect_timeout=5)
        self._fetcher = Fetcher(settings.input, LabelStudioAccess.from_environment(os.environ))
        self.incarnation = new_incarnation()
        self.app = make_app(url, queues, settings.dispatch)
        self._send = sender(self.app)
        self._scorers: Recent[Scorer] = Recent(16)
        self._comparers: Recent[Comparer] = Recent(16)
        self._runs: Recent[tuple[Run, Settings]] = Recent(16)
        self._loading = threading.Lock()
        self._pulse = Pulse(
            Ledger(url),
            Keys.helper(self.incarnation),
            (Keys.helpers, self.incarnation),
            self._beat,
            settings.dispatch.heartbeat_interval,
            settings.dispatch.heartbeat_ttl,
        )
        for name, job in ((PREPARE_TASK, self.prepare), (SCORE_TASK, self.score), (COMPARE_TASK, self.compare)):
            self.app.task(name=name, ignore_result=True)(job)

    def start(self) -> None:
        """Begin to beat."""
        self._pulse.start()

    def stop(self) -> None:
        """Sign off."""
        self._pulse.stop()

    def _beat(self) -> HelperBeat:
        return HelperBeat(incarnation=self.incarnation, host=socket.gethostname(), pid=os.getpid(), queues=self._queues)

    def prepare(self, job: dict[str, Any]) -> None:
        """Celery task: fetch and check one task's inputs."""
        parsed = PrepareJob.model_validate(job)
        if claim(self._ledger, parsed.key, self.incarnation):
            self._answer(parsed.key, lambda: prepare_task(parsed, self._fetcher))

    def score(self, job: dict[str, Any]) -> None:
        """Celery task: ask one judge about one candidate."""
        parsed = ScoreJob.model_validate(job)
        if claim(self._ledger, parsed.key, self.incarnation):
            self._answer(parsed.key, lambda: self._judged(parsed))

    def compare(self, job: dict[str, Any]) -> None:
        """Celery task: ask a judge which of two candidates is better."""
        parsed = CompareJob.model_validate(job)
        if claim(self._ledger, parsed.key, self.incarnation):
            self._answer(parsed.key, lambda: self._compared(parsed))

    def _answer(self, key: str, work: Callable[[], Event]) -> None:
        """Do a job and report. What may work later goes back: reconciling sends the job again."""
        try:
            event: Event = work()
        except (Retryable, redis.RedisError) as error:
            logger.warning("%s put off: %s", key, error, extra={"action": "job_put_off", "job": key})
            self._give_back(key)
            return
        post(self._ledger, self._send, event)

    def _give_back(self, key: str) -> None:
        """Let go of a job. Mostly the broker was away, and may still be: a claim that stayed would hold the job up for
        as long as a judgement may take."""
        deadline = time.monotonic() + _BROKER_SECONDS
        while True:
            try:
                self._ledger.do([("HDEL", Keys.claims, key)])
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _judged(self, job: ScoreJob) -> CandidateJudged:
        run, settings = self._run(job.run)
        try:
            judgement = self._judge(job, settings)
        except (Permanent, ArtifactMissing) as error:
            judgement = _missing(job.judge, run, str(error))
        except (Retryable, redis.RedisError):
            raise
        except Exception as error:
            logger.exception("%s failed", job.judge, extra={"action": "judge_failed", "job": job.key})
            judgement = _missing(job.judge, run, f"{type(error).__name__}: {error}")
        return CandidateJudged.of(job, judgement)

    def _judge(self, job: ScoreJob, settings: Settings) -> Judgement:
        store = self._inputs.store(job.store)
        images = self._task_images(job)
        request = _request(job.run, job.candidate, images, store, job.image, preview=job.preview)
        context = self._context(job.run, store)
        limits = settings.scoring.gate

        def gates(checked: ScoreRequest) -> str | None:
            return check_gates(checked, GateLimits(limits.outside, limits.seam, limits.change, limits.contrast))

        return judge_one(
            self._scorer(job.judge, job.run, settings, context),
            request,
            JudgementCache(context),
            gates if job.gates else None,
        )

    def _compared(self, job: CompareJob) -> CandidatesCompared:
        _, settings = self._run(job.run)
        try:
            said = self._compare(job, settings)
        except (Permanent, ArtifactMissing) as error:
            said = Preference(None, str(error))
        except (Retryable, redis.RedisError):
            raise
        except Exception as error:
            logger.exception("%s failed", job.judge, extra={"action": "judge_failed", "job": job.key})
            said = Preference(None, f"{type(error).__name__}: {error}")
        return CandidatesCompared.of(
            job, said.value, said.words, seconds=said.seconds, cached=said.cached, usage=said.usage
        )

    def _compare(self, job: CompareJob, settings: Settings) -> Preference:
        store = self._inputs.store(job.store)
        images = self._task_images(job)
        first = _request(job.run, job.first, images, store, job.first_image)
        second = _request(job.run, job.second, images, store, job.second_image)
        context = self._context(job.run, store)
        return compare_two(
            self._comparer(job.judge, job.run, settings, context), first, second, JudgementCache(context)
        )

    def _task_images(self, job: ScoreJob | CompareJob) -> TaskImages:
        return _late(lambda: self._inputs.task(job.store, job.task, job.character_name, job.prepared))

    def _context(self, run: str, store: ArtifactStore) -> ScoringContext:
        def read(name: str) -> bytes | None:
            try:
                return store.read(name)
            except ArtifactMissing:
                return None

        def write(name: str, data: bytes) -> None:
            store.write(name, data)

        return ScoringContext(run_id=run, redis=self._redis, read=read, write=write)

    def _scorer(self, name: str, run: str, settings: Settings, context: ScoringContext) -> Scorer:
        def make() -> Scorer:
            scorer = make_scorer(name, settings, context)
            scorer.load()
            return scorer

        # One at a time: a model is never loaded twice because two threads wanted it.
        with self._loading:
            return self._scorers.get(f"{run}:{name}", make)

    def _comparer(self, name: str, run: str, settings: Settings, context: ScoringContext) -> Comparer:
        def make() -> Comparer:
            comparer = make_comparer(name, settings, context)
            comparer.load()
            return comparer

        with self._loading:
            return self._comparers.get(f"{run}:{name}", make)

    def _run(self, run: str) -> tuple[Run, Settings]:
        def read() -> tuple[Run, Settings]:
            text = self._ledger.redis.get(Keys.run(run))
            if text is None:
                raise BrokerUnreachable(f"Run {run} is not in the ledger any more; `inpaint-eacps resume` takes it up.")
            found = Run.model_validate_json(str(text))
            return found, Settings.model_validate(found.settings)

        return self._runs.get(run, read)


def _missing(judge: str, run: Run, reason: str) -> Judgement:
    """What the judge was to judge is in the run: it may be that the judge itself cannot be imported here."""
    return Judgement(judge=judge, missing=dict.fromkeys(run.judges.get(judge, CRITERIA), reason))


def _request(
    run: str, candidate: str, images: TaskImages, store: ArtifactStore, result: ArtifactRef, *, preview: bool = False
) -> ScoreRequest:
    shown = _late(lambda: read_rgb(store, result))
    return ScoreRequest(
        run_id=run,
        task_id=images.task_id,
        candidate_id=candidate,
        character_name=images.character_name,
        init=images.init,
        mask=images.mask,
        character=images.character,
        result=shown,
        # Of the pixels: the file tells of its run, and the same image of another run is not paid for again.
        content_key=stable_hash([images.key, images.character_name, pixel_hash(shown)]),
        preview=preview,
    )


def _late(read: Callable[[], Value]) -> Value:
    """Read what was written before its job was sent: not there means late for a while, and then gone for good."""
    deadline = time.monotonic() + _LATE_SECONDS
    while True:
        try:
            return read()
        except ArtifactMissing:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def serve(url: str, settings: Settings, queues: Sequence[str] = DEFAULT_QUEUES, concurrency: int = 16) -> None:
    """Run a score worker until SIGTERM.

    Raises BrokerUnreachable when there is no broker to begin with.
    """
    Ledger(url).ping()
    worker = ScoreWorker(url, settings, queues)

    @worker_ready.connect(weak=False)
    def _ready(**_: object) -> None:
        worker.start()
        logger.info("score worker is ready", extra={"action": "score_worker_ready", "queue": ",".join(queues)})

    @worker_shutdown.connect(weak=False)
    def _down(**_: object) -> None:
        worker.stop()

    name = f"score@{socket.gethostname()}-{os.getpid()}"
    run_worker(worker.app, worker_arguments(name, "threads", concurrency, queues, settings.dispatch.events))
