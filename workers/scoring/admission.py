"""Who may call a remote judge, and when: rate limit, budget and breaker in Redis, one for all processes.

One script decides on every call at once, by the server's clock: is the judge stopped, does the budget reach, and when
may the call start? The rate limit is a sliding-window log (each start is remembered for one window, so that the limit
holds in every window and not only in those that begin on the minute), smoothed by a token bucket (GCRA, ITU-T I.371)
so that calls do not bunch up at the start of each window.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from shared.errors import BrokerUnreachable, ConfigurationError
from shared.settings.judges import BudgetSettings, RateLimitSettings
from shared.types import Usage
from workers.scoring.failures import BudgetSpent, JudgeStopped

if TYPE_CHECKING:
    import redis

#: A start is reserved this far ahead at most; who comes earlier asks again. Bounds what a killed process takes along.
HORIZON = 1.0
_LEDGER_DAYS = 30
_MICRO = 1_000_000

# KEYS: log of starts, state, breaker, ledger. All times in microseconds, money in millionths of a dollar.
_ADMIT = """
local window, limit, token_limit, tokens = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local interval, burst, horizon = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local max_calls, max_cost, cost = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

local stopped = redis.call('GET', KEYS[3])
if stopped then return {'stopped', stopped} end

local spent = redis.call('HMGET', KEYS[4], 'calls', 'cost', 'held')
local paid, held = tonumber(spent[2] or 0), tonumber(spent[3] or 0)
if max_calls >= 0 and tonumber(spent[1] or 0) + 1 > max_calls then return {'spent', 'calls'} end
if max_cost >= 0 and paid + cost > max_cost then return {'spent', 'cost'} end
-- Calls under way cost less than what is held for them, as a rule: wait for them before calling the budget spent.
if max_cost >= 0 and paid + held + cost > max_cost then return {'wait', '500000'} end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = redis.call('HMGET', KEYS[2], 'last', 'due', 'paused', 'count', 'tokens')
local last, due, paused = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0)
local count, total = tonumber(state[4] or 0), tonumber(state[5] or 0)

if last > now + horizon then
  -- The clock was set back: what the log says of times is worthless, so wait one window from now.
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[2], 'last', string.format('%.0f', now), 'due', 0, 'count', 0, 'tokens', 0,
    'paused', string.format('%.0f', now + window))
  return {'wait', string.format('%.0f', window)}
end

local start = math.max(now, last, paused, due - (burst - 1) * interval)
local gone = 0
while true do
  local entry = redis.call('LINDEX', KEYS[1], gone)
  if not entry then break end
  local at, used = string.match(entry, '(%d+):(%d+)')
  at, used = tonumber(at), tonumber(used)
  local full = count >= limit or (token_limit >= 0 and total + tokens > token_limit)
  if at + window > start and not full then break end
  start = math.max(start, at + window)
  count, total, gone = count - 1, total - used, gone + 1
end
if start - now > horizon then return {'wait', string.format('%.0f', start - now)} end

if gone > 0 then redis.call('LTRIM', KEYS[1], gone, -1) end
redis.call('RPUSH', KEYS[1], string.format('%.0f:%.0f', start, tokens))
redis.call('HSET', KEYS[2], 'last', string.format('%.0f', start),
  'due', string.format('%.0f', math.max(due, start) + interval),
  'count', count + 1, 'tokens', string.format('%.0f', total + tokens))
local keep = math.ceil((2 * window + horizon) / 1000)
redis.call('PEXPIRE', KEYS[1], keep)
redis.call('PEXPIRE', KEYS[2], keep + math.ceil(math.max(0, paused - now) / 1000))
redis.call('HINCRBY', KEYS[4], 'calls', 1)
redis.call('HINCRBY', KEYS[4], 'held', ARGV[10])
redis.call('EXPIRE', KEYS[4], ARGV[11])
return {'go', string.format('%.0f', start - now)}
"""

_PAUSE = """
local time = redis.call('TIME')
local until_ = tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(ARGV[1])
local paused = tonumber(redis.call('HGET', KEYS[1], 'paused') or 0)
if until_ > paused then redis.call('HSET', KEYS[1], 'paused', string.format('%.0f', until_)) end
local keep = math.ceil(tonumber(ARGV[1]) / 1000) + tonumber(ARGV[2])
if redis.call('PTTL', KEYS[1]) < keep then redis.call('PEXPIRE', KEYS[1], keep) end
return 0
"""

_PAUSED = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
return string.format('%.0f', math.max(0, tonumber(redis.call('HGET', KEYS[1], 'paused') or 0) - now))
"""


@dataclass(frozen=True)
class Admitted:
    """The call may start in `wait` seconds; `cost` (US dollars) is set aside for it in the budget."""

    wait: float
    cost: float


@dataclass(frozen=True)
class NotYet:
    """Nothing is reserved: ask again in up to `wait` seconds."""

    wait: float


@dataclass(frozen=True)
class Spent:
    """What a run has spent on a judge so far; money set aside for calls under way is included."""

    calls: int
    cost_usd: float
    input_tokens: int
    output_tokens: int


def identity(*parts: str | None) -> str:
    """A short hash that tells services apart (address, model, key) and gives nothing away of a key among its parts."""
    return hashlib.sha256("\0".join(part or "" for part in parts).encode()).hexdigest()[:16]


