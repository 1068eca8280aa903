"""A generator and a judge that sleep: what is left when they are taken away is the queue.

Named by their dotted path (`benchmarks.simulated:SleepingGenerator`), as anybody's own generator would be. Times and
faults come from the environment, which child processes inherit.
"""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from shared.errors import Retryable
from shared.settings import Settings
from shared.types import CRITERIA, Judgement
from workers.generation.base import Control, GeneratedImage, GenerationRequest
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext

GENERATE_SECONDS, JUDGE_SECONDS = "SIMULATED_GENERATE_SECONDS", "SIMULATED_JUDGE_SECONDS"
#: Candidate id that kills every process which tries to make it.
POISON = "SIMULATED_POISON"
#: Folder into which each start of a generation drops a file, so that a test can count them and name the process.
TRACE = "SIMULATED_TRACE"
#: What the generator says its version is.
VERSION = "SIMULATED_VERSION"
#: Share of judgements that fail, 0 to 1, drawn from the image's hash.
JUDGE_FAILURES = "SIMULATED_JUDGE_FAILURES"
_STEPS = 10


class SleepingGenerator:
    """Sleeps in ten steps, then fills the mask with noise of the seed."""

    name = "benchmarks.simulated:SleepingGenerator"

    def __init__(self, settings: Settings, device: str) -> None:
        del settings, device
        self._seconds = float(os.environ.get(GENERATE_SECONDS, "0.05"))

    def fingerprint(self) -> Mapping[str, JsonValue]:
        """Its version, which a test may raise."""
        return {"version": os.environ.get(VERSION, "1")}

    def load(self) -> None:
        """There is nothing to load."""

    def generate(self, request: GenerationRequest, control: Control) -> GeneratedImage:
        """Sleep, and draw."""
        spec = request.spec
        if trace := os.environ.get(TRACE):
            name = f"{request.images.task_id}.{spec.id}.{os.getpid()}.{time.monotonic_ns()}"
            (Path(trace) / name).write_text(str(os.getppid()))
        if os.environ.get(POISON) == spec.id:
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + self._seconds
        for step in range(_STEPS):
            control.step(step, _STEPS)
            time.sleep(max(0.0, (end - time.monotonic()) / (_STEPS - step)))
        inside = request.images.mask > 0
        image = request.images.init.copy()
        noise = np.random.default_rng(spec.seed).integers(0, 256, (int(inside.sum()), 3), dtype=np.uint8)
        image[inside] = noise
        return GeneratedImage(image=image, params={"seed": spec.seed})


class SleepingScorer:
    """Sleeps, then gives scores drawn from the image's hash: the same image, the same scores."""

    name = "benchmarks.simulated:SleepingScorer"
    criteria = frozenset(CRITERIA)

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        del settings, context
        self._seconds = float(os.environ.get(JUDGE_SECONDS, "0"))
        self._failures = float(os.environ.get(JUDGE_FAILURES, "0"))

    def cache_key(self) -> str:
        """It has no settings."""
        return "1"

    def load(self) -> None:
        """There is nothing to load."""

    def score(self, request: ScoreRequest) -> Judgement:
        """Sleep, and draw."""
        time.sleep(self._seconds)
        draw = np.random.default_rng(int(request.content_key[:12], 16))
        if draw.random() < self._failures:
            raise Retryable("the simulated judge failed, as it was asked to")
        return Judgement(judge=self.name, scores=drawn_scores(request.content_key), words="drawn from the image's hash")


def drawn_scores(content_key: str) -> dict[str, float]:
    """What `SleepingScorer` says of an image, so that a test can tell a score that was made up."""
    draw = np.random.default_rng([1, int(content_key[:12], 16)])
    return {name: round(float(draw.uniform(0, 10)), 3) for name in CRITERIA}
