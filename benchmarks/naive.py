"""The rival: what one would write with plain Celery, a chord of chain(generate, score) per task and phase.

Run as a worker by `benchmarks.overhead`: `celery -A benchmarks.naive worker …` with NAIVE_BROKER in the environment.
"""

import os
import random
import time

import redis
from celery import Celery, chain, chord, group

GENERATE_SECONDS, JUDGE_SECONDS = "SIMULATED_GENERATE_SECONDS", "SIMULATED_JUDGE_SECONDS"

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER"), backend=os.environ.get("NAIVE_BROKER"))
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_routes={
        "benchmarks.naive.generate": {"queue": "gpu"},
        "benchmarks.naive.score": {"queue": "score"},
        "benchmarks.naive.refine": {"queue": "score"},
        "benchmarks.naive.done": {"queue": "score"},
    },
)


@app.task
def generate(seed: int) -> int:
    """Sleep as the simulated generator does."""
    time.sleep(float(os.environ[GENERATE_SECONDS]))
    return seed


@app.task
def score(seed: int) -> tuple[int, float]:
    """Sleep as the simulated judge does."""
    time.sleep(float(os.environ[JUDGE_SECONDS]))
    return seed, random.Random(seed).random()


@app.task
def refine(scored: list[tuple[int, float]], task: int) -> None:
    """The body of the first chord: pick the best two, and start the second."""
    best = sorted(scored, key=lambda each: -each[1])[:2]
    chord(
        group(chain(generate.s(seed * 10 + child), score.s()) for seed, _ in best for child in (1, 2)),
        done.s(task),
    ).apply_async()


@app.task
def done(scored: list[tuple[int, float]], task: int) -> None:
    """The body of the second chord: count the task."""
    redis.Redis.from_url(os.environ["NAIVE_BROKER"]).rpush("naive-done", task)


def submit(task: int) -> None:
    """Start one task."""
    chord(group(chain(generate.s(5000 + 31 * index), score.s()) for index in range(4)), refine.s(task)).apply_async()
