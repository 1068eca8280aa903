"""What a search is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.types import Candidate, CandidateSpec


@dataclass(frozen=True)
class Step:
    """A search's answer: candidates that should exist and do not yet, and whether the search is over.

    `done` with no specs means that every candidate has settled and nothing more is wanted.
    """

    specs: tuple[CandidateSpec, ...]
    done: bool


class Search(Protocol):
    """A strategy, as a pure function of a task's history.

    The history is the tell: it holds every candidate asked for so far, in any order and any state. The same set of
    candidates gives the same step, so an event may be processed twice, and by two orchestrators, without harm.
    """

    name: str

    def ask(self, history: Sequence[Candidate]) -> Step:
        """What to do next. Specs already in the history are never returned again."""

    def size(self) -> int:
        """The most candidates one task can come to."""
