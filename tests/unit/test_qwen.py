"""The Qwen generator on a tiny random checkpoint with the real classes: masks, trajectories, batches, failures."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("diffusers")

import torch
from safetensors.torch import load

from shared.errors import Cancelled, DeviceLost, Permanent, Retryable
from shared.settings import Settings
from shared.settings.generation import GenerationSettings
from shared.settings.qwen import QwenSettings
from shared.types import CandidateSpec, Start
from tests.tiny_qwen import TinyQwen, save_checkpoint, spec
from workers.generation import conditions, latents, sampling
from workers.generation.base import RGB, GeneratedImage, GenerationRequest, Mask, Parent, TaskImages
from workers.generation.latents import Stored
from workers.generation.trajectory import Plan

pytestmark = pytest.mark.torch
torch.set_num_threads(1)
STEPS = 6


def settings_of(changes: dict[str, Any]) -> Settings:
    return Settings(generation=GenerationSettings(qwen=QwenSettings.model_validate(changes)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("tiny-qwen"))


@pytest.fixture(scope="module")
def make(checkpoint: Path) -> Callable[..., TinyQwen]:
    def loaded(**changes: Any) -> TinyQwen:
        chosen = {"model": str(checkpoint), "steps": STEPS, "max_pixels": 96 * 96, "reference_pixels": 4096, **changes}
        generator = TinyQwen(settings_of(chosen), "cpu")
        generator.load()
        return generator

    return loaded


@pytest.fixture(scope="module")
def kept(make: Callable[..., TinyQwen]) -> Callable[..., TinyQwen]:
    """Like `make`, for tests that leave the weights alone: equal settings give the same loaded generator."""
    return cache(make)


@pytest.fixture(scope="module")
def generator(make: Callable[..., TinyQwen]) -> TinyQwen:
    return make()


class Watch:
    """A control that remembers its steps and can cancel at one of them."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.steps: list[tuple[int, int]] = []
        self._cancel_at = cancel_at

    def step(self, done: int, total: int) -> None:
        self.steps.append((done, total))
        if done == self._cancel_at:
            raise Cancelled


def smooth(height: int, width: int, seed: int) -> RGB:
    random = np.random.default_rng(seed)
    return np.asarray(cv2.resize(random.integers(0, 256, (7, 9, 3), dtype=np.uint8), (width, height)), dtype=np.uint8)


def task(
    height: int = 120, width: int = 150, box: tuple[int, int, int, int] | None = None, key: str = "k"
) -> TaskImages:
    mask: Mask = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box or (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    mask[top:bottom, left:right] = 255
    character = np.dstack([smooth(60, 50, 9), np.full((60, 50), 255, np.uint8)])
    return TaskImages("t1", "Ana", smooth(height, width, 3), mask, character, f"{key}-{height}-{width}-{box}")


def parent_of(made: GeneratedImage, of: CandidateSpec) -> Parent:
    return Parent(of, made.image, made.params, made.extras)


def run(generator: TinyQwen, images: TaskImages, wanted: CandidateSpec, parent: Parent | None = None) -> GeneratedImage:
    return generator.generate(GenerationRequest(images, wanted, parent), Watch())


def final(made: GeneratedImage) -> torch.Tensor:
    found: torch.Tensor = load(made.extras["latents"])["latents"]
    return found


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((120, 150), None),
        ((97, 61), (10, 11, 30, 70)),
        ((33, 301), (200, 3, 290, 30)),
        ((211, 40), (0, 0, 40, 90)),
        ((130, 131), (60, 60, 61, 61)),
        ((90, 90), (1, 0, 90, 90)),
    ],
)
@pytest.mark.parametrize("crop", ["always", "never"])
def test_outside_the_mask_every_byte_is_the_inits(
    kept: Callable[..., TinyQwen], size: tuple[int, int], box: tuple[int, int, int, int] | None, crop: str
) -> None:
    generator = kept(crop=crop, feather=3, steps=2)
    images = task(*size, box)
    made = run(generator, images, spec())
    assert made.image.shape == images.init.shape
    assert made.image.dtype == np.uint8
    assert np.array_equal(made.image[images.mask == 0], images.init[images.mask == 0])
    assert not np.array_equal(made.image[images.mask > 0], images.init[images.mask > 0])


