"""Fetching over real sockets: what is let in, what is refused, what is tried again, what is kept."""

import contextlib
import datetime
import hashlib
import http.server
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import InputError, Retryable
from shared.settings.input import InputSettings
from workers.preparation.access import LabelStudioAccess
from workers.preparation.addresses import Guard, is_public
from workers.preparation.cache import Cache
from workers.preparation.fetch import Fetcher, shown

BODY = b"\x89PNG and so on"
Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


class Site(http.server.ThreadingHTTPServer):
    """A server that answers by path and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Reply] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.seen]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        with contextlib.suppress(ConnectionError):
            self.server.pages.get(self.path.partition("?")[0], _answer(404))(self)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


def _answer(status: int, body: bytes = b"", **headers: str) -> Reply:
    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return reply


def _in_turn(*replies: Reply) -> Reply:
    left = list(replies)

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return reply


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class Waits(list[float]):
    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def fetcher(
    tmp_path: Path, access: LabelStudioAccess | None = None, waits: Waits | None = None, **options: Any
) -> Fetcher:
    defaults: dict[str, Any] = {"cache_dir": tmp_path / "cache", "allow_hosts": ("127.0.0.0/8",), "read_timeout_s": 2.0}
    return Fetcher(InputSettings(**defaults | options), access, sleep=waits if waits is not None else Waits())


# --- what comes back, and the cache


def test_a_download_is_kept_byte_for_byte_and_not_repeated(tmp_path: Path, site: Site) -> None:
    site.pages["/a.png"] = _answer(200, BODY)
    fetch = fetcher(tmp_path).fetch
    first, again = fetch(f"{site.url}/a.png"), fetch(f"{site.url}/a.png")
    assert first.data == BODY == first.path.read_bytes()
    assert first == again
    digest = hashlib.sha256(BODY).hexdigest()
    assert first.sha256 == digest
    assert first.path == tmp_path / "cache/objects" / digest[:2] / digest
    assert fetcher(tmp_path).fetch(f"{site.url}/a.png") == first
    assert site.paths() == ["/a.png"]


def test_one_content_under_two_urls_is_kept_once(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = site.pages["/b"] = _answer(200, BODY)
    fetch = fetcher(tmp_path).fetch
    assert fetch(f"{site.url}/a").path == fetch(f"{site.url}/b").path
    assert site.paths() == ["/a", "/b"]


@pytest.mark.parametrize("damage", ["object", "index", "index-type", "gone", "escape"])
def test_a_damaged_cache_is_mended(tmp_path: Path, site: Site, damage: str) -> None:
    site.pages["/a"] = _answer(200, BODY)
    first = fetcher(tmp_path).fetch(f"{site.url}/a")
    (index,) = (tmp_path / "cache/urls").iterdir()
    match damage:
        case "object":
            first.path.write_bytes(BODY[:-1])
        case "index":
            index.write_text('{"sha2')
        case "index-type":
            index.write_text("[]")
        case "gone":
            first.path.unlink()
        case "escape":
            index.write_text('{"sha256": "../../../../etc/hostname"}')
    assert fetcher(tmp_path).fetch(f"{site.url}/a").path.read_bytes() == BODY
    assert site.paths() == ["/a", "/a"]


def test_many_threads_may_fetch_the_same(tmp_path: Path, site: Site) -> None:
    big = bytes(range(256)) * 4000
    site.pages["/a"] = _answer(200, big)
    results: list[bytes] = []
    own = fetcher(tmp_path)
    threads = [
        threading.Thread(target=lambda: results.append(own.fetch(f"{site.url}/a").path.read_bytes())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [big] * 8
    assert not list((tmp_path / "cache").rglob(".part-*"))


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = _answer(200, BODY)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(Retryable, match=r"cache .* cannot be used"):
        fetcher(tmp_path).fetch(f"{site.url}/a")


def test_half_a_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        Cache(tmp_path).store(BODY)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_query_strings_are_in_no_message_no_log_and_no_cache(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site.pages["/a"] = _in_turn(_answer(503), _answer(200, BODY))
    fetch = fetcher(tmp_path).fetch
    fetch(f"{site.url}/a?X-Signature=hunter2")
    with pytest.raises(InputError) as caught:
        fetch(f"{site.url}/missing?X-Signature=hunter2#hunter2", "task 7: init")
    assert str(caught.value) == f"task 7: init ({site.url}/missing?…): the server answers 404 (not found)."
    assert site.paths() == ["/a?X-Signature=hunter2"] * 2 + ["/missing?X-Signature=hunter2"]
    assert "download-retried" in [getattr(record, "action", "") for record in caplog.records]
    kept = "".join(path.read_text("latin-1") for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert "hunter2" not in caplog.text + kept


def test_what_is_shown_of_an_address() -> None:
    assert shown("https://me:pw@h.example:8/a/b?q=1#f") == "https://h.example:8/a/b?…"
    assert shown("https://h.example?q=1") == "https://h.example?…"
    assert shown("https://h.example/a@b") == "https://h.example/a@b"
    assert shown("/photos/a?.png") == "/photos/a?.png"


# --- local files


def test_local_files_are_read_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BODY)
    fetched = fetcher(tmp_path).fetch(str(path))
    assert (fetched.data, fetched.path) == (BODY, path)
    assert not (tmp_path / "cache").exists()


def test_local_files_that_cannot_be_used(tmp_path: Path) -> None:
    fetch = fetcher(tmp_path, max_bytes=4).fetch
    (tmp_path / "big").write_bytes(b"12345")
    for source, words in [
        (str(tmp_path / "none"), "no such file"),
        (str(tmp_path), "no regular file"),
        ("/dev/zero", "no regular file"),
        ("a.png", "not absolute"),
        (str(tmp_path / "big"), "larger than 4 bytes"),
        (f"{tmp_path}/a\0b", "no such file"),
    ]:
        with pytest.raises(InputError, match=words):
            fetch(source)
    (tmp_path / "ok").write_bytes(b"1234")
    assert fetch(str(tmp_path / "ok")).data == b"1234"


# --- addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1",
        "fd12::1", "ff02::1", "ff0e::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::1", "::127.0.0.1", "fec0::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST", "localhost.", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0",
        "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "127.0.0.1.",
    ],
)  # fmt: skip
def test_loopback_is_refused_by_default_in_all_its_spellings(tmp_path: Path, site: Site, host: str) -> None:
    site.pages["/a"] = _answer(200, BODY)
    with pytest.raises(InputError):
        fetcher(tmp_path, allow_hosts=()).fetch(f"http://{host}:{site.server_port}/a")
    assert site.seen == []


def test_the_refusal_names_host_address_and_setting(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"host localhost has the address .* list it in `input.allow_hosts`"):
        fetcher(tmp_path, allow_hosts=()).fetch("http://localhost/a")


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc/passwd",
        "ftp://h.example/a",
        "gopher://x/",
        "http:///a",
        "http://",
        "http://h.example:99999/",
        "https://me:pw@h.example/",
        "http://[::1/a",
    ],
)
def test_other_addresses_are_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError) as caught:
        fetcher(tmp_path).fetch(source)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "localhost", "LocalHost"])
def test_what_is_listed_is_let_through(tmp_path: Path, site: Site, entry: str) -> None:
    site.pages["/a"] = _answer(200, BODY)
    host = "localhost" if entry.lower() == "localhost" else "127.0.0.1"
    assert fetcher(tmp_path, allow_hosts=(entry,)).fetch(f"http://{host}:{site.server_port}/a").data == BODY
    assert site.seen[0][1]["host"] == f"{host}:{site.server_port}"


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.2:{port}/secret", "//[::1]:{port}/secret", "file:///etc/passwd",
     "http://169.254.169.254/latest/meta-data", "http://[::ffff:10.0.0.1]/"],
)  # fmt: skip
def test_a_redirect_to_what_is_not_listed_is_refused(tmp_path: Path, site: Site, location: str) -> None:
    site.pages["/a"] = _answer(302, Location=location.format(port=site.server_port))
    site.pages["/secret"] = _answer(200, BODY)
    with pytest.raises(InputError):
        fetcher(tmp_path, allow_hosts=("127.0.0.1",)).fetch(f"{site.url}/a")
    assert site.paths() == ["/a"]


def test_a_name_that_changes_its_address_after_the_check_gains_nothing(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lookup is done once; the second, private answer that a second lookup would get is never used."""
    site.pages["/a"] = _answer(200, BODY)
    real, asked = socket.getaddrinfo, []

    def rebinding(host: str, port: int, *args: Any, **options: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, *args, **options)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.9", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    own = fetcher(tmp_path, allow_hosts=("127.0.0.1",))
    assert own.fetch(f"http://rebind.example:{site.server_port}/a").data == BODY
    assert asked == ["rebind.example"]
    assert site.seen[0][1]["host"] == f"rebind.example:{site.server_port}"
    with pytest.raises(InputError, match=r"127\.0\.0\.9"):
        own.fetch(f"http://rebind.example:{site.server_port}/b")


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(InputError, match=r"10\.0\.0\.1"):
        Guard().resolve("mixed.example", 80)
    assert Guard.of(["10.0.0.0/8"]).resolve("mixed.example", 80) == ["8.8.8.8", "10.0.0.1"]


