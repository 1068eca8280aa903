"""The example tasks, and short ways to make and judge candidates of them."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from shared.settings import Settings
from shared.settings.composite import CompositeSettings
from shared.types import CandidateSpec, Judgement, Start
from workers.generation.base import RGB, GeneratedImage, GenerationRequest, Parent, TaskImages
from workers.generation.composite import CompositeGenerator
from workers.scoring.base import ScoreRequest
from workers.scoring.local import LocalScorer

EXAMPLES = Path(__file__).parents[2] / "examples"


class Watcher:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))


@cache
def example_tasks() -> dict[str, TaskImages]:
    tasks = {}
    for item in json.loads((EXAMPLES / "project-label.json").read_text(encoding="utf-8")):
        data = item["data"]
        init, mask, character = (
            np.asarray(Image.open(EXAMPLES / data[name]).convert(mode))
            for name, mode in (("init_image_url", "RGB"), ("mask_image_url", "L"), ("character_image_url", "RGBA"))
        )
        tasks[data["id"]] = TaskImages(data["id"], data["character_name"], init, mask, character, key=data["id"])
    return tasks


TASK_IDS = tuple(item["data"]["id"] for item in json.loads((EXAMPLES / "project-label.json").read_text()))


@cache
def generator() -> CompositeGenerator:
    made = CompositeGenerator(CompositeSettings())
    made.load()
    return made


@cache
def scorer() -> LocalScorer:
    made = LocalScorer(Settings())
    made.load()
    return made


def fresh(images: TaskImages, seed: int) -> tuple[CandidateSpec, GeneratedImage]:
    spec = CandidateSpec(id="g00", phase="global", seed=seed, order=(0, 0))
    return spec, generator().generate(GenerationRequest(images, spec), Watcher())


def refined(
    images: TaskImages, parent: tuple[CandidateSpec, GeneratedImage], seed: int, strength: float | None = 0.55
) -> GeneratedImage:
    spec = CandidateSpec(
        id="l00.0", phase="local", seed=seed, order=(1, 0, 0), parent="g00", start=Start.REFINE, strength=strength
    )
    origin = Parent(spec=parent[0], image=parent[1].image, params=parent[1].params, extras={})
    return generator().generate(GenerationRequest(images, spec, origin), Watcher())


def score_request(images: TaskImages, result: RGB) -> ScoreRequest:
    return ScoreRequest(
        run_id="r",
        task_id=images.task_id,
        candidate_id="g00",
        character_name=images.character_name,
        init=images.init,
        mask=images.mask,
        character=images.character,
        result=result,
        content_key="0" * 64,
    )


def judge(images: TaskImages, result: RGB) -> Judgement:
    return scorer().score(score_request(images, result))


def potential(images: TaskImages, result: RGB) -> float:
    scores = judge(images, result).scores
    return scores["consistency"] + scores["quality"] + 2 * scores["identity"]
