"""The state of all runs in Redis, and the only code that touches it.

Everything is compare-and-set: a change is worked out from what was read, and written together with all that follows
from it in one atomic step, or not at all. So any number of processes may work on the same task, and an event may come
twice or late, without harm. What a change means is decided elsewhere, by pure functions.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from shared.errors import BrokerUnreachable, InpaintError
from shared.queues import PREFIX
from shared.types import Frozen

Model = TypeVar("Model", bound=Frozen)

#: One Redis command as words.
Command = tuple[str | int | float, ...]

_COMPARE_AND_DO = """
local guards = #KEYS
for i = 1, guards do
  if (redis.call('HGET', KEYS[i], ARGV[2 * i - 1]) or '') ~= ARGV[2 * i] then return 0 end
end
local room = ARGV[2 * guards + 2]
if room ~= '' and redis.call('HLEN', room) >= tonumber(ARGV[2 * guards + 3]) then return 0 end
for _, command in ipairs(cjson.decode(ARGV[2 * guards + 1])) do redis.call(unpack(command)) end
return 1
"""


@dataclass(frozen=True)
class Guard:
    """Hash `key` must hold `expected` at `field`; `None` means that it must hold nothing there."""

    key: str
    field: str
    expected: str | None


@dataclass(frozen=True)
class Room:
    """Hash `key` must hold fewer than `most` fields."""

    key: str
    most: int


class Keys:
    """Names of everything in Redis."""

    runs = PREFIX + "runs"
    #: Run id to priority, for runs that still have waiting tasks.
    waiting_runs = PREFIX + "waiting-runs"
    #: Members `run|task`: tasks taken up and not over.
    in_flight = PREFIX + "in-flight"
    #: Members waiting for a device, best first.
    pending = PREFIX + "pending"
    #: Names of all devices ever seen and not given up.
    devices = PREFIX + "devices"
    #: Job key to its message, for jobs that have not been answered.
    jobs = PREFIX + "jobs"
    #: Job key, or `run|task|candidate|attempt`, to the incarnation that took it up.
    claims = PREFIX + "claims"
    #: Names of all score workers ever seen and not given up.
    helpers = PREFIX + "helpers"
    #: Devices, or hosts, that shall take no more work.
    drains = PREFIX + "drains"
    #: Hash: device to the reason why it cannot work.
    refused = PREFIX + "refused"
    #: Hash: what was counted for Prometheus, see `orchestrator.observations`.
    observations = PREFIX + "observations"
    sequence = PREFIX + "sequence"
    #: List of events that the orchestrator has not processed.
    inbox = PREFIX + "inbox"

    @staticmethod
    def run(run: str) -> str:
        return f"{PREFIX}run:{run}"

    @staticmethod
    def waiting(run: str) -> str:
        return f"{PREFIX}waiting:{run}"

    @staticmethod
    def tasks(run: str) -> str:
        """Hash: task id to the task's record."""
        return f"{PREFIX}tasks:{run}"

    @staticmethod
    def counts(run: str) -> str:
        """Hash: `task:<state>` and `candidate:<phase>:<state>` to how many there are."""
        return f"{PREFIX}counts:{run}"

    @staticmethod
    def candidates(run: str, task: str) -> str:
        """Hash: candidate id to the candidate."""
        return f"{PREFIX}candidates:{run}:{task}"

    @staticmethod
    def comparisons(run: str, task: str) -> str:
        """Hash: `first:second` to a judge's preference."""
        return f"{PREFIX}comparisons:{run}:{task}"

    @staticmethod
    def outcomes(run: str) -> str:
        """List of outcomes in the order in which tasks ended."""
        return f"{PREFIX}outcomes:{run}"

    @staticmethod
    def device(device: str) -> str:
        return f"{PREFIX}device:{device}"

    @staticmethod
    def helper(incarnation: str) -> str:
        return f"{PREFIX}helper:{incarnation}"

    @staticmethod
    def load(device: str) -> str:
        """Hash: pending member to when it was given to the device."""
        return f"{PREFIX}load:{device}"

    @staticmethod
    def lock(name: str) -> str:
        return f"{PREFIX}lock:{name}"

    @staticmethod
    def owner(store: str, task: str) -> str:
        """Which run works on a task in a store."""
        return f"{PREFIX}owner:{store}:{task}"


