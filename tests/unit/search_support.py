"""A task's history driven by an invented world: what happens to a candidate depends on its id alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.search import Search
from shared.types import Candidate, CandidateSpec, CandidateState, Combined


@dataclass(frozen=True)
class World:
    """Decides the fate of each candidate from its id, coarsely enough that ties are common."""

    seed: int
    p_failed: float = 0.0
    p_unscored: float = 0.0
    p_default: float = 0.0
    levels: int = 4

    def settle(self, spec: CandidateSpec) -> Candidate:
        chance = random.Random(f"{self.seed}/{spec.id}")
        fate = chance.random()
        potential = float(chance.randrange(self.levels))
        if fate < self.p_failed:
            state = chance.choice((CandidateState.FAILED, CandidateState.CANCELLED))
            return Candidate(spec=spec, state=state)
        if fate < self.p_failed + self.p_unscored:
            return scored(spec, None)
        if fate < self.p_failed + self.p_unscored + self.p_default:
            return scored(spec, potential + 100, defaulted=("identity",))
        return scored(spec, potential)


def scored(spec: CandidateSpec, potential: float | None, *, defaulted: tuple[str, ...] = ()) -> Candidate:
    """A judged candidate; without a potential, one whose identity is missing."""
    missing = {} if potential is not None else {"identity": "no answer"}
    combined = Combined(potential=potential, missing=missing, defaulted=defaulted)
    return Candidate(spec=spec, state=CandidateState.SCORED, combined=combined)


def play(
    search: Search,
    settle: Callable[[CandidateSpec], Candidate],
    *,
    order: random.Random | None = None,
    watch: Callable[[Sequence[Candidate]], None] = lambda _: None,
) -> tuple[Candidate, ...]:
    """Run a search to its end, settling one candidate at a time: in the order asked, or in that of `order`."""
    history: dict[str, Candidate] = {}
    while True:
        step = search.ask(tuple(history.values()))
        for spec in step.specs:
            assert spec.id not in history, f"{spec.id} was asked for twice"
            history[spec.id] = Candidate(spec=spec)
        watch(tuple(history.values()))
        open_ids = [key for key, candidate in history.items() if not candidate.state.settled]
        if not open_ids:
            assert step.done, "nothing is under way, and the search is not done"
            return tuple(history.values())
        chosen = open_ids[0] if order is None else order.choice(open_ids)
        history[chosen] = settle(history[chosen].spec)
        if order is not None:
            items = list(history.items())
            order.shuffle(items)
            history = dict(items)
