"""The rival of `benchmarks.recovery`: one Celery task that sleeps, acknowledged when it is over."""

import os
import time
from pathlib import Path

from celery import Celery

BROKER, TRACE, OPTIONS, LATE = "RECOVERY_BROKER", "RECOVERY_TRACE", "RECOVERY_RESTORE", "RECOVERY_ACKS_LATE"
#: Celery's default is 3600 s, for which no benchmark can wait.
VISIBILITY_SECONDS = 15

app = Celery("recovery", broker=os.environ.get(BROKER, "memory://"))
_options: dict[str, float] = {"visibility_timeout": VISIBILITY_SECONDS}
if os.environ.get(OPTIONS) == "tuned":
    _options |= {"unacked_restore_interval": 2, "unacked_restore_throttle": 1}
app.conf.update(
    broker_transport_options=_options,
    task_acks_late=os.environ.get(LATE) == "yes",
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="recovery.generate")
def generate(number: int) -> None:
    """Say that it began, and work for longer than anybody measures."""
    (Path(os.environ[TRACE]) / f"{number}.{os.getpid()}.{time.monotonic_ns()}").touch()
    time.sleep(3600)