def test_a_candidate_is_deterministic_and_its_seed_matters(generator: TinyQwen) -> None:
    images = task()
    first, again, other = (run(generator, images, spec(seed=seed)) for seed in (5000, 5000, 5031))
    assert np.array_equal(first.image, again.image)
    assert first.extras == again.extras
    assert not np.array_equal(first.image, other.image)
    assert first.model_evaluations == 2 * STEPS


def test_latents_outside_the_mask_end_as_the_inits_own(generator: TinyQwen) -> None:
    images = task()
    made = run(generator, images, spec())
    stored = Stored.from_bytes(made.extras["latents"], generator._model)
    scene = latents.encode(stored.window.shrink(images.init), generator._pipe)
    edit = latents.edit_mask(images.mask, stored.window, generator._pipe)
    assert 0 < edit.float().mean() < 1
    assert torch.equal(stored.latents[~edit], scene[~edit])
    assert not torch.equal(stored.latents[edit], scene[edit])


@pytest.mark.parametrize("stop_at", [0.17, 0.5, 0.84])
def test_resuming_elsewhere_equals_an_uninterrupted_run_bit_for_bit(
    kept: Callable[..., TinyQwen], generator: TinyQwen, stop_at: float
) -> None:
    images = task()
    whole = run(generator, images, spec())
    early = spec(stop_at=stop_at)
    paused = run(generator, images, early)
    resumed = run(
        kept(condition_cache=3), images, spec("g01", start=Start.RESUME, parent="g00"), parent_of(paused, early)
    )
    assert torch.equal(final(resumed), final(whole))
    assert np.array_equal(resumed.image, whole.image)
    assert paused.model_evaluations + resumed.model_evaluations == whole.model_evaluations
    assert paused.model_evaluations == 2 * round(stop_at * STEPS)


def test_a_refinement_can_be_paused_and_resumed_too(generator: TinyQwen) -> None:
    images = task()
    root = run(generator, images, spec())
    child = spec("l00.0", 7, phase="local", start=Start.REFINE, parent="g00", strength=0.8)
    whole = run(generator, images, child, parent_of(root, spec()))
    early = child.model_copy(update={"stop_at": 0.6})
    paused = run(generator, images, early, parent_of(root, spec()))
    going_on = spec("l00.1", 8, phase="local", start=Start.RESUME, parent="l00.0")
    resumed = run(generator, images, going_on, parent_of(paused, early))
    assert torch.equal(final(resumed), final(whole))


def test_a_preview_shows_where_the_trajectory_leads_and_not_the_noise(generator: TinyQwen) -> None:
    images = task()
    pipe = generator._pipe
    window = generator._window(GenerationRequest(images, spec()), generator_limits(generator))
    shared = conditions.build(pipe, images, window, generator._settings)
    noise = latents.noise(5000, window, pipe)

    def sample(last: int) -> sampling.Sampled:
        plan = Plan(0, last, STEPS)
        return sampling.run(pipe, shared, plan, noise, noise, Watch(), true_cfg_scale=4.0, shown_pixels=4096)

    before, after, whole = sample(3), sample(4), sample(STEPS)
    sigmas = [sampling.first_sigma(pipe, Plan(step, STEPS, STEPS), noise.shape[1]) for step in (3, 4)]
    # x0 from two consecutive latents, and from the velocity between them, are the same point.
    slope = (after.latents - before.latents) / (sigmas[1] - sigmas[0])
    edit = shared.edit
    assert torch.allclose((after.latents - sigmas[1] * slope)[edit], after.clean[edit], atol=1e-4)
    assert torch.equal(after.clean[~edit], shared.init[~edit])
    distance = (after.clean - whole.clean)[edit].norm()
    assert distance < (after.latents - whole.clean)[edit].norm()


def generator_limits(generator: TinyQwen) -> Any:
    from workers.generation.qwen import Limits

    return Limits(generator._settings.max_pixels, generator._settings.reference_pixels, tiling=False)


def test_refinement_stays_near_its_parent_and_costs_its_share(generator: TinyQwen) -> None:
    images = task()
    root = run(generator, images, spec())
    parent = parent_of(root, spec())
    fresh = run(generator, images, spec("g01", 5031))

    def child(strength: float, seed: int) -> GeneratedImage:
        wanted = spec("l00.0", seed, phase="local", start=Start.REFINE, parent="g00", strength=strength)
        return run(generator, images, wanted, parent)

    def apart(made: GeneratedImage) -> float:
        return float((final(made) - final(root)).abs().mean())

    near, middle, far = child(0.2, 71), child(0.55, 71), child(1.0, 71)
    assert 0 < apart(near) < apart(middle) < apart(far)
    assert apart(middle) < apart(fresh)
    assert middle.model_evaluations == 2 * round(0.55 * STEPS)
    assert not np.array_equal(middle.image, child(0.55, 72).image)
    assert np.array_equal(middle.image[images.mask == 0], images.init[images.mask == 0])


