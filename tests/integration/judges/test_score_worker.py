"""Every promise about Gemini through real score workers: two processes, a real Valkey, and both of Google's clients."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import psutil
import pytest
import redis

from shared.ledger import Command, Keys
from shared.messages import ScoreJob
from shared.settings import Settings
from shared.types import CRITERIA, ArtifactRef, Usage
from tests import gemini_server as gs
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.judge_support import BROKEN, KEY, settings
from tests.score_bench import ScoreBench
from workers.score import ScoreWorker

pytestmark = pytest.mark.valkey

both = pytest.mark.parametrize("sdk", ["genai", "generativeai"])
GOOD = {"identity": 7.0, "quality": 6.0, "consistency": 5.0}
HASTY = {"timeout": 0.5, "max_attempts": 3, "backoff": 0.02, "backoff_max": 0.05, "patience": 20.0}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoreBench]:
    with ScoreBench(tmp_path_factory.mktemp("bench"), workers=2, threads=8) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh(bench: ScoreBench) -> None:
    """Nothing is known from the test before: neither in Redis nor in the folder."""
    for pattern in ("inpaint-eacps:judge*", Keys.inbox):
        for key in bench.redis.keys(pattern):
            bench.redis.delete(key)
    for file in (bench.folder / "results" / "judgements").rglob("*.json"):
        file.unlink()


@both
def test_a_good_answer(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    server.answer = lambda _: Reply(200, gs.verdict().body, delay=0.2)
    (judgement,) = bench.judge(settings(server.url, sdk=sdk, price_input=1.0, price_output=10.0))
    assert (judgement.judge, judgement.model) == ("gemini", "gemini-3.8-flash")
    assert judgement.scores == GOOD
    assert not judgement.missing
    assert judgement.words == "the face fits"
    assert judgement.seconds >= 0.2
    assert judgement.usage == Usage(
        calls=1,
        input_tokens=gs.INPUT_TOKENS,
        output_tokens=gs.OUTPUT_TOKENS,
        cost_usd=(gs.INPUT_TOKENS + 10 * gs.OUTPUT_TOKENS) / 1e6,
    )
    (seen,) = server.seen
    assert (seen.model, seen.key) == ("gemini-3.8-flash", KEY)
    assert [text.split(":")[0] for text in seen.texts] == ["CHARACTER", "INIT", "RESULT", "RESULT, REGION"]
    assert len(set(seen.images)) == 4
    assert not {"temperature", "topP", "topK"} & set(seen.config)


@both
@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (gs.truncated(), "cut off"),
        (gs.refusal("SAFETY"), "refused: SAFETY"),
        (gs.blocked("PROHIBITED_CONTENT"), "PROHIBITED_CONTENT"),
        (gs.verdict(identity=11), "identity"),
        (gs.verdict(quality=-1), "quality"),
        (gs.verdict(consistency="7"), "consistency"),
        (gs.verdict(consistency=None), "consistency"),
        (gs.content('{"observations": "x", "identity": 7}'), "quality"),
        (gs.content('{"observations": "the face fits and the'), "JSON"),
    ],
    ids=["cut-off", "refused", "blocked", "above-10", "below-0", "text", "null", "incomplete", "truncated-json"],
)
def test_an_unusable_answer_is_asked_for_once_more_and_then_missing(
    bench: ScoreBench, server: GeminiServer, sdk: str, broken: Reply, why: str
) -> None:
    server.script([broken])
    (judgement,) = bench.judge(settings(server.url, sdk=sdk))
    assert judgement.scores == GOOD
    assert judgement.usage.calls == len(server.seen) == 2

    server.script([], then=broken)
    (judgement,) = bench.judge(settings(server.url, sdk=sdk), [1])
    assert judgement.scores == {}
    assert set(judgement.missing) == set(CRITERIA)
    assert all(why in reason and "once more" in reason for reason in judgement.missing.values())
    assert judgement.usage.calls == len(server.seen) - 2 == 2


@both
@pytest.mark.parametrize(
    "hiccup",
    [
        gs.failure(500),
        gs.failure(503),
        gs.failure(504),
        Reply(200, b"this is no JSON"),
        Reply(drop="before"),
        Reply(200, gs.verdict().body, drop="middle"),
        Reply(200, gs.verdict().body, delay=1.6),
    ],
    ids=["500", "503", "504", "no-json", "dropped", "dropped-halfway", "hang"],
)
def test_a_hiccup_is_retried_and_bounded(bench: ScoreBench, server: GeminiServer, sdk: str, hiccup: Reply) -> None:
    server.script([hiccup, hiccup])
    (judgement,) = bench.judge(settings(server.url, sdk=sdk, retry=HASTY))
    assert judgement.scores == GOOD
    assert judgement.usage.calls == len(server.seen) == 3

    server.script([], then=hiccup)
    (judgement,) = bench.judge(settings(server.url, sdk=sdk, retry=HASTY), [1])
    assert judgement.scores == {}
    assert all("3 attempts" in reason for reason in judgement.missing.values())
    assert judgement.usage.calls == len(server.seen) - 3 == 3


@both
def test_429_is_honoured_by_all_processes(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    replies = [gs.throttled(1.2)]
    server.answer = lambda _: replies.pop() if replies else Reply(200, gs.verdict().body, delay=0.1)
    # One start at a time, so that all others come after the answer that asks for a pause.
    slowly = {"requests_per_minute": 600, "window": 60.0, "burst": 1}
    judgements = bench.judge(settings(server.url, sdk=sdk, limits=slowly), range(8))
    assert [judgement.scores for judgement in judgements] == [GOOD] * 8
    first, *others = sorted(seen.at for seen in server.seen)
    assert len(others) == 8
    assert min(others) - first >= 1.2


@both
def test_429_without_a_delay_backs_off(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    server.script([gs.throttled()] * 3)
    (judgement,) = bench.judge(settings(server.url, sdk=sdk))
    assert judgement.scores == GOOD
    assert judgement.usage.calls == len(server.seen) == 4


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_stops_the_judge_in_all_processes_with_one_error(
    bench: ScoreBench, server: GeminiServer, sdk: str, status: int
) -> None:
    server.script([], then=gs.failure(status, f"the key {KEY} may not"))
    configured = settings(server.url, sdk=sdk)
    before = bench.actions().count("judge.stopped")
    run = bench.run(configured)
    bench.judge(configured, [0], run=run)
    judgements = bench.judge(configured, range(1, 13), run=run)
    assert len(server.seen) == 1
    reasons = {reason for judgement in judgements for reason in judgement.missing.values()}
    assert len(reasons) == 1
    assert f"HTTP {status}" in reasons.pop()
    assert bench.actions().count("judge.stopped") == before + 1

    server.script([])
    assert bench.judge(configured, [0])[0].scores == GOOD, "another run is not stopped"


@both
def test_samples_are_averaged_and_their_spread_is_kept(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    server.script([gs.verdict(6, 5, 4), gs.verdict(8, 5, 5), gs.verdict(10, 5, 9)])
    (judgement,) = bench.judge(settings(server.url, sdk=sdk, samples=3))
    assert judgement.scores == {"identity": 8, "quality": 5, "consistency": 6}
    assert judgement.measures["identity_spread"] == pytest.approx(2.0)
    assert judgement.measures["samples"] == 3
    assert judgement.usage.calls == len(server.seen) == 3


@both
def test_the_limit_on_requests_holds_for_all_processes(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    limits = {"requests_per_minute": 20, "window": 2.0, "slack": 0.4, "burst": 20}
    judgements = bench.judge(settings(server.url, sdk=sdk, limits=limits), range(50))
    assert [judgement.scores for judgement in judgements] == [GOOD] * 50
    assert server.most_within(2.0) <= 20
    times = sorted(seen.at for seen in server.seen)
    assert times[-1] - times[0] < 3 * 2.4


@both
def test_the_limit_on_tokens_holds_for_all_processes(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    limit = 30_000
    limits = {"tokens_per_minute": limit, "requests_per_minute": 1000, "window": 1.0, "slack": 0.3, "burst": 1000}
    judgements = bench.judge(settings(server.url, sdk=sdk, limits=limits), range(14))
    assert [judgement.scores for judgement in judgements] == [GOOD] * 14
    # By what the server says that they took; each was admitted with an upper bound of it, so one fewer may fit.
    assert limit // gs.INPUT_TOKENS - 1 <= server.most_within(1.0) <= limit // gs.INPUT_TOKENS


def test_a_call_larger_than_the_limit_on_tokens_is_never_made(bench: ScoreBench, server: GeminiServer) -> None:
    (judgement,) = bench.judge(settings(server.url, image_tokens=100, limits={"tokens_per_minute": 700}))
    assert "tokens_per_minute" in judgement.missing["identity"]
    assert server.seen == []


@both
def test_a_budget_of_calls_is_never_exceeded(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    def flaky(seen: Seen) -> Reply:
        return gs.failure(503) if seen.index % 3 == 0 else Reply(200, gs.verdict().body, delay=0.05)

    server.answer = flaky
    judgements = bench.judge(
        settings(server.url, sdk=sdk, budget={"max_calls": 20}, retry={"max_attempts": 20}), range(40)
    )
    assert sum(judgement.usage.calls for judgement in judgements) == len(server.seen) == 20
    spent = [judgement for judgement in judgements if judgement.missing]
    assert len(spent) >= 20
    assert all("max_calls" in reason for judgement in spent for reason in judgement.missing.values())


@both
def test_a_budget_of_money_is_never_exceeded(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    server.answer = lambda _: Reply(200, gs.verdict().body, delay=0.05)
    configured = settings(server.url, sdk=sdk, budget={"max_cost": 0.06}, price_input=1.0, price_output=1.0)
    judgements = bench.judge(configured, range(20))
    one = (gs.INPUT_TOKENS + gs.OUTPUT_TOKENS) / 1e6
    assert 0.06 - 3 * one < one * len(server.seen) <= 0.06
    assert sum(judgement.usage.cost_usd for judgement in judgements) == pytest.approx(one * len(server.seen))
    spent = [judgement.missing for judgement in judgements if judgement.missing]
    assert len(spent) == 20 - len(server.seen)
    assert all("max_cost" in missing["identity"] for missing in spent)


def test_the_same_images_are_paid_for_once_even_after_redis_was_wiped(bench: ScoreBench, server: GeminiServer) -> None:
    first = bench.judge(settings(server.url), range(4))
    again = bench.judge(settings(server.url), range(4))
    for key in bench.redis.keys("inpaint-eacps:*"):
        bench.redis.delete(key)
    wiped = bench.judge(settings(server.url), range(4))
    assert len(server.seen) == 4
    assert [judgement.scores for judgement in first] == [GOOD] * 4
    for judgement in (*again, *wiped):
        assert judgement.cached
        assert (judgement.scores, judgement.usage) == (GOOD, Usage())


def test_a_gated_result_costs_no_call_and_says_why(bench: ScoreBench, server: GeminiServer) -> None:
    (judgement,) = bench.judge(settings(server.url), [-1], gates=True)
    assert judgement.judge == "gate"
    assert all("nothing was inserted" in reason for reason in judgement.missing.values())
    assert server.seen == []


@both
@pytest.mark.parametrize(("better", "preference"), [("A", 1), ("B", -1), ("tie", 0)])
def test_two_results_are_compared(
    bench: ScoreBench, server: GeminiServer, sdk: str, better: str, preference: int
) -> None:
    server.script([gs.choice(better)])
    said = bench.compare(settings(server.url, sdk=sdk, price_input=1.0, price_output=0.0), 1, 2)
    assert said.preference == preference
    assert said.reason == "A is sharper"
    assert (said.usage.calls, said.usage.cost_usd) == (1, gs.INPUT_TOKENS / 1e6)
    assert said.seconds > 0
    assert len(server.seen) == 1


def test_a_comparison_that_fails_is_answered_with_the_reason(bench: ScoreBench, server: GeminiServer) -> None:
    server.script([], then=gs.failure(503))
    said = bench.compare(settings(server.url), 1, 2)
    assert (said.preference, said.usage.calls) == (None, 3)
    assert "3 attempts" in said.reason


def test_a_bug_in_a_judge_is_a_reason_and_never_silence(bench: ScoreBench) -> None:
    (judgement,) = bench.judge(settings(judges=(BROKEN,)), judge=BROKEN)
    assert judgement.missing == dict.fromkeys(CRITERIA, "KeyError: 'a bug'")
    said = bench.compare(settings(judges=(BROKEN,)), 1, 2, judge=BROKEN)
    assert (said.preference, said.reason) == (None, "KeyError: 'a bug'")
    nowhere = "no_such_package.judge:Judge"
    (judgement,) = bench.judge(settings(judges=(nowhere,)), judge=nowhere)
    assert set(judgement.missing) == set(CRITERIA)
    assert "cannot be imported" in judgement.missing["quality"]


def test_an_image_that_is_gone_is_a_reason_and_no_endless_wait(
    bench: ScoreBench, server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.score._LATE_SECONDS", 0.6)
    worker = ScoreWorker(str(bench._valkey.url), Settings(), ())
    gone = ArtifactRef(name="task_7/candidates/gone.png", sha256="0" * 64)
    job = ScoreJob(
        run=bench.run(settings(server.url)), task="7", character_name="Mira", store=str(bench.folder / "results"),
        prepared=bench.prepared, candidate="g00", attempt=1, image=gone, judge="gemini", gates=False, preview=False,
    )  # fmt: skip
    bench.ledger.do([("HSET", Keys.jobs, job.key, "asked for")])
    worker.score(job.model_dump(mode="json"))
    (text,) = bench.redis.lrange(Keys.inbox, 0, -1)
    (judgement,) = json.loads(text)["judgements"]
    assert all("gone.png" in reason for reason in judgement["missing"].values())
    assert server.seen == []


def test_a_job_that_is_put_off_is_free_again_once_the_broker_is_back(
    bench: ScoreBench, server: GeminiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ScoreWorker(str(bench._valkey.url), Settings(), ())
    job = ScoreJob(
        run="forgotten", task="7", character_name="Mira", store=str(bench.folder / "results"),
        prepared=bench.prepared, candidate="g00", attempt=1, image=bench.image(1), judge="gemini", gates=False,
        preview=False,
    )  # fmt: skip
    bench.ledger.do([("HSET", Keys.jobs, job.key, "asked for")])
    real, failures = worker._ledger.do, iter([redis.ConnectionError(), redis.TimeoutError()])

    def away(commands: Iterable[Command]) -> list[Any]:
        listed = list(commands)
        if listed[0][0] == "HDEL" and (failure := next(failures, None)) is not None:
            raise failure
        return real(listed)

    monkeypatch.setattr(worker._ledger, "do", away)
    worker.score(job.model_dump(mode="json"))
    assert bench.ledger.hget(Keys.claims, job.key) is None
    assert bench.ledger.hget(Keys.jobs, job.key) is not None, "reconciling sends it again"
    bench.ledger.do([("HDEL", Keys.jobs, job.key)])


@both
def test_the_key_is_in_no_log_no_message_and_no_process_list(bench: ScoreBench, server: GeminiServer, sdk: str) -> None:
    server.script([gs.throttled(0.05), gs.failure(500, KEY), gs.verdict(), gs.failure(403, f"key {KEY} is bad")])
    configured = settings(server.url, sdk=sdk)
    run = bench.run(configured)
    bench.judge(configured, [0], run=run)
    bench.judge(configured, [1], run=bench.run(configured))
    assert {seen.key for seen in server.seen} == {KEY}
    assert len(server.seen) == 4
    shown = [bench.logs(), *(" ".join(psutil.Process(pid).cmdline()) for pid in bench.pids.values())]
    shown += [repr(bench.redis.dump(key)) + str(key) for key in bench.redis.keys("*")]
    shown += [file.read_text("utf-8", "replace") for file in bench.folder.rglob("*") if file.is_file()]
    assert len(shown) > 10
    assert not [text[:200] for text in shown if KEY in text]
