"""Having one result judged: gates, cache, judge, and an honest account of failure."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal

from shared.errors import BrokerUnreachable, Permanent, Retryable
from shared.types import Judgement
from workers.scoring.base import Comparer, Preference, Scorer, ScoreRequest
from workers.scoring.cache import JudgementCache
from workers.scoring.failures import JudgeStopped, usage_of

_log = logging.getLogger(__name__)

#: The name under which the free checks judge.
GATE = "gate"
_VALUES: Mapping[float, Literal[-1, 0, 1]] = {-1.0: -1, 0.0: 0, 1.0: 1}
#: Says why a result must not be judged, or nothing.
Gates = Callable[[ScoreRequest], str | None]


def judge_one(
    scorer: Scorer, request: ScoreRequest, cache: JudgementCache | None = None, gates: Gates | None = None
) -> Judgement:
    """Judge one result; whatever goes wrong with the judge becomes a missing criterion with its reason.

    A result that a gate sorts out costs no call: its judgement is by `gate`. A judgement in the cache costs nothing
    either; only whole ones (nothing missing) are put there.

    Raises BrokerUnreachable when Redis does not answer: that says nothing about the judge.
    """
    if gates is not None and (reason := gates(request)):
        return Judgement(judge=GATE, missing=dict.fromkeys(sorted(scorer.criteria), reason))
    if cache is None:
        return _judged(scorer, request)
    key = cache.key(scorer.name, scorer.cache_key(), request)
    with cache.only_one(key):
        if known := cache.get(key):
            return known
        judgement = _judged(scorer, request)
        if not judgement.missing:
            cache.put(key, judgement)
        return judgement


def compare_two(
    comparer: Comparer, first: ScoreRequest, second: ScoreRequest, cache: JudgementCache | None = None
) -> Preference:
    """Ask which of two results is better, shown in this order; a failure of the judge is a preference of `None`.

    Raises BrokerUnreachable when Redis does not answer.
    """
    if cache is None:
        return _compared(comparer, first, second)
    key = cache.key(f"{comparer.name}/compare", comparer.cache_key(), first, second)
    with cache.only_one(key):
        if (known := cache.get(key)) is not None:
            return Preference(_VALUES[known.measures["preference"]], known.words, cached=True)
        preference = _compared(comparer, first, second)
        if preference.value is not None:
            kept = Judgement(judge=comparer.name, measures={"preference": preference.value}, words=preference.words)
            cache.put(key, kept)
        return preference


def _compared(comparer: Comparer, first: ScoreRequest, second: ScoreRequest) -> Preference:
    began = time.monotonic()
    try:
        return comparer.compare(first, second)
    except BrokerUnreachable:
        raise
    except (Retryable, Permanent) as error:
        _log.warning(
            "%s could not compare: %s", comparer.name, error, extra={"action": "judge.failed", "judge": comparer.name}
        )
        return Preference(None, str(error), time.monotonic() - began, usage_of(error))


def _judged(scorer: Scorer, request: ScoreRequest) -> Judgement:
    began = time.monotonic()
    try:
        return scorer.score(request)
    except BrokerUnreachable:
        raise
    except (Retryable, Permanent) as error:
        level = logging.DEBUG if isinstance(error, JudgeStopped) else logging.WARNING
        _log.log(
            level, "%s could not judge %s of task %s: %s", scorer.name, request.candidate_id, request.task_id, error,
            extra={"action": "judge.failed", "judge": scorer.name, "task": request.task_id},
        )  # fmt: skip
        return Judgement(
            judge=scorer.name,
            missing=dict.fromkeys(sorted(scorer.criteria), str(error)),
            seconds=time.monotonic() - began,
            usage=usage_of(error),
        )
