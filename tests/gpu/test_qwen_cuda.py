"""The Qwen generator on a real CUDA device: what a CPU cannot show. Skipped where there is none."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")

import torch
from PIL import Image
from safetensors.torch import load

from shared.errors import Cancelled, DeviceError
from shared.settings import Settings
from shared.settings.generation import GenerationSettings
from shared.settings.qwen import QwenSettings
from shared.types import CandidateSpec, Start
from tests.tiny_qwen import TinyQwen, psnr, spec, tiny_pipeline
from workers.generation import conditions, latents, memory, sampling
from workers.generation.base import GeneratedImage, GenerationRequest, Parent, TaskImages
from workers.generation.trajectory import Plan

pytestmark = [pytest.mark.torch, pytest.mark.gpu]
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
STEPS = 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-qwen")
    tiny_pipeline(layers=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(checkpoint: Path) -> Callable[..., TinyQwen]:
    def loaded(**changes: Any) -> TinyQwen:
        qwen = QwenSettings.model_validate(
            {"model": str(checkpoint), "steps": STEPS, "memory_headroom_gib": 1, **changes}
        )
        generator = TinyQwen(Settings(generation=GenerationSettings(qwen=qwen)), "cuda")
        generator.load()
        return generator

    return loaded


class Watch:
    def __init__(self, cancel_at: int | None = None) -> None:
        self._cancel_at = cancel_at

    def step(self, done: int, total: int) -> None:
        del total
        if done == self._cancel_at:
            raise Cancelled


def task(side: int = 733) -> TaskImages:
    random = np.random.default_rng(1)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    init = np.asarray(coarse.resize((side, side - 40))).copy()
    mask = np.zeros(init.shape[:2], np.uint8)
    mask[100:500, 201:477] = 255
    character = np.dstack([np.asarray(coarse.resize((300, 400))), np.full((400, 300), 255, np.uint8)])
    return TaskImages("t", "Ana", init, mask, character, f"k{side}")


def run(generator: TinyQwen, wanted: CandidateSpec, parent: Parent | None = None) -> GeneratedImage:
    return generator.generate(GenerationRequest(task(), wanted, parent), Watch())


def final(made: GeneratedImage) -> torch.Tensor:
    found: torch.Tensor = load(made.extras["latents"])["latents"]
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("backend", [None, "_native_cudnn"])
def test_resume_is_bit_equal_and_outside_is_the_inits(
    make: Callable[..., TinyQwen], dtype: str, backend: str | None
) -> None:
    if dtype == "float32" and backend:
        pytest.skip("cuDNN attention takes half precision only")
    generator = make(dtype=dtype, attention_backend=backend)
    images = task()
    whole = run(generator, spec())
    early = spec(stop_at=0.3)
    paused = run(generator, early)
    parent = Parent(early, paused.image, paused.params, paused.extras)
    resumed = run(make(dtype=dtype, attention_backend=backend), spec("g01", start=Start.RESUME, parent="g00"), parent)
    assert torch.equal(final(resumed), final(whole))
    assert np.array_equal(resumed.image, whole.image)
    for made in (whole, paused):
        assert np.array_equal(made.image[images.mask == 0], images.init[images.mask == 0])
    generator._pipe.transformer.set_attention_backend("native")


def test_the_preview_from_the_velocity_is_better_than_from_two_latents(make: Callable[..., TinyQwen]) -> None:
    """In bfloat16 the difference of two neighbouring latents is mostly rounding."""
    generator = make(dtype="bfloat16")
    exact = make(dtype="float32")
    errors = {}
    for name, one in (("bfloat16", generator), ("float32", exact)):
        pipe, images = one._pipe, task()
        window = one._window(GenerationRequest(images, spec()), _limits(one))
        shared = conditions.build(pipe, images, window, one._settings)
        noise = latents.noise(5000, window, pipe)
        before, after = (
            sampling.run(
                pipe, shared, Plan(0, last, STEPS), noise, noise, Watch(), true_cfg_scale=4.0, shown_pixels=256**2
            )
            for last in (6, 7)
        )
        low, high = (sampling.first_sigma(pipe, Plan(s, STEPS, STEPS), noise.shape[1]) for s in (7, 6))
        slope = (after.latents.float() - before.latents.float()) / (low - high)
        from_latents = after.latents.float() - low * slope
        errors[name] = float((from_latents - after.clean)[shared.edit].abs().mean())
    assert errors["float32"] < 1e-4
    assert errors["bfloat16"] > 10 * errors["float32"]
    sys.stderr.write(f"mean |x0 from two latents - x0 from the velocity|: {errors}\n")


def _limits(generator: TinyQwen) -> Any:
    from workers.generation.qwen import Limits

    return Limits(generator._settings.max_pixels, generator._settings.reference_pixels, tiling=False)


def test_a_batch_equals_single_runs(make: Callable[..., TinyQwen]) -> None:
    generator = make(dtype="float32")
    wanted = [spec(f"g0{index}", 5000 + 31 * index) for index in range(3)]
    batch = generator.generate_many([GenerationRequest(task(), one) for one in wanted], Watch())
    for one, made in zip(wanted, batch, strict=True):
        alone = run(generator, one)
        assert psnr(made.image, alone.image) > 50


def test_real_out_of_memory_is_survived(make: Callable[..., TinyQwen]) -> None:
    """The allocator really refuses, under a cap on this process."""
    generator = make(crop="never")
    request = GenerationRequest(task(), spec())
    generator.generate(request, Watch())
    calls: list[int] = []

    def hungry(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            torch.empty(4 * 1024**3, dtype=torch.uint8, device="cuda")

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 * 1024**3) / total)
    handle = generator._pipe.transformer.register_forward_pre_hook(hungry)
    try:
        made = generator.generate(request, Watch())
    finally:
        handle.remove()
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "ran out of memory" in made.notes[0]
    images = task()
    assert np.array_equal(made.image[images.mask == 0], images.init[images.mask == 0])
    assert generator.generate(request, Watch()).notes == ()


def test_a_cancelled_candidate_leaves_no_cache(make: Callable[..., TinyQwen]) -> None:
    generator = make(first_block_cache=0.5)
    clean = run(generator, spec())
    with pytest.raises(Cancelled):
        generator.generate(GenerationRequest(task(), spec(seed=9)), Watch(cancel_at=STEPS // 2))
    assert np.array_equal(run(generator, spec()).image, clean.image)


def test_offloaded_text_encoder_draws_the_same(make: Callable[..., TinyQwen]) -> None:
    kept, offloaded = make(), make(text_encoder="offload")
    assert psnr(run(kept, spec()).image, run(offloaded, spec()).image) == float("inf")
    assert offloaded._pipe.text_encoder.device.type == "cpu"


def test_free_memory_is_asked_before_loading(make: Callable[..., TinyQwen]) -> None:
    found = memory.gpu_memory(0)
    assert found.source == "NVML"
    assert 0 < found.free < found.total
    with pytest.raises(DeviceError, match=r"GiB of .* GiB free .* by NVML"):
        make(memory_headroom_gib=500)


def test_a_device_side_assert_is_told_as_a_lost_device(checkpoint: Path) -> None:
    script = f"""
        import torch
        from shared.errors import DeviceLost
        from shared.settings import Settings
        from shared.settings.generation import GenerationSettings
        from shared.settings.qwen import QwenSettings
        from tests.gpu.test_qwen_cuda import Watch, spec, task
        from tests.tiny_qwen import TinyQwen
        from workers.generation.base import GenerationRequest

        qwen = QwenSettings(model={str(checkpoint)!r}, steps=4, memory_headroom_gib=1)
        generator = TinyQwen(Settings(generation=GenerationSettings(qwen=qwen)), "cuda")
        generator.load()
        def poison(*_):
            index = torch.tensor([10**6], device="cuda")
            torch.zeros(4, device="cuda")[index]
            torch.cuda.synchronize()
        generator._pipe.transformer.register_forward_pre_hook(poison)
        try:
            generator.generate(GenerationRequest(task(), spec()), Watch())
        except DeviceLost as error:
            raise SystemExit(75 if "assert" in str(error) else 1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 75, done.stderr[-2000:]
