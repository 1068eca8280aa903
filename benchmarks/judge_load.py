"""Load on a judge: many score threads, one rate limit, a tenth of the calls failing at random.

    python -m benchmarks.judge_load [--candidates 1000] [--workers 1] [--threads 16] [--limit 600] [--sdk genai]

Starts a Valkey, real score workers and a local Gemini server (each a process of its own), has that many results judged
through the queue, and prints what the server counted as one line of JSON: the most requests within any 60 seconds, the
share of the limit that was used, and whether every score is the one that the server gave.
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests import gemini_server as gs
from tests.gemini_server import GeminiServer, Reply, Seen
from tests.judge_support import settings
from tests.score_bench import ScoreBench


def serve(pipe: Connection, window: float, latency: float, failing: float) -> None:
    """The server's process: answers until told to stop, then reports what it saw."""
    chance = random.Random(7)
    guard = threading.Lock()
    given: list[float] = []

    def answer(seen: Seen) -> Reply:
        with guard:
            if chance.random() < failing:
                return chance.choice([gs.failure(500), gs.failure(503), gs.failure(504), Reply(drop="before")])
            score = round(chance.uniform(0, 10), 3)
            given.append(score)
        return Reply(200, gs.verdict(identity=score).body, delay=latency)

    with GeminiServer(answer) as server:
        pipe.send(server.url)
        pipe.recv()
        times = sorted(seen.at for seen in server.seen)
        pipe.send(
            {
                "requests": len(times),
                "failed": sum(seen.status != 200 for seen in server.seen),
                "most_in_window": server.most_within(window),
                "scores": sorted(given),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1, help="score workers, each a process")
    parser.add_argument("--threads", type=int, default=16, help="of all workers together")
    parser.add_argument("--limit", type=int, default=600, help="requests per minute")
    parser.add_argument("--window", type=float, default=60.0, help="length of that minute, in seconds")
    parser.add_argument("--latency", type=float, default=0.3, help="seconds that an answer takes")
    parser.add_argument("--failing", type=float, default=0.1, help="share of calls that fail")
    parser.add_argument("--sdk", choices=("genai", "generativeai"), default="genai")
    options = parser.parse_args()

    here, there = multiprocessing.Pipe()
    serving = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, options.window, options.latency, options.failing)
    )
    serving.start()
    url: str = here.recv()
    gemini: dict[str, Any] = {
        "sdk": options.sdk,
        "limits": {"requests_per_minute": options.limit, "window": options.window},
        "retry": {"timeout": 30.0, "max_attempts": 12, "backoff": 0.5, "backoff_max": 4.0, "patience": 3000.0},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        ScoreBench(Path(folder), options.workers, options.threads // options.workers) as bench,
    ):
        began = time.monotonic()
        judgements = bench.judge(settings(url, **gemini), range(options.candidates), timeout=3000)
        took = time.monotonic() - began
    here.send("stop")
    seen = here.recv()
    serving.join(10)
    told = sorted(judgement.scores["identity"] for judgement in judgements if judgement.scores)
    # From the first job to the last answer: what a client's start takes, and the last retries, count against it.
    allowed = options.limit * took / options.window
    print(
        json.dumps(
            {
                "candidates": options.candidates,
                "sdk": options.sdk,
                "workers": options.workers,
                "threads": options.threads,
                "limit": options.limit,
                "window_s": options.window,
                "seconds": round(took, 1),
                "requests": seen["requests"],
                "failed": seen["failed"],
                "most_in_any_window": seen["most_in_window"],
                "share_of_limit": round(seen["requests"] / allowed, 4),
                "scores": len(told),
                "missing": sum(bool(judgement.missing) for judgement in judgements),
                "every_score_is_the_servers": told == seen["scores"],
                "calls_accounted": sum(judgement.usage.calls for judgement in judgements),
            }
        )
    )


if __name__ == "__main__":
    main()