def test_a_parent_without_latents_is_refined_from_its_image(generator: TinyQwen) -> None:
    images = task()
    painted = images.init.copy()
    painted[images.mask > 0] = (200, 30, 30)
    parent = Parent(spec("r00", 0), painted, {}, {})
    wanted = spec("l00.0", 71, phase="local", start=Start.REFINE, parent="r00", strength=0.2)
    made = run(generator, images, wanted, parent)
    plain = run(generator, images, wanted, Parent(spec("r00", 0), images.init, {}, {}))
    assert not np.array_equal(made.image, plain.image)
    assert made.model_evaluations == 2


def test_damaged_or_foreign_latents_are_refused(generator: TinyQwen, make: Callable[..., TinyQwen]) -> None:
    images = task()
    early = spec(stop_at=0.5)
    paused = run(generator, images, early)
    wanted = spec("g01", start=Start.RESUME, parent="g00")
    data = paused.extras["latents"]
    foreign = Stored.from_bytes(data, generator._model)
    changed = Stored(foreign.latents, foreign.window, 3, STEPS, 1, "other/model@x").to_bytes()
    short = Stored(foreign.latents[:, 1:], foreign.window, 3, STEPS, 1, generator._model).to_bytes()
    for bad in (data[: len(data) // 2], b"", b"\xff" * 40, data[:8] + b"}" + data[9:], changed, short):
        with pytest.raises(Permanent, match="latents"):
            run(generator, images, wanted, Parent(early, paused.image, {}, {"latents": bad}))
    with pytest.raises(Permanent, match="steps"):
        run(make(steps=STEPS + 2), images, wanted, parent_of(paused, early))


@pytest.mark.parametrize("zero_cond_t", [True, False])
def test_a_batch_equals_single_runs(make: Callable[..., TinyQwen], zero_cond_t: bool, tmp_path: Path) -> None:
    from tests.tiny_qwen import tiny_pipeline

    tiny_pipeline(zero_cond_t=zero_cond_t).save_pretrained(tmp_path)
    generator = make(model=str(tmp_path))
    images = task()
    wanted = [spec(f"g0{index}", 5000 + 31 * index) for index in range(3)]
    batch = generator.generate_many([GenerationRequest(images, one) for one in wanted], Watch())
    for one, made in zip(wanted, batch, strict=True):
        alone = run(generator, images, one)
        assert torch.allclose(final(made), final(alone), atol=1e-5)
        assert int(np.abs(made.image.astype(int) - alone.image).max()) <= 1
        assert made.model_evaluations == alone.model_evaluations


def test_a_batch_of_different_steps_is_refused(generator: TinyQwen) -> None:
    images = task()
    requests = [GenerationRequest(images, spec()), GenerationRequest(images, spec("g01", stop_at=0.5))]
    with pytest.raises(Permanent, match="batch"):
        generator.generate_many(requests, Watch())


@pytest.mark.parametrize("placement", ["keep", "offload"])
def test_the_prompt_is_encoded_once_per_task(make: Callable[..., TinyQwen], placement: str) -> None:
    generator = make(condition_cache=2, text_encoder=placement)
    calls: list[int] = []
    generator._pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    first, second, third = (task(key=key) for key in "abc")
    for seed in (1, 2, 3):
        run(generator, first, spec(seed=seed))
    assert len(calls) == 2  # the prompt and the negative prompt
    run(generator, second, spec())
    run(generator, first, spec())
    assert len(calls) == 4
    run(generator, third, spec())
    run(generator, second, spec())  # the least recently used had to go
    assert len(calls) == 8


def test_progress_is_told_and_cancelling_is_let_through(generator: TinyQwen) -> None:
    images = task()
    watch = Watch()
    generator.generate(GenerationRequest(images, spec()), watch)
    assert watch.steps == [(done, STEPS) for done in range(STEPS + 1)]
    with pytest.raises(Cancelled):
        generator.generate(GenerationRequest(images, spec()), Watch(cancel_at=3))
    assert generator._pipe.transformer._forward_pre_hooks == {}


def test_an_abort_leaves_nothing_in_the_step_cache(make: Callable[..., TinyQwen]) -> None:
    generator = make(first_block_cache=0.9)
    images = task()
    clean = run(generator, images, spec())
    with pytest.raises(Cancelled):
        generator.generate(GenerationRequest(images, spec(seed=99)), Watch(cancel_at=4))
    assert np.array_equal(run(generator, images, spec()).image, clean.image)
    uncached = run(make(), images, spec())
    assert not np.array_equal(uncached.image, clean.image)


@pytest.fixture
def failing(generator: TinyQwen) -> Iterator[Callable[[Exception, int], list[int]]]:
    """Makes the transformer raise on its first calls."""
    handles = []

    def fail(error: Exception, times: int) -> list[int]:
        calls: list[int] = []

        def hook(*_: object) -> None:
            calls.append(1)
            if len(calls) <= times:
                raise error

        handles.append(generator._pipe.transformer.register_forward_pre_hook(hook))
        return calls

    yield fail
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")],
)
def test_out_of_memory_is_tried_once_more_with_less_and_said(
    generator: TinyQwen, failing: Callable[[Exception, int], list[int]], error: Exception
) -> None:
    images = task()
    failing(error, 1)
    made = run(generator, images, spec())
    assert "ran out of memory" in made.notes[0]
    drawn = Stored.from_bytes(made.extras["latents"], generator._model).window
    assert drawn.width * drawn.height <= 96 * 96 / 2
    assert np.array_equal(made.image[images.mask == 0], images.init[images.mask == 0])
    assert generator._pipe.vae.use_tiling is False
    assert run(generator, images, spec()).notes == ("drawn on the CPU",)


def test_out_of_memory_twice_is_for_another_device(
    generator: TinyQwen, failing: Callable[[Exception, int], list[int]]
) -> None:
    failing(torch.OutOfMemoryError("CUDA out of memory"), 2)
    with pytest.raises(Retryable, match="cpu ran out of memory"):
        run(generator, task(), spec())


@pytest.mark.parametrize(
    "words",
    ["CUDA error: device-side assert triggered", "CUDA error: an illegal memory access was encountered"],
)
def test_a_broken_context_ends_the_process(
    generator: TinyQwen, failing: Callable[[Exception, int], list[int]], words: str
) -> None:
    failing(RuntimeError(words), 1)
    with pytest.raises(DeviceLost, match="started again"):
        run(generator, task(), spec())


def test_another_error_is_not_mistaken(generator: TinyQwen, failing: Callable[[Exception, int], list[int]]) -> None:
    failing(RuntimeError("shapes do not match"), 1)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(generator, task(), spec())


def test_nan_is_a_failure(make: Callable[..., TinyQwen]) -> None:
    generator = make()
    with torch.no_grad():
        generator._pipe.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(Retryable, match="NaN"):
        run(generator, task(), spec())


def test_a_flat_picture_is_a_failure(make: Callable[..., TinyQwen]) -> None:
    generator = make()
    with torch.no_grad():
        generator._pipe.vae.decoder.conv_out.weight.zero_()
        generator._pipe.vae.decoder.conv_out.bias.zero_()
    with pytest.raises(Permanent, match="flat"):
        run(generator, task(), spec())


def test_guidance_off_halves_the_calls(make: Callable[..., TinyQwen]) -> None:
    assert run(make(true_cfg_scale=1.0), task(), spec()).model_evaluations == STEPS


def test_the_single_picture_model_works_and_says_what_it_does_not_see(
    make: Callable[..., TinyQwen], tmp_path: Path
) -> None:
    from diffusers import QwenImageEditPipeline

    from tests.tiny_qwen import tiny_pipeline

    parts = tiny_pipeline().components
    QwenImageEditPipeline(**parts).save_pretrained(tmp_path)
    images = task()
    generator = make(model=str(tmp_path), steps=2)
    made = run(generator, images, spec())
    assert any("one picture only" in note for note in made.notes)
    assert np.array_equal(made.image[images.mask == 0], images.init[images.mask == 0])


def test_the_fingerprint_holds_what_is_drawn_and_nothing_else(make: Callable[..., TinyQwen]) -> None:
    def of(**changes: Any) -> Any:
        return TinyQwen(settings_of(changes), "cpu").fingerprint()

    assert of(steps=20) != of()
    assert of(first_block_cache=0.1) != of()
    assert of(local_files_only=True, text_encoder="offload", memory_headroom_gib=1) == of()
    assert of()["revision"] == "6f3ccc0b56e431dc6a0c2b2039706d7d26f22cb9"
