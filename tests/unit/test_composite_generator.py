"""Composite candidates of the real examples."""

import time

import numpy as np
import pytest

from shared.errors import Cancelled, Permanent
from shared.settings.composite import CompositeSettings
from shared.types import CandidateSpec, Start
from tests.unit.composite_support import TASK_IDS, Watcher, example_tasks, fresh, generator, refined
from workers.generation.base import GenerationRequest, Parent, TaskImages
from workers.generation.composite import CompositeGenerator
from workers.generation.pose import Pose
from workers.scoring.gate import outside_difference, seam_energy


def _distance(first: dict[str, float], second: dict[str, float]) -> float:
    spans = {"scale": 0.4, "shift_x": 0.3, "shift_y": 0.3, "rotation": 16.0}
    names = ("scale", "shift_x", "shift_y", "rotation", "colour", "harmony", "feather", "soften", "shadow")
    return float(np.sqrt(np.mean([((first[name] - second[name]) / spans.get(name, 1.0)) ** 2 for name in names])))


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_a_candidate_changes_the_inside_of_the_mask_and_nothing_else(task_id: str) -> None:
    images = example_tasks()[task_id]
    for seed in (5000, 5031):
        _, made = fresh(images, seed)
        assert made.image.shape == images.init.shape
        assert made.image.dtype == np.uint8
        assert outside_difference(images.init, images.mask, made.image) == 0
        assert (made.image[images.mask > 0] != images.init[images.mask > 0]).any()


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_the_same_seed_draws_the_same_image_in_another_process_state(task_id: str) -> None:
    images = example_tasks()[task_id]
    other = CompositeGenerator(CompositeSettings())
    other.load()
    spec, made = fresh(images, 5062)
    again = other.generate(GenerationRequest(images, spec), Watcher())
    assert np.array_equal(made.image, again.image)
    assert made.params == again.params


def test_other_seeds_draw_other_images() -> None:
    images = example_tasks()["71651078"]
    drawn = {fresh(images, 5000 + 31 * index)[1].image.tobytes() for index in range(8)}
    assert len(drawn) == 8


def test_params_are_the_pose() -> None:
    _, made = fresh(example_tasks()["71651082"], 5000)
    assert Pose.model_validate(dict(made.params)).model_dump(mode="json") == made.params


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_children_are_nearer_to_their_parent_than_fresh_seeds_are(task_id: str) -> None:
    images = example_tasks()[task_id]
    nearer_pose, nearer_pixels = [], []
    for index in range(3):
        parent = fresh(images, 5000 + 31 * index)
        children = [refined(images, parent, 90_000 + index * 10 + child) for child in range(3)]
        strangers = [fresh(images, 70_000 + index * 10 + child)[1] for child in range(3)]
        own = dict(parent[1].params)
        far = np.mean([_distance(own, dict(other.params)) for other in strangers])  # type: ignore[arg-type]
        near = np.mean([_distance(own, dict(child.params)) for child in children])  # type: ignore[arg-type]
        nearer_pose.append(near < 0.6 * far)
        assert all(child.params["flip"] == own["flip"] for child in children)
        assert all(child.params["clone"] == own["clone"] for child in children)
        moved = [
            np.mean([np.abs(parent[1].image.astype(int) - other.image).mean() for other in others])
            for others in (children, strangers)
        ]
        nearer_pixels.append(moved[0] < moved[1])
    assert all(nearer_pose)
    assert all(nearer_pixels)


def test_a_weaker_refinement_stays_nearer() -> None:
    images = example_tasks()["71651078"]
    parent = fresh(images, 5000)
    own = dict(parent[1].params)
    means = [
        np.mean([_distance(own, dict(refined(images, parent, 300 + k, strength).params)) for k in range(6)])  # type: ignore[arg-type]
        for strength in (0.05, 0.4, 1.0)
    ]
    assert means[0] < means[1] < means[2]


def test_resuming_repeats_the_parents_pose() -> None:
    images = example_tasks()["71651083"]
    spec, made = fresh(images, 5000)
    resumed = spec.model_copy(update={"id": "g01", "start": Start.RESUME, "parent": "g00"})
    again = generator().generate(
        GenerationRequest(images, resumed, Parent(spec, made.image, made.params, {})), Watcher()
    )
    assert np.array_equal(again.image, made.image)


