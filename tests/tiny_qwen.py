"""A Qwen-Image-Edit checkpoint with the real classes and tiny random weights, built locally.

The text encoder's real processor needs torchvision, which the CPU test environment does not have: the checkpoint is
saved without one, and `TinyQwen` gives the loaded pipeline a small one of its own.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature

from shared.settings import Settings
from shared.types import CandidateSpec
from workers.generation.qwen import QwenImageEditGenerator

IMAGE_PAD, VISION_START, VISION_END = 900, 902, 903
PATCH, MERGE = 14, 2


def tiny_pipeline(*, layers: int = 2, zero_cond_t: bool = True, seed: int = 0) -> Any:
    """A `QwenImageEditPlusPipeline` of a few hundred thousand weights."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(seed)
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        zero_cond_t=zero_cond_t,
    )
    vae = AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )
    text_encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 1000,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                "max_position_embeddings": 4096,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_heads": 2,
                "out_hidden_size": 16,
                "patch_size": PATCH,
                "fullatt_block_indexes": [0],
            },
            image_token_id=IMAGE_PAD,
            video_token_id=901,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
        )
    )
    return QwenImageEditPlusPipeline(
        scheduler=scheduler,
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=None,
        processor=None,
        transformer=transformer.eval(),
    )


def save_checkpoint(folder: Path) -> Path:
    """Save a tiny checkpoint as diffusers does, and return its folder."""
    tiny_pipeline().save_pretrained(folder)
    return folder


class TinyProcessor:
    """Text to character codes and pictures to patches, in the layout of Qwen2.5-VL's processor."""

    def __call__(
        self, *, text: list[str], images: list[Image.Image] | Image.Image, padding: bool, return_tensors: str
    ) -> BatchFeature:
        del padding, return_tensors
        shown = images if isinstance(images, list) else [images]
        small = [image.resize((4 * PATCH, 4 * PATCH)) for image in shown] * len(text)
        tokens = (4 // MERGE) ** 2
        rows = [self._ids(line, tokens) for line in text]
        length = max(len(row) for row in rows)
        ids = torch.zeros((len(rows), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        patches = [self._patches(image) for image in small]
        return BatchFeature(
            {
                "input_ids": ids,
                "attention_mask": mask,
                "pixel_values": torch.from_numpy(np.concatenate(patches)),
                "image_grid_thw": torch.tensor([[1, 4, 4]] * len(small)),
            }
        )

    @staticmethod
    def _ids(line: str, tokens: int) -> list[int]:
        ids: list[int] = []
        pieces = line.split("<|vision_start|><|image_pad|><|vision_end|>")
        for index, piece in enumerate(pieces):
            ids += [3 + ord(letter) % 800 for letter in piece]
            if index < len(pieces) - 1:
                ids += [VISION_START, *[IMAGE_PAD] * tokens, VISION_END]
        return ids

    @staticmethod
    def _patches(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1.0
        side = image.width // PATCH
        cut = pixels.reshape(side, PATCH, side, PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(side * side, 3, 1, PATCH**2)
        return np.ascontiguousarray(np.repeat(cut, 2, axis=2).reshape(side * side, -1))


class TinyQwen(QwenImageEditGenerator):
    """The real generator over a tiny checkpoint (`generation.qwen.model` is its folder)."""

    def __init__(self, settings: Settings, device: str) -> None:
        super().__init__(settings.generation.qwen, device)

    def _components(self) -> dict[str, Any]:
        return {"processor": TinyProcessor(), "tokenizer": None}


def spec(name: str = "g00", seed: int = 5000, **more: Any) -> CandidateSpec:
    """What a search may ask for: a fresh global candidate, unless `more` says otherwise."""
    return CandidateSpec.model_validate({"id": name, "phase": "global", "seed": seed, "order": (0,), **more})


def psnr(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """Peak signal-to-noise ratio of two 8-bit pictures in dB; infinite when they are equal."""
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
