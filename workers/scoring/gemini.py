"""The judge `gemini`: a large vision-language model behind Google's API."""

import hashlib
import json
import logging
import statistics
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.types import CRITERIA, Judgement, Usage
from workers.scoring.admission import Admission, identity
from workers.scoring.base import Preference, ScoreRequest
from workers.scoring.context import ScoringContext
from workers.scoring.failures import JudgeStopped, JudgeUnavailable
from workers.scoring.keys import api_key
from workers.scoring.prices import Price, price_of
from workers.scoring.prompt import PROMPT_VERSION, Choice, Unreadable, Verdict, compare_question, read, score_question
from workers.scoring.remote import Call, Remote, add
from workers.scoring.transport import Answer, Question, Transport, make_transport

_log = logging.getLogger(__name__)

#: Settings that change an answer.
_SHAPES_ANSWERS = (
    "sdk", "model", "base_url", "samples", "thinking_level", "media_resolution", "max_output_tokens", "max_side",
)  # fmt: skip
_WHOLE = "STOP"
_ASKS = 2
_WORDS = 4000

_Reply = TypeVar("_Reply", Verdict, Choice)


@dataclass(frozen=True)
class _Sample(Generic[_Reply]):
    """One readable answer, or why there is none, and what it took."""

    reply: _Reply | None
    reason: str
    usage: Usage
    seconds: float
    model: str | None


