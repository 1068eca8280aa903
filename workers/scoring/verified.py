"""A second opinion on identity: Moondream verifies what another judge found."""

from shared.errors import BrokerUnreachable, Permanent, Retryable
from shared.settings.judges import MoondreamSettings
from shared.types import IDENTITY, Judgement
from workers.scoring.base import Scorer, ScoreRequest
from workers.scoring.failures import usage_of
from workers.scoring.moondream import MoondreamScorer
from workers.scoring.remote import add


class VerifiedScorer:
    """Another judge whose identity score is capped where Moondream does not recognise the character.

    Set `scoring.moondream.verify_below` for it. An unverified candidate has `measures["identity_unverified"]` with
    Moondream's score, and says so in its words. When Moondream cannot tell, identity is missing with that reason: a
    check that was asked for and did not happen must not pass.
    """

    def __init__(self, inner: Scorer, verifier: MoondreamScorer, settings: MoondreamSettings) -> None:
        self.name, self.criteria = inner.name, inner.criteria
        self._inner, self._verifier = inner, verifier
        self._least, self._cap = settings.verify_below or 0.0, settings.verified_cap

    def cache_key(self) -> str:
        """Both judges' keys."""
        return f"{self._inner.cache_key()}+{self._verifier.cache_key()}"

    def load(self) -> None:
        """Load both judges."""
        self._inner.load()
        self._verifier.load()

    def close(self) -> None:
        """Let go of what both judges hold."""
        for judge in (self._inner, self._verifier):
            if callable(close := getattr(judge, "close", None)):
                close()

    def score(self, request: ScoreRequest) -> Judgement:
        """As the other judge, with identity verified."""
        judged = self._inner.score(request)
        if IDENTITY not in judged.scores:
            return judged
        try:
            second = self._verifier.identity_of(request)
        except BrokerUnreachable:
            raise
        except (Retryable, Permanent) as error:
            paid = judged.model_copy(update={"usage": add(judged.usage, usage_of(error))})
            return _unknown(paid, str(error))
        paid = judged.model_copy(
            update={"usage": add(judged.usage, second.usage), "seconds": judged.seconds + second.seconds}
        )
        if IDENTITY in second.missing:
            return _unknown(paid, second.missing[IDENTITY])
        found = second.measures.get("identity_unverified", second.scores[IDENTITY])
        if found >= self._least:
            return paid.model_copy(update={"measures": {**paid.measures, "identity_verified": found}})
        capped = min(judged.scores[IDENTITY], self._cap)
        return paid.model_copy(
            update={
                "scores": {**judged.scores, IDENTITY: capped},
                "measures": {**judged.measures, "identity_unverified": found},
                "words": f"{judged.words}\n\nIdentity not verified: moondream gives {found:g}, below {self._least:g}; "
                f"capped from {judged.scores[IDENTITY]:g} to {capped:g}.",
            }
        )


def _unknown(judged: Judgement, reason: str) -> Judgement:
    scores = {name: score for name, score in judged.scores.items() if name != IDENTITY}
    return judged.model_copy(
        update={"scores": scores, "missing": {**judged.missing, IDENTITY: f"could not be verified: {reason}"}}
    )
