"""Images by URL or path, as bytes: guarded, capped, retried and cached."""

import json
import logging
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpcore
import httpx

from shared.errors import InputError, Retryable
from shared.images import ImageLimits
from shared.settings.input import InputSettings
from workers.preparation.access import LabelStudioAccess
from workers.preparation.addresses import Guard, GuardedBackend
from workers.preparation.cache import Cache, sha256

logger = logging.getLogger(__name__)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(frozen=True)
class FetchedFile:
    """A file's bytes, where they lie (in the cache, or the local file itself), and their SHA-256."""

    data: bytes
    path: Path
    sha256: str


class _Passing(Exception):
    """A failure that may pass; `wait_s` is how long the server asks to wait."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Fetcher:
    """Fetches images; safe to use from many threads, and beside other processes on one cache.

    No proxy of the environment is used, since the address check would then be the proxy's to make.
    """

    def __init__(
        self,
        settings: InputSettings,
        access: LabelStudioAccess | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._access = access
        self._sleep = sleep
        self._guard = Guard.of(settings.allow_hosts, [access.origin[1:]] if access else [])
        self._tls: ssl.SSLContext | None = None
        self.cache = Cache(settings.cache_dir.absolute())
        #: What the fetched images must keep to.
        self.limits = ImageLimits(settings.max_bytes, settings.max_pixels)

    def fetch(self, source: str, name: str = "file") -> FetchedFile:
        """The bytes at an http(s) URL (from the cache, if they were fetched before) or at an absolute path.

        `name` is what messages call it. Query strings, which may carry signatures, are in no message and no log.
        Raises InputError when fetching again would not help, Retryable when it may.
        """
        try:
            if "://" not in source:
                return self._local(Path(source))
            url = _parsed(source)
            return self._cached(url) or self._downloaded(url)
        except InputError as error:
            raise InputError(f"{name} ({shown(source)}): {error}") from error
        except _Passing as error:
            raise Retryable(f"{name} ({shown(source)}): {error}") from error
        except OSError as error:
            raise Retryable(
                f"{name} ({shown(source)}): the cache {self.cache.root} cannot be used ({error.strerror}): "
                "free some space there, or set input.cache_dir."
            ) from error

    def _local(self, path: Path) -> FetchedFile:
        cap = self._settings.max_bytes
        if not path.is_absolute():
            raise InputError("the path is not absolute.")
        try:
            if not path.is_file():
                raise InputError("there is no such file." if not path.exists() else "this is no regular file.")
            with path.open("rb") as file:
                data = file.read(cap + 1)
        except (OSError, ValueError) as error:
            raise InputError(f"the file cannot be read ({getattr(error, 'strerror', None) or error}).") from error
        if len(data) > cap:
            raise InputError(f"the file is larger than {cap} bytes (setting input.max_bytes).")
        return FetchedFile(data, path, sha256(data))

    def _cached(self, url: httpx.URL) -> FetchedFile | None:
        if (hit := self.cache.get(str(url), self._settings.max_bytes)) is None:
            return None
        path, data = hit
        return FetchedFile(data, path, path.name)

    def _downloaded(self, url: httpx.URL) -> FetchedFile:
        for attempt in range(1, self._settings.attempts + 1):
            started = time.monotonic()
            try:
                data = self._get(url)
                break
            except (
                _Passing,
                Retryable,
                httpcore.TimeoutException,
                httpcore.NetworkError,
                httpcore.ProtocolError,
            ) as error:
                failure = error if isinstance(error, _Passing) else _Passing(_words(error))
                if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args):
                    raise InputError(f"the server's certificate is not trusted ({error}).") from error
                if attempt == self._settings.attempts:
                    raise _Passing(f"{failure} ({attempt} attempts).") from error
                wait = _wait(attempt, failure.wait_s)
                logger.warning(
                    "download of %s failed (%s); again in %.1f s", shown(str(url)), failure, wait,
                    extra={"action": "download-retried", "attempt": attempt},
                )  # fmt: skip
                self._sleep(wait)
        path = self.cache.put(str(url), shown(str(url)), data)
        logger.info(
            "downloaded %s", shown(str(url)),
            extra={"action": "downloaded", "bytes": len(data), "seconds": round(time.monotonic() - started, 3)},
        )  # fmt: skip
        return FetchedFile(data, path, path.name)

    def _get(self, url: httpx.URL) -> bytes:
        deadline = time.monotonic() + self._settings.total_timeout_s
        for _ in range(self._settings.max_redirects + 1):
            headers = self._access.headers(url, self._post) if self._access else {}
            answer = self._send("GET", url, deadline, headers)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise InputError(f"it redirects more than {self._settings.max_redirects} times (setting input.max_redirects).")

    def _post(self, url: str, body: Mapping[str, str]) -> bytes:
        deadline = time.monotonic() + self._settings.total_timeout_s
        headers = {"Content-Type": "application/json"}
        answer = self._send("POST", _parsed(url), deadline, headers, json.dumps(body).encode())
        return answer if isinstance(answer, bytes) else b""

    def _send(
        self, method: str, url: httpx.URL, deadline: float, headers: Mapping[str, str], body: bytes = b""
    ) -> bytes | httpx.URL:
        """The body of the answer, or where the answer redirects to."""
        if self._tls is None and url.scheme == "https":
            self._tls = httpx.create_ssl_context()
        sent: dict[bytes | str, bytes | str] = {
            "Host": url.netloc.decode("ascii"),
            "User-Agent": "inpaint-eacps",
            "Accept": "image/png,image/jpeg,image/webp,*/*;q=0.1",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        sent.update(headers.items())
        timeouts = {
            "connect": self._settings.connect_timeout_s,
            "read": self._settings.read_timeout_s,
            "write": self._settings.read_timeout_s,
            "pool": None,
        }
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        with (
            httpcore.ConnectionPool(self._tls, network_backend=GuardedBackend(self._guard, deadline)) as pool,
            pool.stream(method, target, headers=sent, content=body, extensions={"timeout": timeouts}) as answer,
        ):
            received = httpx.Headers(answer.headers)
            if answer.status in _REDIRECTS and "location" in received:
                return _parsed(received["location"], url)
            _check_status(answer.status, received)
            if received.get("content-encoding", "identity") != "identity":
                raise InputError("the server sends it compressed although that was not asked for.")
            return self._body(answer, received)

    def _body(self, answer: httpcore.Response, headers: httpx.Headers) -> bytes:
        cap = self._settings.max_bytes
        too_large = InputError(f"the file is larger than {cap} bytes (setting input.max_bytes).")
        if (length := headers.get("content-length", "")).isdecimal() and int(length) > cap:
            raise too_large
        data = bytearray()
        for chunk in answer.iter_stream():
            data += chunk
            if len(data) > cap:
                raise too_large
        return bytes(data)


def shown(source: str) -> str:
    """A URL without query, fragment and user name; a path as it is."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    bare = rest.partition("#")[0].partition("?")[0]
    host, slash, path = bare.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" + ("?…" if "?" in rest else "")


