"""Admission: the rate limit, the budget and the breaker, which hold for all threads and processes together."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from shared.errors import BrokerUnreachable
from shared.settings.judges import BudgetSettings, RateLimitSettings, RetrySettings
from shared.types import Usage
from tests import gemini_server as gs
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.judge_support import request
from workers.scoring.admission import Admission, Admitted, NotYet, identity
from workers.scoring.failures import BudgetSpent, JudgeStopped
from workers.scoring.gemini import GeminiScorer
from workers.scoring.judging import judge_one
from workers.scoring.remote import Call, Remote

pytestmark = pytest.mark.valkey

MakeGemini = Callable[..., GeminiScorer]


def admission(
    client: "redis.Redis", run: str = "run-1", service: str = "s", budget: BudgetSettings | None = None, **limits: float
) -> Admission:
    given = RateLimitSettings.model_validate(limits)
    return Admission(client, "gemini", service, run, given, budget or BudgetSettings())


def starts(admitted: Admission, count: int, tokens: int = 1) -> list[float]:
    """Ask for `count` starts one after the other, waiting as told; their times on this machine's clock."""
    found: list[float] = []
    while len(found) < count:
        match admitted.ask(tokens, 0.0):
            case Admitted(wait=wait):
                found.append(time.monotonic() + wait)
            case NotYet(wait=wait):
                time.sleep(min(wait, 0.3))
    return found


def most_within(times: list[float], window: float) -> int:
    """The most of these times within any half-open window."""
    return max(sum(start <= at < start + window for at in times) for start in times)


def test_starts_are_spread_after_the_burst(client: "redis.Redis") -> None:
    times = starts(admission(client, requests_per_minute=20, window=1.0, slack=0.0, burst=4), 40)
    assert times[3] - times[0] < 0.1
    assert most_within(times[4:16], 0.24) <= 6
    assert most_within(times, 0.98) <= 20
    assert times[-1] - times[0] < 2.3


def test_no_window_holds_more_than_the_limit_and_nearly_all_of_it_is_used(client: "redis.Redis") -> None:
    times = starts(admission(client, requests_per_minute=50, window=1.0, slack=0.0, burst=50), 175)
    assert most_within(times, 0.98) <= 50
    assert 175 / (times[-1] - times[0] + 1.0) >= 0.8 * 50


def test_after_a_pause_the_whole_window_counts(client: "redis.Redis") -> None:
    limited = admission(client, requests_per_minute=10, window=1.0, slack=0.0, burst=10)
    first = starts(limited, 10)
    time.sleep(0.6)
    second = starts(limited, 10)
    assert min(second) - min(first) >= 0.99
    assert most_within(first + second, 0.98) == 10


def test_tokens_are_limited_like_calls(client: "redis.Redis") -> None:
    limited = admission(client, requests_per_minute=1000, tokens_per_minute=1000, window=1.0, slack=0.0, burst=1000)
    times = starts(limited, 12, tokens=300)
    assert most_within(times, 0.98) == 3
    assert times[-1] - times[0] < 3.5


def test_a_start_is_not_reserved_far_ahead(client: "redis.Redis") -> None:
    limited = admission(client, requests_per_minute=1, window=60.0, burst=1)
    assert isinstance(limited.ask(1, 0.0), Admitted)
    verdict = limited.ask(1, 0.0)
    assert isinstance(verdict, NotYet)
    assert 60 < verdict.wait <= 61


def test_judges_do_not_share_a_limit_but_runs_of_one_service_do(client: "redis.Redis") -> None:
    def one(**who: str) -> Admitted | NotYet:
        return admission(client, requests_per_minute=1, window=60.0, **who).ask(1, 0.0)  # type: ignore[arg-type]

    assert isinstance(one(run="a", service="x"), Admitted)
    assert isinstance(one(run="b", service="x"), NotYet)
    assert isinstance(one(run="b", service="y"), Admitted)


def test_a_pause_holds_for_all_and_is_never_shortened(client: "redis.Redis") -> None:
    one, other = admission(client), admission(client, run="run-2")
    one.pause(5.0)
    other.pause(0.5)
    assert 4.5 < other.paused() <= 5.0
    assert isinstance(other.ask(1, 0.0), NotYet)


def test_a_clock_that_was_set_back_costs_one_window_and_no_more(client: "redis.Redis") -> None:
    limited = admission(client, requests_per_minute=5, window=0.5, slack=0.0, burst=5)
    starts(limited, 5)
    (state,) = client.keys("*:state")
    client.hset(state, "last", int((time.time() + 3600) * 1e6))
    began = time.monotonic()
    times = starts(limited, 5)
    assert 0.4 < min(times) - began < 1.5
    assert max(times) - began < 2.0


def test_the_breaker_stops_one_run_with_the_first_reason(client: "redis.Redis") -> None:
    one, same, other = admission(client), admission(client), admission(client, run="run-2")
    assert one.stop("bad key", 60.0)
    assert not same.stop("another reason", 60.0)
    with pytest.raises(JudgeStopped, match="bad key"):
        same.ask(1, 0.0)
    assert isinstance(other.ask(1, 0.0), Admitted)
    one.resume()
    assert isinstance(same.ask(1, 0.0), Admitted)


