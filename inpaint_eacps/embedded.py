"""A whole cluster on this machine for the length of one run: the same processes that a real cluster has."""

import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from inpaint_eacps.child import BROKER_VARIABLE, ChildPlan
from inpaint_eacps.supervisor import ChildSpec, Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.errors import DeviceError
from shared.ledger import Keys, Ledger
from shared.queues import device_name
from shared.settings import Settings

logger = logging.getLogger(__name__)


class EmbeddedCluster:
    """Valkey, an orchestrator, a score worker and device workers as children of this process.

    A context manager: everything is up (devices may still be loading) inside, and nothing is left afterwards, whether
    it is left normally, by an exception, or by the death of this process.
    """

    def __init__(
        self,
        settings: Settings,
        generator: str,
        devices: Sequence[str],
        workers: int = 1,
        *,
        folder: Path | None = None,
        score_threads: int = 16,
        extra_queues: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._folder = (folder or run_folder(settings)).absolute()
        self._devices = device_plans(settings, generator, devices, workers)
        self._score_threads, self._extra_queues = score_threads, tuple(extra_queues)
        self._env = dict(os.environ if env is None else env)
        self._brokers, self._supervisor = Supervisor(), Supervisor()
        self._valkey = EmbeddedValkey(self._folder / "valkey", self._brokers)
        self._ledger: Ledger | None = None

    @property
    def url(self) -> str:
        """The broker's URL, password included: not to be shown."""
        return self._valkey.url

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that live, by name (`orchestrator`, `score`, `device.<name>`, `valkey`)."""
        return {**self._brokers.pids(), **self._supervisor.pids()}

    def __enter__(self) -> "EmbeddedCluster":
        try:
            self._valkey.start()
            self._ledger = Ledger(self.url)
            # Devices first: loading takes longest.
            for plan in self._devices:
                self._start(f"device.{plan.device}", plan)
            self._start("orchestrator", ChildPlan(role="orchestrator", settings=self._settings))
            self._start(
                "score",
                ChildPlan(
                    role="score",
                    settings=self._settings,
                    concurrency=self._score_threads,
                    queues=("score", "prepare", *self._extra_queues),
                ),
            )
        except BaseException:
            self._down(grace=1.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._down(grace=5.0 if kind is None else 1.0)

    def check(self) -> None:
        """Raises DeviceError when no device is left that could do anything, with what the last one said."""
        ended = self._supervisor.ended()
        devices = [f"device.{plan.device}" for plan in self._devices]
        if self._ledger is None or not all(name in ended for name in devices):
            return
        reasons = list(dict.fromkeys(self._ledger.hgetall(Keys.refused).values()))
        log = self._folder / "logs" / f"{devices[0]}.log"
        raise DeviceError(" ".join(reasons) or f"No device worker could be started; see {log}.")

    def _start(self, name: str, plan: ChildPlan) -> None:
        file = self._folder / "plans" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = plan.model_dump(mode="json", exclude={"settings": {"broker"}})
        file.write_text(json.dumps(text, indent=1), encoding="utf-8")
        env = {**self._env, BROKER_VARIABLE: self.url}
        argv = [sys.executable, "-m", "inpaint_eacps.child", str(file)]
        self._supervisor.start(ChildSpec(name, argv, env, self._folder / "logs" / f"{name}.log"))

    def _down(self, grace: float) -> None:
        self._supervisor.stop(grace)
        self._brokers.stop(grace)
        # What outlives the run is on disk beside the results; the logs stay for whoever wants to know why.
        shutil.rmtree(self._folder / "valkey", ignore_errors=True)
        logger.info("everything is taken down", extra={"action": "cluster_down"})


def device_plans(settings: Settings, generator: str, devices: Sequence[str], workers: int) -> tuple[ChildPlan, ...]:
    """One plan per GPU, and `workers` plans for a CPU. `devices` are `cuda:N` (of the visible ones) or `cpu`."""
    host = socket.gethostname()
    plans: list[ChildPlan] = []
    for device in devices:
        on_gpu = device.startswith("cuda")
        for _ in range(1 if on_gpu else workers):
            plans.append(
                ChildPlan(
                    role="device",
                    settings=settings,
                    device=device_name(host, len(plans)),
                    torch_device="cuda" if on_gpu else "cpu",
                    visible_devices=_visible(device) if on_gpu else "",
                    generators=(generator, *settings.generation.also),
                    hardware=device,
                )
            )
    return tuple(plans)


def _visible(device: str) -> str:
    """CUDA_VISIBLE_DEVICES for one of the devices that are visible now."""
    index = int(device.partition(":")[2] or 0)
    allowed = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return allowed[index] if index < len(allowed) else str(index)


def run_folder(settings: Settings) -> Path:
    """Where an embedded cluster keeps its broker's data and the logs of its children."""
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{os.getpid()}"
    root = settings.publish.output_dir
    base = Path(tempfile.gettempdir()) / "inpaint-eacps" if "://" in root else Path(root) / "runs"
    return base / f"embedded-{name}"
