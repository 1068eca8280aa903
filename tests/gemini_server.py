"""A local server that speaks Gemini's REST format and answers as a test tells it to.

`python -m tests.gemini_server --port 8123` runs it by hand.
"""

import argparse
import base64
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

_PATH = re.compile(r"/v1beta/models/(?P<model>[^/:]+):generateContent")

INPUT_TOKENS, OUTPUT_TOKENS = 4600, 120


@dataclass(frozen=True)
class Reply:
    """How the server answers one request."""

    status: int = 200
    #: JSON, or raw bytes.
    body: Mapping[str, Any] | bytes = field(default_factory=dict)
    #: Seconds before anything is sent.
    delay: float = 0.0
    #: Close the connection instead: before the first byte, or in the middle of the body.
    drop: Literal["before", "middle"] | None = None


@dataclass(frozen=True)
class Seen:
    """One request as the server saw it."""

    #: time.monotonic() of arrival.
    at: float
    model: str
    key: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    #: The status it was answered with; 0 for a dropped connection.
    status: int = 0
    #: The position in the order of arrival.
    index: int = 0

    @property
    def config(self) -> Mapping[str, Any]:
        """The generation config that was sent."""
        config: Mapping[str, Any] = self.body.get("generationConfig", {})
        return config

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the prompt, in order."""
        return tuple(part["text"] for part in self.body["contents"][0]["parts"] if "text" in part)

    @property
    def images(self) -> tuple[bytes, ...]:
        """All images of the prompt, in order (the clients use either alphabet of base64)."""
        inline = (part["inlineData"]["data"] for part in self.body["contents"][0]["parts"] if "inlineData" in part)
        return tuple(base64.b64decode(data, altchars=b"-_" if set(data) & {"-", "_"} else None) for data in inline)


def content(text: str, finish: str = "STOP", **extra: Any) -> Reply:
    """A whole answer with this text."""
    return Reply(
        body={
            "candidates": [
                {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": finish, "index": 0}
            ],
            "usageMetadata": {
                "promptTokenCount": INPUT_TOKENS,
                "candidatesTokenCount": OUTPUT_TOKENS - 20,
                "thoughtsTokenCount": 20,
                "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS,
            },
            "modelVersion": "gemini-3.8-flash",
        }
        | extra
    )


def verdict(identity: Any = 7, quality: Any = 6, consistency: Any = 5, **more: Any) -> Reply:
    """An answer in the schema of a score (whatever the numbers are)."""
    fields = {"observations": "the face fits", "identity": identity, "quality": quality, "consistency": consistency}
    return content(json.dumps(fields | more))


def choice(better: Any) -> Reply:
    """An answer in the schema of a comparison."""
    return content(json.dumps({"observations": "A is sharper", "better": better}))


def truncated() -> Reply:
    """Cut off by the limit on output tokens."""
    return content('{"observations": "the face fits and the', "MAX_TOKENS")


def refusal(reason: str = "SAFETY") -> Reply:
    """The model stopped for a reason of its own."""
    return content("", reason)


def blocked(reason: str = "PROHIBITED_CONTENT") -> Reply:
    """The prompt was refused as a whole."""
    return Reply(
        body={
            "promptFeedback": {"blockReason": reason},
            "usageMetadata": {"promptTokenCount": INPUT_TOKENS, "totalTokenCount": INPUT_TOKENS},
        }
    )


def failure(status: int, message: str = "something broke", **detail: Any) -> Reply:
    """An error in Google's format."""
    names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
             429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
    error: dict[str, Any] = {"code": status, "message": message, "status": names.get(status, "UNKNOWN")}
    if detail:
        error["details"] = [detail]
    return Reply(status, {"error": error})


def throttled(seconds: float | None = None) -> Reply:
    """429, with RetryInfo if `seconds` is given."""
    if seconds is None:
        return failure(429, "quota exceeded")
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds:.3f}s"}
    return failure(429, "quota exceeded", **retry)


class GeminiServer:
    """The server, on a free port of the loopback interface; a context manager.

    `answer` decides on each request (it is called from many threads); the default is a plain verdict.
    """

    def __init__(self, answer: Callable[[Seen], Reply] | None = None, port: int = 0) -> None:
        self.answer = answer or (lambda _: verdict())
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The base URL, as in `scoring.gemini.base_url`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def script(self, replies: Iterable[Reply], then: Reply | None = None) -> None:
        """Answer with these in turn, then always with `then` (a plain verdict)."""
        left = iter(list(replies))
        last = then or verdict()
        self.answer = lambda _: self._next(left, last)

    def most_within(self, seconds: float) -> int:
        """The largest number of requests that arrived within any window of this length."""
        times = sorted(seen.at for seen in self.seen)
        most, start = 0, 0
        for end, at in enumerate(times):
            while at - times[start] >= seconds:
                start += 1
            most = max(most, end - start + 1)
        return most

    def _next(self, left: Any, last: Reply) -> Reply:
        with self._lock:
            return next(left, last)

    def _arrive(self, seen: Seen) -> Seen:
        with self._lock:
            placed = Seen(seen.at, seen.model, seen.key, seen.body, seen.headers, 0, len(self.seen))
            self.seen.append(placed)
            return placed

    def _answered(self, seen: Seen, status: int) -> None:
        with self._lock:
            self.seen[seen.index] = Seen(seen.at, seen.model, seen.key, seen.body, seen.headers, status, seen.index)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


def _handler(owner: GeminiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            at = time.monotonic()
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            match = _PATH.fullmatch(self.path.split("?")[0])
            headers = {name.lower(): value for name, value in self.headers.items()}
            model = match["model"] if match else self.path
            seen = owner._arrive(Seen(at, model, headers.get("x-goog-api-key", ""), json.loads(raw), headers))
            reply = owner.answer(seen) if match else failure(404, f"no such path {self.path}")
            if reply.delay:
                owner._server.stopping.wait(reply.delay)
            owner._answered(seen, 0 if reply.drop else reply.status)
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            if reply.drop == "before":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if reply.drop == "middle":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: tests look at `seen`."""

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description="A local stand-in for the Gemini API: every result scores 7, 6, 5.")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    reply = verdict()
    with GeminiServer(lambda _: Reply(200, reply.body, options.delay), options.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
