"""Queue and task names, in one place."""

import re

#: Events for the orchestrator.
ORCHESTRATOR = "orchestrator"
#: Publishing of finished tasks: heavier than an event, so it has a queue of its own.
PUBLISH = "publish"
#: Fetching and normalising of inputs.
PREPARE = "prepare"
#: Judgements.
SCORE = "score"

COLLECT_TASK = "orchestrator.collect"
PUBLISH_TASK = "orchestrator.publish"
PREPARE_TASK = "workers.prepare"
GENERATE_TASK = "workers.generate"
SCORE_TASK = "workers.score"
COMPARE_TASK = "workers.compare"

#: Names of Celery's own lists in Redis are the queue names; ours share the database under this prefix.
PREFIX = "eacps:"


def device_name(host: str, index: int) -> str:
    """The name of GPU `index` on `host`; characters that a queue name cannot hold become hyphens."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', host)}.{index}"


def device_queue(device: str) -> str:
    """The Celery queue of one device: `gpu.<host>.<index>`."""
    return f"gpu.{device}"


def score_queue(judge: str, own_queue: frozenset[str]) -> str:
    """The queue on which `judge` is asked: the common one, or its own where it needs packages of its own."""
    return f"{SCORE}.{judge}" if judge in own_queue else SCORE
