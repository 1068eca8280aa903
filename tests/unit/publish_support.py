"""A task as a search leaves it behind, with real images in a real store."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.metrics_file import TaskHistory
from shared.artifacts import ArtifactStore, candidate_image_name, task_file
from shared.images import encode_png
from shared.settings import Settings
from shared.types import (
    Candidate,
    CandidateSpec,
    CandidateState,
    Combined,
    Failure,
    Generated,
    Judgement,
    Prepared,
    Start,
    Task,
    Usage,
)

WIDTH, HEIGHT = 120, 90
BOX = (40, 20, 80, 60)


@dataclass(frozen=True)
class Scores:
    """The three scores a judge gives."""

    identity: float
    quality: float
    consistency: float

    def as_mapping(self) -> dict[str, float]:
        return {"identity": self.identity, "quality": self.quality, "consistency": self.consistency}


def picture(seed: int) -> NDArray[np.uint8]:
    """An image that is a little different for each seed."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = [(x * 2 + seed * 7) % 256, (y * 2 + seed * 13) % 256, (x + y + seed * 29) % 256]
    return np.stack(channels, axis=2).astype(np.uint8)


def write_inputs(store: ArtifactStore, task_id: str = "7") -> Prepared:
    """Init, mask and character of a task."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    rgba = np.dstack([picture(99), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    return Prepared(
        init=store.write(task_file(task_id, "init.png"), encode_png(picture(0))),
        mask=store.write(task_file(task_id, "mask.png"), encode_png(mask)),
        character=store.write(task_file(task_id, "character.png"), encode_png(rgba)),
        width=WIDTH,
        height=HEIGHT,
        mask_fraction=float((mask > 0).mean()),
        mask_box=BOX,
    )


def spec(candidate_id: str, seed: int, order: tuple[int, ...], parent: str | None = None) -> CandidateSpec:
    """A global candidate, or a local one when it has a parent."""
    if parent is None:
        return CandidateSpec(id=candidate_id, phase="global", seed=seed, order=order)
    return CandidateSpec(
        id=candidate_id, phase="local", seed=seed, order=order, parent=parent, start=Start.REFINE, strength=0.55
    )


def generated(store: ArtifactStore, wanted: CandidateSpec, task_id: str = "7", attempt: int = 1) -> Candidate:
    """A candidate with its image in the store."""
    image = encode_png(picture(wanted.seed % 97), {"seed": str(wanted.seed)})
    return Candidate(
        spec=wanted,
        state=CandidateState.GENERATED,
        attempt=attempt,
        device="gpu.here.0",
        generated=Generated(
            image=store.write(candidate_image_name(task_id, wanted.id, attempt), image),
            key=f"key-{wanted.id}",
            generator="composite",
            device="gpu.here.0",
            attempt=attempt,
            params={"scale": 1.25, "flip": False},
            timings={"generate": 0.5, "encode": 0.1},
            model_evaluations=40,
        ),
        times={"asked": 100.0, "dispatched": 101.0, "generated": 102.0 + wanted.order[-1]},
    )


def scored(
    candidate: Candidate,
    scores: Scores,
    words: str = "well placed",
    usage: Usage | None = None,
    *,
    cached: bool = False,
) -> Candidate:
    """The candidate, judged by `gemini` on every criterion."""
    values = scores.as_mapping()
    judgement = Judgement(
        judge="gemini",
        model="gemini-3.8-flash",
        scores=values,
        words=words,
        seconds=2.0,
        cached=cached,
        usage=usage or Usage(calls=1, input_tokens=900, output_tokens=60, cost_usd=0.001),
    )
    potential = values["consistency"] + values["quality"] + 2 * values["identity"]
    return _judged(candidate, judgement, Combined(potential=potential, scores=values))


def unscored(candidate: Candidate, missing: Mapping[str, str]) -> Candidate:
    """The candidate, with a judge that could not judge."""
    return _judged(
        candidate, Judgement(judge="gemini", missing=missing), Combined(potential=None, scores={}, missing=missing)
    )


def defaulted(candidate: Candidate, potential: float = 40.0) -> Candidate:
    """The candidate, with a default for the identity."""
    judgement = Judgement(judge="gemini", scores={"quality": 9.0, "consistency": 9.0}, missing={"identity": "refused"})
    scores = {"quality": 9.0, "consistency": 9.0, "identity": 5.0}
    return _judged(candidate, judgement, Combined(potential=potential, scores=scores, defaulted=("identity",)))


def failed(wanted: CandidateSpec, message: str = "out of memory") -> Candidate:
    """A candidate that never came to an image."""
    failure = Failure(kind="generation", message=message, attempt=3, device="gpu.here.1")
    return Candidate(
        spec=wanted,
        state=CandidateState.FAILED,
        attempt=3,
        failure=failure,
        earlier=(failure, failure, failure),
        times={"asked": 100.0, "failed": 109.0},
    )


def _judged(candidate: Candidate, judgement: Judgement, combined: Combined) -> Candidate:
    return candidate.model_copy(
        update={
            "state": CandidateState.SCORED,
            "judgements": (*candidate.judgements, judgement),
            "combined": combined,
            "times": {**candidate.times, "scored": candidate.times["generated"] + 2.0},
        }
    )


def history(store: ArtifactStore, task_id: str = "7", name: str = "Mira") -> TaskHistory:
    """Four global candidates (one unscored, one failed) and two refinements of the best; `l01.1` wins."""
    return TaskHistory(
        run_id="run-1",
        config_hash="c0ffee",
        settings=Settings(),
        generator="composite",
        judges=("gemini",),
        task=Task(
            id=task_id, character_name=name, init="https://u:pw@host/init.png?sig=word", mask="/m.png", character="c"
        ),
        prepared=write_inputs(store, task_id),
        candidates=(
            scored(generated(store, spec("g00", 5000, (0, 0)), task_id), Scores(5, 6, 7)),
            scored(generated(store, spec("g01", 5031, (0, 1)), task_id, attempt=2), Scores(8, 7, 7)),
            unscored(
                generated(store, spec("g02", 5062, (0, 2)), task_id), {"identity": "no face", "quality": "no face"}
            ),
            failed(spec("g03", 5093, (0, 3))),
            scored(generated(store, spec("l01.0", 50311, (1, 1, 0), "g01"), task_id), Scores(8, 7, 7)),
            scored(generated(store, spec("l01.1", 50312, (1, 1, 1), "g01"), task_id), Scores(9, 8, 8)),
        ),
    )


def only(base: TaskHistory, *candidates: Candidate) -> TaskHistory:
    """The same task with these candidates."""
    return replace(base, candidates=candidates)