@pytest.mark.parametrize("value", [0, 255])
def test_nothing_jumps_at_the_edge_of_the_mask(value: int) -> None:
    """A character of one colour that is far larger than the mask, in a scene of the opposite colour."""
    init = np.full((200, 240, 3), value, np.uint8)
    mask = np.zeros((200, 240), np.uint8)
    mask[60:140, 70:170] = 255
    character = np.full((80, 80, 4), 255 - value, np.uint8)
    character[..., 3] = 255
    character[:2, :, 3] = character[-2:, :, 3] = character[:, :2, 3] = character[:, -2:, 3] = 0
    images = TaskImages("edge", "Block", init, mask, character, key=f"edge-{value}")
    wide = CompositeGenerator(CompositeSettings(scale_min=1.0, scale_max=2.0, shift=0.0))
    wide.load()
    for seed in range(12):
        spec = CandidateSpec(id="g00", phase="global", seed=seed, order=(0, 0))
        made = wide.generate(GenerationRequest(images, spec), Watcher()).image
        assert np.abs(made[mask > 0].astype(int) - value).max() > 30, "the character does not show"
        assert seam_energy(init, mask, made) <= 1.0
        inside_edge = made[60, 70:170].astype(int)
        assert np.abs(inside_edge - value).max() <= 1


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_no_example_gets_a_seam(task_id: str) -> None:
    images = example_tasks()[task_id]
    assert max(seam_energy(images.init, images.mask, fresh(images, seed)[1].image) for seed in range(5)) < 3


def test_one_candidate_takes_less_than_150_ms_of_one_core() -> None:
    images = max(example_tasks().values(), key=lambda task: int((task.mask > 0).sum()))
    fresh(images, 1)
    started = time.process_time()
    for seed in range(10):
        fresh(images, seed)
    assert (time.process_time() - started) / 10 < 0.15


def test_a_photo_without_alpha_is_cut_out() -> None:
    from workers.generation.cutout import cut_out

    cutout = cut_out(example_tasks()["71651084"].character, 400)
    assert cutout.notes == ()
    height, width = cutout.alpha.shape
    assert 0.35 < float(cutout.alpha.mean()) < 0.95
    assert float(cutout.alpha[: height // 4, : width // 8].mean()) < 0.2, "the background beside the head is kept"
    assert "bottom" in cutout.cut


def test_a_photo_of_nothing_is_placed_with_an_oval_outline_and_says_so() -> None:
    from workers.generation.cutout import cut_out

    flat = np.full((90, 60, 4), 255, np.uint8)
    cutout = cut_out(flat, 400)
    assert "oval" in cutout.notes[0]
    assert float(cutout.alpha[0, 0]) < 0.1 < float(cutout.alpha[45, 30])
    empty = flat.copy()
    empty[..., 3] = 0
    assert "empty" in cut_out(empty, 400).notes[0]


def test_a_refinement_without_a_pose_is_refused() -> None:
    images = example_tasks()["71651078"]
    spec, made = fresh(images, 5000)
    child = CandidateSpec(
        id="l00.0", phase="local", seed=1, order=(1, 0, 0), parent="g00", start=Start.REFINE, strength=0.5
    )
    with pytest.raises(Permanent, match="no parent"):
        generator().generate(GenerationRequest(images, child), Watcher())
    with pytest.raises(Permanent, match="no pose"):
        generator().generate(GenerationRequest(images, child, Parent(spec, made.image, {"steps": 8}, {})), Watcher())


def test_an_empty_mask_is_refused() -> None:
    images = example_tasks()["71651078"]
    empty = TaskImages("empty", "Nobody", images.init, np.zeros_like(images.mask), images.character, key="empty")
    with pytest.raises(Permanent, match="empty"):
        generator().generate(
            GenerationRequest(empty, CandidateSpec(id="g00", phase="global", seed=1, order=(0, 0))), Watcher()
        )


@pytest.mark.parametrize("box", [(0, 200, 0, 240), (10, 12, 10, 12), (0, 200, 100, 103), (199, 200, 0, 240)])
def test_odd_masks_are_filled(box: tuple[int, int, int, int]) -> None:
    init = np.random.default_rng(0).integers(0, 256, (200, 240, 3), dtype=np.uint8)
    mask = np.zeros((200, 240), np.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 255
    images = TaskImages("odd", "Cup", init, mask, example_tasks()["71651082"].character, key=str(box))
    for seed in range(6):
        spec = CandidateSpec(id="g00", phase="global", seed=seed, order=(0, 0))
        made = generator().generate(GenerationRequest(images, spec), Watcher())
        assert outside_difference(init, mask, made.image) == 0


def test_cancellation_goes_through() -> None:
    class Stop:
        def step(self, done: int, total: int) -> None:
            raise Cancelled

    images = example_tasks()["71651078"]
    with pytest.raises(Cancelled):
        generator().generate(
            GenerationRequest(images, CandidateSpec(id="g00", phase="global", seed=1, order=(0, 0))), Stop()
        )


def test_the_fingerprint_changes_with_what_changes_the_image_and_with_nothing_else() -> None:
    def of(**changes: float) -> object:
        return CompositeGenerator(CompositeSettings.model_validate(changes)).fingerprint()

    assert of() == of(cache_tasks=3)
    assert of() != of(rotation=3.0)
