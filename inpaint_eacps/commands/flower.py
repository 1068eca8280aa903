"""`flower`: Flower for this cluster."""

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.cluster import cluster_url
from shared.errors import ConfigurationError, ExitCode, MissingDependency
from shared.settings import Settings
from shared.settings.broker import read_secret

_AUTH, _AUTH_FILE = "FLOWER_BASIC_AUTH", "FLOWER_BASIC_AUTH_FILE"
#: Candidates take seconds to minutes, and Flower's own buckets end at ten seconds. What restarts loses no history.
_DEFAULTS = {
    "FLOWER_TASK_RUNTIME_METRIC_BUCKETS": "1,5,15,30,60,120,300,600",
    "FLOWER_MAX_TASKS": "100000",
    "FLOWER_PERSISTENT": "true",
    "FLOWER_STATE_SAVE_INTERVAL": "30000",
    "FLOWER_PURGE_OFFLINE_WORKERS": "86400",
}


def flower(arguments: Arguments) -> ExitCode:
    """Become Flower. All it is told goes by the environment, so that `ps` shows neither broker nor password.

    Every option of Flower can be set as `FLOWER_<OPTION>`. Raises MissingDependency, ConfigurationError.
    """
    if find_spec("flower") is None:
        raise MissingDependency("Flower is not installed: pip install 'inpaint-eacps[flower]'.")
    settings = arguments.resolve().settings
    env = environment(settings, arguments.address, os.environ)
    check_free(arguments.address, arguments.port)
    Path(env["FLOWER_DB"]).parent.mkdir(parents=True, exist_ok=True)
    if not settings.dispatch.events:
        sys.stderr.write("Flower will show workers but no tasks: dispatch.events is off.\n")
    argv = [sys.executable, "-m", "celery", "flower", f"--port={arguments.port}", f"--address={arguments.address}"]
    sys.stderr.flush()
    os.execve(sys.executable, argv, env)  # noqa: S606


def check_free(address: str, port: int) -> None:
    """Raises ConfigurationError when Flower could not listen there: it would only say so in a traceback."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {address} port {port} ({error.strerror}): choose another with --port."
        ) from error


def environment(settings: Settings, address: str, env: Mapping[str, str]) -> dict[str, str]:
    """What Flower is told. Raises ConfigurationError when others could reach it without a password."""
    auth = env.get(_AUTH, "")
    if not auth and _AUTH_FILE in env:
        auth = read_secret(Path(env[_AUTH_FILE]), _AUTH_FILE)
    if auth and not all(":" in pair.strip(":") for pair in auth.split(",")):
        raise ConfigurationError(f"{_AUTH}: write it as user:password (several with commas between them).")
    if not (auth or env.get("FLOWER_AUTH") or _is_loopback(address)):
        raise ConfigurationError(
            f"--address {address or '(all)'} lets others in, and whoever is in can stop workers: set {_AUTH}="
            f"user:password or {_AUTH_FILE}, or listen on 127.0.0.1."
        )
    db = str(Path(settings.input.cache_dir) / "flower")
    given = {name: value for name, value in env.items() if name != _AUTH_FILE}
    told = {"CELERY_BROKER_URL": cluster_url(settings), **({_AUTH: auth} if auth else {})}
    return {**_DEFAULTS, "FLOWER_DB": db, **given, **told}


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
