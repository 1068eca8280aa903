"""How far a judge agrees with people, and with itself. Pure functions of numbers."""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shared.types import Frozen

_RESAMPLES = 2000
#: Two-sided 95 % of a normal distribution.
_Z = 1.959964


class Choice(StrEnum):
    """What a person said of a result."""

    NO_ISSUES = "No Issues"
    INCONSISTENT = "Inconsistent Character"
    ERROR = "Error"


class Agreement(Frozen):
    """How well one value (the potential, or a criterion) tells results without issues from the others."""

    good: int
    bad: int
    #: Probability that a result without issues is above another (ties count half): 0.5 is chance, 1 perfect.
    auc: float | None
    #: 95 % interval of it by bootstrap (percentiles, 2000 resamples, fixed seed).
    auc_interval: tuple[float, float] | None
    #: The same against one kind of issue only.
    auc_against: Mapping[str, float]
    mean_by_choice: Mapping[str, float]


class Confusion(Frozen):
    """People's choices against the judge's yes or no at a threshold.

    The threshold is the one that tells best apart (Youden 1950) on these very results, so the table flatters a little.
    """

    threshold: float
    #: Choice to how many the judge puts at or above, and below the threshold.
    at_or_above: Mapping[str, int]
    below: Mapping[str, int]


class ReliabilityBin(Frozen):
    """Results of like potential: how many of them people found without issues."""

    count: int
    mean: float
    share: float
    #: 95 % interval of the share (Wilson 1927).
    low: float
    high: float


class Repeatability(Frozen):
    """How far a judge's potential of the same result moves from one asking to the next."""

    results: int
    #: Standard deviation within a result, pooled over results.
    within: float
    #: Two potentials closer than this cannot be told apart (95 %): 1.96 sqrt(2) within (Bland and Altman 1999).
    smallest_difference: float


def agreement(values: Sequence[tuple[Choice, float]]) -> Agreement:
    """Agreement of values with choices, whatever their scale."""
    by_choice = {choice: _of(values, choice) for choice in Choice}
    good = by_choice[Choice.NO_ISSUES]
    bad = np.concatenate([by_choice[Choice.INCONSISTENT], by_choice[Choice.ERROR]])
    both = good.size > 0 and bad.size > 0
    return Agreement(
        good=good.size,
        bad=bad.size,
        auc=auc(good, bad) if both else None,
        auc_interval=_interval(good, bad) if both else None,
        auc_against={
            choice.value: auc(good, some)
            for choice, some in by_choice.items()
            if choice is not Choice.NO_ISSUES and some.size and good.size
        },
        mean_by_choice={choice.value: float(some.mean()) for choice, some in by_choice.items() if some.size},
    )


def auc(good: NDArray[np.float64], bad: NDArray[np.float64]) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic; neither may be empty."""
    above = (good[:, None] > bad[None, :]).mean()
    equal = (good[:, None] == bad[None, :]).mean()
    return float(above + 0.5 * equal)


def confusion(values: Sequence[tuple[Choice, float]]) -> Confusion | None:
    """The table at the threshold that tells best apart; `None` unless there are results with and without issues."""
    good = _of(values, Choice.NO_ISSUES)
    bad = np.array([value for choice, value in values if choice is not Choice.NO_ISSUES], np.float64)
    if not good.size or not bad.size:
        return None
    candidates = sorted({value for _, value in values})
    threshold = max(candidates, key=lambda t: (float((good >= t).mean() - (bad >= t).mean()), -t))
    counts = {choice.value: _of(values, choice) for choice in Choice}
    return Confusion(
        threshold=threshold,
        at_or_above={choice: int((some >= threshold).sum()) for choice, some in counts.items()},
        below={choice: int((some < threshold).sum()) for choice, some in counts.items()},
    )


def reliability(values: Sequence[tuple[Choice, float]], most: int = 10, least: int = 5) -> tuple[ReliabilityBin, ...]:
    """Share of results without issues, in up to `most` bins of like count, at least `least` results each."""
    ordered = sorted(values, key=lambda pair: pair[1])
    bins = max(1, min(most, len(ordered) // least))
    edges = [round(index * len(ordered) / bins) for index in range(bins + 1)]
    found = []
    for start, end in pairwise(edges):
        part = ordered[start:end]
        if not part:
            continue
        good = sum(choice is Choice.NO_ISSUES for choice, _ in part)
        low, high = wilson(good, len(part))
        mean = math.fsum(value for _, value in part) / len(part)
        found.append(ReliabilityBin(count=len(part), mean=mean, share=good / len(part), low=low, high=high))
    return tuple(found)


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, 0 to 1."""
    share, z2 = hits / count, _Z**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return (0.0 if hits == 0 else centre - half), (1.0 if hits == count else centre + half)


def repeatability(rounds: Sequence[Sequence[float]]) -> Repeatability | None:
    """From the potentials of each result in all rounds; results judged only once say nothing. `None` without any."""
    repeated = [np.asarray(values, np.float64) for values in rounds if len(values) > 1]
    if not repeated:
        return None
    squares = math.fsum(float(((values - values.mean()) ** 2).sum()) for values in repeated)
    within = math.sqrt(squares / sum(values.size - 1 for values in repeated))
    return Repeatability(results=len(repeated), within=within, smallest_difference=_Z * math.sqrt(2) * within)


def _of(values: Sequence[tuple[Choice, float]], choice: Choice) -> NDArray[np.float64]:
    return np.array([value for given, value in values if given is choice], np.float64)


def _interval(good: NDArray[np.float64], bad: NDArray[np.float64]) -> tuple[float, float]:
    random = np.random.default_rng(0)
    found = [auc(random.choice(good, good.size), random.choice(bad, bad.size)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(found, (2.5, 97.5))
    return float(low), float(high)
