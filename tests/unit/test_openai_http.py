"""The generator `openai-http` against a real HTTP server on loopback that speaks `/v1/images/edits`."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from shared.errors import ConfigurationError, InpaintError, InputError, Permanent, Retryable
from shared.images import decode, encode_png
from shared.settings.openai_http import OpenAIHttpSettings
from shared.types import CandidateSpec, Start
from workers.generation.base import GenerationRequest, Parent, TaskImages, Unwatched
from workers.generation.openai_http import OpenAIHttpGenerator

Answer = tuple[int, bytes]


class Server(ThreadingHTTPServer):
    """Keeps the forms it was sent, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.forms: list[list[tuple[str, bytes]]] = []
        self.tokens: list[str | None] = []
        self.answer: Callable[[dict[str, str]], Answer] = drawn
        self.models_status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._reply(self.server.models_status if self.path == "/v1/models" else 404, b'{"data": []}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + body)
        parts = [part for part in message.iter_parts() if isinstance(part, EmailMessage)]
        form = [(str(part.get_param("name", header="content-disposition")), _payload(part)) for part in parts]
        self.server.forms.append(form)
        self.server.tokens.append(self.headers["Authorization"])
        if self.path != "/v1/images/edits":
            self._reply(404, b'{"error": {"message": "no such path"}}')
            return
        fields = {name: value.decode() for name, value in form if name not in ("image", "mask", "mask_image")}
        self._reply(*self.server.answer(fields))

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


def _payload(part: EmailMessage) -> bytes:
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


def picture(width: int, height: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode_png(pixels)


def reply(png: bytes) -> Answer:
    return 200, json.dumps({"data": [{"b64_json": base64.b64encode(png).decode()}]}).encode()


def drawn(fields: dict[str, str]) -> Answer:
    width, height = (int(side) for side in fields["size"].split("x"))
    return reply(picture(width, height, int(fields["seed"])))


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join(5)


def task() -> TaskImages:
    random = np.random.default_rng(0)
    mask = np.zeros((301, 207), np.uint8)
    mask[40:120, 60:133] = 255
    init = random.integers(0, 256, (301, 207, 3), dtype=np.uint8)
    return TaskImages("t", "Ana", init, mask, random.integers(0, 256, (50, 40, 4), dtype=np.uint8), "k")


def spec(**more: Any) -> CandidateSpec:
    return CandidateSpec.model_validate({"id": "g00", "phase": "global", "seed": 5000, "order": (0,), **more})


def loaded(server: Server, **more: Any) -> OpenAIHttpGenerator:
    generator = OpenAIHttpGenerator(OpenAIHttpSettings.model_validate({"base_url": server.url, **more}))
    generator.load()
    return generator


def run(generator: OpenAIHttpGenerator, wanted: CandidateSpec | None = None, parent: Parent | None = None) -> Any:
    return generator.generate(GenerationRequest(task(), wanted or spec(), parent), Unwatched())


def test_it_sends_bytes_and_fields_and_composites_the_answer(server: Server) -> None:
    made = run(loaded(server, api_key="s3cret"))
    images = task()
    assert np.array_equal(made.image[images.mask == 0], images.init[images.mask == 0])
    assert not np.array_equal(made.image[images.mask > 0], images.init[images.mask > 0])
    (form,) = server.forms
    assert [name for name, _ in form if name == "image"] == ["image", "image"]
    fields = dict(form)
    size = fields["size"].decode()
    assert (fields["seed"], fields["n"], fields["negative_prompt"]) == (b"5000", b"1", b" ")
    assert b"Picture 2" in fields["prompt"]
    mask = decode(fields["mask"]).pixels
    assert f"{mask.shape[1]}x{mask.shape[0]}" == size
    assert set(np.unique(decode(fields["mask_image"]).pixels)) == {0, 255}
    assert not any(b"http" in value[:200] for _, value in form)
    assert server.tokens == ["Bearer s3cret"]


def test_another_seed_gives_another_picture_and_the_same_the_same(server: Server) -> None:
    generator = loaded(server)
    first, again, other = (run(generator, spec(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_a_refinement_sends_its_parents_picture(server: Server) -> None:
    parent = Parent(spec(), np.full((301, 207, 3), 77, np.uint8), {}, {})
    run(loaded(server), spec(id="l00.0", start=Start.REFINE, parent="g00", strength=0.4), parent)
    scene = next(value for name, value in server.forms[0] if name == "image")
    assert (decode(scene).pixels == 77).all()
    assert dict(server.forms[0])["strength"] == b"0.4"


@pytest.mark.parametrize("wanted", [spec(stop_at=0.3), spec(start=Start.RESUME, parent="g01")])
def test_it_cannot_stop_or_resume(server: Server, wanted: CandidateSpec) -> None:
    with pytest.raises(Permanent, match="pruning"):
        run(loaded(server), wanted)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((500, b"boom"), Retryable, "answered 500: boom"),
        ((429, b'{"error": {"message": "slow down"}}'), Retryable, "slow down"),
        ((400, b'{"detail": "bad size"}'), Permanent, "bad size"),
        ((401, b"{}"), Permanent, "api_key"),
        ((302, b""), Permanent, "302"),
        ((200, b"not json"), Permanent, "b64_json"),
        ((200, b'{"data": [{"url": "http://169.254.169.254/x.png"}]}'), Permanent, "b64_json"),
        ((200, b'{"data": [{"b64_json": "???"}]}'), Permanent, "b64_json"),
        (reply(b"GIF89a..."), InputError, "GIF"),
        (reply(picture(640, 64, 0)), Permanent, "does not honour `size`"),
        (reply(encode_png(np.full((320, 304, 3), 9, np.uint8))), Permanent, "flat"),
        ((200, b"x" * 5000), Permanent, "max_response_bytes"),
    ],
)
def test_a_bad_answer_is_one_clear_failure(
    server: Server, answer: Answer, error: type[InpaintError], words: str
) -> None:
    server.answer = lambda _: answer
    limit = 4000 if words == "max_response_bytes" else 10**7
    with pytest.raises(error, match=words):
        run(loaded(server, max_response_bytes=limit))


def test_a_slow_or_absent_server_is_worth_another_try(server: Server) -> None:
    wait = threading.Event()

    def slow(fields: dict[str, str]) -> Answer:
        wait.wait(5)
        return drawn(fields)

    server.answer = slow
    generator = loaded(server, timeout=0.3)
    with pytest.raises(Retryable, match="in time"):
        run(generator)
    wait.set()
    with pytest.raises(Retryable, match="is the server up"):
        OpenAIHttpGenerator(OpenAIHttpSettings(base_url="http://127.0.0.1:9/v1")).load()


def test_a_refused_key_is_told_at_load_and_never_shown(server: Server) -> None:
    server.models_status = 401
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        loaded(server, api_key="s3cret")
    assert "s3cret" not in str(caught.value)
    generator = OpenAIHttpGenerator(OpenAIHttpSettings.model_validate({"base_url": server.url, "api_key": "s3cret"}))
    assert "s3cret" not in str(generator.fingerprint())
