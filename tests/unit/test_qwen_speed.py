"""Speed options of the Qwen generator on a tiny checkpoint: each does something, or says in one sentence why not."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

import numpy as np
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from shared.errors import ConfigurationError, MissingDependency
from shared.settings import Settings
from shared.settings.generation import GenerationSettings
from shared.settings.qwen import QwenSettings
from shared.types import CandidateSpec
from tests.tiny_qwen import TinyQwen, save_checkpoint, tiny_pipeline
from workers.generation import qwen_loading
from workers.generation.base import GeneratedImage, GenerationRequest, TaskImages, Unwatched

pytestmark = pytest.mark.torch
torch.set_num_threads(1)
LIGHTNING = {"lightning": True, "true_cfg_scale": 1.0, "steps": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("tiny-qwen"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the tiny transformer, as diffusers saves it: random in both of its factors."""
    folder = tmp_path_factory.mktemp("lora")
    pipe = tiny_pipeline()
    pipe.transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=64, target_modules=["to_q", "to_k"], init_lora_weights=False)
    )
    pipe.save_lora_weights(folder, get_peft_model_state_dict(pipe.transformer), weight_name="four-steps.safetensors")
    return folder


@pytest.fixture(scope="module")
def make(checkpoint: Path) -> Callable[..., TinyQwen]:
    def loaded(**changes: Any) -> TinyQwen:
        chosen = {"model": str(checkpoint), "steps": 4, "max_pixels": 64 * 64, "reference_pixels": 4096, **changes}
        settings = Settings(generation=GenerationSettings(qwen=QwenSettings.model_validate(chosen)))
        generator = TinyQwen(settings, "cpu")
        generator.load()
        return generator

    return loaded


def run(generator: TinyQwen) -> GeneratedImage:
    draw = np.random.default_rng(5)
    init = draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    images = TaskImages("t", "Ana", init, mask, draw.integers(0, 256, (32, 32, 4), dtype=np.uint8), "k")
    spec = CandidateSpec(id="g00", phase="global", seed=5000, order=(0,))
    return generator.generate(GenerationRequest(images, spec), Unwatched())


def test_a_lora_changes_what_is_drawn(make: Callable[..., TinyQwen], lora: Path) -> None:
    with_lora = make(lora=str(lora), lora_weight_name="four-steps.safetensors")
    assert not np.array_equal(run(with_lora).image, run(make()).image)
    assert with_lora.fingerprint() != make().fingerprint()


def test_lightning_has_its_own_schedule_and_a_call_per_step(make: Callable[..., TinyQwen], lora: Path) -> None:
    generator = make(lora=str(lora), lora_weight_name="four-steps.safetensors", **LIGHTNING)
    scheduler = generator._pipe.scheduler
    assert (scheduler.config.base_shift, scheduler.config.max_shift) == (math.log(3), math.log(3))
    assert scheduler.config.shift_terminal is None
    assert run(generator).model_evaluations == 4
    # A constant shift of log 3 maps each sigma s of the plain grid to 3s / (1 + 2s).
    plain = np.linspace(1, 1 / 4, 4)
    assert np.allclose(scheduler.sigmas[:-1].numpy(), 3 * plain / (1 + 2 * plain), atol=1e-6)


def test_a_lora_that_cannot_be_loaded(make: Callable[..., TinyQwen], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"generation\.qwen\.lora"):
        make(lora=str(tmp_path), lora_weight_name="absent.safetensors")


def test_an_attention_backend_that_is_not_there(make: Callable[..., TinyQwen]) -> None:
    with pytest.raises(ConfigurationError, match=r"generation\.qwen\.attention_backend: no_such cannot be used"):
        make(attention_backend="no_such")
    assert run(make(attention_backend="_native_math")).image.shape == (64, 64, 3)


def test_compiling_marks_every_block(checkpoint: Path) -> None:
    """Regional compilation is lazy, so this builds no kernel; a GPU has measured what it gains."""
    pipe = tiny_pipeline(layers=3)
    qwen_loading.speed_up(pipe, QwenSettings.model_validate({"compile": True}), "cpu")
    assert all(block._compiled_call_impl is not None for block in pipe.transformer.transformer_blocks)


def test_fp8_and_absent_packages_name_the_extra(make: Callable[..., TinyQwen], monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torchao", "peft") else real(name))
    for changes in ({"fp8": True}, {"lora": "some/where"}):
        with pytest.raises(MissingDependency, match=r"inpaint-eacps\[qwen-speed\]"):
            make(**changes)
