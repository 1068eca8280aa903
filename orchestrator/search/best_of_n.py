"""Best-of-n: independent seeds, the best wins. The baseline every other search has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.search.base import Step
from orchestrator.search.plan import Plan, fresh, replay
from shared.settings.search import SearchSettings
from shared.types import Candidate


@dataclass(frozen=True)
class BestOfN:
    """`n` fresh candidates; unset, as many as EACPS would make, so that the two compare at equal cost."""

    settings: SearchSettings
    name = "best-of-n"

    def ask(self, history: Sequence[Candidate]) -> Step:
        """All of them at once."""
        return replay(self._plan(), history)

    def size(self) -> int:
        """The number of candidates."""
        return self.settings.budget if self.settings.n is None else self.settings.n

    def _plan(self) -> Plan:
        yield tuple(fresh(self.settings, index) for index in range(self.size()))
