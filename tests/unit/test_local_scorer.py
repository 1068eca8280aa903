"""The local judge ranks candidates that are plainly bad below good ones, on the real examples."""

import itertools
import time
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import pytest

from shared.settings import Settings
from shared.types import CRITERIA, Judgement
from tests.unit.composite_support import TASK_IDS, example_tasks, fresh, judge, potential, refined, score_request
from workers.generation.base import RGB, RGBA, TaskImages
from workers.generation.blend import compose
from workers.generation.cutout import Cutout, cut_out
from workers.generation.layout import Layout, lay_out
from workers.generation.pose import Pose
from workers.scoring.local import LocalScorer

GOOD = Pose(
    scale=0.95, shift_x=0, shift_y=0, rotation=0, flip=False, colour=0.25, clone="feather", harmony=0,
    feather=0.35, soften=0.2, shadow=0.3,
)  # fmt: skip


def _prepare(images: TaskImages, character: RGBA) -> tuple[Cutout, Layout]:
    cutout = cut_out(character, 640)
    return cutout, lay_out(images.init, images.mask, cutout)


@cache
def _cut(task_id: str) -> tuple[Cutout, Layout]:
    images = example_tasks()[task_id]
    return _prepare(images, images.character)


@cache
def _good_potential(task_id: str) -> float:
    images = example_tasks()[task_id]
    return potential(images, _posed(images, GOOD))


def _posed(images: TaskImages, pose: Pose, character: RGBA | None = None) -> RGB:
    cutout, layout = _cut(images.task_id) if character is None else _prepare(images, character)
    window = np.rint(compose(layout, cutout, pose) * 255).astype(np.uint8)
    result = images.init.copy()
    place = slice(layout.top, layout.top + window.shape[0]), slice(layout.left, layout.left + window.shape[1])
    edit = images.mask[place] > 0
    result[place][edit] = window[edit]
    return result


def _nothing(images: TaskImages) -> RGB:
    return images.init.copy()


def _almost_nothing(images: TaskImages) -> RGB:
    good = _posed(images, GOOD).astype(float)
    return np.rint(images.init + 0.08 * (good - images.init)).astype(np.uint8)


def _wrong_colours(images: TaskImages) -> RGB:
    character = images.character.copy()
    character[..., :3] = 255 - character[..., :3]
    return _posed(images, GOOD, character)


def _hue_turned(images: TaskImages) -> RGB:
    character = images.character.copy()
    hsv = cv2.cvtColor(np.ascontiguousarray(character[..., :3]), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 90) % 180
    hsv[..., 1:] = np.maximum(hsv[..., 1:], 90)  # a hue turned in near-black is nothing that anybody sees
    character[..., :3] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return _posed(images, GOOD, character)


def _hard_seam(images: TaskImages) -> RGB:
    """The mask filled with the reference's own background, no blending at all."""
    good = _posed(images, GOOD)
    inside = images.mask > 0
    shown = (np.abs(good.astype(int) - images.init).max(axis=2) > 12) & inside
    level = 235 if images.init[inside].mean() < 128 else 20
    good[inside & ~shown] = level
    return good


