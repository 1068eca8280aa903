"""What a submission would come to: candidates, device time and judge calls, from what was measured so far."""

import json
from collections.abc import Mapping

from orchestrator.search import make_search
from shared.ledger import Keys, Ledger
from shared.settings import Settings
from shared.types import Frozen


class Estimate(Frozen):
    """An upper bound: searches that stop early, results on disk and cached judgements only make it less."""

    tasks: int
    candidates: int
    #: Calls of each judge; a judge that is only asked when the one before it fails is counted in full.
    judge_calls: Mapping[str, int]
    #: Mean seconds of one candidate on a device; `None` while this cluster has made none with this generator.
    candidate_seconds: float | None
    device_seconds: float | None
    devices: int


def estimate(
    ledger: Ledger, tasks: int, settings: Settings, generator: str, judges: Mapping[str, object], devices: int
) -> Estimate:
    """Work it out from the search's size and the cluster's own means."""
    candidates = tasks * make_search(settings.search).size()
    mean = _mean(ledger.hgetall(Keys.observations), "generation_seconds", generator)
    finals = settings.scoring.finals_top * (settings.scoring.finals_top - 1) if settings.scoring.finals != "off" else 0
    calls = dict.fromkeys(judges, candidates)
    if calls:
        calls[next(iter(calls))] += tasks * finals
    return Estimate(
        tasks=tasks,
        candidates=candidates,
        judge_calls=calls,
        candidate_seconds=mean,
        device_seconds=None if mean is None else mean * candidates,
        devices=devices,
    )


def _mean(observations: Mapping[str, str], name: str, label: str) -> float | None:
    total, count = 0.0, 0.0
    for field, number in observations.items():
        found, *labels = json.loads(field)
        if found == name and labels[:1] == [label]:
            if labels[1] == "sum":
                total += float(number)
            else:
                count += float(number)
    return total / count if count else None