def test_an_unknown_host_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError, match=r"host nowhere\.invalid is unknown"):
        fetcher(tmp_path).fetch("http://nowhere.invalid/a")


@pytest.mark.parametrize("entry", ["", "http://h.example", "h.example:80", "10.0.0.0/99", "*", "300.1.1.1"])
def test_what_is_neither_host_nor_network_is_refused_in_the_settings(entry: str) -> None:
    with pytest.raises(ValueError, match="neither a host name"):
        InputSettings(allow_hosts=(entry,))


# --- redirects, failures, limits


def test_redirects_are_followed_up_to_the_cap(tmp_path: Path, site: Site) -> None:
    for hop in range(3):
        site.pages[f"/r{hop}"] = _answer(301 + hop, Location=f"r{hop + 1}")
    site.pages["/r3"] = _answer(200, BODY)
    assert fetcher(tmp_path, max_redirects=3).fetch(f"{site.url}/r0").data == BODY
    with pytest.raises(InputError, match="redirects more than 2 times"):
        fetcher(tmp_path / "b", max_redirects=2).fetch(f"{site.url}/r0")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again_with_growing_waits(tmp_path: Path, site: Site, status: int) -> None:
    site.pages["/a"] = _in_turn(_answer(status), _answer(status), _answer(200, BODY))
    waits = Waits()
    assert fetcher(tmp_path, waits=waits).fetch(f"{site.url}/a").data == BODY
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert len(waits) == 2


