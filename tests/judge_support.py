"""What the tests of judges share: images to judge, settings, and contexts."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import redis
from PIL import Image, ImageDraw

from shared.settings import Settings
from shared.types import CRITERIA, Judgement
from workers.scoring.base import Preference, ScoreRequest
from workers.scoring.context import ScoringContext

KEY = "AIza-this-is-no-real-key-0123456789"

#: Quick enough for a test, in real seconds.
QUICK = {
    "limits": {"requests_per_minute": 100_000},
    "retry": {"timeout": 1.0, "max_attempts": 3, "backoff": 0.02, "backoff_max": 0.05, "patience": 20.0},
}


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A scene with some structure, H x W x 3 uint8."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(int(c) for c in random.integers(40, 200, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = (int(v) for v in random.integers(0, 90, 3))
        draw.ellipse((x, y, x + r // 2 + 4, y + r // 2 + 4), fill=tuple(int(c) for c in random.integers(0, 255, 3)))
    return np.asarray(image).copy()


def request(number: int = 0, name: str = "Mira", candidate: str = "g00") -> ScoreRequest:
    """A result to judge; another number is another result."""
    init = picture(1000)
    mask = np.zeros(init.shape[:2], np.uint8)
    mask[24:72, 40:88] = 255
    result = np.where(mask[..., None] > 0, picture(number), init).astype(np.uint8)
    character = np.dstack([picture(2000, 64, 64), np.full((64, 64), 255, np.uint8)])
    digest = hashlib.sha256(b"".join(a.tobytes() for a in (init, mask, character, result))).hexdigest()
    return ScoreRequest("run-1", "7", candidate, name, init, mask, character, result, digest)


def settings(url: str = "", judges: tuple[str, ...] = ("gemini",), **gemini: Any) -> Settings:
    """Settings of a run whose Gemini lives at `url`."""
    merged: dict[str, Any] = {"base_url": url or None, **QUICK}
    for name, value in gemini.items():
        inner = merged.get(name)
        merged[name] = {**inner, **value} if isinstance(value, dict) and isinstance(inner, dict) else value
    return Settings.model_validate({"scoring": {"judges": judges, "gemini": merged}})


def context(
    client: "redis.Redis | None" = None, env: Mapping[str, str] | None = None, run_id: str = "run-1", **more: Any
) -> ScoringContext:
    """A context with a key in the environment."""
    return ScoringContext(run_id, redis=client, env={"GEMINI_API_KEY": KEY} if env is None else env, **more)


class BrokenJudge:
    """A judge with a bug."""

    name = "broken"
    criteria = frozenset(CRITERIA)

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        del settings, context

    def cache_key(self) -> str:
        return "1"

    def load(self) -> None:
        """There is nothing to load."""

    def score(self, request: ScoreRequest) -> Judgement:
        raise KeyError("a bug")

    def compare(self, first: ScoreRequest, second: ScoreRequest) -> Preference:
        raise KeyError("a bug")


BROKEN = f"{__name__}:BrokenJudge"


class OlderMeasures:
    """Measures of the older objective, drawn from the image's hash."""

    name = "tests.judge_support:OlderMeasures"
    criteria = frozenset({"clip_text", "clip_image", "lpips"})

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        del settings, context

    def cache_key(self) -> str:
        return "1"

    def load(self) -> None:
        """There is nothing to load."""

    def score(self, request: ScoreRequest) -> Judgement:
        draw = np.random.default_rng(int(request.content_key[:12], 16))
        return Judgement(judge=self.name, measures={name: float(draw.uniform()) for name in sorted(self.criteria)})