def test_the_breaker_opens_again_by_itself(client: "redis.Redis") -> None:
    one = admission(client)
    one.stop("bad key", 0.1)
    time.sleep(0.15)
    assert one.stopped() is None


def test_a_budget_is_kept_by_many_at_once(client: "redis.Redis") -> None:
    limited = admission(client, budget=BudgetSettings(max_calls=25), requests_per_minute=100_000, burst=1000)

    def take(_: int) -> bool:
        try:
            return isinstance(limited.ask(1, 0.0), Admitted)
        except BudgetSpent:
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(take, range(200))) == 25
    assert limited.spent().calls == 25


def test_money_set_aside_is_given_back_and_settled(client: "redis.Redis") -> None:
    limited = admission(client, budget=BudgetSettings(max_cost=1.0), requests_per_minute=100_000, burst=1000)
    first = limited.ask(1, 0.7)
    assert isinstance(first, Admitted)
    assert limited.spent().cost_usd == pytest.approx(0.7)
    assert isinstance(limited.ask(1, 0.7), NotYet)
    limited.settle(first, Usage(input_tokens=100, output_tokens=10, cost_usd=0.2))
    second = limited.ask(1, 0.7)
    assert isinstance(second, Admitted)
    limited.take_back(second)
    spent = limited.spent()
    assert (spent.calls, spent.input_tokens, spent.output_tokens) == (1, 100, 10)
    assert spent.cost_usd == pytest.approx(0.2)
    with pytest.raises(BudgetSpent):
        limited.ask(1, 0.9)


def test_no_redis_is_an_error_of_the_broker_and_not_of_the_judge() -> None:
    with redis.Redis(port=1) as nobody, pytest.raises(BrokerUnreachable):
        admission(nobody).ask(1, 0.0)


def test_an_identity_hides_the_key() -> None:
    assert "secret" not in identity("url", "model", "secret")
    assert identity("url", "model", "secret") != identity("url", "model", "other")


def test_a_thread_that_wakes_late_gives_its_start_back(client: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    limited = admission(client, requests_per_minute=10, window=1.0, slack=0.1, burst=1)
    remote = Remote("gemini", limited, RetrySettings(), slack=0.1)
    call = Call(lambda: "answer", 1, 0.0, lambda _: Usage())
    remote.call(call)
    sleep = time.sleep
    naps: list[float] = []

    def oversleep(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds + (0.3 if len(naps) == 1 else 0.0))

    monkeypatch.setattr(time, "sleep", oversleep)
    assert remote.call(call).usage.calls == 1
    (log,) = client.keys("*:log")
    assert client.llen(log) == 3
    assert limited.spent().calls == 2


def _ask_in_a_process(url: str, count: int, times: "multiprocessing.SimpleQueue[list[float]]") -> None:
    with redis.Redis.from_url(url) as client:
        limited = admission(client, requests_per_minute=40, window=1.0, slack=0.0, burst=2)
        times.put(starts(limited, count))


def test_the_limit_holds_over_processes(client: "redis.Redis", valkey: "object") -> None:
    url = valkey.connection_url  # type: ignore[attr-defined]
    spawn = multiprocessing.get_context("spawn")
    times = spawn.SimpleQueue()
    processes = [spawn.Process(target=_ask_in_a_process, args=(url, 40, times)) for _ in range(3)]
    for process in processes:
        process.start()
    found = sorted(at for _ in processes for at in times.get())
    for process in processes:
        process.join(10)
    assert len(found) == 120
    assert most_within(found, 0.99) <= 40


@pytest.mark.slow
def test_load_with_failures_keeps_the_limit_and_loses_no_score(server: GeminiServer, gemini: MakeGemini) -> None:
    """16 threads, a tenth of the calls fail: the long form is `benchmarks/judge_load.py`."""
    limit, window, results = 120, 8.0, 240
    guard = threading.Lock()
    given: dict[int, Reply] = {}

    def answer(seen: Seen) -> Reply:
        if seen.index % 10 == 3:
            return (gs.failure(503), Reply(drop="before"), gs.failure(500))[seen.index % 3]
        with guard:
            reply = gs.verdict(identity=(seen.index % 100) / 10)
            given[seen.index] = reply
        return Reply(200, reply.body, delay=0.05)

    server.answer = answer
    limits = {"requests_per_minute": limit, "window": window, "slack": 0.5}
    judge = gemini(limits=limits, retry={"max_attempts": 8, "patience": 120.0})
    judge.load()
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        judgements = list(pool.map(lambda n: judge_one(judge, request(n)), range(results)))
    taken = time.monotonic() - began
    assert server.most_within(window) <= limit
    assert len(server.seen) / taken >= 0.9 * limit / window
    assert not [judgement for judgement in judgements if judgement.missing]
    assert sorted(judgement.scores["identity"] for judgement in judgements) == sorted(
        (index % 100) / 10 for index in given
    )
    assert sum(judgement.usage.calls for judgement in judgements) == len(server.seen)
