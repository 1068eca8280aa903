"""Kombu's Redis transport, with one client per channel instead of a new one for every message.

A client is a thin, thread-safe view on the connection pool, but making one costs as much as a command, and kombu 5.7
makes three for each message that is received and acknowledged.
"""

import os
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError


class Channel(kombu_redis.Channel):
    """Keeps its client, until the pool is another one or the process was forked."""

    _kept: "tuple[int, Any, Any] | None" = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[misc]
        kept = self._kept
        if kept is None or kept[0] != os.getpid() or kept[1] is not self.pool:
            kept = self._kept = (os.getpid(), self.pool, super()._create_client())  # type: ignore[misc]
        return kept[2]

    def _connparams(self, asynchronous: bool = False) -> Any:
        # Kombu raises AttributeError where a channel that still holds messages outlives its connection, which happens
        # when the broker is restarted under load. Celery opens connections again, but not for that: the worker ends.
        if self.connection is None or self.connection.client is None:
            raise RedisConnectionError("The channel's connection was closed.")
        return super()._connparams(asynchronous)  # type: ignore[misc]


class Transport(kombu_redis.Transport):
    """The transport of `broker_transport`."""

    Channel = Channel
