"""Who wins, and who may be refined.

Ties are broken by the search's own order: of two equal potentials the candidate asked for first wins. Orders are
unique within a task, so the ranking depends neither on arrival nor on the history's order.
"""

from collections.abc import Iterable

from shared.types import Candidate


def ranked(history: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those that can win, the best first; failed ones, unscored ones and previews are left out."""
    return _by_rank(candidate for candidate in history if candidate.can_win)


def best(history: Iterable[Candidate]) -> Candidate | None:
    """The winner so far, or `None` while nobody can win."""
    return next(iter(ranked(history)), None)


def promising(candidates: Iterable[Candidate], count: int) -> tuple[Candidate, ...]:
    """The best `count` to go on from, previews included.

    Real scores only; candidates scored by a default are taken only when there is no real score at all.
    """
    scored = _by_rank(candidate for candidate in candidates if candidate.potential is not None)
    return (tuple(candidate for candidate in scored if has_real_score(candidate)) or scored)[:count]


def has_real_score(candidate: Candidate) -> bool:
    """Whether every needed criterion was judged, and none was given a default."""
    return candidate.potential is not None and candidate.combined is not None and not candidate.combined.defaulted


def _by_rank(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(candidates, key=lambda candidate: candidate.rank_key))
