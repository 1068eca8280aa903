"""Child processes that are started again when they die, and that never outlive this one."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from shared.errors import ExitCode
from shared.lifeline import die_with_parent

logger = logging.getLogger(__name__)

#: Exit codes after which starting again would only fail again.
_FINAL = frozenset({ExitCode.OK, ExitCode.USAGE, ExitCode.DEVICE})
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
#: A child that lived so long has not failed to start: the next wait is short again.
_HEALTHY_AFTER = 30.0
#: Deaths in a row, none of them after a healthy life, after which it is given up.
_MOST_DEATHS = 6


@dataclass(frozen=True)
class ChildSpec:
    """What to run. `env` is the whole environment; secrets go there and never into `argv`."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    log: Path


@dataclass
class _Child:
    spec: ChildSpec
    process: "subprocess.Popen[bytes]"
    started: float
    wait: float = _FIRST_WAIT
    deaths: int = 0
    again_at: float | None = None
    ended_with: int | None = None


class Supervisor:
    """Starts children, looks after them in a thread, and takes them all down."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self, spec: ChildSpec) -> int:
        """Start a child. Returns its process id."""
        with self._lock:
            child = _Child(spec, _spawn(spec), time.monotonic())
            self._children[spec.name] = child
        if not self._thread.is_alive():
            self._thread.start()
        return child.process.pid

    def ended(self) -> dict[str, int]:
        """Children that ended for good, with their exit codes."""
        with self._lock:
            return {name: child.ended_with for name, child in self._children.items() if child.ended_with is not None}

    def pids(self) -> dict[str, int]:
        """Process ids of living children."""
        with self._lock:
            return {name: child.process.pid for name, child in self._children.items() if child.process.poll() is None}

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM to all, the last one started first; SIGKILL to what is left after `grace` seconds."""
        self._stop.set()
        with self._lock:
            children = list(self._children.values())[::-1]
        for child in children:
            _signal(child.process, signal.SIGTERM)
        deadline = time.monotonic() + grace
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.info("%s is killed", child.spec.name, extra={"action": "child_killed", "child": child.spec.name})
        for child in children:
            # The whole group: a killed Celery worker leaves its own child behind otherwise.
            _signal(child.process, signal.SIGKILL)
            child.process.wait()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            with self._lock:
                for child in self._children.values():
                    self._look_after(child)

    def _look_after(self, child: _Child) -> None:
        code, now = child.process.poll(), time.monotonic()
        if code is None or child.ended_with is not None:
            return
        if child.again_at is None:
            _signal(child.process, signal.SIGKILL)
            healthy = now - child.started > _HEALTHY_AFTER
            child.deaths = 1 if healthy else child.deaths + 1
            if code in _FINAL or child.deaths >= _MOST_DEATHS:
                child.ended_with = code
                logger.log(
                    logging.INFO if code == ExitCode.OK else logging.ERROR,
                    "%s ended with status %d and is not started again (its log: %s)",
                    child.spec.name,
                    code,
                    child.spec.log,
                    extra={"action": "child_ended", "child": child.spec.name, "status": code},
                )
                return
            if healthy:
                child.wait = _FIRST_WAIT
            child.again_at = now + child.wait
            logger.warning(
                "%s ended with status %d and is started again in %.1f s (its log: %s)",
                child.spec.name,
                code,
                child.wait,
                child.spec.log,
                extra={"action": "child_died", "child": child.spec.name, "status": code},
            )
            child.wait = min(2 * child.wait, _LONGEST_WAIT)
        elif now >= child.again_at:
            child.process, child.started, child.again_at = _spawn(child.spec), now, None


def _spawn(spec: ChildSpec) -> "subprocess.Popen[bytes]":
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with spec.log.open("ab") as log:
        # Its own session: Ctrl-C reaches only us, and we take the children down in order.
        return subprocess.Popen(
            list(spec.argv),
            env=dict(spec.env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 (one prctl call, and no lock is taken)
        )


def _signal(process: "subprocess.Popen[bytes]", sig: signal.Signals) -> None:
    try:
        os.killpg(process.pid, sig)
    except ProcessLookupError:
        return