def test_after_the_last_attempt_it_is_left_to_others_to_retry(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = _answer(500)
    with pytest.raises(Retryable, match=r"task 7: mask .* the server answers 500 \(3 attempts\)"):
        fetcher(tmp_path, attempts=3).fetch(f"{site.url}/a", "task 7: mask")
    assert len(site.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206])
def test_lasting_failures_are_not_tried_again(tmp_path: Path, site: Site, status: int) -> None:
    site.pages["/a"] = _answer(status)
    waits = Waits()
    with pytest.raises(InputError, match=f"answers {status}"):
        fetcher(tmp_path, waits=waits).fetch(f"{site.url}/a")
    assert (len(site.seen), waits) == (1, [])


def test_the_server_says_how_long_to_wait_within_reason(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = _in_turn(
        _answer(429, Retry_After="7"), _answer(503, Retry_After="86400"), _answer(503, Retry_After="soon"), _answer(200)
    )
    waits = Waits()
    fetcher(tmp_path, waits=waits).fetch(f"{site.url}/a")
    assert 7 <= waits[0] <= 8
    assert waits[1] == 30
    assert waits[2] <= 4


def test_no_server_is_tried_again(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Retryable, match="refused"):
            fetcher(tmp_path, attempts=2).fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/a")


def test_a_body_that_breaks_off_is_tried_again_and_never_kept(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = _in_turn(_answer(200, BODY, Content_Length="999"), _answer(200, BODY))
    assert fetcher(tmp_path).fetch(f"{site.url}/a").data == BODY
    assert len(site.seen) == 2


@pytest.mark.parametrize("declared", [True, False])
def test_the_byte_cap_holds_whatever_the_server_declares(tmp_path: Path, site: Site, declared: bool) -> None:
    sent = []

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", str(10**12))
        handler.end_headers()
        for _ in range(2000):
            handler.wfile.write(b"\0" * 65536)
            sent.append(1)

    site.pages["/a"] = endless
    with pytest.raises(InputError, match="larger than 100000 bytes"):
        fetcher(tmp_path, max_bytes=100_000).fetch(f"{site.url}/a")
    assert len(sent) < 2000
    assert len(site.seen) == 1


def test_silence_and_dripping_both_end(tmp_path: Path, site: Site) -> None:
    def silent(handler: http.server.BaseHTTPRequestHandler) -> None:
        time.sleep(1.0)

    def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(40):
            handler.wfile.write(b"a")
            time.sleep(0.05)

    site.pages |= {"/silent": silent, "/dripping": dripping}
    for path, option in (("/silent", "read_timeout_s"), ("/dripping", "total_timeout_s")):
        options: dict[str, Any] = {option: 0.3}
        started = time.monotonic()
        with pytest.raises(Retryable, match="in time"):
            fetcher(tmp_path, attempts=1, **options).fetch(site.url + path)
        assert time.monotonic() - started < 0.9


def test_unasked_compression_is_refused(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = _answer(200, b"\x1f\x8b", Content_Encoding="gzip")
    with pytest.raises(InputError, match="compressed"):
        fetcher(tmp_path).fetch(f"{site.url}/a")
    assert site.seen[0][1]["accept-encoding"] == "identity"


def test_the_environment_sends_nothing_through_a_proxy(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.pages["/a"] = _answer(200, BODY)
    assert fetcher(tmp_path).fetch(f"{site.url}/a").data == BODY


# --- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and self-signed certificate of `pinned.example`, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pinned.example")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pinned.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path = tmp_path / "pinned.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls_is_checked_against_the_name_although_an_address_is_connected_to(
    tmp_path: Path, site: Site, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    site.pages["/a"] = _answer(200, BODY)
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    waits = Waits()

    with pytest.raises(InputError, match="certificate is not trusted"):
        fetcher(tmp_path, waits=waits).fetch(f"https://pinned.example:{site.server_port}/a")
    assert waits == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetcher(tmp_path).fetch(f"https://pinned.example:{site.server_port}/a").data == BODY
    assert names == ["pinned.example"] * 2
    with pytest.raises(InputError, match="certificate is not trusted"):
        fetcher(tmp_path).fetch(f"https://other.example:{site.server_port}/a")


# --- Label Studio's key


def test_the_token_goes_to_label_studio_and_nowhere_else(tmp_path: Path, site: Site) -> None:
    other = Site()
    threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02}).start()
    try:
        site.pages["/data/upload/a"] = _answer(302, Location=f"{other.url}/bucket/a")
        other.pages["/bucket/a"] = _answer(200, BODY)
        access = LabelStudioAccess.from_environment({"LABEL_STUDIO_URL": site.url, "LABEL_STUDIO_API_KEY": "abc123"})
        assert "abc123" not in repr(access)
        assert fetcher(tmp_path, access).fetch(f"{site.url}/data/upload/a").data == BODY
        assert site.seen[0][1]["authorization"] == "Token abc123"
        assert "authorization" not in other.seen[0][1]
        with pytest.raises(InputError, match="not on the public internet"):
            fetcher(tmp_path, access, allow_hosts=()).fetch(f"{other.url}/bucket/b")
    finally:
        other.shutdown()
        other.server_close()


def test_the_label_studio_server_itself_needs_no_listing(tmp_path: Path, site: Site) -> None:
    site.pages["/a"] = _answer(200, BODY)
    access = LabelStudioAccess(site.url, "abc123")
    assert fetcher(tmp_path, access, allow_hosts=()).fetch(f"{site.url}/a").data == BODY


def test_a_personal_access_token_is_exchanged_once(tmp_path: Path, site: Site) -> None:
    site.pages["/api/token/refresh"] = _answer(200, json.dumps({"access": "short.lived.one"}).encode())
    site.pages["/a"] = site.pages["/b"] = _answer(200, BODY)
    own = fetcher(tmp_path, LabelStudioAccess(site.url, "head.body.signature"))
    own.fetch(f"{site.url}/a")
    own.fetch(f"{site.url}/b")
    assert site.paths() == ["/api/token/refresh", "/a", "/b"]
    assert json.loads(site.seen[0][2]) == {"refresh": "head.body.signature"}
    assert [headers.get("authorization") for _, headers, _ in site.seen] == [None, *["Bearer short.lived.one"] * 2]


def test_without_address_or_key_there_is_no_access() -> None:
    assert LabelStudioAccess.from_environment({"LABEL_STUDIO_URL": "https://ls.example"}) is None
    assert LabelStudioAccess.from_environment({}) is None
