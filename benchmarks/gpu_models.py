"""Qwen-Image-Edit at full size with random weights, and what its work is in floating-point operations."""

import time
from typing import Any

import torch

IMAGE_PAD, VISION_START, VISION_END = 900, 902, 903


def full_pipeline(device: str) -> Any:
    """The pipeline of the 2511 checkpoint's shape: 60 blocks, 24 heads of 128, joint dimension 3584, VL text encoder.

    Built without memory, then filled on the device in bfloat16.
    """
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImageEditPlusPipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    # The rotary tables are plain attributes, not buffers: they must be built for real, so only the blocks are empty.
    with torch.device("meta"):
        transformer = QwenImageTransformer2DModel(zero_cond_t=True)
    transformer.pos_embed = type(transformer.pos_embed)(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    fill(transformer, device)
    vae = AutoencoderKLQwenImage().to(device, torch.bfloat16)
    with torch.no_grad():  # else a random decoder draws one flat grey
        vae.decoder.conv_out.weight.mul_(100)
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    text = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_PAD,
        video_token_id=901,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        dtype="bfloat16",
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            text_encoder = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=8192,
        max_shift=0.9,
        shift_terminal=0.02,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )
    return QwenImageEditPlusPipeline(
        scheduler=scheduler,
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=None,
        processor=None,
        transformer=transformer.eval(),
    )


def fill(module: torch.nn.Module, device: str) -> None:
    """Give a module on the meta device bfloat16 weights on `device`: normal, with variance 1/inputs; norms are ones."""
    generator = torch.Generator(device).manual_seed(0)
    module.to(torch.bfloat16)
    module.to_empty(device=device)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim < 2:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                weight.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)


def forward_tflop(pipe: Any, side: int, text_tokens: int = 700) -> float:
    """TFLOP of one transformer call at `side` x `side` with two references of that size.

    Per block and token: 4 projections and an MLP of 4 times the width, so 12 d^2 multiply-adds; attention 2 S^2 d.
    """
    config = pipe.transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    tokens = 3 * (side // 16) ** 2 + text_tokens
    per_block = 2 * (12 * width**2 * tokens + 2 * tokens**2 * width)
    return float(config.num_layers * per_block / 1e12)


def ceiling_tflops(device: str) -> float:
    """TFLOP/s of a large bf16 matrix product on random data: the mean of 20 after 5."""
    size = 8192 if device.startswith("cuda") else 256
    left, right = (torch.randn((size, size), device=device).to(torch.bfloat16) for _ in range(2))

    def products(count: int) -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            left @ right
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - started

    products(5)
    return 20 * 2 * size**3 / products(20) / 1e12
