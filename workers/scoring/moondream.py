"""The judge `moondream`: a small vision-language model, here or behind HTTP, asked one number at a time."""

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
from PIL import Image
from pydantic import SecretStr

from shared.errors import ConfigurationError, DeviceError, MissingDependency
from shared.settings import Settings
from shared.settings.judges import MoondreamSettings
from shared.types import CONSISTENCY, CRITERIA, IDENTITY, QUALITY, Judgement, Usage
from workers.scoring.admission import Admission, identity
from workers.scoring.base import ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.failures import JudgeStopped, JudgeUnavailable, Refused, Throttled, Unreachable
from workers.scoring.keys import key_from_file
from workers.scoring.panels import crop, jpeg, side_by_side
from workers.scoring.remote import Call, Remote, add

PROMPT_VERSION = "1"

_RATE = "Answer with one number from 0 to 10 and nothing else."
QUESTIONS: Mapping[str, str] = {
    IDENTITY: "The image shows two pictures side by side. Is the person or character on the right the same as the one "
    f"on the left? Rate it from 0 (someone else, or nobody) to 10 (certainly the same). {_RATE}",
    QUALITY: "Rate the technical quality of this picture from 0 (broken: deformed, smeared, artefacts) to 10 "
    f"(flawless). {_RATE}",
    CONSISTENCY: "A part of this picture was replaced. Rate how well light, colour, scale and perspective of all its "
    f"parts fit together, from 0 (pasted on) to 10 (nothing looks replaced). {_RATE}",
}

