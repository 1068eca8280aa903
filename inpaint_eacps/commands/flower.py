"""`flower`: Flower for this cluster."""

import os
import sys
from importlib.util import find_spec

from inpaint_eacps.arguments import Arguments
from inpaint_eacps.cluster import cluster_url
from shared.errors import ExitCode, MissingDependency

#: Candidates take seconds to minutes; Flower's own buckets end at ten seconds.
_BUCKETS = "1,2,5,10,20,30,60,120,300,600,1800"


def flower(arguments: Arguments) -> ExitCode:
    """Become Flower. The broker's URL goes by the environment, so that `ps` shows no password.

    Every option of Flower can be set as `FLOWER_<OPTION>`. Raises MissingDependency.
    """
    if find_spec("flower") is None:
        raise MissingDependency("Flower is not installed: pip install 'inpaint-eacps[flower]'.")
    env = {**os.environ, "CELERY_BROKER_URL": cluster_url(arguments.resolve().settings)}
    argv = [sys.executable, "-m", "celery", "flower", f"--port={arguments.port}", f"--address={arguments.address}"]
    argv.append(f"--task_runtime_metric_buckets={_BUCKETS}")
    sys.stderr.flush()
    os.execve(sys.executable, argv, env)  # noqa: S606
