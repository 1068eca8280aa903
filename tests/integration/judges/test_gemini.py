"""The judge gemini against a server that speaks its format: what is asked, and what becomes of each kind of answer."""

import io
import json
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from shared.errors import ConfigurationError
from shared.types import CRITERIA, Judgement
from tests import gemini_server as gs
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.judge_support import KEY, context, request, settings
from workers.scoring.gemini import GeminiScorer
from workers.scoring.judging import compare_two, judge_one
from workers.scoring.panels import OUTLINE

pytestmark = pytest.mark.valkey

SDKS = ("genai", "generativeai")


MakeGemini = Callable[..., GeminiScorer]


def judged(gemini: MakeGemini, **changed: Any) -> Judgement:
    """What a new judge says of the same result."""
    judge = gemini(**changed)
    judgement = judge_one(judge, request())
    judge.close()
    return judgement


@pytest.mark.parametrize("sdk", SDKS)
def test_a_good_answer_becomes_scores_words_and_an_account(server: GeminiServer, gemini: MakeGemini, sdk: str) -> None:
    server.script([gs.verdict(7.5, 6, 0)])
    judgement = judged(gemini, sdk=sdk, price_input=1.0, price_output=10.0)
    assert judgement.scores == {"identity": 7.5, "quality": 6.0, "consistency": 0.0}
    assert judgement.missing == {}
    assert judgement.words == "the face fits"
    assert judgement.usage.calls == 1
    assert (judgement.usage.input_tokens, judgement.usage.output_tokens) == (gs.INPUT_TOKENS, gs.OUTPUT_TOKENS)
    assert judgement.usage.cost_usd == pytest.approx((gs.INPUT_TOKENS + 10 * gs.OUTPUT_TOKENS) / 1e6)
    assert judgement.seconds > 0


@pytest.mark.parametrize("sdk", SDKS)
def test_the_judge_sees_four_labelled_images_and_a_schema_that_puts_observations_first(
    server: GeminiServer, gemini: MakeGemini, sdk: str
) -> None:
    judged(gemini, sdk=sdk)
    (seen,) = server.seen
    assert seen.model == "gemini-3.8-flash"
    assert seen.key == KEY
    assert [text.split(":")[0] for text in seen.texts] == ["CHARACTER", "INIT", "RESULT", "RESULT, REGION"]
    assert '"Mira"' in seen.texts[0]
    sizes = [Image.open(io.BytesIO(data)).size for data in seen.images]
    assert sizes == [(64, 64), (128, 96), (128, 96), (512, 512)]
    config = seen.config
    assert config["responseMimeType"] == "application/json"
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    assert schema is not None
    assert set(schema["properties"]) == {"observations", *CRITERIA}
    if sdk == "genai":
        assert next(iter(schema["properties"])) == "observations"
        assert list(config["thinkingConfig"].values()) == ["LOW"]


def test_the_outline_of_the_mask_is_drawn_on_the_init_image_only(server: GeminiServer, gemini: MakeGemini) -> None:
    judged(gemini)
    _, init, result, _ = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in server.seen[0].images
    )
    plain = request()

    def reddened(shown: np.ndarray, given: np.ndarray) -> int:
        return int((np.abs(shown - np.array(OUTLINE)).max(axis=2) < 60).sum()) - int(
            (np.abs(given.astype(int) - np.array(OUTLINE)).max(axis=2) < 60).sum()
        )

    assert reddened(init, plain.init) > 150
    assert abs(reddened(result, plain.result)) < 30


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(
    ("model", "steered"), [("gemini-3.8-flash", False), ("gemini-4-argon", False), ("gemini-2.5-flash", True)]
)
def test_temperature_is_for_models_before_gemini_3_only(
    server: GeminiServer, gemini: MakeGemini, sdk: str, model: str, steered: bool
) -> None:
    judged(gemini, sdk=sdk, model=model)
    config = server.seen[0].config
    assert ("temperature" in config) is steered
    assert not {"topP", "topK", "candidateCount"} & set(config)
    if steered:
        assert "thinkingConfig" not in config


