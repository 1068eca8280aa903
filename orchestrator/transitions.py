"""What events do to a candidate: pure functions, `None` where an event is late, doubled or of an earlier attempt."""

from shared.types import Candidate, CandidateSpec, CandidateState, Combined, Failure, Generated, Judgement

_UNMADE = (CandidateState.PENDING, CandidateState.DISPATCHED)


def asked(spec: CandidateSpec, now: float) -> Candidate:
    """A candidate as a search asks for it."""
    return Candidate(spec=spec, times={"asked": now})


def dispatched(candidate: Candidate, device: str, now: float) -> Candidate | None:
    """It goes to a device."""
    if candidate.state is not CandidateState.PENDING:
        return None
    return candidate.model_copy(
        update={
            "state": CandidateState.DISPATCHED,
            "device": device,
            "times": {**candidate.times, "dispatched": now},
        }
    )


def generated(candidate: Candidate, attempt: int, made: Generated, reused: bool, now: float) -> Candidate | None:
    """Its image exists. An image of an attempt that was given up is not wanted any more."""
    if candidate.state not in _UNMADE or candidate.attempt != attempt:
        return None
    return candidate.model_copy(
        update={
            "state": CandidateState.GENERATED,
            "generated": made,
            "device": made.device,
            "reused": reused,
            "times": {**candidate.times, "generated": now},
        }
    )


def failed(
    candidate: Candidate, attempt: int, failure: Failure, retryable: bool, max_attempts: int, now: float
) -> Candidate | None:
    """An attempt came to nothing: another one, or the end after `max_attempts`."""
    if candidate.state not in _UNMADE or candidate.attempt != attempt:
        return None
    earlier = (*candidate.earlier, failure)
    if retryable and len(earlier) < max_attempts:
        return candidate.model_copy(
            update={
                "state": CandidateState.PENDING,
                "attempt": attempt + 1,
                "device": None,
                "earlier": earlier,
            }
        )
    return candidate.model_copy(
        update={
            "state": CandidateState.FAILED,
            "failure": failure,
            "earlier": earlier,
            "times": {**candidate.times, "failed": now},
        }
    )


def given_back(candidate: Candidate, attempt: int) -> Candidate | None:
    """Lost by no fault of its own, it waits again. The attempt's number moves on, and nothing counts as failed."""
    if candidate.state is not CandidateState.DISPATCHED or candidate.attempt != attempt:
        return None
    return candidate.model_copy(update={"state": CandidateState.PENDING, "attempt": attempt + 1, "device": None})


def judged(candidate: Candidate, attempt: int, judgements: tuple[Judgement, ...]) -> Candidate | None:
    """Judges have answered; a judge's second answer changes nothing."""
    if candidate.state is not CandidateState.GENERATED or candidate.attempt != attempt:
        return None
    known = {judgement.judge for judgement in candidate.judgements}
    new = tuple(judgement for judgement in judgements if judgement.judge not in known)
    if not new:
        return None
    return candidate.model_copy(update={"judgements": (*candidate.judgements, *new)})


def scored(candidate: Candidate, combined: Combined, now: float) -> Candidate:
    """All judgements are in."""
    return candidate.model_copy(
        update={
            "state": CandidateState.SCORED,
            "combined": combined,
            "times": {**candidate.times, "scored": now},
        }
    )


def cancelled(candidate: Candidate) -> Candidate | None:
    """Nobody wants it any more."""
    if candidate.state.settled:
        return None
    return candidate.model_copy(update={"state": CandidateState.CANCELLED})
