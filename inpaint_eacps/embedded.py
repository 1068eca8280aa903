"""A whole cluster on this machine for the length of one run: the same processes that a real cluster has."""

import glob
import json
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from inpaint_eacps.child import BROKER_VARIABLE, ChildPlan
from inpaint_eacps.supervisor import ChildSpec, Supervisor
from inpaint_eacps.valkey import EmbeddedValkey
from shared.errors import DeviceError, InpaintError
from shared.ledger import Keys, Ledger
from shared.settings import Settings

logger = logging.getLogger(__name__)


def run_folder_name() -> str:
    """When, where and by which process: a cache may be shared by several machines."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}.{socket.gethostname()}.{os.getpid()}"


def sweep(runs: Path) -> None:
    """Delete the broker's files of runs on this machine that were killed; their logs stay."""
    for folder in runs.glob(f"*.{glob.escape(socket.gethostname())}.*/valkey"):
        pid = folder.parent.name.rpartition(".")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


class EmbeddedCluster:
    """Valkey, an orchestrator, a score worker and device workers as children of this process.

    A context manager: everything is up (devices may still be loading) inside, and nothing is left afterwards, whether
    it is left normally, by an exception, or by the death of this process.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        devices: Sequence[ChildPlan],
        score_threads: int = 16,
        extra_queues: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._settings, self._folder, self._devices = settings, folder.absolute(), tuple(devices)
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
        """Raises DeviceError when no device is left that could do anything, with what the last one said; InpaintError
        when another part of the cluster was given up."""
        for name, code in {**self._brokers.ended(), **self._supervisor.ended()}.items():
            if not name.startswith("device."):
                log = self._folder / ("valkey/valkey.log" if name == "valkey" else f"logs/{name}.log")
                raise InpaintError(f"The {name} process ends again and again, lastly with status {code}; see {log}.")
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