@pytest.mark.parametrize(
    "broken",
    [
        gs.truncated(),
        gs.refusal("SAFETY"),
        gs.refusal("RECITATION"),
        gs.blocked(),
        gs.verdict(identity=11),
        gs.verdict(quality=-0.5),
        gs.verdict(quality=100),
        gs.verdict(consistency="7"),
        gs.verdict(consistency=None),
        gs.verdict(consistency=True),
        gs.verdict(consistency=[7]),
        gs.verdict(identity=math.nan),
        gs.verdict(identity=math.inf),
        gs.verdict(extra=1),
        gs.content('{"identity": 7, "quality": 7, "consistency": 7}'),
        gs.content('{"observations": "x", "identity": 7, "quality": 7}'),
        gs.content("7, 6, 5"),
        gs.content("[7, 6, 5]"),
        gs.content("null"),
        gs.content(""),
        gs.content('```json\n{"observations": "x", "identity": 7, "quality": 6, "consistency": 5}\n```'),
        gs.content('{"observations": "x", "identity": 7, "quality": 7, "consistency": 7', "STOP"),
    ],
    ids=lambda reply: json.dumps(reply.body)[:80] if isinstance(reply, Reply) else str(reply),
)
def test_an_unusable_answer_is_asked_for_once_more_and_then_missing(
    server: GeminiServer, gemini: MakeGemini, broken: Reply
) -> None:
    server.script([broken])
    assert judged(gemini).scores == {"identity": 7, "quality": 6, "consistency": 5}
    assert len(server.seen) == 2

    server.script([], then=broken)
    judgement = judged(gemini)
    assert judgement.scores == {}
    assert set(judgement.missing) == set(CRITERIA)
    assert all("once more" in reason for reason in judgement.missing.values())
    assert len(server.seen) == 4
    assert judgement.usage.calls == 2


@pytest.mark.parametrize("sdk", SDKS)
def test_the_reason_says_what_was_wrong_with_the_answer(server: GeminiServer, gemini: MakeGemini, sdk: str) -> None:
    for reply, words in (
        (gs.truncated(), "cut off"),
        (gs.refusal("SAFETY"), "refused: SAFETY"),
        (gs.blocked("PROHIBITED_CONTENT"), "PROHIBITED_CONTENT"),
        (gs.verdict(identity=11), "identity"),
    ):
        server.script([], then=reply)
        assert words in judged(gemini, sdk=sdk).missing["quality"]


