"""From judgements to one number, or to the reasons why there is none.

A term is a criterion (a score of 0-10) or a judge's raw measure that the potential weighs. A term with weight 0 is not
needed: nobody is asked for it, and it is never missing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.settings.scoring import CriterionSettings, ScoringSettings
from shared.types import CRITERIA, Combined, Judgement

#: The judge whose missing criteria mean that a free check sorted the result out.
GATE = "gate"
AUTO = "auto"
#: Judges of this run by name, in order of preference, with the criteria and measures they can deliver.
Available = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class _Term:
    """What is known about one term: its value, or who is still to be asked, or why it is missing."""

    value: float | None = None
    ask: tuple[str, ...] = ()
    reason: str = ""


def gate_reason(judgements: Sequence[Judgement]) -> str | None:
    """Why a free check sorted the candidate out, or `None` if none did."""
    reasons = (reason for judgement in judgements if judgement.judge == GATE for reason in judgement.missing.values())
    return next(reasons, None)


def next_judges(judgements: Sequence[Judgement], scoring: ScoringSettings, available: Available) -> tuple[str, ...]:
    """Judges to call now, each at most once; empty when nothing more can be learnt.

    Of judges in order of preference only the first that has not answered is called, and the next only for what it
    left missing; weighted judges are called all at once. A gated candidate costs no call.
    """
    if gate_reason(judgements) is not None:
        return ()
    terms = (_term(name, judgements, scoring, available) for name in _needed(scoring))
    return tuple(dict.fromkeys(judge for term in terms for judge in term.ask))


def combine(judgements: Sequence[Judgement], scoring: ScoringSettings, available: Available) -> Combined:
    """All judgements of a candidate as one potential.

    `arithmetic` is the weighted sum, `geometric` the weighted geometric mean. The potential is `None` while a needed
    term is missing, also when that is only because a judge has not answered yet. Under `on_failure: default` a
    criterion that nobody could judge gets the default score and is named in `defaulted`; raw measures have no default
    (they are not on the scale of 0-10), and neither has a gated candidate.
    """
    gated = gate_reason(judgements)
    scores: dict[str, float] = {}
    missing: dict[str, str] = {}
    defaulted: list[str] = []
    for name in dict.fromkeys((*scoring.potential, *CRITERIA)):
        needed = name in _needed(scoring)
        term = _term(name, judgements, scoring, available)
        if gated is not None:
            missing.update({name: gated} if needed else {})
        elif term.value is not None:
            scores[name] = term.value
        elif not needed:
            continue
        elif scoring.on_failure == "default" and name in CRITERIA and not term.ask:
            scores[name] = scoring.default_score
            defaulted.append(name)
        else:
            missing[name] = term.reason
    potential = None if missing else _potential(scores, scoring)
    return Combined(potential=potential, scores=scores, missing=missing, defaulted=tuple(defaulted))


def _needed(scoring: ScoringSettings) -> Mapping[str, float]:
    return {name: weight for name, weight in scoring.potential.items() if weight != 0}


def _potential(scores: Mapping[str, float], scoring: ScoringSettings) -> float:
    weights = _needed(scoring)
    if scoring.combine == "arithmetic":
        return math.fsum(weight * scores[name] for name, weight in weights.items())
    if any(scores[name] == 0 for name in weights):
        return 0.0
    logs = math.fsum(weight * math.log(scores[name]) for name, weight in weights.items())
    return math.exp(logs / math.fsum(weights.values()))


def _term(name: str, judgements: Sequence[Judgement], scoring: ScoringSettings, available: Available) -> _Term:
    answers = {judgement.judge: judgement for judgement in judgements}
    rule = scoring.criteria.get(name)
    if rule is not None and rule.combine == "weighted":
        return _weighted(name, answers, rule, scoring, available)
    reasons: list[str] = []
    for judge in _order(name, answers, rule, scoring, available):
        if judge not in answers:
            return _Term(ask=(judge,), reason="; ".join([*reasons, f"{judge}: not answered yet"]))
        outcome = _value(name, answers[judge], scoring)
        if isinstance(outcome, float):
            return _Term(value=outcome)
        reasons.append(f"{judge}: {outcome}")
    return _Term(reason="; ".join(reasons) or f"no judge of this run judges {name}")


def _weighted(
    name: str,
    answers: Mapping[str, Judgement],
    rule: CriterionSettings,
    scoring: ScoringSettings,
    available: Available,
) -> _Term:
    """The weighted mean of all judges. One without an answer leaves the term missing: a mean over the others would
    be on another scale than that of other candidates."""
    total, weights, reasons = 0.0, 0.0, []
    ask = tuple(judge for judge in rule.judges if judge not in answers and judge in available)
    for judge in rule.judges:
        if judge not in answers:
            reasons.append(f"{judge}: {'not answered yet' if judge in available else 'not a judge of this run'}")
            continue
        outcome = _value(name, answers[judge], scoring)
        if isinstance(outcome, float):
            weight = rule.weights.get(judge, 1.0)
            total, weights = total + weight * outcome, weights + weight
        else:
            reasons.append(f"{judge}: {outcome}")
    return _Term(ask=ask, reason="; ".join(reasons)) if reasons else _Term(value=total / weights)


def _order(
    name: str,
    answers: Mapping[str, Judgement],
    rule: CriterionSettings | None,
    scoring: ScoringSettings,
    available: Available,
) -> tuple[str, ...]:
    """Judges of a term, the preferred one first: those named for it, else all that can deliver it.

    A judge that has answered counts even when it is no longer available.
    """
    named = scoring.judges if rule is None else rule.judges
    resolved = (judge for entry in named for judge in (_auto(named, available) if entry == AUTO else (entry,)))
    return tuple(
        judge
        for judge in dict.fromkeys(resolved)
        if (judge in available and (rule is not None or name in available[judge]))
        or (judge in answers and _mentions(name, answers[judge]))
    )


def _auto(named: Sequence[str], available: Available) -> tuple[str, ...]:
    return tuple(judge for judge in available if judge not in named)


def _mentions(name: str, judgement: Judgement) -> bool:
    return name in judgement.scores or name in judgement.missing or name in judgement.measures


def _value(name: str, judgement: Judgement, scoring: ScoringSettings) -> float | str:
    """The judge's value for a term, or the reason why there is none."""
    value = judgement.scores.get(name, judgement.measures.get(name))
    if value is None:
        return judgement.missing.get(name, f"gave no {name}")
    if not math.isfinite(value):
        return f"gave {value} for {name}"
    if scoring.combine == "geometric" and value < 0:
        return f"gave {value:g} for {name}, and a geometric mean needs 0 or more"
    return float(value)
