"""Events on their way to the orchestrator: a durable list in Redis, and a Celery message when it is empty no longer.

Under load one message brings many events, so an event costs a fraction of what a message costs. An event leaves the
list only when it has been processed; processing it twice does no harm.
"""

import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError

from shared.celery_app import Send
from shared.errors import BrokerUnreachable
from shared.ledger import Command, Keys, Ledger
from shared.messages import EVENT, Event
from shared.queues import COLLECT_TASK, ORCHESTRATOR

logger = logging.getLogger(__name__)

_LOCK, _LOCK_SECONDS = "inbox", 10.0
_BATCH = 16


def post(ledger: Ledger, send: Send, event: Event, patience: float = 60.0) -> None:
    """Hand an event to the orchestrator; while the broker is away, try again for up to `patience` seconds.

    Raises BrokerUnreachable when the event could not be stored.
    """
    text, deadline, wait = event.model_dump_json(), time.monotonic() + patience, 0.2
    while True:
        try:
            length = int(ledger.redis.rpush(Keys.inbox, text))
            break
        except RedisError as error:
            if time.monotonic() > deadline:
                raise BrokerUnreachable from error
            logger.warning("event kept back: %s", error, extra={"action": "event_kept_back", "task": event.task})
            time.sleep(wait)
            wait = min(2 * wait, 5.0)
    if length == 1:
        # Should this message be lost, the orchestrator finds the event when it reconciles.
        send(COLLECT_TASK, ORCHESTRATOR, {}, f"collect-{event.kind}-{event.run}-{event.task}", f"task={event.task}")


def drain(ledger: Ledger, process: Callable[[Event], object], after_batch: Callable[[], object]) -> int:
    """Process events, oldest first, until none is left. Returns how many.

    One process drains at a time, so that no event is processed twice without need. An event that cannot be processed
    is dropped with a word in the log: reconciling finds out what it would have told.
    """
    done = 0
    while ledger.redis.llen(Keys.inbox) and ledger.try_lock(_LOCK, _LOCK_SECONDS):
        try:
            while batch := ledger.redis.lrange(Keys.inbox, 0, _BATCH - 1):
                for text in batch:
                    _process(str(text), process)
                after_batch()
                removed: list[Command] = [("LREM", Keys.inbox, 1, str(text)) for text in batch]
                ledger.read([*removed, ("PEXPIRE", Keys.lock(_LOCK), int(_LOCK_SECONDS * 1000))])
                done += len(batch)
        finally:
            ledger.unlock(_LOCK)
    return done


def _process(text: str, process: Callable[[Event], object]) -> None:
    try:
        process(EVENT.validate_json(text))
    except (RedisError, BrokerUnreachable):
        raise
    except Exception:
        logger.exception("an event could not be processed", extra={"action": "event_failed", "event": text[:500]})
