"""The whole pipeline with the text encoder's real processor, which needs a torchvision that fits torch.

Everywhere else a small processor stands in for it; in the image `gpu` both are there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("torchvision")

import torch

from shared.settings.qwen import QwenSettings
from shared.types import CandidateSpec, Start
from tests.tiny_qwen import IMAGE_PAD, MERGE, PATCH, VISION_END, VISION_START, spec, tiny_pipeline
from workers.generation.base import GeneratedImage, GenerationRequest, Parent, TaskImages, Unwatched
from workers.generation.qwen import QwenImageEditGenerator

pytestmark = pytest.mark.torch
SPECIAL = {
    "<|image_pad|>": IMAGE_PAD,
    "<|video_pad|>": 901,
    "<|vision_start|>": VISION_START,
    "<|vision_end|>": VISION_END,
    "<|im_start|>": 904,
    "<|im_end|>": 905,
    "<|endoftext|>": 906,
}


def real_processor() -> Any:
    """Qwen2-VL's own processor over a tokenizer that knows single bytes only."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLVideoProcessor

    vocab = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))} | SPECIAL
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=list(SPECIAL))
    sizes = {"patch_size": PATCH, "merge_size": MERGE}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes),
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-qwen")
    pipe, processor = tiny_pipeline(), real_processor()
    pipe.register_modules(processor=processor, tokenizer=processor.tokenizer)
    pipe.save_pretrained(folder)
    return folder


def task(character: int) -> TaskImages:
    draw = np.random.default_rng(3)
    mask = np.zeros((96, 128), np.uint8)
    mask[24:72, 32:96] = 255
    shown = np.full((60, 50, 4), 255, np.uint8)
    shown[..., :3] = character
    init = draw.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    return TaskImages("t1", "Ana", init, mask, shown, f"character {character}")


@torch.no_grad()
def test_a_checkpoint_with_its_own_processor_is_loaded_and_makes_and_refines(checkpoint: Path) -> None:
    settings = QwenSettings.model_validate(
        {"model": str(checkpoint), "steps": 4, "max_pixels": 96 * 96, "reference_pixels": 4096}
    )
    generator = QwenImageEditGenerator(settings, "cpu")
    generator.load()

    def make(images: TaskImages, wanted: CandidateSpec, parent: Parent | None = None) -> GeneratedImage:
        made = generator.generate(GenerationRequest(images, wanted, parent), Unwatched())
        assert (made.image[images.mask == 0] == images.init[images.mask == 0]).all()
        return made

    grey, black = task(128), task(0)
    first, again, other = (make(images, spec("g00")) for images in (grey, grey, black))
    assert (first.image == again.image).all()
    assert (first.image != other.image).any(), "the character reaches the model through its processor"
    parent = Parent(spec("g00"), first.image, first.params, first.extras)
    refined = make(grey, spec("l00", phase="local", parent="g00", start=Start.REFINE, strength=0.5), parent)
    assert (refined.image != first.image).any()
    assert refined.model_evaluations < first.model_evaluations
