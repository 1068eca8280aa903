"""Judgements that were paid for once: in Redis, and as JSON beside the artifacts (which outlives Redis)."""

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from shared.errors import BrokerUnreachable, InpaintError
from shared.types import Judgement, Usage
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext

if TYPE_CHECKING:
    import redis
    from redis.lock import Lock

_log = logging.getLogger(__name__)
_PREFIX = "inpaint-eacps:judgement"
_DAYS = 30
#: A process killed while it judges keeps others from judging the same for so long; one that lives renews its claim.
_CLAIM_SECONDS = 10.0
#: Longest wait for another's judgement.
_PATIENCE_SECONDS = 120.0


class JudgementCache:
    """Judgements by the hash of all that determines them. Safe to use from many threads and processes.

    Redis is asked first; a miss there is looked up in the store and put back. Either may be absent.
    """

    def __init__(self, context: ScoringContext) -> None:
        self._redis: redis.Redis | None = context.redis
        self._read: Callable[[str], bytes | None] = context.read
        self._write: Callable[[str, bytes], None] = context.write

    @staticmethod
    def key(judge: str, cache_key: str, *requests: ScoreRequest) -> str:
        """One key per (judge, its settings, and all that it is shown: images, the character's name, preview or not)."""
        shown = (f"{r.content_key}:{int(r.preview)}:{r.character_name}" for r in requests)
        return hashlib.sha256("\0".join((judge, cache_key, *shown)).encode()).hexdigest()

    @staticmethod
    def artifact_name(key: str) -> str:
        """Where the judgement lies in the artifact store."""
        return f"judgements/{key[:2]}/{key}.json"

    def get(self, key: str) -> Judgement | None:
        """The judgement, marked as cached and with what it cost now: nothing. A damaged entry counts as none."""
        data = self._from_redis(key)
        if data is None and (data := self._read(self.artifact_name(key))) is not None:
            self._to_redis(key, data)
        if data is None:
            return None
        try:
            judgement = Judgement.model_validate_json(data)
        except ValidationError:
            _log.warning(
                "The cached judgement %s is damaged and is made anew.", self.artifact_name(key),
                extra={"action": "judge.cache-damaged", "key": key},
            )  # fmt: skip
            return None
        return judgement.model_copy(update={"cached": True, "usage": Usage(), "seconds": 0.0})

    def put(self, key: str, judgement: Judgement) -> None:
        """Keep a judgement in both places. One that does not take it costs no judgement, only a warning."""
        data = judgement.model_dump_json().encode()
        keepers: tuple[Callable[[], None], ...] = (
            lambda: self._write(self.artifact_name(key), data),
            lambda: self._to_redis(key, data),
        )
        for keep in keepers:
            try:
                keep()
            except InpaintError as error:
                _log.warning(
                    "A judgement could not be kept: %s", error, extra={"action": "judge.cache-unwritten", "key": key}
                )

    @contextlib.contextmanager
    def only_one(self, key: str) -> Iterator[None]:
        """Let one caller at a time make the judgement of a key, so that a job delivered twice is paid for once."""
        if self._redis is None:
            yield
            return
        import redis

        lock = self._redis.lock(
            f"{_PREFIX}:{key}:claim", timeout=_CLAIM_SECONDS, blocking_timeout=_PATIENCE_SECONDS, thread_local=False
        )
        with _guarded():
            lock.acquire()
        done = threading.Event()
        threading.Thread(target=_renew, args=(lock, done), name="claim", daemon=True).start()
        try:
            yield
        finally:
            done.set()
            with contextlib.suppress(redis.exceptions.LockError, redis.ConnectionError, redis.TimeoutError):
                lock.release()

    def _from_redis(self, key: str) -> bytes | None:
        if self._redis is None:
            return None
        with _guarded():
            value = self._redis.get(f"{_PREFIX}:{key}")
        return value.encode() if isinstance(value, str) else value

    def _to_redis(self, key: str, data: bytes) -> None:
        if self._redis is not None:
            with _guarded():
                self._redis.set(f"{_PREFIX}:{key}", data, ex=_DAYS * 86400)


def _renew(lock: "Lock", done: threading.Event) -> None:
    """Keep a claim for as long as the judgement takes."""
    import redis

    while not done.wait(_CLAIM_SECONDS / 3):
        try:
            lock.reacquire()
        except redis.exceptions.LockError:
            return
        except (redis.ConnectionError, redis.TimeoutError) as error:
            _log.debug("claim not renewed: %s", error, extra={"action": "judge.claim-unrenewed"})


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    import redis

    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise BrokerUnreachable from error
