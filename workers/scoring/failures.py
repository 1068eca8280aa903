"""How a remote judge fails: one call of it, or the judge as a whole."""

from shared.errors import Permanent, Retryable
from shared.types import Usage


class Throttled(Retryable):
    """The service asks for a pause (HTTP 429). `retry_after` is how long, in seconds, where it says so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unreachable(Retryable):
    """The service failed or did not answer. `billed` says that it may have worked, and charged, all the same."""

    def __init__(self, message: str, billed: bool = False) -> None:
        super().__init__(message)
        self.billed = billed


class Refused(Permanent):
    """The service will refuse this call again: a wrong key, a wrong model, a wrong request."""


class JudgeUnavailable(Retryable):
    """The judge gave no answer within its attempts. `usage` is what was spent in vain."""

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage or Usage()


class JudgeStopped(Permanent):
    """The judge is stopped for everybody: it refused, or its budget is spent."""

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage or Usage()


class BudgetSpent(JudgeStopped):
    """The run's budget for this judge does not reach for another call."""


def usage_of(error: Exception) -> Usage:
    """What was spent in vain."""
    return error.usage if isinstance(error, JudgeUnavailable | JudgeStopped) else Usage()