class GeminiScorer:
    """Asks Gemini for the three scores of a result, and which of two results is better.

    Needs Redis (limits and budget hold for all processes) and an API key. `score` and `compare` raise JudgeUnavailable
    (Retryable), JudgeStopped or BudgetSpent (Permanent), and BrokerUnreachable.
    """

    name = "gemini"
    criteria = frozenset(CRITERIA)

    def __init__(self, settings: Settings, context: ScoringContext) -> None:
        self._settings, self._context = settings.scoring.gemini, context
        self._lock = threading.Lock()
        self._loaded: tuple[Transport, Remote, Price | None] | None = None

    def cache_key(self) -> str:
        """Hash over prompt version, model and all settings that change an answer."""
        parts = {"prompt": PROMPT_VERSION, **self._settings.model_dump(mode="json", include=set(_SHAPES_ANSWERS))}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def load(self) -> None:
        """Read the key and make the client. Raises ConfigurationError or MissingDependency; calls nobody."""
        with self._lock:
            if self._loaded is not None:
                return
            settings = self._settings
            if self._context.redis is None:
                raise ConfigurationError("The judge gemini needs Redis, where its rate limit and budget are kept.")
            tokens = settings.limits.tokens_per_minute
            if tokens is not None and tokens < 6 * settings.image_tokens:
                raise ConfigurationError(
                    f"scoring.gemini.limits.tokens_per_minute ({tokens}) does not reach for one call; "
                    f"it needs about {8 * settings.image_tokens}."
                )
            price = price_of(settings, datetime.now(UTC).date())
            if price is None and settings.budget.max_cost is not None:
                raise ConfigurationError(
                    f"scoring.gemini.budget.max_cost needs the price of {settings.model}, which is not listed here: "
                    "set scoring.gemini.price_input and price_output (US dollars per million tokens)."
                )
            key = api_key(settings, self._context.env)
            service = identity(settings.base_url, settings.model, key.get_secret_value())
            admission = Admission(
                self._context.redis, self.name, service, self._context.run_id, settings.limits, settings.budget
            )
            remote = Remote(self.name, admission, settings.retry, settings.limits.slack)
            self._loaded = (make_transport(settings, key), remote, price)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._loaded is not None:
                self._loaded[0].close()
                self._loaded = None

    def score(self, request: ScoreRequest) -> Judgement:
        """Judge one result: the mean of `samples` answers, with their spread in `measures`.

        An answer that breaks the schema, is refused or is cut off is asked for once more. Samples that stay unusable
        are left out of the mean; when all are, every criterion is missing with the reason of the last.
        """
        question = score_question(request, self._settings.max_side)
        deadline = time.monotonic() + self._settings.retry.patience
        samples: list[_Sample[Verdict]] = []
        usage = Usage()
        for _ in range(self._settings.samples):
            try:
                sample = self._sample(question, Verdict, deadline)
            except (JudgeUnavailable, JudgeStopped) as error:
                usage = add(usage, error.usage)
                if any(known.reply for known in samples):
                    break
                raise type(error)(str(error), usage) from error
            usage = add(usage, sample.usage)
            samples.append(sample)
        return self._judgement(samples, usage)

    def compare(self, first: ScoreRequest, second: ScoreRequest) -> Preference:
        """Which of two results of the same task is better, shown in this order."""
        question = compare_question(first, second, self._settings.max_side)
        sample = self._sample(question, Choice, time.monotonic() + self._settings.retry.patience)
        if sample.reply is None:
            return Preference(None, sample.reason, sample.seconds, sample.usage)
        value = {"A": 1, "B": -1, "tie": 0}[sample.reply.better]
        return Preference(value, sample.reply.observations[:_WORDS], sample.seconds, sample.usage)  # type: ignore[arg-type]

    def _judgement(self, samples: list[_Sample[Verdict]], usage: Usage) -> Judgement:
        verdicts = [sample.reply for sample in samples if sample.reply is not None]
        model = next((sample.model for sample in samples if sample.model), self._settings.model)
        seconds = sum(sample.seconds for sample in samples)
        if not verdicts:
            reason = samples[-1].reason
            missing = dict.fromkeys(CRITERIA, reason)
            return Judgement(judge=self.name, model=model, missing=missing, seconds=seconds, usage=usage)
        by_criterion = {name: [float(getattr(verdict, name)) for verdict in verdicts] for name in CRITERIA}
        measures = {"samples": float(len(verdicts))}
        if len(verdicts) > 1:
            measures |= {f"{name}_spread": statistics.stdev(values) for name, values in by_criterion.items()}
        return Judgement(
            judge=self.name,
            model=model,
            scores={name: statistics.fmean(values) for name, values in by_criterion.items()},
            measures=measures,
            words="\n\n".join(verdict.observations for verdict in verdicts)[:_WORDS],
            seconds=seconds,
            usage=usage,
        )

    def _sample(self, question: Question, kind: type[_Reply], deadline: float) -> _Sample[_Reply]:
        transport, remote, price = self._ready()
        call = self._call(transport, question, price)
        usage, seconds, reason, model = Usage(), 0.0, "", None
        for _ in range(_ASKS):
            try:
                answered = remote.call(call, deadline)
            except (JudgeUnavailable, JudgeStopped) as error:
                raise type(error)(str(error), add(usage, error.usage)) from error
            usage, seconds = add(usage, answered.usage), seconds + answered.seconds
            model = answered.answer.model or model
            try:
                return _Sample(_usable(answered.answer, kind), "", usage, seconds, model)
            except Unreadable as error:
                reason = f"the answer could not be used, also when asked for once more: {error}"
                _log.info("An answer of %s could not be used: %s", self.name, error, extra={"action": "judge.unusable"})
        return _Sample(None, reason, usage, seconds, model)

    def _call(self, transport: Transport, question: Question, price: Price | None) -> Call[Answer]:
        texts = [question.instructions, json.dumps(question.schema), *(p for p in question.parts if isinstance(p, str))]
        images = sum(isinstance(part, bytes) for part in question.parts)
        tokens = images * self._settings.image_tokens + sum(len(text.encode()) for text in texts) // 2

        def usage_of(answer: Answer) -> Usage:
            cost = price.of(answer.input_tokens, answer.output_tokens) if price else 0.0
            return Usage(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens, cost_usd=cost)

        most = price.of(tokens, self._settings.max_output_tokens) if price else 0.0
        return Call(lambda: transport.ask(question), tokens, most, usage_of)

    def _ready(self) -> tuple[Transport, Remote, Price | None]:
        self.load()
        assert self._loaded is not None
        return self._loaded


def _usable(answer: Answer, kind: type[_Reply]) -> _Reply:
    """Raises Unreadable for an answer that was refused, cut off, or breaks the schema."""
    if answer.ended == "MAX_TOKENS":
        raise Unreadable("it was cut off (scoring.gemini.max_output_tokens)")
    if answer.ended != _WHOLE:
        raise Unreadable(f"it was refused: {answer.ended}")
    return read(answer.text, kind)
