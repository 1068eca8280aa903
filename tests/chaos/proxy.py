"""A TCP proxy on loopback that can stop forwarding, as a network does whose cable was pulled."""

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Forwards to `url`'s host and port. While cut, nothing is forwarded, and nobody is told; nothing is lost either,
    since TCP sends again what was not acknowledged. A context manager.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._passing, self._closed = threading.Event(), threading.Event()
        self._passing.set()
        self._sockets: list[socket.socket] = [self._listener]

    @property
    def url(self) -> str:
        """The broker's URL by way of this proxy."""
        user = self._target.netloc.rpartition("@")[0]
        port = self._listener.getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    def cut(self) -> None:
        """Stop forwarding."""
        self._passing.clear()

    def mend(self) -> None:
        """Go on forwarding."""
        self._passing.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._passing.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                # The listener was closed.
                return
            self._passing.wait()
            try:
                far = socket.create_connection((str(self._target.hostname), int(self._target.port or 6379)), timeout=5)
            except OSError:
                # The broker is down: so is what came by way of us.
                near.close()
                continue
            far.settimeout(None)
            self._sockets += [near, far]
            threading.Thread(target=self._pump, args=(near, far), daemon=True).start()

    def _pump(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector, near, far:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while not self._closed.is_set():
                for key, _ in selector.select(0.5):
                    self._passing.wait()
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)