class Admission:
    """Rate limit, budget and breaker of one judge.

    The limit belongs to the `service` (all runs share its quota), the budget to the run, the breaker to both.
    Every method raises BrokerUnreachable when Redis does not answer.
    """

    def __init__(
        self,
        client: "redis.Redis",
        judge: str,
        service: str,
        run_id: str,
        limits: RateLimitSettings,
        budget: BudgetSettings,
    ) -> None:
        self._client, self._judge, self._limits, self._budget = client, judge, limits, budget
        base = f"inpaint-eacps:judge:{{{judge}:{service}}}"
        self._log, self._state = f"{base}:log", f"{base}:state"
        self._breaker, self._ledger = f"{base}:stopped:{run_id}", f"{base}:spent:{run_id}"

    @cached_property
    def _admit(self) -> Any:
        return self._client.register_script(_ADMIT)

    @cached_property
    def _pause(self) -> Any:
        return self._client.register_script(_PAUSE)

    @cached_property
    def _paused(self) -> Any:
        return self._client.register_script(_PAUSED)

    def ask(self, tokens: int, cost: float) -> Admitted | NotYet:
        """Ask to start a call of `tokens` input tokens that costs at most `cost` US dollars.

        Raises JudgeStopped when the judge is stopped and BudgetSpent when the budget does not reach;
        ConfigurationError when one call alone would break the limit on tokens.
        """
        limits, budget = self._limits, self._budget
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            raise ConfigurationError(
                f"scoring.{self._judge}.limits.tokens_per_minute ({limits.tokens_per_minute}) does not reach for one "
                f"call of {tokens} tokens."
            )
        window = limits.window + limits.slack
        burst = limits.burst or max(1, limits.requests_per_minute // 20)
        verdict, value = self._run(
            self._admit,
            [self._log, self._state, self._breaker, self._ledger],
            [
                math.ceil(window * _MICRO),
                limits.requests_per_minute,
                -1 if limits.tokens_per_minute is None else limits.tokens_per_minute,
                tokens,
                math.ceil(window * _MICRO / limits.requests_per_minute),
                min(burst, limits.requests_per_minute),
                math.ceil(HORIZON * _MICRO),
                -1 if budget.max_calls is None else budget.max_calls,
                -1 if budget.max_cost is None else math.floor(budget.max_cost * _MICRO),
                math.ceil(cost * _MICRO),
                _LEDGER_DAYS * 86400,
            ],
        )
        match verdict:
            case "go":
                return Admitted(int(value) / _MICRO, math.ceil(cost * _MICRO) / _MICRO)
            case "wait":
                return NotYet(int(value) / _MICRO)
            case "stopped":
                raise JudgeStopped(value)
        raise BudgetSpent(self._spent_words(value))

    def take_back(self, admitted: Admitted) -> None:
        """Undo an admission whose call was not made. Its start stays used: nobody else may have it now."""
        self._book(calls=-1, held=-admitted.cost)

    def settle(self, admitted: Admitted, usage: Usage) -> None:
        """Replace what was set aside by what the call did cost."""
        self._book(
            held=-admitted.cost,
            cost=usage.cost_usd,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )

    def pause(self, seconds: float) -> None:
        """Let nobody start a call for so long (never shortens a longer pause)."""
        keep = math.ceil((2 * (self._limits.window + self._limits.slack) + HORIZON) * 1000)
        self._run(self._pause, [self._state], [math.ceil(seconds * _MICRO), keep])

    def paused(self) -> float:
        """Seconds that the pause still lasts; 0 for none."""
        return int(self._run_one(self._paused, [self._state])) / _MICRO

    def stop(self, reason: str, seconds: float) -> bool:
        """Refuse every further call of this run for so long. True for the first to say so."""
        return bool(
            self._guarded(lambda: self._client.set(self._breaker, reason, nx=True, px=math.ceil(seconds * 1000)))
        )

    def stopped(self) -> str | None:
        """Why the judge is stopped, if it is."""
        reason = self._guarded(lambda: self._client.get(self._breaker))
        return None if reason is None else _text(reason)

    def resume(self) -> None:
        """Close the breaker: the reason is gone."""
        self._guarded(lambda: self._client.delete(self._breaker))

    def spent(self) -> Spent:
        """What this run has spent so far."""
        fields = ("calls", "cost", "held", "input_tokens", "output_tokens")
        values = cast(list[Any], self._guarded(lambda: self._client.hmget(self._ledger, list(fields))))
        calls, cost, held, read, written = (int(value or 0) for value in values)
        return Spent(calls, (cost + held) / _MICRO, read, written)

    def _book(
        self, calls: int = 0, held: float = 0.0, cost: float = 0.0, input_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        changes = {
            "calls": calls,
            "held": round(held * _MICRO),
            "cost": math.ceil(round(cost * _MICRO, 3)),
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
        }

        def write() -> None:
            with self._client.pipeline(transaction=True) as pipe:
                for field, amount in changes.items():
                    if amount:
                        pipe.hincrby(self._ledger, field, amount)
                pipe.execute()

        self._guarded(write)

    def _spent_words(self, what: str) -> str:
        if what == "calls":
            return (
                f"The budget of the judge {self._judge} is spent: {self._budget.max_calls} calls "
                f"(scoring.{self._judge}.budget.max_calls)."
            )
        return (
            f"The budget of the judge {self._judge} allows no other call: {self._budget.max_cost} US dollars "
            f"(scoring.{self._judge}.budget.max_cost)."
        )

    def _run(self, script: Any, keys: list[str], args: list[int]) -> tuple[str, str]:
        reply = self._guarded(lambda: script(keys=keys, args=args))
        return (_text(reply[0]), _text(reply[1])) if isinstance(reply, list) else ("", "")

    def _run_one(self, script: Any, keys: list[str]) -> str:
        return _text(self._guarded(lambda: script(keys=keys)))

    def _guarded(self, call: Any) -> Any:
        import redis

        try:
            return call()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise BrokerUnreachable from error


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
