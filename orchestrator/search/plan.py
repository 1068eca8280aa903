"""A search written as a plan: a coroutine that yields waves of specs and is sent each wave once it has settled.

The plan is replayed from its start at every ask, so it holds no state between asks. A wave is asked for only when all
earlier ones have settled, hence neither order nor time of arrival can change what comes next.
"""

from collections.abc import Generator, Sequence

from orchestrator.search.base import Step
from shared.settings.search import SearchSettings
from shared.types import Candidate, CandidateSpec, Start

Specs = tuple[CandidateSpec, ...]
Plan = Generator[Specs, tuple[Candidate, ...], None]

#: A prime above every stride, so that seeds of children never meet those of parents or of each other.
_CHILD_STRIDE = 1_000_003


def replay(plan: Plan, history: Sequence[Candidate]) -> Step:
    """Follow the plan as far as the history goes."""
    known = {candidate.spec.id: candidate for candidate in history}
    try:
        wave = next(plan)
        while True:
            present = tuple(known[spec.id] for spec in wave if spec.id in known)
            if len(present) < len(wave) or not all(candidate.state.settled for candidate in present):
                return Step(tuple(spec for spec in wave if spec.id not in known), done=False)
            wave = plan.send(present)
    except StopIteration:
        return Step((), done=True)


def root_seed(settings: SearchSettings, index: int) -> int:
    """Seed of the global candidate at `index`."""
    return settings.base_seed + settings.seed_stride * index


def child_seed(settings: SearchSettings, parent: int, child: int) -> int:
    """Seed of a child of the global candidate at index `parent`; unique among all candidates of the task."""
    return root_seed(settings, parent) + _CHILD_STRIDE * (child + 1)


def fresh(settings: SearchSettings, index: int) -> CandidateSpec:
    """The global candidate at `index`, from the noise of its own seed."""
    return CandidateSpec(
        id=f"g{index:02d}", phase="global", seed=root_seed(settings, index), order=(0, index), start=Start.FRESH
    )
