"""Signs of life: what a device worker or a score worker says of itself, every second, under a key that expires."""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from enum import StrEnum

from redis.exceptions import RedisError

from shared.ledger import Keys, Ledger
from shared.types import Frozen

logger = logging.getLogger(__name__)


class DeviceState(StrEnum):
    """Whether a device takes work."""

    #: The model is being loaded.
    LOADING = "loading"
    READY = "ready"
    #: It finishes what it has in hand and takes nothing more.
    DRAINING = "draining"


class Heartbeat(Frozen):
    """One beat of a device worker."""

    device: str
    host: str
    pid: int
    #: Changes whenever the process is started anew: what an earlier incarnation had in hand is lost.
    incarnation: str
    state: DeviceState
    #: Names of the generators it can run.
    generators: tuple[str, ...]
    #: Candidate in hand, as `run|task|candidate|attempt`.
    current: str | None = None
    #: Candidates generated and still being written.
    finishing: tuple[str, ...] = ()
    step: int = 0
    total: int = 0
    #: Tasks (`run|task`) whose conditions are encoded here, most recent last.
    warm: tuple[str, ...] = ()
    done: int = 0
    #: Seconds spent generating, and seconds since the model was ready.
    busy_seconds: float = 0.0
    ready_seconds: float = 0.0
    #: What the hardware calls itself.
    hardware: str = "cpu"


class HelperBeat(Frozen):
    """One beat of a score worker."""

    incarnation: str
    host: str
    pid: int
    queues: tuple[str, ...]


def new_incarnation() -> str:
    """A name that no other start of any process has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Pulse:
    """A thread that writes a heartbeat every `interval` seconds and calls `after` after each.

    It keeps beating whatever the process does, and it survives the broker's absence.
    """

    def __init__(
        self,
        ledger: Ledger,
        key: str,
        index: tuple[str, str],
        beat: Callable[[], Frozen],
        interval: float,
        ttl: float,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger, self._key, self._index, self._beat = ledger, key, index, beat
        self._interval, self._ttl, self._after = interval, ttl, after
        self._stop, self._now = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> "Pulse":
        """Beat once, then go on in a thread."""
        self._write()
        self._thread.start()
        return self

    def soon(self) -> None:
        """Beat at the next opportunity instead of at the end of the interval."""
        self._now.set()

    def stop(self) -> None:
        """Stop beating and take the sign of life down, so that nobody waits for it to expire."""
        self._stop.set()
        self._now.set()
        self._thread.join(timeout=5)
        try:
            self._ledger.do([("DEL", self._key)])
        except RedisError:
            logger.warning("heartbeat could not be taken down", extra={"action": "heartbeat_failed", "key": self._key})

    def _run(self) -> None:
        while not self._stop.is_set():
            self._now.wait(self._interval)
            self._now.clear()
            if self._stop.is_set():
                return
            started = time.monotonic()
            try:
                self._write()
                self._after()
            except RedisError as error:
                logger.warning(
                    "heartbeat not written: %s", error, extra={"action": "heartbeat_failed", "key": self._key}
                )
            # A broker that answers slowly must not turn the pulse into a busy loop.
            self._stop.wait(max(0.0, min(0.05, self._interval - (time.monotonic() - started))))

    def _write(self) -> None:
        index, name = self._index
        self._ledger.do(
            [
                ("SET", self._key, self._beat().model_dump_json(), "PX", int(self._ttl * 1000)),
                ("SADD", index, name),
            ]
        )


def live_devices(ledger: Ledger) -> dict[str, Heartbeat | None]:
    """Every known device, with its last beat, or `None` when it has been silent for too long."""
    return {
        name: Heartbeat.model_validate_json(text) if text else None
        for name, text in _beats(ledger, Keys.devices, Keys.device)
    }


def live_helpers(ledger: Ledger) -> dict[str, HelperBeat | None]:
    """Every known score worker, with its last beat, or `None` when it has been silent for too long."""
    return {
        name: HelperBeat.model_validate_json(text) if text else None
        for name, text in _beats(ledger, Keys.helpers, Keys.helper)
    }


def _beats(ledger: Ledger, index: str, key: Callable[[str], str]) -> Iterable[tuple[str, str | None]]:
    names = sorted(str(name) for name in ledger.redis.smembers(index))
    if not names:
        return []
    return zip(names, ledger.redis.mget([key(name) for name in names]), strict=True)  # type: ignore[arg-type]