class Ledger:
    """One connection pool and the atomic primitives. Thread-safe; make it anew after a fork."""

    def __init__(self, url: str) -> None:
        # ConnectionError and TimeoutError are retried by the client itself: short outages pass unnoticed.
        self.redis: redis.Redis = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=10,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=15,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 6),
            retry_on_error=[RedisConnectionError],
        )
        self._script = self.redis.register_script(_COMPARE_AND_DO)
        self._skew: tuple[float, float] | None = None

    def ping(self) -> None:
        """Raises BrokerUnreachable."""
        try:
            self.redis.ping()
        except RedisError as error:
            raise BrokerUnreachable(
                f"The broker does not answer ({type(error).__name__}: {error}). Check that Valkey or Redis runs, "
                "and that INPAINT_EACPS_BROKER__URL names it."
            ) from error

    def now(self) -> float:
        """Unix seconds by the broker's clock, the same on every host whatever its own clock says."""
        monotonic = time.monotonic()
        if self._skew is None or monotonic - self._skew[1] > 30:
            seconds, micros = self.redis.time()
            self._skew = (seconds + micros / 1e6 - monotonic, monotonic)
        return self._skew[0] + monotonic

    def compare_and_do(self, guards: Sequence[Guard], commands: Sequence[Command], room: Room | None = None) -> bool:
        """Run `commands` atomically if all guards hold; else do nothing."""
        words = [[_word(word) for word in command] for command in commands]
        args = [word for guard in guards for word in (guard.field, guard.expected or "")]
        done = self._script(
            keys=[guard.key for guard in guards],
            args=[*args, json.dumps(words), room.key if room else "", room.most if room else 0],
        )
        return bool(done)

    def read(self, commands: Iterable[Command]) -> list[Any]:
        """Run `commands` in one round trip, each on its own."""
        with self.redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipe.execute()

    def do(self, commands: Iterable[Command]) -> list[Any]:
        """Run `commands` in one transaction."""
        with self.redis.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipe.execute()

    def hget(self, key: str, field: str) -> str | None:
        """One field of a hash."""
        return cast(str | None, self.redis.hget(key, field))

    def hgetall(self, key: str) -> dict[str, str]:
        """A whole hash."""
        return cast(dict[str, str], self.redis.hgetall(key))

    def try_lock(self, name: str, seconds: float) -> bool:
        """Take a lock that frees itself after `seconds`."""
        return bool(self.redis.set(Keys.lock(name), "1", nx=True, px=int(seconds * 1000)))

    def unlock(self, name: str) -> None:
        """Give a lock back."""
        self.redis.delete(Keys.lock(name))


def _word(word: str | float) -> str:
    return word if isinstance(word, str) else repr(word)


def update(
    ledger: Ledger,
    key: str,
    field: str,
    model: type[Model],
    change: Callable[[Model], tuple[Model, Sequence[Command]] | None],
    room: Room | None = None,
) -> tuple[Model, Model] | None:
    """Change one record by a pure function, and run what follows from it in the same atomic step.

    `change` gets the record as it stands and returns the new one with further commands, or `None` for "nothing to do".
    Returns old and new, or `None` when there is no such record, nothing to do, or no `room`. Tries again when another
    process was faster.
    """
    for _ in range(100):
        text = ledger.hget(key, field)
        if text is None:
            return None
        old = model.model_validate_json(text)
        changed = change(old)
        if changed is None:
            return None
        new, commands = changed
        commands = [("HSET", key, field, new.model_dump_json()), *commands]
        if ledger.compare_and_do([Guard(key, field, text)], commands, room):
            return old, new
        if room is not None and int(ledger.redis.hlen(room.key)) >= room.most:
            return None
    raise InpaintError(
        f"{key} {field} changed 100 times while it was being updated; is another system using this Redis?"
    )


def moved(counts: str, old: str | None, new: str) -> list[Command]:
    """Commands that count something out of one state and into another."""
    commands: list[Command] = [("HINCRBY", counts, new, 1)]
    if old is not None:
        commands.append(("HINCRBY", counts, old, -1))
    return commands if old != new else []


def counts(ledger: Ledger, run: str) -> Mapping[str, int]:
    """All counters of a run, read in one step."""
    return {name: int(number) for name, number in ledger.hgetall(Keys.counts(run)).items()}
