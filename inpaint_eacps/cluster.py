"""The broker of a cluster, for commands that need one."""

from orchestrator.client import Client
from shared.errors import ConfigurationError
from shared.settings import Settings


def cluster_url(settings: Settings) -> str:
    """The broker's URL. Raises ConfigurationError when none is set: only `run` brings its own."""
    url = settings.broker.connection_url()
    if url is None:
        raise ConfigurationError(
            "This command needs a cluster's broker: set INPAINT_EACPS_BROKER__URL, or give --broker-url. "
            "Without a cluster, `inpaint-eacps run` brings all it needs."
        )
    return url


def connect(settings: Settings) -> Client:
    """A client whose broker answers. Raises ConfigurationError or BrokerUnreachable."""
    client = Client(cluster_url(settings), settings)
    client.ping()
    return client