def test_samples_are_averaged_and_their_spread_is_kept(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([gs.verdict(6, 5, 4), gs.verdict(8, 5, 5), gs.verdict(10, 5, 9)])
    judgement = judged(gemini, samples=3)
    assert judgement.scores == {"identity": 8, "quality": 5, "consistency": 6}
    assert judgement.measures["identity_spread"] == pytest.approx(2.0)
    assert judgement.measures["quality_spread"] == 0
    assert judgement.measures["samples"] == 3
    assert judgement.usage.calls == 3


def test_a_sample_that_stays_unusable_is_no_number(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([gs.truncated(), gs.truncated(), gs.verdict(8, 8, 8)])
    judgement = judged(gemini, samples=2)
    assert judgement.scores == {"identity": 8, "quality": 8, "consistency": 8}
    assert judgement.measures == {"samples": 1.0}
    assert judgement.usage.calls == 3


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize(
    "hiccup",
    [
        gs.failure(500),
        gs.failure(503),
        gs.failure(504),
        Reply(502, b"<html>bad gateway</html>"),
        Reply(200, b"this is no JSON"),
        Reply(drop="before"),
        Reply(200, gs.verdict().body, drop="middle"),
        Reply(200, gs.verdict().body, delay=1.6),
    ],
    ids=["500", "503", "504", "502-html", "200-no-json", "dropped", "dropped-halfway", "hang"],
)
def test_a_hiccup_is_retried_and_bounded(server: GeminiServer, gemini: MakeGemini, sdk: str, hiccup: Reply) -> None:
    quick = {"timeout": 0.4, "max_attempts": 3, "backoff": 0.02, "backoff_max": 0.05, "patience": 20.0}
    server.script([hiccup, hiccup])
    judgement = judged(gemini, sdk=sdk, retry=quick)
    assert judgement.scores == {"identity": 7, "quality": 6, "consistency": 5}
    assert judgement.usage.calls == len(server.seen) == 3

    server.script([], then=hiccup)
    judgement = judged(gemini, sdk=sdk, retry=quick)
    assert judgement.scores == {}
    assert "3 attempts" in judgement.missing["identity"]
    assert judgement.usage.calls == 3
    assert len(server.seen) == 6


def test_nobody_listening_is_a_hiccup_too(gemini: MakeGemini) -> None:
    with GeminiServer() as gone:
        url = gone.url
    for sdk in SDKS:
        judgement = judged(gemini, url=url, sdk=sdk)
        assert judgement.scores == {}
        assert "3 attempts" in judgement.missing["quality"]


@pytest.mark.parametrize("sdk", SDKS)
def test_429_waits_as_long_as_it_says(server: GeminiServer, gemini: MakeGemini, sdk: str) -> None:
    server.script([gs.throttled(1.2)])
    judgement = judged(gemini, sdk=sdk)
    assert judgement.scores["identity"] == 7
    first, second = server.seen
    assert 1.2 <= second.at - first.at < 2.2


def test_429_without_a_delay_backs_off(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([gs.throttled()] * 4)
    assert judged(gemini).scores["identity"] == 7
    assert len(server.seen) == 5


def test_429_pauses_every_process_and_is_no_failure_of_an_attempt(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([gs.throttled(0.8)])
    one, other = gemini(), gemini()
    one.load()
    other.load()
    thread = threading.Thread(target=judge_one, args=(one, request(1)))
    thread.start()
    while not server.seen or not server.seen[0].status:
        time.sleep(0.01)
    time.sleep(0.1)
    judge_one(other, request(2))
    thread.join()
    assert min(seen.at for seen in server.seen[1:]) - server.seen[0].at >= 0.8
    assert len(server.seen) == 3


def test_a_pause_longer_than_patience_is_missing_with_the_reason(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([], then=gs.throttled(3600))
    judgement = judged(gemini, retry={"patience": 0.5})
    assert "rate limit" in judgement.missing["identity"]
    assert judgement.usage.calls == len(server.seen) == 1


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_stops_the_judge_for_everybody_with_one_error(
    server: GeminiServer, gemini: MakeGemini, caplog: pytest.LogCaptureFixture, sdk: str, status: int
) -> None:
    caplog.set_level(logging.INFO)
    server.script([], then=gs.failure(status, f"no, because {KEY} is bad"))
    one, other = gemini(sdk=sdk), gemini(sdk=sdk)
    reasons = [judge_one(judge, request(number)).missing["identity"] for number in range(3) for judge in (one, other)]
    assert len(server.seen) == 1
    assert len(set(reasons)) == 1
    assert f"HTTP {status}" in reasons[0]
    assert "stopped" in reasons[0]
    assert KEY not in reasons[0]
    assert [record.levelname for record in caplog.records].count("ERROR") == 1
    assert KEY not in caplog.text


def test_another_run_is_not_stopped_by_this_one(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([gs.failure(403)])
    assert judged(gemini).missing
    assert judged(gemini, world={"run_id": "run-2"}).scores


def test_a_budget_of_calls_is_never_exceeded_by_threads(server: GeminiServer, gemini: MakeGemini) -> None:
    def flaky(seen: Seen) -> Reply:
        return gs.failure(503) if seen.index % 3 == 0 else gs.verdict()

    server.answer = flaky
    judge = gemini(budget={"max_calls": 20})
    with ThreadPoolExecutor(12) as pool:
        judgements = list(pool.map(lambda n: judge_one(judge, request(n)), range(40)))
    assert len(server.seen) == 20
    assert sum(judgement.usage.calls for judgement in judgements) == 20
    spent = [judgement for judgement in judgements if judgement.missing]
    assert spent
    assert any("max_calls" in judgement.missing["quality"] for judgement in spent)


def test_a_budget_of_money_is_never_exceeded_and_well_used(server: GeminiServer, gemini: MakeGemini) -> None:
    judge = gemini(budget={"max_cost": 0.06}, price_input=1.0, price_output=1.0)
    with ThreadPoolExecutor(8) as pool:
        judgements = list(pool.map(lambda n: judge_one(judge, request(n)), range(20)))
    paid = sum(judgement.usage.cost_usd for judgement in judgements)
    one = (gs.INPUT_TOKENS + gs.OUTPUT_TOKENS) / 1e6
    assert 0.06 - 3 * one < paid <= 0.06
    spent = [judgement.missing for judgement in judgements if judgement.missing]
    assert all("max_cost" in missing["identity"] for missing in spent)
    assert len(server.seen) == round(paid / one) == 20 - len(spent)


def test_a_budget_of_money_needs_a_price(gemini: MakeGemini) -> None:
    judge = gemini(model="gemini-9-new", budget={"max_cost": 1})
    with pytest.raises(ConfigurationError, match="price_input"):
        judge.load()


def test_without_a_key_the_message_says_where_to_put_one(gemini: MakeGemini) -> None:
    judge = gemini(world={"env": {}})
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY"):
        judge.load()


@pytest.mark.parametrize("sdk", SDKS)
def test_the_key_is_in_no_log_no_message_and_not_in_redis(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini, caplog: pytest.LogCaptureFixture, sdk: str
) -> None:
    caplog.set_level(logging.DEBUG)
    judge = gemini(sdk=sdk)
    server.script(
        [gs.throttled(0.05), gs.failure(500, KEY), gs.verdict(), gs.failure(403, f"key {KEY} is not allowed")]
    )
    texts = [judge_one(judge, request(number)).model_dump_json() for number in range(2)]
    assert len(server.seen) == 4
    assert {seen.key for seen in server.seen} == {KEY}
    names = client.keys()
    assert names
    assert KEY not in caplog.text
    assert all(KEY not in text for text in texts)
    assert all(KEY.encode() not in name for name in names)
    assert all(KEY not in repr(thing) for thing in (context(client), settings(server.url), judge))
    for key in client.keys("*log"):
        assert KEY not in repr(client.lrange(key, 0, -1))
    for key in client.keys("*stopped*"):
        assert KEY.encode() not in (client.get(key) or b"")


@pytest.mark.parametrize(("better", "value"), [("A", 1), ("B", -1), ("tie", 0)])
def test_comparison_shows_both_results_and_gives_a_preference(
    server: GeminiServer, gemini: MakeGemini, better: str, value: int
) -> None:
    server.script([gs.choice("C"), gs.choice(better)])
    preference = compare_two(gemini(), request(1), request(2))
    assert preference.value == value
    assert preference.usage.calls == 2
    labels = [text.split(":")[0] for text in server.seen[0].texts]
    assert labels == ["CHARACTER", "INIT", "RESULT A", "RESULT A, REGION", "RESULT B", "RESULT B, REGION"]
    assert len(set(server.seen[0].images)) == 6


def test_a_comparison_that_fails_is_no_preference(server: GeminiServer, gemini: MakeGemini) -> None:
    server.script([], then=gs.failure(503))
    preference = compare_two(gemini(), request(1), request(2))
    assert preference.value is None
    assert "3 attempts" in preference.words
    assert preference.usage.calls == 3


def test_a_preview_is_announced_as_one(server: GeminiServer, gemini: MakeGemini) -> None:
    judge_one(gemini(), replace(request(), preview=True))
    assert "early preview" in server.seen[0].texts[2]
