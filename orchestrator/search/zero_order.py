"""Zero-order search (Ma et al. 2025, arXiv:2501.09732): step from a pivot to its best neighbour, if that is better."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.search.base import Step
from orchestrator.search.plan import Plan, child_seed, fresh, replay
from orchestrator.search.ranking import has_real_score, promising
from shared.settings.search import SearchSettings
from shared.types import Candidate, CandidateSpec, Start


@dataclass(frozen=True)
class ZeroOrder:
    """One fresh pivot, then `rounds` of `neighbours` around the best so far. A tie leaves the pivot where it is.

    A pivot without a real score is replaced by the next seed, up to `k_global` seeds in all. Ids: `g00` pivot,
    `n01.2` third neighbour of the second round.
    """

    settings: SearchSettings
    name = "zero-order"

    def ask(self, history: Sequence[Candidate]) -> Step:
        """The pivot, then one round of neighbours after another."""
        return replay(self._plan(), history)

    def size(self) -> int:
        """The most candidates of one task; fewer unless every seed but the last fails as a pivot."""
        return self.settings.k_global + self.settings.rounds * self.settings.neighbours

    def _plan(self) -> Plan:
        seen: tuple[Candidate, ...] = ()
        for index in range(self.settings.k_global):
            seen += yield (fresh(self.settings, index),)
            if any(has_real_score(candidate) for candidate in seen):
                break
        for number in range(self.settings.rounds):
            for pivot in promising(seen, 1):
                seen += yield tuple(
                    self._neighbour(pivot.spec, number, child) for child in range(self.settings.neighbours)
                )

    def _neighbour(self, pivot: CandidateSpec, number: int, child: int) -> CandidateSpec:
        return CandidateSpec(
            id=f"n{number:02d}.{child}",
            phase="neighbour",
            seed=child_seed(self.settings, 0, number * self.settings.neighbours + child),
            order=(number + 1, child),
            parent=pivot.id,
            start=Start.REFINE,
            strength=self.settings.neighbour_strength,
        )
