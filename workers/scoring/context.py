"""What the score worker hands to its judges besides the settings."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import redis


def _nothing(_name: str) -> bytes | None:
    return None


def _nowhere(_name: str, _data: bytes) -> None:
    return None


@dataclass(frozen=True)
class ScoringContext:
    """The world as a judge sees it: the run it works for, Redis, the artifact store and the environment.

    `redis` is shared by all threads; limits, budgets and the cache live there. Judges that call a remote service need
    it, the others work without. `read` gives an artifact's bytes or `None` where there is none of that name; `write`
    stores them atomically.
    """

    run_id: str
    redis: "redis.Redis | None" = None
    read: Callable[[str], bytes | None] = _nothing
    write: Callable[[str, bytes], None] = _nowhere
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