_OF_TEN = re.compile(r"(?:\s*/\s*|\s+out\s+of\s+)(?:10|ten)(?:\.0)?\b", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")
_TOKENS = 1000
_NEEDS = "scoring.moondream.mode local needs torch and transformers 4: pip install 'inpaint-eacps[moondream]'."


class Asker(Protocol):
    """Answers one question about one image. Safe to use from many threads."""

    def ask(self, image: Image.Image, question: str) -> str:
        """Raises Throttled, Unreachable or Refused."""

    def close(self) -> None:
        """Let go of connections and memory."""


@dataclass(frozen=True)
class _Loaded:
    asker: Asker
    #: Nothing to admit or retry for a model that runs here.
    remote: Remote | None


def rating(answer: str) -> float | str:
    """The number from 0 to 10 in an answer, or why there is none: nothing is guessed."""
    numbers = _NUMBER.findall(_OF_TEN.sub("", answer))
    shown = " ".join(answer.split())[:80]
    if not numbers:
        return f"its answer holds no number: {shown!r}"
    if len(numbers) > 1:
        return f"its answer holds more than one number: {shown!r}"
    value = float(numbers[0].replace(",", "."))
    return value if 0 <= value <= 10 else f"its answer is not between 0 and 10: {shown!r}"


class MoondreamScorer:
    """Three questions to Moondream, each about one image; identity on a picture of character and crop side by side.

    With `verify_below`, an identity under it marks the candidate (`measures["identity_unverified"]`) and caps it.
    """

    name = "moondream"
    criteria = frozenset(CRITERIA)

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        self._settings, self._context = settings.scoring.moondream, context
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def cache_key(self) -> str:
        """Hash over questions, model and the settings that change an answer."""
        names = {"mode", "base_url", "model", "revision", "max_side", "verify_below", "verified_cap"}
        parts = {"prompt": PROMPT_VERSION, **self._settings.model_dump(mode="json", include=names)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        """Load the model, or make the client (which calls nobody).

        Raises MissingDependency, ConfigurationError or DeviceError.
        """
        with self._lock:
            if self._loaded is None:
                settings = self._settings
                if settings.mode == "local":
                    self._loaded = _Loaded(local_asker(settings.model, settings.revision, settings.device), None)
                else:
                    self._loaded = self._http()

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            if self._loaded is not None:
                self._loaded.asker.close()
                self._loaded = None

    def score(self, request: ScoreRequest) -> Judgement:
        """Judge one result; a criterion whose answer holds no number from 0 to 10 is missing."""
        return self._judged(request, CRITERIA)

    def identity_of(self, request: ScoreRequest) -> Judgement:
        """Judge identity alone: one question instead of three."""
        return self._judged(request, (IDENTITY,))

    def _judged(self, request: ScoreRequest, criteria: tuple[str, ...]) -> Judgement:
        self.load()
        assert self._loaded is not None
        deadline = time.monotonic() + self._settings.retry.patience
        scores: dict[str, float] = {}
        missing: dict[str, str] = {}
        words: list[str] = []
        usage, seconds = Usage(), 0.0
        for criterion in criteria:
            image = self._image(request, criterion)
            try:
                answer, cost, took = self._ask(self._loaded, image, QUESTIONS[criterion], deadline)
            except (JudgeUnavailable, JudgeStopped) as error:
                raise type(error)(str(error), add(usage, error.usage)) from error
            usage, seconds = add(usage, cost), seconds + took
            words.append(f"{criterion}: {' '.join(answer.split())[:500]}")
            value = rating(answer)
            if isinstance(value, float):
                scores[criterion] = value
            else:
                missing[criterion] = value
        marked, measures = self._verified(scores)
        return Judgement(
            judge=self.name,
            model=self._settings.model if self._settings.mode == "local" else None,
            scores=marked,
            missing=missing,
            measures=measures,
            words="\n".join(words),
            seconds=seconds,
            usage=usage,
        )

    def _verified(self, scores: Mapping[str, float]) -> tuple[Mapping[str, float], Mapping[str, float]]:
        least = self._settings.verify_below
        if least is None or IDENTITY not in scores or scores[IDENTITY] >= least:
            return scores, {}
        capped = min(scores[IDENTITY], self._settings.verified_cap)
        return {**scores, IDENTITY: capped}, {"identity_unverified": scores[IDENTITY]}

    def _image(self, request: ScoreRequest, criterion: str) -> Image.Image:
        side = self._settings.max_side
        region = crop(request.result, request.mask)
        if criterion == IDENTITY:
            return side_by_side(request.character, region, side // 2)
        shown = region if criterion == QUALITY else request.result
        return _open(jpeg(shown, side, enlarge=criterion == QUALITY))

    def _ask(self, loaded: _Loaded, image: Image.Image, question: str, deadline: float) -> tuple[str, Usage, float]:
        if loaded.remote is None:
            began = time.monotonic()
            return loaded.asker.ask(image, question), Usage(calls=1), time.monotonic() - began
        call = Call(lambda: loaded.asker.ask(image, question), _TOKENS, 0.0, lambda _: Usage())
        answered = loaded.remote.call(call, deadline)
        return answered.answer, answered.usage, answered.seconds

    def _http(self) -> _Loaded:
        settings = self._settings
        if self._context.redis is None:
            raise ConfigurationError("The judge moondream needs Redis, where its rate limit is kept.")
        key = self._key()
        service = identity(settings.base_url, key.get_secret_value() if key else None)
        admission = Admission(
            self._context.redis, self.name, service, self._context.run_id, settings.limits, settings.budget
        )
        return _Loaded(HttpAsker(settings, key), Remote(self.name, admission, settings.retry, settings.limits.slack))

    def _key(self) -> SecretStr | None:
        if self._settings.api_key_file:
            return key_from_file(self._settings.api_key_file, "scoring.moondream.api_key_file")
        key = self._context.env.get("MOONDREAM_API_KEY", "").strip()
        if not key and "api.moondream.ai" in self._settings.base_url:
            raise ConfigurationError(
                "The judge moondream needs a key for api.moondream.ai: set MOONDREAM_API_KEY or "
                "scoring.moondream.api_key_file, or name another server in scoring.moondream.base_url."
            )
        return SecretStr(key) if key else None


class HttpAsker:
    """Moondream's HTTP format (`POST <base>/query`), as its cloud and Moondream Station speak it."""

    def __init__(self, settings: MoondreamSettings, key: SecretStr | None) -> None:
        import httpx

        self._url = settings.base_url.rstrip("/") + "/query"
        self._secret = key.get_secret_value() if key else ""
        headers = {"X-Moondream-Auth": self._secret} if self._secret else {}
        self._client = httpx.Client(timeout=settings.retry.timeout, headers=headers, follow_redirects=False)

    def close(self) -> None:
        self._client.close()

    def ask(self, image: Image.Image, question: str) -> str:
        import httpx

        encoded = base64.b64encode(jpeg(np.asarray(image), max(image.size))).decode()
        body = {"image_url": f"data:image/jpeg;base64,{encoded}", "question": question, "stream": False}
        try:
            reply = self._client.post(self._url, json=body)
        except httpx.HTTPError as error:
            never_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            raise Unreachable(f"{type(error).__name__}: {self._clean(str(error))}", not never_sent) from error
        if reply.status_code == 200:
            return self._answer(reply)
        words = f"HTTP {reply.status_code}: {self._clean(reply.text)}"
        if reply.status_code == 429:
            after = reply.headers.get("Retry-After", "")
            raise Throttled(words, float(after) if after.isdigit() else None)
        if reply.status_code == 408 or reply.status_code >= 500:
            raise Unreachable(words)
        raise Refused(f"{words} Check scoring.moondream.base_url and the key.")

    def _answer(self, reply: Any) -> str:
        try:
            answer = reply.json()["answer"]
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable("The service's answer cannot be read.", billed=True) from error
        if not isinstance(answer, str):
            raise Unreachable("The service's answer is no text.", billed=True)
        return answer

    def _clean(self, message: str) -> str:
        hidden = message.replace(self._secret, "…") if self._secret else message
        return " ".join(hidden.split())[:400]


class LocalAsker:
    """The model itself, through transformers and the code that comes with its weights (which needs transformers 4)."""

    def __init__(self, name: str, revision: str, device: str) -> None:
        try:
            major = int(version("transformers").split(".")[0])
        except PackageNotFoundError as error:
            raise MissingDependency(_NEEDS) from error
        if major >= 5:
            raise MissingDependency(
                "scoring.moondream.mode local needs transformers 4.x (under 5 the model's own code loads garbage): run "
                "its score worker in an environment of its own with inpaint-eacps[moondream], or use mode http."
            )
        try:
            import torch
            import transformers
        except ImportError as error:
            raise MissingDependency(_NEEDS) from error
        try:
            self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                name,
                revision=revision,
                trust_remote_code=True,
                torch_dtype=torch.float32 if device == "cpu" else torch.bfloat16,
            ).to(device)
        except ImportError as error:
            raise MissingDependency(f"{_NEEDS[:-1]} ({error}).") from error
        except OSError as error:
            raise ConfigurationError(f"scoring.moondream.model {name} cannot be loaded: {error}") from error
        except RuntimeError as error:
            raise DeviceError(f"scoring.moondream.device {device} cannot hold the model: {error}") from error
        self._lock = threading.Lock()

    def close(self) -> None:
        """The model stays for other runs."""

    def ask(self, image: Image.Image, question: str) -> str:
        with self._lock:
            return str(self._model.query(image, question)["answer"])


@lru_cache(maxsize=1)
def local_asker(name: str, revision: str, device: str) -> LocalAsker:
    """The model, once for all runs that a worker serves. Raises as `LocalAsker` does."""
    return LocalAsker(name, revision, device)


def _open(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")