def _cut_off(images: TaskImages) -> RGB:
    good = _posed(images, GOOD)
    inside = np.flatnonzero((np.abs(good.astype(int) - images.init).max(axis=2) > 12).any(axis=1))
    half = int((inside[0] + inside[-1]) // 2)
    good[:half] = images.init[:half]
    return good


def _pushed_out(images: TaskImages) -> RGB:
    """Half of it beyond the side of the mask."""
    cutout, layout = _cut(images.task_id)
    fitting = layout.height * cutout.alpha.shape[1] / cutout.alpha.shape[0]
    shift = cv2.boundingRect(images.mask)[2] / 2 / fitting
    return _posed(images, GOOD.model_copy(update={"shift_x": shift}))


def _noise(images: TaskImages) -> RGB:
    result = images.init.copy()
    inside = images.mask > 0
    result[inside] = np.random.default_rng(1).integers(0, 256, (int(inside.sum()), 3), dtype=np.uint8)
    return result


def _flat(images: TaskImages) -> RGB:
    result = images.init.copy()
    result[images.mask > 0] = (128, 90, 60)
    return result


def _other_character(images: TaskImages) -> RGB:
    other = "71651082" if images.task_id != "71651082" else "71651080"
    return _posed(images, GOOD, example_tasks()[other].character)


def _blurred(images: TaskImages) -> RGB:
    good = _posed(images, GOOD)
    inside = images.mask > 0
    soft = cv2.GaussianBlur(good, (0, 0), 9)
    good[inside] = soft[inside]
    return good


def _tiny(images: TaskImages) -> RGB:
    return _posed(images, GOOD.model_copy(update={"scale": 0.3}))


BAD: tuple[Callable[[TaskImages], RGB], ...] = (
    _nothing, _almost_nothing, _wrong_colours, _hue_turned, _hard_seam, _cut_off, _pushed_out, _noise, _flat,
    _other_character, _blurred, _tiny,
)  # fmt: skip


@pytest.mark.parametrize("task_id", TASK_IDS)
@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_plainly_bad_candidate_ranks_below_a_good_one(task_id: str, spoil: Callable[[TaskImages], RGB]) -> None:
    images = example_tasks()[task_id]
    assert potential(images, spoil(images)) < _good_potential(task_id) - 1.0


def test_a_good_candidate_beats_every_bad_one_by_words_too() -> None:
    images = example_tasks()["71651078"]
    assert "Hardly anything was inserted" in judge(images, _nothing(images)).words
    assert "cut off" in judge(images, _pushed_out(images)).words
    assert "edge shows" in judge(images, _flat(images)).words
    assert "colours differ" in judge(images, _wrong_colours(images)).words


def test_a_smaller_character_with_its_whole_head_beats_a_larger_one_without() -> None:
    """Two refinements of one parent: the mask's side takes a slice of the second one's head and none of the first's."""
    images = example_tasks()["71651078"]
    parent = fresh(images, 5062)
    whole, sliced = (judge(images, refined(images, parent, seed).image) for seed in (1005065, 2005068))
    assert whole.measures["whole"] > sliced.measures["whole"] + 0.04
    assert whole.measures["size"] < sliced.measures["size"] - 0.1
    assert _sum(whole) > _sum(sliced) + 0.5


def _sum(judgement: Judgement) -> float:
    return judgement.scores["consistency"] + judgement.scores["quality"] + 2 * judgement.scores["identity"]


def test_every_criterion_has_a_score_and_the_same_result_gets_the_same() -> None:
    images = example_tasks()["71651082"]
    _, made = fresh(images, 5000)
    first = judge(images, made.image)
    other = LocalScorer(Settings())
    other.load()
    again = other.score(score_request(images, made.image))
    assert set(first.scores) == set(CRITERIA)
    assert not first.missing
    assert (first.scores, first.measures, first.words) == (again.scores, again.measures, again.words)
    assert other.cache_key() == LocalScorer(Settings()).cache_key()


def test_a_small_step_of_the_pose_is_a_small_step_of_the_potential() -> None:
    """Local refinement pays only where near poses get near scores."""
    for task_id in ("71651078", "71651082"):
        images = example_tasks()[task_id]
        values = [
            potential(
                images, _posed(images, GOOD.model_copy(update={"shift_x": 0.01 * step, "colour": 0.1 + 0.02 * step}))
            )
            for step in range(6)
        ]
        assert max(abs(first - second) for first, second in itertools.pairwise(values)) < 1.2


def test_one_judgement_takes_less_than_200_ms_of_one_core() -> None:
    images = example_tasks()["71651084"]
    results = [fresh(images, seed)[1].image for seed in range(5)]
    judge(images, results[0])
    started = time.process_time()
    for result in results:
        judge(images, result)
    assert (time.process_time() - started) / len(results) < 0.2


@pytest.mark.parametrize("side", [1, 2, 5])
def test_tiny_masks_are_judged(side: int) -> None:
    images = example_tasks()["71651082"]
    mask = np.zeros_like(images.mask)
    mask[100 : 100 + side, 50 : 50 + side] = 255
    small = TaskImages("small", "Cup", images.init, mask, images.character, key=f"small-{side}")
    _, made = fresh(small, 5000)
    assert set(judge(small, made.image).scores) == set(CRITERIA)
