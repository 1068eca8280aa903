"""The Valkey that `run` brings: on loopback, closed to others, and no connection kept from waiting for it."""

from pathlib import Path

import psutil
import pytest
import redis

from inpaint_eacps.supervisor import Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.errors import BrokerUnreachable

pytestmark = pytest.mark.valkey


def test_it_listens_on_loopback_with_a_password_and_keeps_no_connection(tmp_path: Path) -> None:
    supervisor = Supervisor()
    valkey = EmbeddedValkey(tmp_path, supervisor)
    try:
        valkey.start()
        assert [
            place for place in psutil.Process().net_connections() if place.raddr and place.raddr[1] == valkey.port
        ] == []
        server = psutil.Process(supervisor.pids()["valkey"])
        assert {place.laddr[0] for place in server.net_connections() if place.status == "LISTEN"} == {"127.0.0.1"}
        password = valkey.url.split(":")[2].split("@")[0]
        assert password not in " ".join(server.cmdline())
        with (
            redis.Redis(port=valkey.port) as stranger,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            stranger.ping()
    finally:
        supervisor.stop()
    assert not psutil.pid_exists(server.pid)


def test_one_that_does_not_start_names_its_log(tmp_path: Path) -> None:
    supervisor = Supervisor()
    (tmp_path / "appendonlydir").write_text("in the way of a folder")
    try:
        with pytest.raises(BrokerUnreachable, match=r"valkey\.log"):
            EmbeddedValkey(tmp_path, supervisor).start(timeout=1)
    finally:
        supervisor.stop()
