"""Runs a loaded pipeline once, on almost nothing."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from workers.generation import latents, sampling
from workers.generation.base import Unwatched
from workers.generation.conditions import Conditions, Embedding, takes_several_pictures
from workers.generation.crop import Window
from workers.generation.trajectory import Plan

_SIDE = 64


def warm_up(pipe: Any, true_cfg_scale: float) -> None:
    """Two steps on a grey square: kernels are loaded, and an option that cannot run here fails now."""
    window = Window(0, 0, _SIDE, _SIDE, _SIDE, _SIDE)
    grey = np.full((_SIDE, _SIDE, 3), 128, np.uint8)
    device = pipe.vae.device
    states = torch.zeros((1, 8, pipe.transformer.config.joint_attention_dim), dtype=pipe.transformer.dtype)
    embedding = Embedding(states.to(device), torch.ones((1, 8), dtype=torch.long, device=device))
    init = latents.encode(grey, pipe)
    conditions = Conditions(
        window=window,
        pictures=(Image.fromarray(grey),) * (2 if takes_several_pictures(pipe) else 1),
        prompt="",
        positive=embedding,
        negative=embedding if true_cfg_scale > 1 else None,
        init=init,
        edit=torch.ones_like(init, dtype=torch.bool),
    )
    noise = latents.noise(0, window, pipe)
    sampled = sampling.run(
        pipe,
        conditions,
        Plan(first=0, last=2, total=2),
        noise,
        noise,
        Unwatched(),
        true_cfg_scale=true_cfg_scale,
        shown_pixels=_SIDE**2,
    )
    latents.decode(sampled.clean, window, pipe)
