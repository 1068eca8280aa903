"""Calling a remote judge: admitted, retried, bounded, and counted."""

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.errors import BrokerUnreachable
from shared.settings.judges import RetrySettings
from shared.types import Usage
from workers.scoring.admission import Admission, Admitted, NotYet
from workers.scoring.failures import JudgeStopped, JudgeUnavailable, Refused, Throttled, Unreachable

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One call to make, with what it may cost at most and what it did cost once answered."""

    send: Callable[[], T]
    #: Input tokens at most.
    tokens: int
    #: US dollars at most.
    cost: float
    #: Tokens and dollars of an answer (its `calls` is ignored).
    usage_of: Callable[[T], Usage]


@dataclass(frozen=True)
class Answered(Generic[T]):
    """An answer, what all attempts at it cost, and how long the last one took (seconds)."""

    answer: T
    usage: Usage
    seconds: float


def add(left: Usage, right: Usage) -> Usage:
    """The sum of two usages."""
    return Usage(
        calls=left.calls + right.calls,
        input_tokens=left.input_tokens + right.input_tokens,
        output_tokens=left.output_tokens + right.output_tokens,
        cost_usd=left.cost_usd + right.cost_usd,
    )


class Remote:
    """Makes calls to one remote judge. Safe to use from many threads."""

    def __init__(self, judge: str, admission: Admission, retry: RetrySettings, slack: float) -> None:
        self._judge, self._admission, self._retry, self._slack = judge, admission, retry, slack

    def call(self, call: Call[T], deadline: float | None = None) -> Answered[T]:
        """Make a call until it is answered.

        A 429 pauses all processes for as long as it says, or a growing while; failures of the service and dropped
        connections wait 0 to `backoff * 2^n` seconds ("full jitter", M. Brooker, AWS 2015). `deadline` is a
        `time.monotonic()` after which nothing new is begun; by default `patience` from now.

        Raises JudgeUnavailable after `max_attempts` failures or when patience ends, JudgeStopped at once for a
        refusal (and for every later call, without calling), BudgetSpent, BrokerUnreachable.
        """
        deadline = time.monotonic() + self._retry.patience if deadline is None else deadline
        usage, failures, throttled = Usage(), 0, 0
        while True:
            admitted = self._admitted(call, deadline, usage)
            usage = add(usage, Usage(calls=1))
            began = time.monotonic()
            try:
                answer = call.send()
            except Throttled as error:
                self._admission.settle(admitted, Usage())
                throttled += 1
                self._pause(error, throttled)
            except Unreachable as error:
                lost = Usage(cost_usd=admitted.cost) if error.billed else Usage()
                self._admission.settle(admitted, lost)
                usage = add(usage, lost)
                failures += 1
                if failures >= self._retry.max_attempts:
                    raise JudgeUnavailable(
                        f"The judge {self._judge} gave no answer in {failures} attempts; the last one: {error}", usage
                    ) from error
                self._back_off(error, failures, deadline, usage)
            except Refused as error:
                self._admission.settle(admitted, Usage())
                raise self._stopped(error, usage) from error
            except BaseException:
                self._admission.settle(admitted, Usage(cost_usd=admitted.cost))
                raise
            else:
                cost = call.usage_of(answer)
                self._settled(admitted, cost)
                total = add(usage, cost.model_copy(update={"calls": 0}))
                return Answered(answer, total, time.monotonic() - began)

    def _admitted(self, call: Call[T], deadline: float, usage: Usage) -> Admitted:
        """Wait for permission to start now."""
        while True:
            try:
                verdict = self._admission.ask(call.tokens, call.cost)
            except JudgeStopped as error:
                raise type(error)(str(error), usage) from error
            asked = time.monotonic()
            if isinstance(verdict, NotYet):
                if asked >= deadline:
                    raise JudgeUnavailable(
                        f"The judge {self._judge} was not reached in time: its rate limit, or a pause that it asked "
                        f"for, lasts another {verdict.wait:.0f} s.",
                        usage,
                    )
                time.sleep(min(verdict.wait, random.uniform(0.4, 0.8), max(0.01, deadline - asked)))  # noqa: S311
                continue
            if verdict.wait > 0:
                time.sleep(verdict.wait)
                late = time.monotonic() - asked - verdict.wait
                if late > self._slack / 2 or self._admission.paused() or self._admission.stopped():
                    self._admission.take_back(verdict)
                    continue
            return verdict

    def _settled(self, admitted: Admitted, cost: Usage) -> None:
        """Settle an answered call. An answer that was paid for is not thrown away because Redis is gone meanwhile: what
        was set aside for it stays so, and the budget is kept all the same."""
        try:
            self._admission.settle(admitted, cost)
        except BrokerUnreachable:
            _log.warning(
                "A call of the judge %s could not be settled; what was set aside for it counts as spent.", self._judge,
                extra={"action": "judge.unsettled", "judge": self._judge},
            )  # fmt: skip

    def _pause(self, error: Throttled, times: int) -> None:
        least = min(self._retry.backoff * 2 ** min(times - 1, 16), self._retry.backoff_max)
        wait = max(error.retry_after or 0.0, 0.0) or least
        self._admission.pause(wait)
        _log.warning(
            "The judge %s asks for a pause of %.1f s: %s", self._judge, wait, error,
            extra={"action": "judge.throttled", "judge": self._judge, "seconds": wait},
        )  # fmt: skip

    def _back_off(self, error: Unreachable, failures: int, deadline: float, usage: Usage) -> None:
        ceiling = min(self._retry.backoff * 2 ** min(failures - 1, 16), self._retry.backoff_max)
        wait = random.uniform(0.0, ceiling)  # noqa: S311
        if time.monotonic() + wait >= deadline:
            raise JudgeUnavailable(
                f"The judge {self._judge} gave no answer in {failures} attempts and no time is left; "
                f"the last one: {error}",
                usage,
            ) from error
        _log.info(
            "The judge %s did not answer, attempt %d of %d: %s", self._judge, failures, self._retry.max_attempts, error,
            extra={"action": "judge.retry", "judge": self._judge, "attempt": failures},
        )  # fmt: skip
        time.sleep(wait)

    def _stopped(self, error: Refused, usage: Usage) -> JudgeStopped:
        reason = f"The judge {self._judge} is stopped: {error}"
        if self._admission.stop(reason, self._retry.stopped_for):
            _log.error("%s", reason, extra={"action": "judge.stopped", "judge": self._judge})
        return JudgeStopped(reason, usage)