def _parsed(source: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = base.join(source) if base else httpx.URL(source)
    except (httpx.InvalidURL, ValueError) as error:
        raise InputError("this is no valid URL.") from error
    if url.scheme not in {"http", "https"}:
        raise InputError(f"only http and https are fetched, not {url.scheme or 'this'}.")
    if not url.host:
        raise InputError("the URL names no host.")
    if url.userinfo:
        raise InputError("the URL carries a user name or password: leave it out.")
    return url


def _check_status(status: int, headers: httpx.Headers) -> None:
    if status == 200:
        return
    if status in _PASSING:
        raise _Passing(f"the server answers {status}", _asked_wait(headers.get("retry-after", "")))
    hints = {
        401: " (not logged in; is a token or a signed URL missing or expired?)",
        403: " (forbidden; has a signed URL expired?)",
        404: " (not found)",
        410: " (gone)",
    }
    raise InputError(f"the server answers {status}{hints.get(status, '')}.")


def _asked_wait(value: str) -> float | None:
    if value.isdecimal():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None


def _wait(attempt: int, asked: float | None) -> float:
    longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)
    jittered = random.uniform(longest / 2, longest)  # noqa: S311 (spreads load, keeps no secret)
    return jittered if asked is None else min(max(asked, 0.0) + jittered / 4, _LONGEST_WAIT_S)


def _words(error: Exception) -> str:
    if isinstance(error, httpcore.TimeoutException):
        return "the server does not answer in time"
    if isinstance(error, httpcore.ProtocolError):
        return f"the server breaks off ({error})"
    return str(error).rstrip(".") or type(error).__name__
