"""The Celery application, the same for every role.

There is no result backend: what happened is in the ledger, and messages are only how work and events travel. So a
hiccup of a backend can neither lose a result nor turn a success into a failure (both were measured with Celery's own).
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_shutdown
from kombu import Queue
from kombu.exceptions import OperationalError

from shared.errors import BrokerUnreachable, InpaintError
from shared.settings.dispatch import DispatchSettings

logger = logging.getLogger(__name__)


def make_app(url: str, queues: Iterable[str] = (), dispatch: DispatchSettings | None = None) -> Celery:
    """A Celery app that knows `queues`; declared queues are what Flower shows. JSON is the only format accepted.

    The broker's own redelivery waits for the visibility timeout, which is above the longest job: reconciling is what
    recovers, and a message that comes late is refused by its claim.
    """
    dispatch = dispatch or DispatchSettings()
    events = dispatch.events
    app = Celery("inpaint-eacps", broker=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        task_send_sent_event=events,
        worker_send_task_events=events,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=dispatch.load_timeout,
        broker_transport="shared.broker_transport:Transport",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": dispatch.visibility_timeout,
            "socket_timeout": 20,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        task_queues=[Queue(name) for name in queues],
        task_create_missing_queues=True,
    )
    return app


def keep_logging(sender: object = None, **_: object) -> None:
    """Celery leaves logging alone when somebody is connected to this signal."""


setup_logging.connect(keep_logging)


Send = Callable[[str, str, Mapping[str, Any], str, str], None]


def worker_arguments(name: str, pool: str, concurrency: int, queues: Iterable[str], events: bool) -> list[str]:
    """What to tell Celery's `worker_main`. Gossip and mingle only serve Celery's own coordination."""
    return [
        "--quiet",
        "worker",
        *("--hostname", name, "--pool", pool, "--concurrency", str(concurrency), "--queues", ",".join(queues)),
        *("--loglevel", "WARNING", "--without-gossip", "--without-mingle"),
        *(() if events else ("--without-heartbeat",)),
    ]


def run_worker(app: Celery, arguments: list[str]) -> None:
    """Run a Celery worker until SIGTERM.

    Raises InpaintError when it ends by itself, so that whoever looks after this process starts it again.
    """
    codes: list[int | None] = []

    @worker_shutdown.connect(weak=False)
    def _note(sender: object = None, **_: object) -> None:
        codes.append(getattr(sender, "exitcode", None))

    with contextlib.suppress(SystemExit):
        app.worker_main(arguments)
    if codes and codes[-1]:
        raise InpaintError(f"The Celery worker ended by itself with status {codes[-1]}; the log above says why.")


def sender(app: Celery) -> Send:
    """A function that publishes one message: task name, queue, keyword arguments, message id, what to show.

    Raises BrokerUnreachable.
    """

    def send(task: str, queue: str, kwargs: Mapping[str, Any], message_id: str, shown: str) -> None:
        try:
            app.send_task(
                task,
                kwargs=dict(kwargs),
                queue=queue,
                task_id=message_id,
                argsrepr="",
                kwargsrepr=shown,
                ignore_result=True,
                retry=True,
                retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1.0},
            )
        except OperationalError as error:
            raise BrokerUnreachable from error

    return send
