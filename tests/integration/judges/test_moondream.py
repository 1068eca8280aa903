"""The judge moondream against a server that speaks its format, and as a second opinion on identity."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import redis
from PIL import Image

from shared.errors import ConfigurationError, MissingDependency
from shared.settings import Settings
from tests import gemini_server as gs
from tests.gemini_server import GeminiServer
from tests.judge_support import KEY, QUICK, context, request
from workers.scoring.failures import JudgeStopped
from workers.scoring.judging import judge_one
from workers.scoring.moondream import QUESTIONS, MoondreamScorer, rating
from workers.scoring.registry import make_comparer, make_scorer
from workers.scoring.verified import VerifiedScorer

pytestmark = pytest.mark.valkey


class MoondreamServer:
    """Answers `POST /v1/query`; `answer` turns a criterion into an answer or (status, body, headers)."""

    def __init__(self) -> None:
        self.answer: Callable[[str], Any] = lambda _: "7"
        self.seen: list[tuple[str, Image.Image, str]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/query"
                criterion = next(name for name, question in QUESTIONS.items() if question == body["question"])
                data = base64.b64decode(body["image_url"].partition("base64,")[2])
                with Image.open(io.BytesIO(data)) as image:
                    owner.seen.append((criterion, image.copy(), self.headers.get("X-Moondream-Auth", "")))
                answer = owner.answer(criterion)
                status, text, headers = answer if isinstance(answer, tuple) else (200, {"answer": answer}, {})
                payload = json.dumps(text).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def moondream() -> Iterator[MoondreamServer]:
    running = MoondreamServer()
    yield running
    running.server.shutdown()
    running.server.server_close()


def configured(url: str, gemini: str | None = None, **changed: Any) -> Settings:
    return Settings.model_validate(
        {
            "scoring": {
                "moondream": {"base_url": url, **QUICK, **changed},
                "gemini": {"base_url": gemini, **QUICK},
            }
        }
    )


@pytest.fixture
def scorer(moondream: MoondreamServer, client: "redis.Redis") -> Iterator[Callable[..., MoondreamScorer]]:
    made: list[MoondreamScorer] = []

    def make(env: dict[str, str] | None = None, **changed: Any) -> MoondreamScorer:
        one = make_scorer("moondream", configured(moondream.url, **changed), context(client, env=env or {}))
        assert isinstance(one, MoondreamScorer)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("7", 7),
        (" 8.5 ", 8.5),
        ("I would say 6.", 6),
        ("9/10", 9),
        ("4 out of 10", 4),
        ("10", 10),
        ("10/10", 10),
        ("0", 0),
        ("7,5", 7.5),
    ],
)
def test_a_number_is_read(answer: str, value: float) -> None:
    assert rating(answer) == value


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("very good", "no number"),
        ("", "no number"),
        ("between 6 and 7", "more than one"),
        ("11", "not between"),
        ("85%", "not between"),
        ("-3", "not between"),
        ("seven", "no number"),
    ],
)
def test_no_number_is_a_reason_and_no_score(answer: str, why: str) -> None:
    assert why in str(rating(answer))
    assert not isinstance(rating(answer), float)


def test_three_questions_with_identity_side_by_side(
    moondream: MoondreamServer, scorer: Callable[..., MoondreamScorer]
) -> None:
    moondream.answer = {"identity": "8", "quality": "6.5/10", "consistency": "hard to say"}.__getitem__
    judgement = judge_one(scorer(env={"MOONDREAM_API_KEY": KEY}), request())
    assert judgement.scores == {"identity": 8, "quality": 6.5}
    assert "no number" in judgement.missing["consistency"]
    assert judgement.usage.calls == 3
    assert [criterion for criterion, _, _ in moondream.seen] == ["identity", "quality", "consistency"]
    assert {key for _, _, key in moondream.seen} == {KEY}
    sizes = {criterion: image.size for criterion, image, _ in moondream.seen}
    assert sizes == {"identity": (1024, 512), "quality": (512, 512), "consistency": (128, 96)}
    assert KEY not in judgement.model_dump_json()


def test_side_by_side_shows_the_character_and_the_region(
    moondream: MoondreamServer, scorer: Callable[..., MoondreamScorer]
) -> None:
    import numpy as np

    from workers.scoring.panels import crop, fitted

    judge_one(scorer(), request(3))
    sheet = np.asarray(moondream.seen[0][1].convert("RGB")).astype(int)
    character = np.asarray(fitted(request(3).character, 512, 512)).astype(int)
    region = np.asarray(fitted(crop(request(3).result, request(3).mask), 512, 512)).astype(int)
    assert np.abs(sheet[:, :512] - character).mean() < 4
    assert np.abs(sheet[:, 512:] - region).mean() < 4


@pytest.mark.parametrize(
    ("reply", "calls", "words"),
    [
        ((503, {"error": "busy"}, {}), 3, "3 attempts"),
        ((200, {"no": "answer"}, {}), 3, "3 attempts"),
        ((200, {"answer": 7}, {}), 3, "3 attempts"),
        ((401, {"error": "bad key"}, {}), 1, "stopped"),
        ((404, {"error": "nothing here"}, {}), 1, "stopped"),
    ],
)
def test_a_failing_server_is_missing_with_the_reason(
    moondream: MoondreamServer, scorer: Callable[..., MoondreamScorer], reply: Any, calls: int, words: str
) -> None:
    moondream.answer = lambda _: reply
    judgement = judge_one(scorer(), request())
    assert judgement.scores == {}
    assert words in judgement.missing["identity"]
    assert len(moondream.seen) == judgement.usage.calls == calls


def test_a_refusal_stops_it_for_all(moondream: MoondreamServer, scorer: Callable[..., MoondreamScorer]) -> None:
    moondream.answer = lambda _: (403, {"error": "no"}, {})
    judge_one(scorer(), request())
    with pytest.raises(JudgeStopped):
        scorer().score(request(1))
    assert len(moondream.seen) == 1


def test_429_waits_for_retry_after(moondream: MoondreamServer, scorer: Callable[..., MoondreamScorer]) -> None:
    replies: list[Any] = [(429, {"error": "slow down"}, {"Retry-After": "1"})]
    moondream.answer = lambda _: replies.pop() if replies else "7"
    began = time.monotonic()
    assert judge_one(scorer(), request()).scores["identity"] == 7
    assert time.monotonic() - began >= 1.0


def test_identity_below_the_threshold_is_marked_and_capped(
    moondream: MoondreamServer, scorer: Callable[..., MoondreamScorer]
) -> None:
    moondream.answer = {"identity": "4", "quality": "9", "consistency": "9"}.__getitem__
    judgement = judge_one(scorer(verify_below=5.0, verified_cap=2.0), request())
    assert judgement.scores == {"identity": 2.0, "quality": 9.0, "consistency": 9.0}
    assert judgement.measures == {"identity_unverified": 4.0}
    assert judge_one(scorer(verify_below=3.0), request()).measures == {}


@pytest.mark.parametrize(
    ("said", "identity", "measure"),
    [("8", 7.0, {"identity_verified": 8.0}), ("1", 3.0, {"identity_unverified": 1.0})],
)
def test_it_verifies_what_another_judge_found(
    moondream: MoondreamServer, server: GeminiServer, client: "redis.Redis", said: str, identity: float, measure: Any
) -> None:
    moondream.answer = lambda _: said
    settings = configured(moondream.url, server.url, verify_below=5.0)
    judge = make_scorer("gemini", settings, context(client))
    assert isinstance(judge, VerifiedScorer)
    judgement = judge_one(judge, request())
    judge.close()
    assert judgement.judge == "gemini"
    assert judgement.scores == {"identity": identity, "quality": 6, "consistency": 5}
    assert measure.items() <= judgement.measures.items()
    assert ("not verified" in judgement.words) is (said == "1")
    assert judgement.usage.calls == 2


def test_an_identity_that_could_not_be_verified_is_missing(
    moondream: MoondreamServer, server: GeminiServer, client: "redis.Redis"
) -> None:
    settings = configured(moondream.url, server.url, verify_below=5.0)
    judge = make_scorer("gemini", settings, context(client))
    assert isinstance(judge, VerifiedScorer)
    replies: tuple[Any, ...] = ("hm", (500, {}, {}))
    for reply in replies:
        moondream.answer = {"identity": reply}.__getitem__
        judgement = judge_one(judge, request())
        assert judgement.scores == {"quality": 6, "consistency": 5}
        assert "could not be verified" in judgement.missing["identity"]
    server.script([], then=gs.refusal())
    before = len(moondream.seen)
    assert set(judge_one(judge, request()).missing) == {"identity", "quality", "consistency"}
    assert len(moondream.seen) == before
    judge.close()


def test_its_cloud_needs_a_key(client: "redis.Redis") -> None:
    judge = make_scorer("moondream", Settings(), context(client, env={}))
    with pytest.raises(ConfigurationError, match="MOONDREAM_API_KEY"):
        judge.load()


def test_the_local_model_needs_transformers_4() -> None:
    judge = make_scorer("moondream", configured("http://127.0.0.1:1", mode="local"), context())
    with pytest.raises(MissingDependency, match=r"transformers 4"):
        judge.load()


def test_it_cannot_compare(client: "redis.Redis") -> None:
    with pytest.raises(ConfigurationError, match="cannot compare"):
        make_comparer("moondream", Settings(), context(client))
