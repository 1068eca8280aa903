"""What a supervised child process runs: one role of the cluster, told by a file, with secrets in the environment.

`python -m inpaint_eacps.child PLAN.json`
"""

import logging
import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from shared.errors import ConfigurationError, ExitCode, InpaintError
from shared.logs import set_up_logging
from shared.settings import Settings
from shared.settings.fields import ENV_PREFIX
from shared.types import Frozen

logger = logging.getLogger(__name__)

BROKER_VARIABLE = f"{ENV_PREFIX}BROKER__URL"


class ChildPlan(Frozen):
    """One role and its settings. Holds no secret."""

    role: Literal["orchestrator", "score", "device"]
    settings: Settings
    concurrency: int = 2
    queues: tuple[str, ...] = ()
    device: str = ""
    torch_device: str = "cpu"
    #: Value for CUDA_VISIBLE_DEVICES, set before anything could import torch; `None` leaves it alone.
    visible_devices: str | None = None
    generators: tuple[str, ...] = ()
    hardware: str = "cpu"


def perform(plan: ChildPlan, url: str) -> None:
    """Play the role until SIGTERM."""
    match plan.role:
        case "orchestrator":
            from orchestrator.service import serve as orchestrate

            orchestrate(url, plan.settings, plan.concurrency)
        case "score":
            from workers.score import serve as score

            score(url, plan.settings, plan.queues, plan.concurrency)
        case "device":
            if plan.visible_devices is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = plan.visible_devices
            from workers.device import DevicePlan
            from workers.device import serve as generate

            generate(url, plan.settings, DevicePlan(plan.device, plan.torch_device, plan.generators, plan.hardware))


def main(argv: list[str]) -> int:
    """Read the plan and play the role. Returns an exit code."""
    set_up_logging(verbosity=1, as_json=True)
    try:
        plan = ChildPlan.model_validate_json(Path(argv[1]).read_text(encoding="utf-8"))
        url = os.environ.get(BROKER_VARIABLE)
        if not url:
            raise ConfigurationError(f"{BROKER_VARIABLE} is not set.")
        perform(plan, url)
    except ValidationError as error:
        logger.critical("%s is no plan: %s", argv[1], error, extra={"action": "child_refused"})
        return ExitCode.USAGE
    except InpaintError as error:
        logger.critical("%s", error, extra={"action": "child_refused"})
        return error.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.SOME_FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv))
