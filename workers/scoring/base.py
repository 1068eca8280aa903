"""What a scorer is, and what it is given."""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.types import Judgement, Usage


@dataclass(frozen=True)
class ScoreRequest:
    """One result to judge. All arrays uint8; `init`, `mask` and `result` have the same height and width."""

    run_id: str
    task_id: str
    candidate_id: str
    character_name: str
    #: H x W x 3 RGB.
    init: NDArray[np.uint8]
    #: H x W, 0 or 255 (255 = edit).
    mask: NDArray[np.uint8]
    #: h x w x 4 RGBA.
    character: NDArray[np.uint8]
    #: H x W x 3 RGB.
    result: NDArray[np.uint8]
    #: SHA-256 over the four images: the content part of a cache key.
    content_key: str
    #: A preview of a trajectory stopped early: blurrier than a result, judged all the same.
    preview: bool = False


class Scorer(Protocol):
    """Judges results on some criteria.

    Class attribute `name` is the registry name; `criteria` are the criteria it can judge. Construction is cheap and
    imports no heavy package; `load` does what costs time, once per process. `score` is called from many threads.
    """

    name: str
    criteria: frozenset[str]

    def cache_key(self) -> str:
        """Hash of everything besides the images that changes a judgement: prompt version, model, settings."""

    def load(self) -> None:
        """Load models, check keys. Raises MissingDependency or ConfigurationError with the fix."""

    def score(self, request: ScoreRequest) -> Judgement:
        """Judge one result.

        A criterion that cannot be judged for a reason that lies in this result (no face, a refusal) is in
        `Judgement.missing`. Raises Retryable when the same call may succeed later, Permanent when this judge cannot
        judge anything any more.
        """


@dataclass(frozen=True)
class Preference:
    """What a judge said of two results shown in this order."""

    #: 1 prefers the first, -1 the second, 0 neither; `None` could not be judged, and `words` is the reason.
    value: Literal[-1, 0, 1] | None
    words: str = ""
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    cached: bool = False


class Comparer(Protocol):
    """A judge that can also compare two results of the same task (finals)."""

    name: str

    def cache_key(self) -> str:
        """As `Scorer.cache_key`."""

    def load(self) -> None:
        """As `Scorer.load`."""

    def compare(self, first: ScoreRequest, second: ScoreRequest) -> Preference:
        """Which is better, shown in this order. An answer that cannot be used is a preference of `None`.

        Raises Retryable when the same call may succeed later, Permanent when this judge can compare nothing any more.
        """
