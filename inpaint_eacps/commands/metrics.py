"""`metrics`: this cluster's numbers for Prometheus."""

import logging
import signal
import threading
from importlib.util import find_spec
from types import FrameType

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.cluster import cluster_url
from shared.errors import ConfigurationError, ExitCode, MissingDependency
from shared.ledger import Ledger
from shared.logs import set_up_logging

logger = logging.getLogger(__name__)


def metrics(arguments: Arguments) -> ExitCode:
    """Serve `/metrics` until SIGTERM. Raises MissingDependency, BrokerUnreachable, ConfigurationError."""
    if find_spec("prometheus_client") is None:
        raise MissingDependency("prometheus-client is not installed: pip install 'inpaint-eacps[metrics]'.")
    from prometheus_client import CollectorRegistry, start_http_server

    from orchestrator.exporter import LedgerCollector

    ledger = Ledger(cluster_url(arguments.resolve().settings))
    ledger.ping()
    set_up_logging(-1 if arguments.quiet else max(1, arguments.verbose))
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    registry = CollectorRegistry()
    registry.register(LedgerCollector(ledger))
    try:
        server, thread = start_http_server(arguments.port, arguments.address, registry)
    except OSError as error:
        place = f"{arguments.address} port {arguments.port}"
        raise ConfigurationError(f"Cannot listen on {place} ({error.strerror}): choose another with --port.") from error
    logger.info("metrics at http://%s:%d/metrics", *server.server_address[:2], extra={"action": "metrics_ready"})
    stop.wait()
    server.shutdown()
    server.server_close()
    thread.join()
    return ExitCode.OK
