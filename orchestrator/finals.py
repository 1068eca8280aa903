"""Pairwise finals: judges rank better than they score, so the best few may be compared with each other.

Every pair is shown in both orders; a judge that prefers the same place rather than the same candidate has said
nothing, which counts as a tie. A Bradley-Terry model (Bradley and Terry 1952) turns the outcomes into strengths.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from orchestrator.search.ranking import has_real_score, ranked
from shared.types import Candidate

Pair = tuple[str, str]

#: Ties against an imaginary opponent of strength 1 that each candidate starts with.
_PRIOR = 0.5
_TOLERANCE = 1e-10
_MAX_ITERATIONS = 100_000
#: Decimals of log-strength that count; below is the noise of the iteration.
_DECIMALS = 6
#: Potentials closer than this are the same but for the noise of binary fractions.
_SAME = 1e-9


@dataclass(frozen=True)
class Comparison:
    """What a judge said of two candidates shown in this order; ids of one task."""

    first: str
    second: str
    #: 1 prefers the first, -1 the second, 0 neither; `None` could not be judged, and counts as never asked.
    preference: Literal[-1, 0, 1] | None


def finalists(history: Iterable[Candidate], top: int) -> tuple[Candidate, ...]:
    """The best `top` by potential; candidates scored by a default are never among them. One alone needs no finals."""
    best = tuple(candidate for candidate in ranked(history) if has_real_score(candidate))[:top]
    return best if len(best) > 1 else ()


def pairs(finalists: Sequence[Candidate]) -> tuple[Pair, ...]:
    """All ordered pairs of finalists, the most promising first: n (n - 1) comparisons."""
    ids = [candidate.spec.id for candidate in finalists]
    return tuple(permutations(ids, 2))


def next_pairs(finalists: Sequence[Candidate], comparisons: Iterable[Comparison]) -> tuple[Pair, ...]:
    """Pairs that nobody was asked about yet."""
    asked = {(comparison.first, comparison.second) for comparison in comparisons}
    return tuple(pair for pair in pairs(finalists) if pair not in asked)


def wins(comparisons: Iterable[Comparison]) -> Mapping[Pair, float]:
    """Points of the first against the second candidate of a pair, for both orders of each pair judged twice.

    1 where both orders agree on a winner, 0.5 each where they disagree or where one of them preferred nobody. A pair
    judged in one order only is left out: its answer may be the place and not the candidate.
    """
    said = {(c.first, c.second): c.preference for c in comparisons if c.preference is not None and c.first != c.second}
    points: dict[Pair, float] = {}
    for (first, second), preference in said.items():
        mirrored = said.get((second, first))
        if mirrored is not None:
            points[first, second] = (1 + preference) / 2 if preference == -mirrored else 0.5
    return points


def strengths(ids: Sequence[str], points: Mapping[Pair, float], *, prior: float = _PRIOR) -> Mapping[str, float]:
    """Bradley-Terry strengths, above 0, by the MM algorithm (Hunter 2004, Annals of Statistics 32).

    `points` holds both orders of a pair; their sum is the number of its comparisons, ties counting half each. Every
    candidate also has `prior` (> 0) ties against an imaginary opponent of strength 1, which keeps the strength of one
    that never won or never lost finite, and gives one that was never compared the strength 1.
    """
    won = {i: prior / 2 + sum(points.get((i, j), 0.0) for j in ids if j != i) for i in ids}
    met = {(i, j): points.get((i, j), 0.0) + points.get((j, i), 0.0) for i, j in permutations(ids, 2)}
    current = dict.fromkeys(ids, 1.0)
    for _ in range(_MAX_ITERATIONS):
        following = {
            i: won[i]
            / (
                prior / (current[i] + 1.0)
                + math.fsum(met[i, j] / (current[i] + current[j]) for j in ids if j != i and met[i, j])
            )
            for i in ids
        }
        if all(abs(math.log(following[i] / current[i])) < _TOLERANCE for i in ids):
            return following
        current = following
    return current


def final_ranking(history: Iterable[Candidate], comparisons: Iterable[Comparison], top: int) -> tuple[Candidate, ...]:
    """Everyone who can win, best first: finalists by strength (equal ones by potential), then the others by potential.

    Without a pair judged in both orders this is the ranking by potential.
    """
    everyone = ranked(history)
    best = finalists(everyone, top)
    strength = strengths([candidate.spec.id for candidate in best], wins(comparisons))
    decided = sorted(best, key=lambda candidate: -_level(strength[candidate.spec.id]))
    return (*decided, *(candidate for candidate in everyone if candidate.spec.id not in strength))


def ties(
    ranking: Sequence[Candidate], margin: float, decided: Sequence[str] = (), comparisons: Iterable[Comparison] = ()
) -> tuple[Candidate, ...]:
    """Those whose potential is closer than `margin` to that of the first (or the same), which is not among them.

    A default is never tied with a real score, nor is a finalist (`decided`) whose strength is another than the first's:
    the finals have told the two apart.
    """
    if not ranking:
        return ()
    winner, *others = ranking
    strength = {name: _level(value) for name, value in strengths(decided, wins(comparisons)).items()}
    first = strength.get(winner.spec.id)
    return tuple(
        candidate
        for candidate in others
        if has_real_score(candidate) == has_real_score(winner)
        and _gap(winner, candidate) < max(margin, _SAME)
        and (first is None or strength.get(candidate.spec.id, first) == first)
    )


def _level(strength: float) -> float:
    return round(math.log(strength), _DECIMALS)


def _gap(one: Candidate, other: Candidate) -> float:
    if one.potential is None or other.potential is None:
        return math.inf
    return abs(one.potential - other.potential)
